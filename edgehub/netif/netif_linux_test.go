package netif

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var address = netip.MustParseAddr("169.254.2.1")

// inNamespace runs a test in a network namespace of its own, in which not even lo
// is up.
func inNamespace(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	var skipped error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
		if skipped = unix.Unshare(unix.CLONE_NEWNET); skipped == nil {
			test(t)
		}
	}()
	<-done
	if skipped != nil {
		t.Skipf("NOT TESTED: a network namespace needs root: %v", skipped)
	}
}

// where tells on which devices of the namespace the address is.
func where(t *testing.T) (devices []string) {
	t.Helper()
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Error(err)
	}
	for _, i := range interfaces {
		has, err := addressesOf(i)
		if err != nil {
			t.Error(err)
		}
		if has[address] {
			devices = append(devices, i.Name)
			if i.Flags&net.FlagUp == 0 {
				t.Errorf("%s is not up", i.Name)
			}
		}
	}
	return devices
}

// scope is that of the address, see rtnetlink(7).
func scope(t *testing.T) int {
	t.Helper()
	table, err := syscall.NetlinkRIB(unix.RTM_GETADDR, unix.AF_INET)
	if err != nil {
		t.Error(err)
		return -1
	}
	messages, err := syscall.ParseNetlinkMessage(table)
	if err != nil {
		t.Error(err)
	}
	for _, m := range messages {
		if m.Header.Type == unix.RTM_NEWADDR && bytes.Contains(m.Data, address.AsSlice()) {
			return int(m.Data[3])
		}
	}
	return -1
}

func expectOn(t *testing.T, want ...string) {
	t.Helper()
	if got := where(t); !slices.Equal(got, want) {
		t.Errorf("the address is on %v, want %v", got, want)
	}
}

// hasDummy tells whether the kernel has dummy devices, and leaves none.
func hasDummy(t *testing.T) bool {
	t.Helper()
	err := addDummy("try0")
	if err == nil {
		i, _ := net.InterfaceByName("try0")
		_ = deleteDevice(i.Index)
	} else if !errors.Is(err, errNoDummy) {
		t.Error(err)
	}
	return err == nil
}

func TestTheAddressIsKeptAndRemoved(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		device := DefaultDevice
		if !hasDummy(t) {
			t.Log("this kernel has no dummy devices: lo is tested")
			device = loopback
		}
		for range 3 { // the second and third time there is nothing to do
			if err := Ensure(DefaultDevice, []netip.Addr{address}); err != nil {
				t.Error(err)
			}
			expectOn(t, device)
		}
		if got := scope(t); got != unix.RT_SCOPE_HOST {
			t.Errorf("its scope is %d", got)
		}
		l, err := net.Listen("tcp", "169.254.2.1:0")
		if err != nil {
			t.Error(err)
		} else {
			_ = l.Close()
		}
		i, _ := net.InterfaceByName(device)
		if err := deleteAddress(i.Index, address); err != nil {
			t.Error(err)
		}
		expectOn(t)
		if err := Ensure(DefaultDevice, []netip.Addr{address}); err != nil {
			t.Error(err)
		}
		expectOn(t, device)
		for range 2 {
			if err := Remove(DefaultDevice, []netip.Addr{address}); err != nil {
				t.Error(err)
			}
			expectOn(t)
		}
		if _, err := net.InterfaceByName(DefaultDevice); err == nil {
			t.Errorf("%s is still there", DefaultDevice)
		}
	})
}

// TestAnAddressThatIsThereStaysWhereItIs: somebody else has set it.
func TestAnAddressThatIsThereStaysWhereItIs(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		index, err := ensureDevice(loopback)
		if err == nil {
			err = addAddress(index, address)
		}
		if err == nil {
			err = addAddress(index, address) // once more does no harm
		}
		if err == nil {
			err = Ensure(DefaultDevice, []netip.Addr{address})
		}
		if err != nil {
			t.Error(err)
		}
		expectOn(t, loopback)
		if _, err := net.InterfaceByName(DefaultDevice); err == nil {
			t.Errorf("%s was made for nothing", DefaultDevice)
		}
	})
}

// TestKeepBringsTheAddressBackAndLeavesIt when the hub ends.
func TestKeepBringsTheAddressBackAndLeavesIt(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		// keep must run on this thread, which alone is in the namespace.
		ctx, cancel := context.WithCancel(context.Background())
		tick := make(chan time.Time)
		go func() {
			tick <- time.Now()
			tick <- time.Now() // taken when the first has been dealt with
			cancel()
		}()
		keep(ctx, tick, loopback, []netip.Addr{address})
		expectOn(t, loopback)
	})
}

// TestADeviceThatCannotBeMadeIsAnError, and nothing to do is none.
func TestADeviceThatCannotBeMadeIsAnError(t *testing.T) {
	if err := Ensure(DefaultDevice, nil); err != nil {
		t.Errorf("nothing to do needs nothing: %v", err)
	}
	inNamespace(t, func(t *testing.T) {
		if err := Ensure("a-name-that-is-too-long", []netip.Addr{address}); err == nil {
			t.Error("a device with a name that is too long was made")
		}
		expectOn(t)
	})
}

func TestLinkLocal(t *testing.T) {
	got := LinkLocal([]string{"169.254.2.1:10268", "127.0.0.1:1", "192.168.1.5:10268", "[fe80::1]:1", "0.0.0.0:1", "host:1", "nonsense"})
	if !slices.Equal(got, []netip.Addr{address}) {
		t.Errorf("%v", got)
	}
}
