package limits

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxUnsent is how many bytes the kernel takes for a client that are not sent yet. For
// one that stops reading it would take 4 MiB (tcp(7), tcp_wmem), which count as the
// hub's memory where its Pod has a limit.
const maxUnsent = 64 << 10

// limitUnsent sets that limit (tcp(7), TCP_NOTSENT_LOWAT). Where it can't be set it is
// done without.
func limitUnsent(conn net.Conn) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
		})
	}
}
