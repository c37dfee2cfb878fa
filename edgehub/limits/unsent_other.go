//go:build !linux

package limits

import "net"

func limitUnsent(net.Conn) {}
