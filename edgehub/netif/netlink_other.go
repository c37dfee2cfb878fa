//go:build !linux

package netif

import (
	"errors"
	"net/netip"
)

func addDummy(string) error               { return errNoDummy }
func setUp(int) error                     { return errors.ErrUnsupported }
func deleteDevice(int) error              { return errors.ErrUnsupported }
func addAddress(int, netip.Addr) error    { return errors.ErrUnsupported }
func deleteAddress(int, netip.Addr) error { return errors.ErrUnsupported }
