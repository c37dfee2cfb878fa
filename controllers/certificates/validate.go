package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/asn1"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/edgehub-io/edge-hub/api/hubidentity"
)

const (
	// minLifetime is the least that kube-apiserver admits and that
	// kube-controller-manager issues.
	minLifetime = 10 * time.Minute
	// maxLifetime is what a hub asks for. A certificate can't be withdrawn.
	maxLifetime = 366 * 24 * time.Hour
)

// Reasons of the condition Denied.
const (
	reasonWrongRequester = "WrongRequester"
	reasonWrongSubject   = "WrongSubject"
	reasonWrongNames     = "WrongNames"
	reasonWrongUsages    = "WrongUsages"
	reasonWrongKey       = "WrongKey"
	reasonWrongLifetime  = "WrongLifetime"
	reasonNodeNotFound   = "NodeNotFound"
)

// denial is why a request is denied.
type denial struct{ reason, message string }

func (d *denial) Error() string { return d.reason + ": " + d.message }

// maxMessage in bytes leaves room for the reason in an event, whose note may have 1024.
// Who asks chooses names of any length.
const maxMessage = 900

func deny(reason, format string, arguments ...any) error {
	message := fmt.Sprintf(format, arguments...)
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + "…"
	}
	return &denial{reason, message}
}

// facts are what a request is judged by, beside itself.
type facts struct {
	node          *corev1.Node
	service       *corev1.Service // default/kubernetes; nil if it is missing
	clusterDomain string
}

// precheck is the part of the rule that needs to know nothing but the request. The
// node is worth looking up only if it passes. The error is a *denial.
func (r *request) precheck() error {
	for _, check := range []func() error{r.checkSubject, r.checkRequester, r.checkKey, r.checkUsages, r.checkLifetime, r.checkExtensions} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// validate is the rest of it.
func (r *request) validate(f facts) error {
	if f.node == nil || f.node.Name != r.node {
		return deny(reasonNodeNotFound, "there is no Node %q", r.node)
	}
	if r.spec.SignerName == certificatesv1.KubeletServingSignerName {
		return r.checkNames(f)
	}
	return nil
}

// checkSubject demands exactly one organization and one common name: kube-apiserver
// reads more than these from a subject.
func (r *request) checkSubject() error {
	prefix, organization := hubidentity.UserPrefix, hubidentity.Group
	if r.spec.SignerName == certificatesv1.KubeletServingSignerName {
		prefix, organization = hubidentity.NodeUserPrefix, hubidentity.NodeGroup
	}
	subject := r.x509.Subject
	if len(validation.IsDNS1123Subdomain(r.node)) > 0 || subject.CommonName != prefix+r.node || len(subject.Names) != 2 ||
		!slices.Equal(subject.Organization, []string{organization}) {
		return deny(reasonWrongSubject, "the subject is %q, it must be CN=%s and the name of a Node, and O=%s", subject, prefix, organization)
	}
	return nil
}

// checkRequester: a hub asks as itself. For its first client certificate, or when
// that has expired, it asks as the kubelet of its Node or with a bootstrap token.
func (r *request) checkRequester() error {
	in := func(group string) bool { return slices.Contains(r.spec.Groups, group) }
	switch {
	case r.spec.Username == hubidentity.User(r.node) && in(hubidentity.Group):
		return nil
	case r.spec.SignerName == certificatesv1.KubeletServingSignerName:
		return deny(reasonWrongRequester, "%s asked for the serving certificate of the hub on Node %s; only %s may",
			r.spec.Username, r.node, hubidentity.User(r.node))
	case r.spec.Username == hubidentity.NodeUserPrefix+r.node && in(hubidentity.NodeGroup):
		return nil
	case strings.HasPrefix(r.spec.Username, "system:bootstrap:") && in(hubidentity.BootstrapGroup):
		return nil
	}
	return deny(reasonWrongRequester, "%s asked for the identity of the hub on Node %s; only that hub itself may, the kubelet %s, or a bootstrap token in group %s",
		r.spec.Username, r.node, hubidentity.NodeUserPrefix+r.node, hubidentity.BootstrapGroup)
}

func (r *request) checkKey() error {
	key, ok := r.x509.PublicKey.(*ecdsa.PublicKey)
	if !ok || (key.Curve != elliptic.P256() && key.Curve != elliptic.P384()) {
		return deny(reasonWrongKey, "the key must be of ECDSA with the curve P-256 or P-384")
	}
	if err := r.x509.CheckSignature(); err != nil {
		return deny(reasonWrongKey, "who asked does not have the key: %v", err)
	}
	return nil
}

func (r *request) checkUsages() error {
	auth := certificatesv1.UsageClientAuth
	if r.spec.SignerName == certificatesv1.KubeletServingSignerName {
		auth = certificatesv1.UsageServerAuth
	}
	if len(r.spec.Usages) != 2 || !slices.Contains(r.spec.Usages, auth) || !slices.Contains(r.spec.Usages, certificatesv1.UsageDigitalSignature) {
		return deny(reasonWrongUsages, "the usages are %q, they must be %q and %q", r.spec.Usages, certificatesv1.UsageDigitalSignature, auth)
	}
	return nil
}

func (r *request) checkLifetime() error {
	if r.spec.ExpirationSeconds == nil {
		return deny(reasonWrongLifetime, "expirationSeconds must be set")
	}
	lifetime := time.Duration(*r.spec.ExpirationSeconds) * time.Second
	if lifetime < minLifetime || lifetime > maxLifetime {
		return deny(reasonWrongLifetime, "the lifetime is %s, it must be from %s to %s", lifetime, minLifetime, maxLifetime)
	}
	return nil
}

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17} // RFC 5280, 4.2.1.6

