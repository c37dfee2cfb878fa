package http2

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// maxData is the most that goes into one DATA frame: with its header it fills
// one TLS record, which goes out in one system call.
const maxData = maxFrame - frameHeader

// output is what a response has to send. Most responses go out in one piece
// from it; it is held from the first byte until all is sent.
//
//	| block ... | HEADERS | block | DATA | body ... |
//
// Header fields are encoded at the front. When they are sent they move to where
// the body's frame begins. What is sent of the body later has its frame's header
// written over what was sent before it.
type output struct {
	block    []byte // the encoded header, in buf unless it is too long
	from, to int    // the body in buf
	buf      []byte
}

const (
	bodyStart = 2 << 10
	maxBlock  = bodyStart - 2*frameHeader // that fits before the body
)

// Most responses of a hub that refuses requests, and most events, are small: those
// that wait for their turn to be written are many, and their buffers are too.
const smallBody = 2 << 10

var (
	outputs      = sync.Pool{New: func() any { return &output{buf: make([]byte, bodyStart+smallBody)} }}
	largeOutputs = sync.Pool{New: func() any { return &output{buf: make([]byte, bodyStart+maxData)} }}
)

// response implements http.ResponseWriter. It belongs to the handler.
type response struct {
	st      *stream
	header  http.Header
	out     *output
	err     error // why nothing more can be written
	status  int   // 0 until WriteHeader
	head    bool  // the request is HEAD: what is written only counts
	sent    bool  // HEADERS are sent
	ended   bool  // END_STREAM is sent
	whole   bool  // all is written
	sniff   bool  // the handler has not said what the body is
	dated   bool
	length  int64 // what the handler says the body's length is, or -1
	written int64
}

// Admitted is for handlers that Options.AwaitAdmission is about. They may take
// their time from now on.
func (w *response) Admitted() { w.st.started() }

// Header implements http.ResponseWriter.
func (w *response) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(status int) {
	switch {
	case w.status != 0 || w.err != nil:
		return
	case status < 100 || status > 999:
		panic(fmt.Sprintf("invalid WriteHeader code %v", status))
	case status < 200:
		w.inform(status)
		return
	}
	w.status = status
	if v := w.header["Content-Length"]; len(v) == 1 {
		if n, err := strconv.ParseUint(v[0], 10, 63); err == nil {
			w.length = int64(n)
		}
	}
	_, typed := w.header["Content-Type"]
	w.sniff = !typed && w.header.Get("Content-Encoding") == ""
	_, w.dated = w.header["Date"]
	if w.header.Get("Connection") == "close" {
		w.st.conn.goAway(codeNone, "")
	}
	o := w.output()
	o.block = appendHeader(appendStatus(o.block, status), w.header)
}

// inform sends an interim response (RFC 9110, 15.2), except 101, which HTTP/2
// does not have.
func (w *response) inform(status int) {
	if status == http.StatusSwitchingProtocols {
		return
	}
	block := appendHeader(appendStatus(nil, status), w.header)
	w.sendBlock(block, false)
}

// sendBlock sends HEADERS other than those of the response itself.
func (w *response) sendBlock(block []byte, end bool) {
	w.st.started() // it may wait for the client
	c := w.st.conn
	c.mu.Lock()
	if w.st.err == nil {
		w.st.expect = false
		c.queue = appendHeaders(c.queue, w.st.id, block, end)
		if end && w.st.remoteEnd {
			c.forget(w.st, false)
		}
	}
	c.mu.Unlock()
	c.flush()
}

func (w *response) output() *output {
	if w.out == nil {
		w.out = outputs.Get().(*output)
		w.out.block, w.out.from, w.out.to = w.out.buf[:0:maxBlock], bodyStart, bodyStart
	}
	return w.out
}

// enlarge gives what has outgrown a small buffer a large one.
func (w *response) enlarge() *output {
	small, large := w.out, largeOutputs.Get().(*output)
	large.block = append(large.buf[:0:maxBlock], small.block...)
	large.from, large.to = small.from, small.to
	copy(large.buf[bodyStart:], small.buf[bodyStart:small.to])
	small.recycle()
	w.out = large
	return large
}

func (o *output) recycle() {
	o.block = nil
	if len(o.buf) > bodyStart+smallBody {
		largeOutputs.Put(o)
		return
	}
	outputs.Put(o)
}

