package server

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/limits"
)

// certificateCheck is how often a handshake looks whether the files changed.
const certificateCheck = time.Second

// certificate is a certificate with its key that follows its files.
type certificate struct {
	certFile, keyFile string

	mu       sync.Mutex
	current  *tls.Certificate
	modified [2]time.Time
	checked  time.Time
}

func loadCertificate(certFile, keyFile string) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile}
	if _, err := c.get(nil); err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	return c, nil
}

// get implements tls.Config.GetCertificate. Files that can't be read, as in
// the middle of a change, leave the certificate as it is.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) < certificateCheck {
		return c.current, nil
	}
	c.checked = time.Now()
	modified, err := modTimes(c.certFile, c.keyFile)
	if err == nil && modified != c.modified {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(c.certFile, c.keyFile); err == nil {
			c.current, c.modified = &pair, modified
		}
	}
	if err != nil {
		if c.current == nil {
			return nil, err
		}
		klog.ErrorS(err, "Certificate can't be read anew, the last one stays in use", "certificate", c.certFile)
	}
	return c.current, nil
}

func modTimes(certFile, keyFile string) (times [2]time.Time, err error) {
	for i, name := range []string{certFile, keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return times, err
		}
		times[i] = info.ModTime()
	}
	return times, nil
}

// tlsConfig is that of the hub's endpoint. A client certificate is asked for
// only where there are authorities to verify it by.
func tlsConfig(serving func(*tls.ClientHelloInfo) (*tls.Certificate, error), clientCAs *x509.CertPool) *tls.Config {
	config := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: serving,
		NextProtos:     []string{"h2", "http/1.1"}, // see limits.Hello

		GetConfigForClient: limits.Hello,
		// Records that grow with a connection save a client some time at its
		// first bytes, and cost a system call each.
		DynamicRecordSizingDisabled: true,
	}
	if clientCAs != nil {
		// One that does not verify is no reason to refuse the connection: it
		// counts for nothing, as with kube-apiserver.
		config.ClientCAs, config.ClientAuth = clientCAs, tls.RequestClientCert
		config.VerifyPeerCertificate = boundChain
	}
	return config
}

// A client's certificates are kept for as long as its connection, and each may be
// an issuer to try. The kubelet sends one or two.
const (
	maxChain      = 4
	maxChainBytes = 8 << 10
)

// boundChain refuses a connection with more certificates than that. It implements
// tls.Config.VerifyPeerCertificate, which is asked before they are looked at.
func boundChain(chain [][]byte, _ [][]*x509.Certificate) error {
	size := 0
	for _, der := range chain {
		size += len(der)
	}
	if len(chain) > maxChain || size > maxChainBytes {
		return fmt.Errorf("client sent %d certificates of %d bytes: at most %d of %d together are taken", len(chain), size, maxChain, maxChainBytes)
	}
	return nil
}

func loadPool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("load certificate authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load certificate authority: no certificate in %s", file)
	}
	return pool, nil
}