// checkExtensions: a client certificate needs no extension, a serving certificate
// the names only. A signer may honour what package x509 does not show.
func (r *request) checkExtensions() error {
	allowed := 0
	if r.spec.SignerName == certificatesv1.KubeletServingSignerName {
		allowed = 1
	}
	if len(r.x509.Extensions) > allowed {
		return deny(reasonWrongNames, "it asks for more extensions than needed")
	}
	for _, extension := range r.x509.Extensions {
		if !extension.Id.Equal(oidSubjectAltName) {
			return deny(reasonWrongNames, "it asks for the extension %s", extension.Id)
		}
	}
	return nil
}

// checkNames: a hub may serve as 169.254.2.1 and 127.0.0.1, which it must, as its
// node's own IP addresses, and as kube-apiserver to its node's Pods. Names of the
// node are not among them: a kubelet may report any name as its own.
func (r *request) checkNames(f facts) error {
	if len(r.x509.EmailAddresses) > 0 || len(r.x509.URIs) > 0 {
		return deny(reasonWrongNames, "it asks for an email address or URI")
	}
	for _, name := range r.x509.DNSNames {
		if !slices.Contains(hubidentity.ServiceNames(f.clusterDomain), name) {
			return deny(reasonWrongNames, "%q is no name of the Service default/kubernetes", name)
		}
	}
	allowed := append(hubidentity.Addresses(), f.addresses()...)
	var asked []netip.Addr
	for _, ip := range r.x509.IPAddresses {
		address, ok := canonical(ip)
		if !ok || !slices.Contains(allowed, address) {
			return deny(reasonWrongNames, "%s is neither an address of Node %s nor of the Service default/kubernetes", ip, r.node)
		}
		asked = append(asked, address)
	}
	for _, address := range hubidentity.Addresses() {
		if !slices.Contains(asked, address) {
			return deny(reasonWrongNames, "the address %s is missing", address)
		}
	}
	return nil
}

// addresses returns those of the node and of the Service, as far as they may be in
// a certificate: no others than this node is reached by alone.
func (f facts) addresses() []netip.Addr {
	var addresses []netip.Addr
	add := func(text string) {
		address, err := netip.ParseAddr(text)
		if err == nil && !address.IsUnspecified() && !address.IsMulticast() {
			addresses = append(addresses, address)
		}
	}
	for _, address := range f.node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP || address.Type == corev1.NodeExternalIP {
			add(address.Address)
		}
	}
	if f.service != nil {
		for _, address := range f.service.Spec.ClusterIPs {
			add(address)
		}
	}
	return addresses
}

// canonical refuses IPv4 addresses that are written as IPv6 ones, which programs
// do not agree on.
func canonical(ip net.IP) (netip.Addr, bool) {
	address, ok := netip.AddrFromSlice(ip)
	return address, ok && !address.Is4In6()
}