// release gives the buffer back. If err is not nil it is the last time.
func (w *response) release(err error) {
	if w.out != nil {
		w.out.recycle()
		w.out = nil
	}
	if w.err == nil {
		w.err = err
	}
}

func (w *response) bodyAllowed() bool {
	return w.status != http.StatusNoContent && w.status != http.StatusNotModified
}

// Write implements io.Writer.
func (w *response) Write(p []byte) (int, error) { return write(w, p) }

// WriteString implements io.StringWriter.
func (w *response) WriteString(p string) (int, error) { return write(w, p) }

func write[T []byte | string](w *response, p T) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	switch {
	case w.err != nil:
		return 0, w.err
	case !w.bodyAllowed():
		return 0, http.ErrBodyNotAllowed
	}
	if w.written += int64(len(p)); w.length >= 0 && w.written > w.length {
		return 0, http.ErrContentLength
	}
	for n := 0; n < len(p); {
		if w.ended { // HEAD
			return len(p), nil
		}
		o := w.output()
		if len(p)-n > len(o.buf)-o.to && len(o.buf) == bodyStart+smallBody {
			o = w.enlarge()
		}
		if o.to == len(o.buf) {
			// It is sent when more follows, so that the last can end
			// the response.
			if err := w.send(false); err != nil {
				return n, err
			}
			continue
		}
		k := copy(o.buf[o.to:], p[n:])
		o.to += k
		n += k
	}
	return len(p), nil
}

// Flush implements http.Flusher.
func (w *response) Flush() { _ = w.FlushError() }

// FlushError is for http.ResponseController.
func (w *response) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.err != nil || w.out == nil {
		return w.err
	}
	err := w.send(false)
	w.release(err)
	return err
}

// SetReadDeadline is for http.ResponseController.
func (w *response) SetReadDeadline(t time.Time) error {
	w.st.conn.mu.Lock()
	defer w.st.conn.mu.Unlock()
	w.st.setReadDeadline(t)
	return nil
}

// SetWriteDeadline is for http.ResponseController.
func (w *response) SetWriteDeadline(t time.Time) error {
	w.st.conn.mu.Lock()
	defer w.st.conn.mu.Unlock()
	w.st.setWriteDeadline(t)
	return nil
}

// EnableFullDuplex is for http.ResponseController. HTTP/2 always is.
func (w *response) EnableFullDuplex() error { return nil }

// finish sends what is left when the handler has returned.
func (w *response) finish() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	switch {
	case w.err != nil:
		return w.err
	case w.length >= 0 && w.written != w.length && w.bodyAllowed() && !w.head:
		_ = w.FlushError()
		return errLength
	case w.ended:
		return nil
	}
	w.whole = true
	trailers := w.trailers()
	if len(trailers) == 0 {
		return w.sendEnd()
	}
	if err := w.FlushError(); err != nil || w.ended {
		return err
	}
	w.sendBlock(trailers, true)
	return nil
}

// trailers returns the trailers, encoded: fields that the handler announced in
// Trailer, or whose names begin with http.TrailerPrefix.
func (w *response) trailers() []byte {
	var b []byte
	add := func(key string, values []string) {
		for _, v := range values {
			if n, ok := wireNameOf(key); ok && !ofConnection(n.name) && httpguts.ValidHeaderFieldValue(v) {
				b = appendField(b, n, v)
			}
		}
	}
	for _, v := range w.header["Trailer"] {
		for key := range strings.SplitSeq(v, ",") {
			key = http.CanonicalHeaderKey(strings.TrimSpace(key))
			add(key, w.header[key])
		}
	}
	for key, values := range w.header {
		if name, ok := strings.CutPrefix(key, http.TrailerPrefix); ok {
			add(http.CanonicalHeaderKey(name), values)
		}
	}
	return b
}

// complete adds to the header what the handler left to the server.
func (w *response) complete() {
	o := w.out
	body := o.buf[o.from:o.to]
	if w.length < 0 && w.whole && w.bodyAllowed() && (len(body) > 0 || !w.head) {
		w.length = int64(len(body))
	}
	if w.length >= 0 {
		o.block = appendField(o.block, nameContentLength, strconv.FormatInt(w.length, 10))
	}
	if w.sniff && w.bodyAllowed() && len(body) > 0 {
		o.block = appendField(o.block, nameContentType, http.DetectContentType(body))
	}
	if !w.dated {
		o.block = appendField(o.block, nameDate, time.Now().UTC().Format(http.TimeFormat))
	}
}

