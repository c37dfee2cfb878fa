package identity

import (
	"crypto/x509"
	"net/http"
	"slices"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
)

// ClientCertificate returns the user and groups that the request's TLS client
// certificate proves: its common name and organisations, as kube-apiserver maps
// them. The certificate must chain to roots, be meant for client authentication
// and be valid at now; take now from [Authenticator.Now], so that a clock set
// back revives no certificate. ok is false otherwise, and always without roots:
// the system's root certificates vouch for nobody here.
//
// It verifies signatures each time it is called, with keys that the client chooses:
// [Authenticator.IsNode] remembers the verdict.
func ClientCertificate(r *http.Request, roots *x509.CertPool, now time.Time) (userName string, groups []string, ok bool) {
	if roots == nil || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "", nil, false
	}
	leaf := r.TLS.PeerCertificates[0]
	intermediates := x509.NewCertPool()
	for _, c := range r.TLS.PeerCertificates[1:] {
		intermediates.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil || leaf.Subject.CommonName == "" {
		return "", nil, false
	}
	return leaf.Subject.CommonName, slices.Clone(leaf.Subject.Organization), true
}

// IsNode tells whether a verified user is the kubelet of the node: system:node:<name>
// in the group system:nodes, as the node authorizer demands
// (https://kubernetes.io/docs/reference/access-authn-authz/node/).
func IsNode(userName string, groups []string, nodeName string) bool {
	return nodeName != "" && userName == nodeUserPrefix+nodeName && slices.Contains(groups, user.NodesGroup)
}

const nodeUserPrefix = "system:node:"
