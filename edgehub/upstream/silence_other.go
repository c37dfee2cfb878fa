//go:build !linux

package upstream

import "syscall"

func limitUnacknowledged(string, string, syscall.RawConn) error { return nil }