// send sends all there is. end says that nothing follows.
func (w *response) send(end bool) error {
	if w.ended {
		return nil
	}
	w.st.started() // it may wait for the client
	o := w.ready()
	end = end || w.head
	for {
		n, err := w.sendSome(end)
		if err == nil && o.from < o.to && n == 0 {
			err = w.st.awaitWindow()
		}
		if err != nil {
			w.err = err
			return err
		}
		if o.from == o.to {
			o.from, o.to, w.ended = bodyStart, bodyStart, end
			return nil
		}
	}
}

// ready returns what is to be sent next.
func (w *response) ready() *output {
	o := w.output()
	if !w.sent {
		w.complete()
	}
	if w.head {
		o.from, o.to = bodyStart, bodyStart
	}
	return o
}

// sendEnd sends what is left of a response that is whole, as far as that goes
// without waiting for the peer or others. errUnsent says that some is left.
func (w *response) sendEnd() error {
	o := w.ready()
	c := w.st.conn
	if c.wmu.TryLock() {
		defer c.wmu.Unlock()
		w.st.started() // one of each connection may wait for the client
		return w.sendRest()
	}
	if !w.queue(o.to - o.from) {
		return errUnsent
	}
	o.from, o.to, w.ended = bodyStart, bodyStart, true
	return nil
}

// sendRest is sendEnd for a caller that holds wmu.
func (w *response) sendRest() error {
	for o := w.out; ; {
		n, err := w.sendLocked(true)
		switch {
		case err != nil:
			w.err = err
			return err
		case o.from == o.to:
			o.from, o.to, w.ended = bodyStart, bodyStart, true
			return nil
		case n == 0:
			return errUnsent
		}
	}
}

// sendSome sends what may be sent now, and returns how much of the body that
// was.
func (w *response) sendSome(end bool) (int, error) {
	w.st.conn.wmu.Lock()
	defer w.st.conn.wmu.Unlock()
	return w.sendLocked(end)
}

// sendLocked is sendSome for a caller that holds wmu.
func (w *response) sendLocked(end bool) (int, error) {
	c := w.st.conn
	pending := w.out.to - w.out.from
	n, queue, err := w.st.take(pending, end)
	if err != nil || n == 0 && pending > 0 && w.sent {
		return 0, err
	}
	frames := w.frames(n, end && n == pending)
	if len(queue) > 0 {
		frames = slices.Concat(queue, frames)
	}
	return n, c.write(frames)
}

// queue leaves a small response that is whole to whoever writes next, and reports
// whether it could. Handlers that are done need not wait for each other.
func (w *response) queue(pending int) bool {
	c := w.st.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.sent || w.st.err != nil || len(c.waiting) > 0 ||
		len(w.out.buf) > bodyStart+smallBody || len(w.out.block) > maxBlock || pending > min(w.st.sendWindow, c.sendWindow) ||
		len(c.queue)+len(w.out.block)+pending+2*frameHeader > c.server.options.MaxQueuedBytes/2 {
		return false
	}
	if pending > 0 {
		w.st.sendWindow -= pending
		c.sendWindow -= pending
	}
	w.st.sending(pending, true)
	c.queue = append(c.queue, w.frames(pending, true)...)
	c.flushSoon()
	return true
}

// frames returns HEADERS, if they are due, and DATA with the next n bytes of the
// body, in one piece.
func (w *response) frames(n int, end bool) []byte {
	o, flags := w.out, byte(0)
	if end {
		flags = flagEndStream
	}
	start, stop := o.from, o.from+n
	o.from = stop
	if n > 0 || w.sent {
		start -= frameHeader
		putFrameHeader(o.buf[start:], n, frameData, flags, w.st.id)
	}
	if w.sent {
		return o.buf[start:stop]
	}
	w.sent = true
	if len(o.block) > maxBlock {
		return append(appendHeaders(nil, w.st.id, o.block, end && n == 0), o.buf[start:stop]...)
	}
	if n > 0 {
		flags = 0 // it is DATA that ends it
	}
	start -= len(o.block)
	copy(o.buf[start:], o.block)
	start -= frameHeader
	putFrameHeader(o.buf[start:], len(o.block), frameHeaders, flags|flagEndHeaders, w.st.id)
	return o.buf[start:stop]
}
