// Package recorder stands in for kube-apiserver and writes down who asked it
// for what, so that a test can tell which credential went out with a request.
package recorder

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"

	"github.com/edgehub-io/edge-hub/test/cluster"
)

// Request is one that reached the recorder.
type Request struct {
	Method, Host, Proto string
	URI                 string // as it was sent
	Certificate         string // common name of the client's, "" for none
	Header, Trailer     http.Header
}

// Recorder is a server that records requests before its handler answers them.
type Recorder struct {
	URL string

	handler http.Handler
	log     lockedBuffer

	mu   sync.Mutex
	seen []*Request
}

// Start serves a recorder with a certificate of the cluster until the test ends.
// A hub is pointed to it with --server. It asks for client certificates and
// verifies them, as kube-apiserver does.
func Start(t testing.TB, c *cluster.Cluster, handler http.Handler) *Recorder {
	t.Helper()
	r := &Recorder{handler: handler}
	server, listener, err := r.listen(t, c)
	if err != nil {
		t.Fatal(err)
	}
	r.URL = "https://" + listener.Addr().String()
	go func() { _ = server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
	return r
}

func (r *Recorder) listen(t testing.TB, c *cluster.Cluster) (*http.Server, net.Listener, error) {
	certFile, keyFile, err := c.IssueServingCert(t.TempDir(), "127.0.0.1")
	if err != nil {
		return nil, nil, err
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, nil, err
	}
	pem, err := os.ReadFile(c.ClientCAFile())
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("no certificate in %s", c.ClientCAFile())
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	return &http.Server{
		Handler:   r,
		ErrorLog:  log.New(&r.log, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool},
	}, listener, err
}

// ServeHTTP implements http.Handler. What the handler leaves of a body is read for
// its trailers.
func (r *Recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	s := &Request{Method: req.Method, Host: req.Host, Proto: req.Proto, URI: req.RequestURI, Header: req.Header.Clone()}
	if len(req.TLS.PeerCertificates) > 0 {
		s.Certificate = req.TLS.PeerCertificates[0].Subject.CommonName
	}
	r.mu.Lock()
	r.seen = append(r.seen, s)
	r.mu.Unlock()
	w.Header().Set("Audit-Id", "1") // by which a hub tells kube-apiserver from a gateway
	r.handler.ServeHTTP(w, req)
	if req.Header.Get("Upgrade") == "" { // else the connection may be the handler's
		_, _ = io.Copy(io.Discard, req.Body)
		r.mu.Lock()
		s.Trailer = req.Trailer.Clone()
		r.mu.Unlock()
	}
}

// All returns what was recorded so far.
func (r *Recorder) All() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Request, 0, len(r.seen))
	for _, s := range r.seen {
		all = append(all, *s)
	}
	return all
}

// Log is what the server had to say: of requests that it could not read, above
// all.
func (r *Recorder) Log() string { return r.log.String() }

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
