package certificates

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/edgehub-io/edge-hub/api/hubidentity"
)

// template is what a certificate must have.
type template struct {
	signer       string
	commonName   string
	organization string
	usage        certificatesv1.KeyUsage // beside digital signature
	extKeyUsage  x509.ExtKeyUsage        // the same
	dnsNames     []string
	addresses    []netip.Addr
}

func clientTemplate(node string) template {
	return template{
		signer:       certificatesv1.KubeAPIServerClientSignerName,
		commonName:   hubidentity.User(node),
		organization: hubidentity.Group,
		usage:        certificatesv1.UsageClientAuth,
		extKeyUsage:  x509.ExtKeyUsageClientAuth,
	}
}

// servingTemplate has the subject that the signer kubernetes.io/kubelet-serving
// demands
// (https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers).
func servingTemplate(node string) template {
	return template{
		signer:       certificatesv1.KubeletServingSignerName,
		commonName:   hubidentity.NodeUserPrefix + node,
		organization: hubidentity.NodeGroup,
		usage:        certificatesv1.UsageServerAuth,
		extKeyUsage:  x509.ExtKeyUsageServerAuth,
		addresses:    hubidentity.Addresses(),
	}
}

// add makes the certificate valid for an address, once.
func (t *template) add(address netip.Addr) {
	if address = address.Unmap(); !slices.Contains(t.addresses, address) {
		t.addresses = append(t.addresses, address)
	}
}

// request encodes a certificate request for key as PEM.
func (t template) request(key *ecdsa.PrivateKey) ([]byte, error) {
	request := &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: t.commonName, Organization: []string{t.organization}},
		DNSNames: t.dnsNames,
	}
	for _, address := range t.addresses {
		request.IPAddresses = append(request.IPAddresses, address.AsSlice())
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, request, key)
	if err != nil {
		return nil, fmt.Errorf("encode certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// check returns what a certificate lacks. That it has more names is no reason to
// give it up: an address may be back soon.
func (t template) check(leaf *x509.Certificate, now time.Time) error {
	if leaf.Subject.CommonName != t.commonName || !slices.Equal(leaf.Subject.Organization, []string{t.organization}) {
		return fmt.Errorf("the certificate is for CN=%s, O=%v instead of CN=%s, O=[%s]",
			leaf.Subject.CommonName, leaf.Subject.Organization, t.commonName, t.organization)
	}
	if !slices.Contains(leaf.ExtKeyUsage, t.extKeyUsage) {
		return fmt.Errorf("the certificate is not for %q", t.usage)
	}
	if !now.Before(leaf.NotAfter) {
		return fmt.Errorf("the certificate expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return t.missing(leaf.DNSNames, leaf.IPAddresses)
}

// missing returns a name of the template that is not among names and addresses.
func (t template) missing(names []string, addresses []net.IP) error {
	for _, name := range t.dnsNames {
		if !slices.Contains(names, name) {
			return fmt.Errorf("the certificate lacks the DNS name %s", name)
		}
	}
	for _, address := range t.addresses {
		if !slices.ContainsFunc(addresses, func(ip net.IP) bool { return ip.Equal(address.AsSlice()) }) {
			return fmt.Errorf("the certificate lacks the IP address %s", address)
		}
	}
	return nil
}

// covers reports whether a certificate of t would do for other.
func (t template) covers(other template) bool {
	for _, name := range other.dnsNames {
		if !slices.Contains(t.dnsNames, name) {
			return false
		}
	}
	for _, address := range other.addresses {
		if !slices.Contains(t.addresses, address) {
			return false
		}
	}
	return true
}
