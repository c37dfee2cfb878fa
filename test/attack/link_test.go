package attack

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// link carries TLS between a hub and its upstream untouched, until it is cut:
// then connections break off and new ones are refused.
type link struct {
	address, target string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool // nil once it is cut
}

func newLink(t *testing.T, server string) *link {
	t.Helper()
	l := &link{address: "127.0.0.1:0", target: strings.TrimPrefix(server, "https://")}
	if err := l.mend(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.cut)
	return l
}

// mend lets connections through, at the address that the link had before.
func (l *link) mend() error {
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

func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.listener.Close()
	for conn := range l.conns {
		_ = conn.Close()
	}
	l.conns = nil
}

// keep registers a connection; it is false once the link is cut.
func (l *link) keep(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		return false
	}
	l.conns[conn] = true
	return true
}

func (l *link) carry(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	defer far.Close()
	if !l.keep(near) || !l.keep(far) {
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
}
