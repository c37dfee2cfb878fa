package upstream

import (
	"net/url"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWhatIsSentIsAcknowledgedInTime, or its connection is given up, whatever it is for.
func TestWhatIsSentIsAcknowledgedInTime(t *testing.T) {
	s := newServer(t)
	conn, err := newEndpoint(nil, &url.URL{}).dial(t.Context(), "tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(heardConn).Conn.(interface {
		SyscallConn() (syscall.RawConn, error)
	}).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var timeout int
	if controlErr := raw.Control(func(fd uintptr) {
		timeout, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	}); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
	if timeout != 15_000 {
		t.Errorf("it is given %d ms", timeout)
	}
}
