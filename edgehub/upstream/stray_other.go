//go:build !unix

package upstream

import "net"

func hasInput(net.Conn) bool { return false }
