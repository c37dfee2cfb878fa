//go:build unix

package upstream

import (
	"net"
	"syscall"
)

// hasInput reports whether something waits to be read from a connection's socket,
// or its end.
func hasInput(conn net.Conn) bool {
	if c, ok := conn.(heardConn); ok {
		conn = c.Conn
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return true // it is closed
	}
	some := true
	err = raw.Read(func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		some = err != syscall.EAGAIN && err != syscall.EWOULDBLOCK && err != syscall.EINTR
		return true
	})
	return some || err != nil
}
