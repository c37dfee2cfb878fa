package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/edgehub-io/edge-hub/api/hubidentity"
)

// A request is a CertificateSigningRequest that claims to be an edge-hub's.
type request struct {
	spec *certificatesv1.CertificateSigningRequestSpec
	x509 *x509.CertificateRequest
	node string // that it is about, empty if the common name names none
}

// recognize returns nil if a CertificateSigningRequest has nothing to do with
// edge-hub: it is for another signer; or who made it is no hub and it asks for
// nothing that only a hub may have. What can't be parsed is nil too, as
// kube-apiserver does not admit it.
func recognize(spec *certificatesv1.CertificateSigningRequestSpec) *request {
	parsed, err := parse(spec.Request)
	if err != nil {
		return nil
	}
	r := &request{spec: spec, x509: parsed}
	switch spec.SignerName {
	case certificatesv1.KubeAPIServerClientSignerName:
		r.node, _ = hubidentity.NodeOf(parsed.Subject.CommonName)
		if !r.byHub() && !claimsClient(parsed) {
			return nil
		}
	case certificatesv1.KubeletServingSignerName:
		r.node, _ = strings.CutPrefix(parsed.Subject.CommonName, hubidentity.NodeUserPrefix)
		if !r.byHub() && !claimsServing(parsed) {
			return nil
		}
	default:
		return nil
	}
	return r
}

func parse(encoded []byte) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode(encoded)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("it is no PEM block of type CERTIFICATE REQUEST")
	}
	if len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("something follows the certificate request")
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse certificate request: %w", err)
	}
	return parsed, nil
}

// byHub reports whether it was made under a hub's identity, or half of one.
func (r *request) byHub() bool {
	return strings.HasPrefix(r.spec.Username, hubidentity.UserPrefix) || slices.Contains(r.spec.Groups, hubidentity.Group)
}

// claimsClient looks at every value of the subject: of several common names
// package x509 shows the last one only.
func claimsClient(parsed *x509.CertificateRequest) bool {
	for _, name := range parsed.Subject.Names {
		value, ok := name.Value.(string)
		if ok && (strings.HasPrefix(value, hubidentity.UserPrefix) || value == hubidentity.Group) {
			return true
		}
	}
	return false
}

// claimsServing reports whether a certificate would be valid for what Pods reach a
// hub or kube-apiserver by. No kubelet has such a name, but for "kubernetes", which
// may be a Node's.
func claimsServing(parsed *x509.CertificateRequest) bool {
	if slices.ContainsFunc(parsed.IPAddresses, func(ip net.IP) bool { return ip.Equal(hubidentity.ServiceAddress.AsSlice()) }) {
		return true
	}
	return slices.ContainsFunc(parsed.DNSNames, func(name string) bool {
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		return name == hubidentity.ServiceAddress.String() || strings.HasPrefix(name, "kubernetes.default")
	})
}
