package http2

import (
	"container/list"
	"errors"
	"net/http"
	"sync"
	"time"
)

// A handler that has returned must cost nothing, whether or not its peer takes
// what it has said: many small answers to a peer that keeps its windows shut, or
// does not read, would else be handlers, and shut everybody out. What is left of
// a response is then the stream's own, without a goroutine or the request, and a
// worker goes on with it when the peer lets it.

var (
	errUnsent = errors.New("http2: the client has not taken the response yet")
	errCrowd  = errors.New("http2: too much is not taken by clients of this address")
)

// unsentCost is what a stream costs beside its buffer.
const unsentCost = 1 << 10

// unsent is all responses that wait without a handler.
type unsent struct {
	mu    sync.Mutex
	bytes int
	by    map[*origin]*unsentOf
}

// unsentOf are those to one address, the one that has waited longest first.
type unsentOf struct {
	bytes   int
	streams list.List
}

// add takes note of a response, and returns one that must go if there are more
// than most bytes.
func (u *unsent) add(st *stream, most int) (surplus *stream) {
	u.mu.Lock()
	defer u.mu.Unlock()
	from := st.conn.origin
	if u.by == nil {
		u.by = map[*origin]*unsentOf{}
	}
	if u.by[from] == nil {
		u.by[from] = &unsentOf{}
	}
	u.bytes += st.unsent
	u.by[from].bytes += st.unsent
	st.place = u.by[from].streams.PushBack(st)
	if u.bytes <= most {
		return nil
	}
	largest := u.by[from]
	for _, of := range u.by {
		if of.bytes > largest.bytes {
			largest = of
		}
	}
	return largest.streams.Front().Value.(*stream)
}

func (u *unsent) remove(st *stream) {
	u.mu.Lock()
	defer u.mu.Unlock()
	from := st.conn.origin
	u.bytes -= st.unsent
	u.by[from].bytes -= st.unsent
	u.by[from].streams.Remove(st.place)
	if st.place = nil; u.by[from].bytes == 0 {
		delete(u.by, from)
	}
}

// park leaves a response that is whole to the connection.
func (st *stream) park() {
	c := st.conn
	c.mu.Lock()
	if st.err != nil {
		c.handlerDone()
		c.mu.Unlock()
		st.response.release(errFinished)
		return
	}
	st.request, st.response.header = nil, http.Header{}
	c.drop(st)
	if st.bodyErr == nil {
		st.bodyErr = errFinished // what still comes of it is dropped
	}
	if st.writeTimer == nil {
		st.writeTimer = time.AfterFunc(c.server.options.StallTimeout, func() { st.abort(codeCancel, errStalled) })
	}
	out := st.response.out
	st.unsent = unsentCost + len(out.buf) + max(0, cap(out.block)-maxBlock)
	c.unsent++
	surplus := c.server.unsent.add(st, c.server.options.MaxUnsent)
	c.handlerDone()
	c.wake(st) // what it waits for may have come
	c.mu.Unlock()
	if surplus != nil {
		c.server.options.Refused(LimitUnsent)
		surplus.abort(codeEnhanceYourCalm, errCrowd)
	}
}

// unpark takes note that a response waits no more. The caller holds mu.
func (c *conn) unpark(st *stream) {
	if st.unsent == 0 {
		return
	}
	c.server.unsent.remove(st)
	st.unsent = 0
	c.unsent--
	c.rest()
}

// wake tells a stream that it may go on. The caller holds mu.
func (c *conn) wake(st *stream) {
	if st.unsent == 0 {
		st.cond.Broadcast()
		return
	}
	if !st.ready {
		st.ready = true
		c.ready = append(c.ready, st)
	}
	if !c.resuming {
		c.resuming = true
		c.server.workers.run(c.resume)
	}
}

// resume sends what may be sent of responses that wait. One worker of a
// connection does, for it may have to wait for the peer to read.
func (c *conn) resume() {
	for {
		c.wmu.Lock()
		c.mu.Lock()
		if len(c.ready) == 0 {
			c.ready, c.resuming = nil, false
			c.mu.Unlock()
			c.wmu.Unlock()
			return
		}
		st := c.ready[0]
		c.ready = c.ready[1:]
		st.ready = false
		over := st.err
		c.mu.Unlock()
		if over != nil {
			c.wmu.Unlock()
			continue
		}
		err := st.response.sendRest()
		c.wmu.Unlock()
		if err == errUnsent {
			continue
		}
		st.response.release(errFinished)
		c.mu.Lock()
		c.finished(st, err)
		c.mu.Unlock()
	}
}
