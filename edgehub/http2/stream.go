package http2

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

// stream is a request and its response.
type stream struct {
	conn     *conn
	id       uint32
	request  *http.Request
	cancel   context.CancelFunc
	response response
	starting atomic.Bool // has an element of server.starting

	// conn.mu guards the rest.
	cond       sync.Cond
	err        error // why neither side sends any more
	remoteEnd  bool  // the request is complete
	begun      bool  // the response's HEADERS are sent, or about to be
	queued     bool  // it is in conn.waiting
	sendWindow int
	unsent     int           // bytes of memory that its response waits in, without a handler
	place      *list.Element // among those, guarded by unsent.mu
	ready      bool          // it is in conn.ready

	expect     bool // the client waits for 100 before it sends the body
	body       bytes.Buffer
	bodyErr    error // what follows the bytes in body
	bodyLeft   int64 // bytes still to come, -1 if not known
	recvWindow int
	credit     int // bytes taken for which the peer has no window yet

	readTimer, writeTimer *time.Timer
}

var (
	errFinished = errors.New("http2: the handler has returned")
	errStalled  = errors.New("http2: the client takes no more of the response")
	errLength   = errors.New("http2: the response is not as long as its Content-Length")
	errHandler  = errors.New("http2: the handler panicked")
)

// open makes a stream of a request, and starts its handler.
func (c *conn) open(r *http.Request, cancel context.CancelFunc) {
	b := &c.block
	st := &stream{conn: c, id: b.id, request: r, cancel: cancel, remoteEnd: b.end, bodyLeft: r.ContentLength}
	st.cond.L = &c.mu
	st.response = response{st: st, header: http.Header{}, head: r.Method == http.MethodHead, length: -1}
	if b.end {
		st.bodyErr = io.EOF
	} else {
		r.Body = (*body)(st)
		if st.expect = httpguts.HeaderValuesContainsToken(r.Header["Expect"], "100-continue"); st.expect {
			delete(r.Header, "Expect")
		}
	}
	c.server.starting <- struct{}{}
	st.starting.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	st.sendWindow, st.recvWindow = c.streamWindow, c.server.options.StreamWindow
	if d := c.http.ReadTimeout; d > 0 && !b.end {
		st.setReadDeadline(time.Now().Add(d))
	}
	if d := c.http.WriteTimeout; d > 0 {
		st.setWriteDeadline(time.Now().Add(d))
	}
	c.streams[st.id] = st
	c.handlers.Add(1)
	c.server.workers.run(st.serve)
}

// handlerDone counts down what runs. The caller holds mu.
func (c *conn) handlerDone() {
	c.server.running.Add(-1)
	c.origin.running.Add(-1)
	c.running--
	c.rest()
}

// rest takes note if there is nothing more to do. The caller holds mu.
func (c *conn) rest() {
	if c.running+c.unsent > 0 {
		return
	}
	c.idleSince = time.Now()
	if c.closing {
		c.drain()
	}
}

// serve runs the handler, unless the request has ended already.
func (st *stream) serve() {
	c := st.conn
	defer c.handlers.Done()
	defer st.started()
	if !c.server.options.AwaitAdmission {
		st.started()
	}
	c.mu.Lock()
	if st.err != nil {
		c.handlerDone()
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	returned := false
	defer func() {
		if !returned { // by a panic or runtime.Goexit
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				c.logf("http2: panic serving %s: %v\n%s", c.remote, p, debug.Stack())
			}
		}
		st.finish(returned)
	}()
	c.handlerOf(st.request).ServeHTTP(&st.response, st.request)
	returned = true
}

// handlerOf returns http.Server's own handler. What net/http puts in front of it
// fills in what newRequest has filled in, and takes half a kilobyte on the stack
// of each watch, which is what makes a stack twice as large. Only OPTIONS of
// everything needs it.
func (c *conn) handlerOf(r *http.Request) http.Handler {
	if c.http.Handler == nil || r.RequestURI == "*" {
		return c.handler
	}
	return c.http.Handler
}

// started lets another handler start.
func (st *stream) started() {
	if st.starting.Swap(false) {
		<-st.conn.server.starting
	}
}

// finish ends the stream after its handler, or leaves it to the connection to
// send what the peer does not take yet.
func (st *stream) finish(returned bool) {
	err := errHandler
	if returned {
		err = st.response.finish()
	}
	if err == errUnsent {
		st.park()
		return
	}
	st.response.release(errFinished)
	c := st.conn
	c.mu.Lock()
	c.finished(st, err)
	c.handlerDone()
	c.mu.Unlock()
}

// finished ends a stream whose response is sent, or can't be. The caller holds
// mu.
func (c *conn) finished(st *stream, err error) {
	switch {
	case st.err != nil:
	case err != nil: // a response that is not whole must not look so
		c.reset(st, codeInternal, err)
	case !st.remoteEnd: // RFC 9113, 8.1: the rest of the request is not wanted
		c.reset(st, codeNone, errFinished)
	default:
		c.close(st, errFinished, false)
	}
}

// reset ends a stream with RST_STREAM. The caller holds mu.
func (c *conn) reset(st *stream, code code, err error) {
	c.close(st, err, true)
	c.queue = appendNumber(c.queue, frameReset, st.id, uint32(code))
	if len(c.queue) > 2*c.server.options.MaxQueuedBytes {
		c.cut() // it does not read what it is told
		return
	}
	c.flushSoon()
}

