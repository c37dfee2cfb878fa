// Package hubidentity is the contract of who an edge-hub is: the names in the
// certificates that a hub asks for and that the operator approves.
//
// A hub has two certificates. With the client certificate it is the user
// edgehub:node:NAME in the group edgehub:nodes, which is no kubelet and may do
// what config/rbac/edge-hub says. The serving certificate is one of the signer
// kubernetes.io/kubelet-serving, which demands the subject of a kubelet; being
// for server authentication only it gives nobody the rights of that subject.
package hubidentity

import (
	"net/netip"
	"strings"
)

const (
	// UserPrefix begins the user name of a hub, the common name of its client
	// certificate. The name of its Node follows.
	UserPrefix = "edgehub:node:"

	// Group is the group of every hub, the organization of its client
	// certificate.
	Group = "edgehub:nodes"

	// BootstrapGroup is the group of bootstrap tokens with which a hub may ask
	// for its first client certificate: auth-extra-groups of the token's Secret
	// names it.
	BootstrapGroup = "system:bootstrappers:edge-hub"

	// NodeUserPrefix begins the user name of a kubelet, and so the common name of
	// every certificate of the signer kubernetes.io/kubelet-serving.
	NodeUserPrefix = "system:node:"

	// NodeGroup is the group of every kubelet.
	NodeGroup = "system:nodes"

	// DefaultClusterDomain ends the longest name of the kubernetes Service.
	DefaultClusterDomain = "cluster.local"
)

// User returns the user name of the hub on a Node.
func User(node string) string { return UserPrefix + node }

// NodeOf returns the Node of the hub with a user name. ok is false if that is not
// the name of a hub.
func NodeOf(user string) (node string, ok bool) {
	node, ok = strings.CutPrefix(user, UserPrefix)
	return node, ok && node != ""
}

// ServiceAddress is the address that Pods reach their node's hub at.
var ServiceAddress = netip.AddrFrom4([4]byte{169, 254, 2, 1})

// Addresses returns those that every hub serves on: ServiceAddress and
// 127.0.0.1.
func Addresses() []netip.Addr {
	return []netip.Addr{ServiceAddress, netip.AddrFrom4([4]byte{127, 0, 0, 1})}
}

// ServiceNames returns the names by which Pods know kube-apiserver, those of the
// Service default/kubernetes. The domain may end with a dot, as in DNS; no name in a
// certificate does.
func ServiceNames(clusterDomain string) []string {
	return []string{
		"kubernetes",
		"kubernetes.default",
		"kubernetes.default.svc",
		"kubernetes.default.svc." + strings.TrimSuffix(clusterDomain, "."),
	}
}
