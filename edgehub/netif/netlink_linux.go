package netif

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// The few messages of rtnetlink(7) that are needed. All numbers are in the
// machine's own order of bytes.

var order = binary.NativeEndian

// linkMessage is a struct ifinfomsg.
func linkMessage(index int, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	order.PutUint32(b[4:], uint32(index))
	order.PutUint32(b[8:], flags)
	order.PutUint32(b[12:], change)
	return b
}

// addressMessage is a struct ifaddrmsg of an address that is a network of its own.
// It is nobody's source for what goes to other hosts, nor what a network plugin takes
// for the node's own.
func addressMessage(index int, address netip.Addr) []byte {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0], b[1] = unix.AF_INET6, byte(address.BitLen())
	if address.Is4() {
		b[0] = unix.AF_INET
	}
	b[3] = unix.RT_SCOPE_HOST
	order.PutUint32(b[4:], uint32(index))
	b = appendAttribute(b, unix.IFA_LOCAL, address.AsSlice())
	return appendAttribute(b, unix.IFA_ADDRESS, address.AsSlice())
}

// appendAttribute appends a struct rtattr and its value.
func appendAttribute(b []byte, typ uint16, value []byte) []byte {
	b = order.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = order.AppendUint16(b, typ)
	b = append(b, value...)
	for len(b)%unix.RTA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

func addDummy(name string) error {
	b := linkMessage(0, unix.IFF_UP, unix.IFF_UP)
	b = appendAttribute(b, unix.IFLA_IFNAME, append([]byte(name), 0))
	b = appendAttribute(b, unix.IFLA_LINKINFO, appendAttribute(nil, unix.IFLA_INFO_KIND, []byte("dummy")))
	err := request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, b)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return errNoDummy
	case errors.Is(err, unix.EEXIST): // somebody was faster
		return nil
	}
	return err
}

func setUp(index int) error {
	return request(unix.RTM_NEWLINK, 0, linkMessage(index, unix.IFF_UP, unix.IFF_UP))
}

func deleteDevice(index int) error {
	return request(unix.RTM_DELLINK, 0, linkMessage(index, 0, 0))
}

func addAddress(index int, address netip.Addr) error {
	err := request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, addressMessage(index, address))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func deleteAddress(index int, address netip.Addr) error {
	return request(unix.RTM_DELADDR, 0, addressMessage(index, address))
}

// request sends one message and waits for the kernel's verdict, which is an Errno.
func request(typ, flags uint16, body []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	message := make([]byte, 0, unix.SizeofNlMsghdr+len(body))
	message = order.AppendUint32(message, uint32(cap(message)))
	message = order.AppendUint16(message, typ)
	message = order.AppendUint16(message, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	message = order.AppendUint32(message, 1) // sequence number
	message = order.AppendUint32(message, 0) // the kernel fills in who sends
	message = append(message, body...)
	if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0) // the kernel answers before sendto returns
	if err != nil {
		return os.NewSyscallError("recvfrom", err)
	}
	if n < unix.SizeofNlMsghdr+4 || order.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("unexpected answer of %d bytes from the kernel", n)
	}
	if errno := int32(order.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
		return unix.Errno(-errno)
	}
	return nil
}
