package http2

import (
	"net/http"
)

// body is a stream as the body of its request.
type body stream

// Read implements io.Reader. The first tells a client that waits for it to send
// (RFC 9110, 10.1.1).
func (b *body) Read(p []byte) (int, error) {
	st, c := (*stream)(b), b.conn
	c.mu.Lock()
	ask := st.expect && !st.begun && st.err == nil
	if ask {
		c.queue = appendHeaders(c.queue, st.id, appendStatus(nil, http.StatusContinue), false)
		st.expect = false
		c.mu.Unlock()
		c.flush()
		c.mu.Lock()
	}
	for st.body.Len() == 0 && st.bodyErr == nil && len(p) > 0 {
		st.cond.Wait()
	}
	if st.body.Len() == 0 {
		err := st.bodyErr
		c.mu.Unlock()
		return 0, err
	}
	n, _ := st.body.Read(p)
	tell := st.consumed(n)
	c.mu.Unlock()
	if tell {
		c.flush()
	}
	return n, nil
}

// consumed is as conn.consumed, for the stream's window too.
func (st *stream) consumed(n int) bool {
	c := st.conn
	tell := c.consumed(n)
	st.credit += n
	if st.remoteEnd || st.credit < c.server.options.StreamWindow/2 {
		return tell
	}
	c.queue = appendNumber(c.queue, frameWindowUpdate, st.id, uint32(st.credit))
	st.recvWindow += st.credit
	st.credit = 0
	return true
}

// Close implements io.Closer. What was not read is dropped.
func (b *body) Close() error {
	st, c := (*stream)(b), b.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(st)
	st.bodyErr = http.ErrBodyReadAfterClose
	return nil
}

// data takes a frame of the body, of size bytes with its padding.
func (st *stream) data(p []byte, size int, end bool) error {
	c := st.conn
	var wrong error
	switch {
	case size > st.recvWindow:
		wrong = streamError{st.id, codeFlowControl, "stream window exceeded"}
	case st.bodyLeft >= 0 && (int64(len(p)) > st.bodyLeft || end && int64(len(p)) < st.bodyLeft):
		wrong = streamError{st.id, codeProtocol, "body is not as long as its content-length"}
	}
	if wrong != nil {
		c.consumed(size) // written with RST_STREAM
		return wrong
	}
	st.recvWindow -= size
	if st.bodyLeft >= 0 {
		st.bodyLeft -= int64(len(p))
	}
	var err error
	if st.bodyErr != nil { // nobody reads it any more
		err = c.refund(size)
	} else {
		st.body.Write(p)
		if st.consumed(size - len(p)) {
			err = c.reply(nil)
		}
	}
	if end {
		st.endRequest()
	}
	st.cond.Broadcast()
	return err
}
