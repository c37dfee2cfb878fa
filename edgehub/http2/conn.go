package http2

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"
)

// linger is for how long a connection that ends still takes what the peer
// sends. To close it with bytes unread would reset it, and the peer might lose
// what was sent last.
const linger = time.Second

var errConnEnded = errors.New("http2: connection ended")

// conn is a connection.
type conn struct {
	server  *server
	http    *http.Server
	net     net.Conn
	tls     *tls.ConnectionState
	handler http.Handler
	remote  string
	address string          // of remote, without the port
	origin  *origin         // what comes from there
	base    context.Context // of requests
	cancel  context.CancelFunc

	// These are the reading goroutine's own.
	r        *bufio.Reader
	unread   int // bytes of r that the latest frame's payload is
	large    *[maxFrame]byte
	hpack    *hpack.Decoder
	block    block
	limited  bool // a request's header is on its way, and has a deadline
	held     int  // bytes that Options.Header has let its block have
	handlers sync.WaitGroup

	wmu    sync.Mutex // see the package comment
	rearm  time.Time  // when to set the deadline of writes again
	ending atomic.Bool

	mu           sync.Mutex
	streams      map[uint32]*stream // those that are open for the peer
	running      int                // handlers
	unsent       int                // responses that wait without one
	ready        []*stream          // those of them that may be sent on
	resuming     bool               // a worker sends them
	idleSince    time.Time          // since when none runs
	lastID       uint32             // of the peer's latest stream
	closed       closedStreams
	closing      bool   // GOAWAY was sent, no stream is begun
	draining     bool   // all was said
	queue        []byte // frames to write before any others
	flushing     bool   // a worker is about to write them
	sendWindow   int    // what may be sent over all streams
	streamWindow int    // what may be sent on a new stream
	waiting      []*stream
	recvWindow   int // what the peer may send over all streams
	credit       int // bytes taken for which it has no window yet
	frames       bucket
	resets       bucket
	acked        bool // the peer acknowledged the settings
	settings     *time.Timer
	idle         *time.Timer
}

// run reads and handles frames until the connection can't go on.
func (c *conn) run() error {
	if err := checkTLS(c.tls); err != nil {
		return err
	}
	if err := c.begin(); err != nil {
		return err
	}
	first := true
	for {
		f, err := c.readFrame()
		if err == nil && first && (f.kind != frameSettings || f.has(flagAck)) {
			err = connError{codeProtocol, "no SETTINGS at the beginning"}
		}
		if err == nil {
			err = c.process(&f)
		}
		if err != nil {
			if err = c.breakOff(err); err != nil {
				return err
			}
		}
		if first {
			first = false
			c.setReadDeadline(0)
		}
	}
}

// hello is what the server begins with.
func (c *conn) hello() []byte {
	o := &c.server.options
	var settings []byte
	settings = appendSetting(settings, settingMaxStreams, o.MaxConcurrentStreams)
	settings = appendSetting(settings, settingInitialWindow, o.StreamWindow)
	settings = appendSetting(settings, settingMaxHeaderListSize, c.block.limit)
	settings = appendSetting(settings, settingNoPriorities, 1)
	hello := append(appendFrameHeader(nil, len(settings), frameSettings, 0, 0), settings...)
	if more := o.ConnectionWindow - initialWindow; more > 0 {
		hello = appendNumber(hello, frameWindowUpdate, 0, uint32(more))
	}
	return hello
}

// begin exchanges prefaces with the peer (RFC 9113, 3.4).
func (c *conn) begin() error {
	o := &c.server.options
	c.setReadDeadline(o.SettingsTimeout)
	c.flush()
	var got [len(preface)]byte
	if _, err := io.ReadFull(c.r, got[:]); err != nil {
		return fmt.Errorf("read preface: %w", err)
	}
	if string(got[:]) != preface {
		return connError{codeProtocol, "no HTTP/2 preface"}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idleSince = time.Now()
	c.settings = time.AfterFunc(o.SettingsTimeout, func() { c.goAway(codeSettingsTimeout, "settings not acknowledged") })
	if d := c.idleTimeout(); d > 0 {
		c.idle = time.AfterFunc(d, c.checkIdle)
	}
	return nil
}

func (c *conn) idleTimeout() time.Duration {
	if d := c.http.IdleTimeout; d != 0 {
		return d
	}
	return c.http.ReadTimeout
}

// checkIdle ends a connection that was not used for long. One timer runs all the
// time, since to set it at each request would cost more than to look now and
// then.
func (c *conn) checkIdle() {
	c.mu.Lock()
	left := c.idleTimeout()
	if c.running+c.unsent == 0 {
		left -= time.Since(c.idleSince)
	}
	if left > 0 && !c.ending.Load() {
		c.idle.Reset(left)
	}
	c.mu.Unlock()
	if left <= 0 {
		c.goAway(codeNone, "idle")
	}
}

// limitHeader gives the header that is on its way a deadline.
func (c *conn) limitHeader() {
	d := c.http.ReadHeaderTimeout
	if d == 0 {
		d = c.http.ReadTimeout
	}
	if d > 0 && !c.limited {
		c.limited = true
		c.setReadDeadline(d)
	}
}

// setReadDeadline limits for how long the peer may be silent. 0 is without end.
func (c *conn) setReadDeadline(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.draining: // its own deadline holds
	case d > 0:
		_ = c.net.SetReadDeadline(time.Now().Add(d))
	default:
		_ = c.net.SetReadDeadline(time.Time{})
	}
}

