package server

import (
	"crypto/tls"
	"net/http"
	"sync/atomic"

	"github.com/edgehub-io/edge-hub/edgehub/upstream"
)

// nodeTransport sends the kubelet's requests with the node's credential. A connection
// keeps the certificate that it was made with, and kube-apiserver refuses what comes
// over it once that has expired, so that requests go over new ones as soon as the
// kubelet has another certificate. Watches need not be ended for it: kube-apiserver
// looks at the certificate when a request begins, and the kubelet itself closes its
// connections when it takes a new certificate (kubelet: updateTransport).
type nodeTransport struct {
	certificate *certificate
	transport   *upstream.Transport
	used        atomic.Pointer[tls.Certificate]
}

func newNodeTransport(u *upstream.Upstream, callers *tls.Config, c *certificate) *nodeTransport {
	config := callers.Clone()
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.get(nil) }
	t := &nodeTransport{certificate: c, transport: u.Transport(config)}
	t.used.Store(c.current)
	return t
}

// RoundTrip implements http.RoundTripper.
func (t *nodeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if current, err := t.certificate.get(nil); err == nil && t.used.Swap(current) != current {
		t.transport.Renew()
	}
	return t.transport.RoundTrip(req)
}
