package limits

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
)

// A header that is on its way is kept until its end, which its client need not send
// for as long as its server's ReadHeaderTimeout. All of them together have a bound.
const (
	// freeHeader is how many bytes of each don't count. Few headers have more.
	freeHeader = 8 << 10
	maxHeaders = 4 << 20
)

var errManyHeaders = errors.New("too many large headers are on their way")

// Header takes so many bytes more of what headers may hold that are on their way,
// beyond the first 8 KiB of each, or gives them back if it is negative. It reports
// whether there were as many.
func (l *Limiter) Header(bytes int) bool {
	if l.headers.Add(int64(bytes)) <= maxHeaders || bytes <= 0 {
		return true
	}
	l.headers.Add(int64(-bytes))
	l.refused.WithLabelValues("headers").Inc()
	return false
}

// What a connection's header is while there is none.
const (
	inRequest = -1
	inHTTP2   = -2 // there are many at once, which the server itself bounds
)

// Hello tells a connection of [Limiter.Listener] what its client is about to speak. It
// implements [tls.Config.GetConfigForClient].
func Hello(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if c, ok := hello.Conn.(*connection); ok && slices.Contains(hello.SupportedProtos, "h2") {
		c.setHeader(inHTTP2)
	}
	return nil, nil
}

// ConnState tells a connection of [Limiter.Listener] when a header is whole, and when
// another may begin. It implements [http.Server.ConnState].
func ConnState(conn net.Conn, state http.ConnState) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c, ok := conn.(*connection)
	switch {
	case !ok:
	case state == http.StateActive:
		c.setHeader(inRequest)
	case state == http.StateIdle:
		c.setHeader(0)
	}
}

func (c *connection) setHeader(header int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.header != inHTTP2 {
		c.giveBack()
		c.header = header
	}
}

// giveBack is called with mu held.
func (c *connection) giveBack() {
	if c.held > 0 {
		c.headers(-c.held)
		c.held = 0
	}
}

// took takes note of bytes that have come, and reports whether they may be kept.
func (c *connection) took(bytes int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.header < 0 || c.closed {
		return true
	}
	c.header += bytes
	more := max(0, c.header-freeHeader) - c.held
	if more > 0 && !c.headers(more) {
		return false
	}
	c.held += max(0, more)
	return true
}