// write writes to the peer. The caller holds wmu.
func (c *conn) write(b []byte) error {
	// The deadline is moved on each quarter of its time, not each time.
	timeout := c.server.options.WriteTimeout
	if now := time.Now(); now.After(c.rearm) && !c.ending.Load() {
		c.rearm = now.Add(timeout / 4)
		_ = c.net.SetWriteDeadline(now.Add(timeout + timeout/4))
	}
	if _, err := c.net.Write(b); err != nil {
		c.cut()
		return fmt.Errorf("%w: %w", errConnEnded, err)
	}
	return nil
}

// cut ends the connection at once. The reading goroutine notices and does the
// rest. TLS has no part in it, since it would wait for the peer to take its
// farewell.
func (c *conn) cut() {
	_ = c.raw().Close()
}

// reply queues frames and has them written soon. The caller is the reading
// goroutine and holds mu.
func (c *conn) reply(frames []byte) error {
	c.queue = append(c.queue, frames...)
	if len(c.queue) > c.server.options.MaxQueuedBytes {
		return connError{codeEnhanceYourCalm, "too many replies are not read"}
	}
	c.flushSoon()
	return nil
}

func (c *conn) flushSoon() {
	if !c.flushing {
		c.flushing = true
		c.server.workers.run(c.flush)
	}
}

// flush writes what is queued. Whoever queues must see to it, unless it calls
// flushSoon.
func (c *conn) flush() {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.mu.Lock()
	queue := c.queue
	c.queue, c.flushing = nil, false
	c.mu.Unlock()
	if len(queue) > 0 {
		_ = c.write(queue) // a failure has ended the connection
	}
}

// goAway tells the peer that no more streams are begun (RFC 9113, 6.8), and ends
// the connection: at once if there is an error, else when all requests are
// answered. It does not wait for the peer.
func (c *conn) goAway(code code, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.goAwayLocked(code, reason)
}

func (c *conn) goAwayLocked(code code, reason string) {
	if c.closing && code == codeNone || c.draining {
		return
	}
	c.closing = true
	c.queue = appendGoAway(c.queue, c.lastID, code, reason)
	c.flushSoon()
	if code != codeNone || c.running+c.unsent == 0 {
		c.drain()
	}
}

// drain ends a connection on which all was said, except for what is queued. The
// caller holds mu.
func (c *conn) drain() {
	if c.draining {
		return
	}
	c.draining = true
	c.server.workers.run(func() {
		c.flush()
		c.closeWrite()
		_ = c.net.SetReadDeadline(time.Now().Add(linger))
	})
}

// closeWrite tells the peer that nothing more comes.
func (c *conn) closeWrite() {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if w, ok := c.net.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
	}
}

// end ends the connection and all its streams. The caller is the reading
// goroutine.
func (c *conn) end(err error) {
	c.ending.Store(true)
	c.holdHeader(0)
	c.block, c.hpack = block{}, nil
	c.freePayload()
	var broken connError
	tell := errors.As(err, &broken)
	if broken.code == codeEnhanceYourCalm {
		c.server.options.Refused(LimitFrames)
	}
	c.mu.Lock()
	c.closing = true
	for _, timer := range []*time.Timer{c.settings, c.idle} {
		if timer != nil {
			timer.Stop()
		}
	}
	if tell && !c.draining {
		c.queue = appendGoAway(c.queue, c.lastID, broken.code, broken.reason)
	}
	c.draining = true
	for _, st := range c.streams {
		c.close(st, errConnEnded, false)
	}
	c.mu.Unlock()
	c.cancel()
	if tell {
		// This also frees a writer from a peer that does not read.
		deadline := time.Now().Add(linger)
		_ = c.net.SetWriteDeadline(deadline)
		_ = c.net.SetReadDeadline(deadline)
		c.flush()
		c.closeWrite()
		_, _ = io.CopyN(io.Discard, c.raw(), int64(c.server.options.ConnectionWindow))
	}
	_ = c.net.Close()
}

// raw is the connection below TLS, which would only take memory for what nobody wants
// to read.
func (c *conn) raw() net.Conn {
	if t, ok := c.net.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c.net
}
