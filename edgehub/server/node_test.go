package server

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/edgehub-io/edge-hub/edgehub/upstream"
)

// rotate gives the kubelet a certificate as it does itself: in a new file that a link
// leads to.
func rotate(t *testing.T, link string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "system:node:edge-1"}, NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := fmt.Sprintf("%s-%d", link, serial)
	content := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})...)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	next := file + "-link"
	if err := os.Symlink(file, next); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, link); err != nil {
		t.Fatal(err)
	}
}

// TestTheKubeletsNewCertificateIsUsedAtOnce, on whatever connection there is, and what
// is under way goes on.
func TestTheKubeletsNewCertificateIsUsedAtOnce(t *testing.T) {
	more := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintln(w, r.TLS.PeerCertificates[0].SerialNumber)
		if r.URL.Query().Has("watch") {
			_ = http.NewResponseController(w).Flush()
			<-more
			_, _ = fmt.Fprintln(w, "more")
		}
	}))
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	defer server.Close()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}

	link := filepath.Join(t.TempDir(), "kubelet-client-current.pem")
	rotate(t, link, 1)
	cert, err := loadCertificate(link, link)
	if err != nil {
		t.Fatal(err)
	}
	node := newNodeTransport(upstream.New(upstream.Options{Servers: []*url.URL{base}}), &tls.Config{RootCAs: pool}, cert)
	open := func(verb, path string) io.ReadCloser {
		info := &request.RequestInfo{IsResourceRequest: true, Verb: verb}
		req, err := http.NewRequestWithContext(request.WithRequestInfo(context.Background(), info), http.MethodGet, "https://kube-apiserver"+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := node.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Body
	}
	expect := func(verb, want string) {
		t.Helper()
		body := open(verb, "/api/v1/nodes/edge-1")
		defer body.Close()
		if got, err := io.ReadAll(body); err != nil || string(got) != want+"\n" {
			t.Errorf("%s with certificate %s, want %s, %v", verb, got, want, err)
		}
	}
	watch := open("watch", "/api/v1/pods?watch=1")
	defer watch.Close()
	lines := bufio.NewScanner(watch)
	if !lines.Scan() || lines.Text() != "1" {
		t.Fatalf("%q, %v", lines.Text(), lines.Err())
	}
	for serial := int64(1); serial <= 3; serial++ {
		if serial > 1 {
			rotate(t, link, serial)
			cert.checked = time.Time{} // as if a second had passed
		}
		for range 3 {
			expect("get", fmt.Sprint(serial))   // HTTP/1.1
			expect("patch", fmt.Sprint(serial)) // HTTP/2
		}
	}
	close(more)
	if !lines.Scan() || lines.Text() != "more" {
		t.Errorf("the watch was ended: %q, %v", lines.Text(), lines.Err())
	}
}
