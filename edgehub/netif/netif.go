// Package netif keeps the hub's address on the node.
//
// The address is what Pods were given as KUBERNETES_SERVICE_HOST, so it must be
// there for as long as they run: it is set before the hub listens and again
// whenever it is found missing, and neither a stop nor a crash of the hub takes it
// away. Only Remove does.
//
// Nothing is done to iptables or nftables. What a Pod sends to the address arrives
// at the node as the gateway that it is and is delivered there: no Service has the
// address, so that kube-proxy leaves it alone. Where a network plugin or a firewall
// refuses what Pods send to their node, such as a Calico HostEndpoint or a Cilium
// host policy, it has to be told to let TCP port 10268 pass, in its own language.
// For the common one of iptables package install does it.
package netif

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"k8s.io/klog/v2"
)

// DefaultDevice is the device that the hub makes. Remove deletes it; of any other
// device it takes no more than the addresses.
const DefaultDevice = "edge-hub0"

// loopback carries the addresses where the kernel has no dummy devices.
const loopback = "lo"

// period is how often the addresses are looked for.
const period = 5 * time.Second

// errNoDummy says that the kernel has no dummy devices.
var errNoDummy = errors.New("the kernel has no dummy devices")

// LinkLocal returns the addresses among HOST:PORT that a node has to itself
// (RFC 3927): nobody else has set these, and nobody else is hurt by them.
func LinkLocal(listen []string) (addresses []netip.Addr) {
	for _, address := range listen {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			continue
		}
		if a, err := netip.ParseAddr(host); err == nil && a.Is4() && a.IsLinkLocalUnicast() {
			addresses = append(addresses, a)
		}
	}
	return addresses
}

// Ensure puts addresses on a device, unless the node has them on another one
// already. The device is made if it is not there; where the kernel has no dummy
// devices it is lo. It needs CAP_NET_ADMIN if there is something to do.
func Ensure(device string, addresses []netip.Addr) error {
	missing, err := without(addresses)
	if err != nil || len(missing) == 0 {
		return err
	}
	index, err := ensureDevice(device)
	if errors.Is(err, errNoDummy) {
		device = loopback
		index, err = ensureDevice(device)
	}
	if err != nil {
		return fmt.Errorf("device %s: %w", device, err)
	}
	for _, address := range missing {
		if err := addAddress(index, address); err != nil {
			return fmt.Errorf("put %s on %s: %w", address, device, err)
		}
		klog.InfoS("The node has the hub's address", "address", address, "device", device)
	}
	return nil
}

// Keep ensures the addresses until ctx ends, and leaves them then.
func Keep(ctx context.Context, device string, addresses []netip.Addr) {
	if len(addresses) == 0 {
		return
	}
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	keep(ctx, ticker.C, device, addresses)
}

func keep(ctx context.Context, tick <-chan time.Time, device string, addresses []netip.Addr) {
	problem := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		err := Ensure(device, addresses)
		if err != nil && err.Error() != problem {
			klog.ErrorS(err, "The node lacks the hub's address")
		}
		if problem = ""; err != nil {
			problem = err.Error()
		}
	}
}

// Remove takes addresses from the node wherever they are, and the device that the
// hub made. Pods that were given the addresses can't reach the hub afterwards.
func Remove(device string, addresses []netip.Addr) error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list network devices: %w", err)
	}
	for _, i := range interfaces {
		has, err := addressesOf(i)
		if err != nil {
			return err
		}
		for _, address := range addresses {
			if !has[address] {
				continue
			}
			if err := deleteAddress(i.Index, address); err != nil {
				return fmt.Errorf("take %s from %s: %w", address, i.Name, err)
			}
		}
		if i.Name == device && device == DefaultDevice {
			if err := deleteDevice(i.Index); err != nil {
				return fmt.Errorf("delete %s: %w", device, err)
			}
		}
	}
	return nil
}

// without returns the addresses that no device that is up has.
func without(addresses []netip.Addr) (missing []netip.Addr, err error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network devices: %w", err)
	}
	found := map[netip.Addr]bool{}
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		has, err := addressesOf(i)
		if err != nil {
			return nil, err
		}
		for address := range has {
			found[address] = true
		}
	}
	for _, address := range addresses {
		if !found[address] {
			missing = append(missing, address)
		}
	}
	return missing, nil
}

func addressesOf(i net.Interface) (map[netip.Addr]bool, error) {
	has := map[netip.Addr]bool{}
	addresses, err := i.Addrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", i.Name, err)
	}
	for _, a := range addresses {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			has[prefix.Addr().Unmap()] = true
		}
	}
	return has, nil
}

// ensureDevice returns the index of a device that is there and up.
func ensureDevice(name string) (int, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		if name == loopback {
			return 0, err
		}
		if err := addDummy(name); err != nil {
			return 0, err
		}
		if i, err = net.InterfaceByName(name); err != nil {
			return 0, err
		}
	}
	if i.Flags&net.FlagUp != 0 {
		return i.Index, nil
	}
	return i.Index, setUp(i.Index)
}
