package server

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// certificateCheck is how often a handshake looks whether the files changed.
const certificateCheck = time.Second

// certificate is a serving certificate that follows its files.
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
		return nil, fmt.Errorf("load serving certificate: %w", err)
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
		klog.ErrorS(err, "Serving certificate can't be read anew, the last one stays in use", "certificate", c.certFile)
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
// only where there is an authority to verify it by.
func tlsConfig(cert *certificate, clientCAFile string) (*tls.Config, error) {
	config := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: cert.get,
		NextProtos:     []string{"h2", "http/1.1"},
	}
	if clientCAFile != "" {
		pool, err := loadPool(clientCAFile)
		if err != nil {
			return nil, err
		}
		config.ClientCAs, config.ClientAuth = pool, tls.VerifyClientCertIfGiven
	}
	return config, nil
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
