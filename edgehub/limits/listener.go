package limits

import (
	"net"
	"sync"

	"k8s.io/klog/v2"
)

// Listener closes connections of l that are more than may be open.
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
			return &connection{Conn: conn, closed: sync.OnceFunc(func() { l.limiter.disconnect(address) })}, nil
		}
		// Counted before anybody can see that it is closed.
		l.limiter.refused.WithLabelValues(limit).Inc()
		_ = conn.Close()
		klog.V(2).InfoS("Connection refused", "address", address, "limit", limit)
	}
}

type connection struct {
	net.Conn
	closed func()
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.closed()
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