// abort is reset for a timer.
func (st *stream) abort(code code, err error) {
	st.conn.mu.Lock()
	defer st.conn.mu.Unlock()
	if st.err == nil {
		if err == errStalled {
			st.conn.server.options.Refused(LimitStall)
		}
		st.conn.reset(st, code, err)
	}
}

// close ends a stream in both directions. Whoever waits for it gets err, and its
// request's context ends. The caller holds mu.
func (c *conn) close(st *stream, err error, reset bool) {
	st.err = err
	c.forget(st, reset)
	c.leave(st)
	c.drop(st)
	c.unpark(st)
	if st.bodyErr == nil {
		st.bodyErr = err
	}
	for _, t := range []*time.Timer{st.readTimer, st.writeTimer} {
		if t != nil {
			t.Stop()
		}
	}
	st.cond.Broadcast()
	st.cancel()
}

// forget ends a stream as the peer sees it, so that it may begin another.
func (c *conn) forget(st *stream, reset bool) {
	if _, ok := c.streams[st.id]; ok {
		delete(c.streams, st.id)
		c.closed.add(st.id, reset)
	}
}

// drop drops what was not read of a body.
func (c *conn) drop(st *stream) {
	if n := st.body.Len(); n > 0 {
		st.body = bytes.Buffer{}
		st.bodyErr = errFinished
		if c.consumed(n) {
			c.flushSoon()
		}
	}
}

// trailers takes the end of a request. Its fields are checked and dropped.
func (st *stream) trailers(b *block) error {
	switch {
	case st.remoteEnd:
		return streamError{st.id, codeStreamClosed, "HEADERS after the end"}
	case b.err != nil:
		return b.err
	case !b.end, b.tooLarge, st.bodyLeft > 0:
		return streamError{st.id, codeProtocol, "bad end of a request"}
	}
	for _, f := range b.fields {
		if strings.HasPrefix(f.Name, ":") || checkField(f) != nil {
			return streamError{st.id, codeProtocol, "bad trailers"}
		}
	}
	st.endRequest()
	return nil
}

func (st *stream) endRequest() {
	st.remoteEnd = true
	if st.bodyErr == nil {
		st.bodyErr = io.EOF
	}
	st.cond.Broadcast()
}

func (st *stream) setReadDeadline(t time.Time) {
	setTimer(&st.readTimer, t, func() {
		st.conn.mu.Lock()
		defer st.conn.mu.Unlock()
		if st.bodyErr == nil {
			st.bodyErr = os.ErrDeadlineExceeded
			st.cond.Broadcast()
		}
	})
}

func (st *stream) setWriteDeadline(t time.Time) {
	setTimer(&st.writeTimer, t, func() { st.abort(codeInternal, os.ErrDeadlineExceeded) })
}

func setTimer(timer **time.Timer, t time.Time, f func()) {
	if *timer != nil {
		(*timer).Stop()
		*timer = nil
	}
	if !t.IsZero() {
		*timer = time.AfterFunc(time.Until(t), f)
	}
}

// take decides what is sent of a response: n of its pending bytes, as the
// windows allow (RFC 9113, 5.2), after the frames in queue. end says that the
// response ends with the pending bytes. If not even HEADERS are to be sent, n is
// 0 and queue is nil. The caller holds wmu, so what is decided is also the next
// to be written.
func (st *stream) take(pending int, end bool) (n int, queue []byte, err error) {
	c := st.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.err != nil {
		return 0, nil, st.err
	}
	if pending > 0 && c.turn(st) {
		n = min(pending, st.sendWindow, c.sendWindow)
		st.sendWindow -= n
		c.sendWindow -= n
		c.leave(st)
	}
	if n == 0 && pending > 0 && st.begun {
		return 0, nil, nil
	}
	if n == pending {
		st.sending(n, end)
	} else {
		c.frames.give(n / 1024)
		st.begun = true
	}
	queue, c.queue = c.queue, nil
	return n, queue, nil
}

// sending accounts for all that a response has to send, n bytes of its body. end
// says that it ends with them. The caller holds mu.
func (st *stream) sending(n int, end bool) {
	c := st.conn
	// A peer that lets go of a few bytes at a time earns nothing.
	c.frames.give(n/1024 + 2)
	st.begun = true
	if end && st.remoteEnd {
		c.forget(st, false)
	}
}

// turn reports whether a stream may send data now. Streams that wait for the
// connection's window take turns.
func (c *conn) turn(st *stream) bool {
	switch {
	case st.sendWindow <= 0:
		c.leave(st)
		return false
	case c.sendWindow > 0 && (len(c.waiting) == 0 || c.waiting[0] == st):
		return true
	case !st.queued:
		st.queued = true
		c.waiting = append(c.waiting, st)
	}
	return false
}

// leave lets the stream after st have its turn.
func (c *conn) leave(st *stream) {
	if st.queued {
		st.queued = false
		i := slices.Index(c.waiting, st)
		c.waiting = slices.Delete(c.waiting, i, i+1)
		c.wakeFirst()
	}
}

func (c *conn) wakeFirst() {
	if c.sendWindow > 0 && len(c.waiting) > 0 {
		c.wake(c.waiting[0])
	}
}

// awaitWindow waits until take has something to give.
func (st *stream) awaitWindow() error {
	stalled := time.AfterFunc(st.conn.server.options.StallTimeout, func() { st.abort(codeCancel, errStalled) })
	defer stalled.Stop()
	st.conn.mu.Lock()
	defer st.conn.mu.Unlock()
	for st.err == nil && !st.conn.turn(st) {
		st.cond.Wait()
	}
	return st.err
}
