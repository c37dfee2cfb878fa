package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/netip"
	"os"

	"k8s.io/client-go/rest"

	"github.com/edgehub-io/edge-hub/edgehub/certificates"
)

// manageCertificates has the hub ask for its two certificates, rather than take
// them from files.
func (h *hub) manageCertificates(state *os.Root) error {
	addresses, err := h.options.nodeIPs()
	if err != nil {
		return err
	}
	h.certificates, err = certificates.Open(certificates.Options{
		NodeName: h.options.NodeName, State: state,
		NodeIPs:           func() []netip.Addr { return addresses },
		KubernetesService: h.options.ServeKubernetesService, ClusterDomain: h.options.ClusterDomain,
		ClientRenewed: func() { h.own.Renew() },
		Registry:      h.registry, Now: h.identity.Now,
	})
	if err != nil {
		return err
	}
	// The kubeconfig's own credential is at most good for asking.
	h.bootstrap = rest.CopyConfig(h.cloud.own)
	h.cloud.own = rest.AnonymousClientConfig(h.cloud.own)
	h.cloud.ownTLS = h.cloud.callers.Clone()
	h.cloud.ownTLS.GetClientCertificate = h.certificates.GetClientCertificate
	return nil
}

// runCertificates keeps the certificates current until ctx ends.
func (h *hub) runCertificates(ctx context.Context) error {
	own, err := certificates.Client(h.configFor(h.cloud.own), h.client)
	if err != nil {
		return err
	}
	h.certificates.Run(ctx, certificates.Clients{Own: own, Bootstrap: h.bootstrapper()})
	return nil
}

// bootstrapper returns one bootstrapClient for as long as the credential is the same. One
// that can't be read may be there the next time, and one that was refused may be another
// then. It is called by one goroutine.
func (h *hub) bootstrapper() func() (rest.Interface, error) {
	var client rest.Interface
	var of []byte
	return func() (rest.Interface, error) {
		var credential []byte
		if h.options.BootstrapCredential != "" {
			var err error
			if credential, err = os.ReadFile(h.options.BootstrapCredential); err != nil {
				credential = of
			}
		}
		if client != nil && bytes.Equal(credential, of) {
			return client, nil
		}
		made, err := h.bootstrapClient()
		if err == nil {
			client, of = made, credential
		}
		return made, err
	}
}

// bootstrapClient has the credential that the hub asks for its first client
// certificate with. It is good for nothing else.
func (h *hub) bootstrapClient() (rest.Interface, error) {
	config := h.bootstrap
	if h.options.BootstrapCredential != "" {
		var err error
		if config, err = certificates.BootstrapConfig(h.cloud.own, h.options.BootstrapCredential); err != nil {
			return nil, err
		}
	}
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, fmt.Errorf("bootstrap credential: %w", err)
	}
	if tlsConfig == nil {
		tlsConfig = &tls.Config{}
	}
	tlsConfig.MinVersion = tls.VersionTLS12
	rt, err := rest.HTTPWrappersForConfig(config, untraced{h.upstream.Transport(tlsConfig)})
	if err != nil {
		return nil, fmt.Errorf("bootstrap credential: %w", err)
	}
	return certificates.Client(h.configFor(rest.AnonymousClientConfig(config)), &http.Client{Transport: rt, CheckRedirect: noRedirect})
}

// configFor is a configuration for clients of the hub's own. Where requests go
// is their transport's to say.
func (h *hub) configFor(own *rest.Config) *rest.Config {
	c := rest.CopyConfig(own)
	c.Host = "https://kube-apiserver"
	return c
}

// noRedirect keeps an answer from deciding where a credential goes.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// untraced keeps the traces that client-go attaches to requests at high
// verbosity from the transport: a connection that is still being made reports
// to them when the request has long been answered on another one, and client-go
// reads without a lock what they write.
type untraced struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (u untraced) RoundTrip(req *http.Request) (*http.Response, error) {
	return u.RoundTripper.RoundTrip(req.WithContext(valueless{req.Context()}))
}

// valueless is a context that ends with another, and carries nothing.
type valueless struct{ context.Context }

// Value implements context.Context.
func (valueless) Value(any) any { return nil }
