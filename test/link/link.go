// Package link is the connection between an edge node and the cloud, to be cut.
package link

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// Link carries TLS between a hub and its upstream untouched, until it is cut:
// then connections break off and new ones are refused.
type Link struct {
	address, target string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool // nil once it is cut
}

// New returns a link to a server, given by its URL. It is cut at the test's end.
func New(t testing.TB, server string) *Link {
	t.Helper()
	l := &Link{address: "127.0.0.1:0", target: strings.TrimPrefix(server, "https://")}
	if err := l.Mend(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Cut)
	return l
}

// Address is the HOST:PORT of the near end. It stays the same when the link is
// mended.
func (l *Link) Address() string { return l.address }

// Mend lets connections through.
func (l *Link) Mend() error {
	listener, err := net.Listen("tcp", l.address)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.address, l.listener, l.conns = listener.Addr().String(), listener, map[net.Conn]bool{}
	l.mu.Unlock()
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			go l.carry(near)
		}
	}()
	return nil
}

// Cut ends all connections. A link that is cut stays so until it is mended.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.listener.Close()
	for conn := range l.conns {
		_ = conn.Close()
	}
	l.conns = nil
}

// keep registers the ends of a connection; it is false once the link is cut.
func (l *Link) keep(ends ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		return false
	}
	for _, end := range ends {
		l.conns[end] = true
	}
	return true
}

func (l *Link) carry(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	defer far.Close()
	if !l.keep(near, far) {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(far, near)
		_ = far.Close()
	}()
	_, _ = io.Copy(near, far)
	_ = near.Close()
	<-done
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, near) // a no-op on a link that was cut
	delete(l.conns, far)
}
