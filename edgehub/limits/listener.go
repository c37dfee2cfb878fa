package limits

import (
	"errors"
	"net"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// Listener closes connections of inner that are more than may be open, and fails those
// whose TLS handshake is too long. Its server must have a ReadHeaderTimeout.
func (l *Limiter) Listener(inner net.Listener) net.Listener { return &listener{inner, l} }

type listener struct {
	net.Listener
	limiter *Limiter
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		address := addressOf(conn.RemoteAddr().String())
		limit := l.limiter.connect(address)
		if limit == "" {
			limitUnsent(conn)
			return &connection{Conn: conn, handshake: maxHandshake, headers: l.limiter.Header, disconnected: sync.OnceFunc(func() { l.limiter.disconnect(address) })}, nil
		}
		// Counted before anybody can see that it is closed.
		l.limiter.refused.WithLabelValues(limit).Inc()
		_ = conn.Close()
		klog.V(2).InfoS("Connection refused", "address", address, "limit", limit)
	}
}

// maxHandshake is how many bytes a client may send before its TLS handshake is over.
// crypto/tls keeps a message until it is whole, and takes certificates of 256 KiB.
const maxHandshake = 16 << 10

type connection struct {
	net.Conn
	handshake    int // bytes that may still come before it is over; over is negative
	headers      func(bytes int) bool
	disconnected func()

	mu     sync.Mutex
	header int // bytes that have come of a request's header, or inHTTP2, or inRequest
	held   int // of headers
	closed bool
}

// over says that a handshake is.
const over = -1

var errLongHandshake = errors.New("TLS handshake is too long")

// Read implements net.Conn.
func (c *connection) Read(b []byte) (int, error) {
	switch c.handshake {
	case over:
		n, err := c.Conn.Read(b)
		if n > 0 && !c.took(n) {
			return 0, errManyHeaders
		}
		return n, err
	case 0:
		return 0, errLongHandshake
	}
	n, err := c.Conn.Read(b[:min(len(b), c.handshake)])
	c.handshake -= n
	return n, err
}

// SetReadDeadline implements net.Conn. net/http lifts a handshake's deadline
// (ReadHeaderTimeout) when it is over, and before anybody else has the connection.
func (c *connection) SetReadDeadline(t time.Time) error {
	if c.handshake != over && t.IsZero() {
		c.handshake = over
	}
	return c.Conn.SetReadDeadline(t)
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.mu.Lock()
	c.closed = true
	c.giveBack()
	c.mu.Unlock()
	c.disconnected()
	return c.Conn.Close()
}

func (l *Limiter) connect(address string) (limit string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.options.ConnectionsPerAddress > 0 && l.addresses[address] >= l.options.ConnectionsPerAddress:
		return "max-connections-per-address"
	case l.options.Connections > 0 && l.connections >= l.options.Connections:
		return "max-connections"
	}
	l.addresses[address]++
	l.connections++
	return ""
}

func (l *Limiter) disconnect(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.connections--
	if l.addresses[address]--; l.addresses[address] == 0 {
		delete(l.addresses, address)
	}
}
