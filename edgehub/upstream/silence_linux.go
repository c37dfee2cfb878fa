package upstream

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// limitUnacknowledged implements net.Dialer.Control (tcp(7), TCP_USER_TIMEOUT). What
// can't be set is done without.
func limitUnacknowledged(_, _ string, conn syscall.RawConn) error {
	return conn.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged.Milliseconds()))
	})
}
