package http2

import (
	"encoding/binary"
	"errors"
	"slices"
)

// closedStreams remembers the latest streams that ended: frames that were on
// their way when the server reset one are no error of the peer, and to use
// another again is a different error than to use one that never was.
type closedStreams struct {
	ids  [64]uint32
	next int
}

const byServer = 1 << 31 // marks streams that the server reset

func (c *closedStreams) add(id uint32, reset bool) {
	if reset {
		id |= byServer
	}
	c.ids[c.next] = id
	c.next = (c.next + 1) % len(c.ids)
}

func (c *closedStreams) has(id uint32) bool { return slices.Contains(c.ids[:], id) }

// process handles a frame. Its errors are a connError, a streamError or, if the
// connection failed, another.
func (c *conn) process(f *frame) error {
	if c.block.open != (f.kind == frameContinuation) || c.block.open && c.block.id != f.id {
		return connError{codeProtocol, "header block torn apart"}
	}
	switch f.kind {
	case frameHeaders:
		return c.headers(f)
	case frameContinuation:
		return c.fragment(f.payload, f.has(flagEndHeaders))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.kind != frameData && f.kind != frameWindowUpdate && !c.frames.take() {
		return connError{codeEnhanceYourCalm, "too many frames"}
	}
	switch f.kind {
	case frameData:
		return c.data(f)
	case frameWindowUpdate:
		return c.windowUpdate(f)
	case frameReset:
		return c.peerReset(f)
	case framePriority: // RFC 9113, 5.3.2: ignored, after some checks
		return c.priority(f)
	case frameSettings:
		return c.peerSettings(f)
	case framePing:
		return c.ping(f)
	case frameGoAway:
		return c.peerGoAway(f)
	case framePushPromise:
		return connError{codeProtocol, "PUSH_PROMISE from a client"}
	}
	return nil // RFC 9113, 4.1: unknown ones are ignored
}

// data takes a part of a request's body.
func (c *conn) data(f *frame) error {
	body, ok := f.unpad()
	end := f.has(flagEndStream)
	size := len(f.payload) // padding counts (RFC 9113, 6.9.1)
	late := f.id > c.lastID && c.closing
	switch {
	case !ok:
		return connError{codeProtocol, "too much padding"}
	case f.id == 0, f.id > c.lastID && !late:
		return connError{codeProtocol, "DATA on an idle stream"}
	case size > c.recvWindow:
		return connError{codeFlowControl, "connection window exceeded"}
	}
	st := c.streams[f.id]
	wanted := st != nil && !st.remoteEnd
	if (!wanted || len(body) == 0 && !end) && !c.frames.take() {
		return connError{codeEnhanceYourCalm, "too many empty or late frames"}
	}
	c.recvWindow -= size
	if !wanted {
		if err := c.refund(size); err != nil || late || c.closed.has(f.id|byServer) {
			return err
		}
		return streamError{f.id, codeStreamClosed, "DATA after the end"}
	}
	return st.data(body, size, end)
}

// refund lets the peer send n more bytes. It is told when that is worth a
// frame.
func (c *conn) refund(n int) error {
	if c.consumed(n) {
		return c.reply(nil)
	}
	return nil
}

// consumed notes that n bytes of bodies were taken or dropped, and reports
// whether it queued a window update.
func (c *conn) consumed(n int) bool {
	c.credit += n
	if c.credit < c.server.options.ConnectionWindow/2 {
		return false
	}
	c.queue = appendNumber(c.queue, frameWindowUpdate, 0, uint32(c.credit))
	c.recvWindow += c.credit
	c.credit = 0
	return true
}

func (c *conn) windowUpdate(f *frame) error {
	switch {
	case len(f.payload) != 4:
		return connError{codeFrameSize, "WINDOW_UPDATE of a wrong size"}
	case f.id > c.lastID && !c.closing:
		return connError{codeProtocol, "WINDOW_UPDATE on an idle stream"}
	case !c.frames.take():
		return connError{codeEnhanceYourCalm, "too many window updates"}
	}
	n := int(binary.BigEndian.Uint32(f.payload) & maxWindow)
	if f.id == 0 {
		if n == 0 {
			return connError{codeProtocol, "WINDOW_UPDATE of 0"}
		}
		if c.sendWindow += n; c.sendWindow > maxWindow {
			return connError{codeFlowControl, "connection window too large"}
		}
		c.wakeFirst()
		return nil
	}
	if n == 0 {
		return streamError{f.id, codeProtocol, "WINDOW_UPDATE of 0"}
	}
	st := c.streams[f.id]
	if st == nil {
		return nil
	}
	if st.sendWindow += n; st.sendWindow > maxWindow {
		return streamError{f.id, codeFlowControl, "stream window too large"}
	}
	c.wake(st)
	return nil
}

var errPeerReset = errors.New("http2: the client ended the request")

func (c *conn) peerReset(f *frame) error {
	switch {
	case len(f.payload) != 4:
		return connError{codeFrameSize, "RST_STREAM of a wrong size"}
	case f.id == 0, f.id > c.lastID && !c.closing:
		return connError{codeProtocol, "RST_STREAM on an idle stream"}
	}
	if st := c.streams[f.id]; st != nil {
		c.close(st, errPeerReset, false)
		return c.chargeReset()
	}
	return nil
}

// chargeReset counts a request that the peer ended while its handler ran.
func (c *conn) chargeReset() error {
	if !c.resets.take() {
		return connError{codeEnhanceYourCalm, "too many requests are ended early"}
	}
	return nil
}

// breakOff resets the stream on which the peer broke the protocol. Other errors
// it returns.
func (c *conn) breakOff(err error) error {
	var e streamError
	if !errors.As(err, &e) {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.frames.take() {
		return connError{codeEnhanceYourCalm, "too many errors"}
	}
	if st := c.streams[e.id]; st != nil {
		c.close(st, e, true)
		if err := c.chargeReset(); err != nil {
			return err
		}
	} else if !c.closed.has(e.id) {
		c.closed.add(e.id, true)
	}
	return c.reply(appendNumber(nil, frameReset, e.id, uint32(e.code)))
}

func (c *conn) priority(f *frame) error {
	switch {
	case f.id == 0:
		return connError{codeProtocol, "PRIORITY without a stream"}
	case len(f.payload) != 5:
		return streamError{f.id, codeFrameSize, "PRIORITY of a wrong size"}
	}
	return checkPriority(f.id, f.payload)
}

// checkPriority refuses a stream that depends on itself, as RFC 7540, 5.3.1 said
// while priorities meant something.
func checkPriority(id uint32, p []byte) error {
	if binary.BigEndian.Uint32(p)&maxWindow == id {
		return streamError{id, codeProtocol, "stream depends on itself"}
	}
	return nil
}

func (c *conn) peerSettings(f *frame) error {
	switch {
	case f.id != 0:
		return connError{codeProtocol, "SETTINGS on a stream"}
	case len(f.payload)%6 != 0, f.has(flagAck) && len(f.payload) > 0:
		return connError{codeFrameSize, "SETTINGS of a wrong size"}
	case f.has(flagAck) && c.acked:
		return connError{codeProtocol, "SETTINGS acknowledged twice"}
	case f.has(flagAck):
		c.acked = true
		c.settings.Stop()
		return nil
	}
	if len(f.payload)/6 > maxSettings {
		return connError{codeEnhanceYourCalm, "too many settings"}
	}
	var seen [maxSettings]uint16
	for n, p := 0, f.payload; len(p) > 0; n, p = n+1, p[6:] {
		id := binary.BigEndian.Uint16(p)
		if slices.Contains(seen[:n], id) {
			return connError{codeProtocol, "a setting twice"}
		}
		seen[n] = id
		if err := c.setting(id, binary.BigEndian.Uint32(p[2:])); err != nil {
			return err
		}
	}
	return c.reply(appendFrameHeader(nil, 0, frameSettings, flagAck, 0))
}

// maxSettings is how many settings a frame may have. There are a dozen kinds, and
// none is of use twice in a frame: each might be work for all streams.
const maxSettings = 32

// streamsPerFrame is to how many streams a new window may be given for what a
// frame costs.
const streamsPerFrame = 16

// setting applies one setting of the peer. Those of HPACK's table and of header
// lists don't concern what is sent here, and pushes are never made.
func (c *conn) setting(id uint16, v uint32) error {
	switch id {
	case settingEnablePush:
		if v > 1 {
			return connError{codeProtocol, "bad SETTINGS_ENABLE_PUSH"}
		}
	case settingMaxFrame: // frames sent are never larger than the least
		if v < maxFrame || v > 1<<24-1 {
			return connError{codeProtocol, "bad SETTINGS_MAX_FRAME_SIZE"}
		}
	case settingInitialWindow:
		if v > maxWindow {
			return connError{codeFlowControl, "bad SETTINGS_INITIAL_WINDOW_SIZE"}
		}
		more := int(v) - c.streamWindow
		if more == 0 {
			return nil
		}
		for range len(c.streams) / streamsPerFrame {
			if !c.frames.take() {
				return connError{codeEnhanceYourCalm, "too many changes of the window"}
			}
		}
		c.streamWindow = int(v)
		for _, st := range c.streams { // RFC 9113, 6.9.2
			if st.sendWindow += more; st.sendWindow > maxWindow {
				return connError{codeFlowControl, "stream window too large"}
			}
			c.wake(st)
		}
	}
	return nil
}

func (c *conn) ping(f *frame) error {
	switch {
	case f.id != 0:
		return connError{codeProtocol, "PING on a stream"}
	case len(f.payload) != 8:
		return connError{codeFrameSize, "PING of a wrong size"}
	case f.has(flagAck):
		return nil
	}
	return c.reply(append(appendFrameHeader(nil, 8, framePing, flagAck, 0), f.payload...))
}

// peerGoAway ends the connection when the requests of a client that is leaving
// are answered.
func (c *conn) peerGoAway(f *frame) error {
	switch {
	case f.id != 0:
		return connError{codeProtocol, "GOAWAY on a stream"}
	case len(f.payload) < 8:
		return connError{codeFrameSize, "GOAWAY of a wrong size"}
	}
	c.goAwayLocked(codeNone, "")
	return nil
}
