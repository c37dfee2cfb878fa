package server

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/edgehub-io/edge-hub/edgehub/netif"
	"github.com/edgehub-io/edge-hub/edgehub/rewrite"
)

// PodOptions say how the node's Pods come to the hub.
type PodOptions struct {
	// Endpoint is the HOST:PORT that the kubelet is shown as the Service
	// default/kubernetes, and kube-proxy as that Service's endpoint. If it is empty
	// it is the first of Options.Listen that is not a loopback address; NoEndpoint
	// is for none.
	Endpoint string
	// Interface is the network device that the link-local addresses among
	// Options.Listen are put on, see netif.Keep. The hub sets no addresses if it is
	// empty.
	Interface string
}

// NoEndpoint is a PodOptions.Endpoint: nothing is rewritten.
const NoEndpoint = "none"

// podEndpoint is where the node's Pods reach the hub; the zero Endpoint if
// nothing is to be rewritten.
func (o *Options) podEndpoint() (rewrite.Endpoint, error) {
	switch o.Pods.Endpoint {
	case NoEndpoint:
		return rewrite.Endpoint{}, nil
	case "":
	default:
		endpoint, err := netip.ParseAddrPort(o.Pods.Endpoint)
		if err != nil {
			return rewrite.Endpoint{}, fmt.Errorf("--pod-endpoint %q is not ADDRESS:PORT: %w", o.Pods.Endpoint, err)
		}
		return rewrite.Endpoint{AddrPort: endpoint}, nil
	}
	for _, listen := range o.Listen {
		address, err := net.ResolveTCPAddr("tcp", listen)
		if err != nil {
			continue // listening will tell
		}
		endpoint := address.AddrPort()
		if host := endpoint.Addr().Unmap(); host.IsValid() && !host.IsLoopback() && !host.IsUnspecified() {
			return rewrite.Endpoint{AddrPort: netip.AddrPortFrom(host, endpoint.Port())}, nil
		}
	}
	return rewrite.Endpoint{}, nil
}

// ensureAddresses gives the node the addresses that the hub listens on and that
// nobody else sets.
func (h *hub) ensureAddresses() error {
	if h.options.Pods.Interface == "" {
		return nil
	}
	return netif.Ensure(h.options.Pods.Interface, netif.LinkLocal(h.options.Listen))
}

// keepAddresses keeps them until ctx ends, and leaves them.
func (h *hub) keepAddresses(ctx context.Context) {
	if h.options.Pods.Interface != "" {
		netif.Keep(ctx, h.options.Pods.Interface, netif.LinkLocal(h.options.Listen))
	}
}
