package integration

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/hub"
)

// recorder stands in for kube-apiserver and writes down who asks it for what.
type recorder struct {
	mu   sync.Mutex
	seen []seen
}

type seen struct {
	path        string
	certificate string // common name of the client's, "" for none
	header      http.Header
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	s := seen{path: req.URL.Path, header: req.Header.Clone()}
	if len(req.TLS.PeerCertificates) > 0 {
		s.certificate = req.TLS.PeerCertificates[0].Subject.CommonName
	}
	r.mu.Lock()
	r.seen = append(r.seen, s)
	r.mu.Unlock()
	w.Header().Set("Audit-Id", "1")
	w.Header().Set("Content-Type", "application/json")
	switch {
	case strings.HasPrefix(req.URL.Path, "/.well-known/"):
		http.Redirect(w, req, "/elsewhere", http.StatusTemporaryRedirect)
	case strings.HasPrefix(req.URL.Path, "/redirect"):
		http.Redirect(w, req, "https://127.0.0.1:1/elsewhere", http.StatusTemporaryRedirect)
	case strings.Contains(req.URL.RawQuery, "watch="):
		_ = http.NewResponseController(w).Flush()
		<-req.Context().Done()
	default:
		_, _ = io.WriteString(w, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x","namespace":"a","resourceVersion":"1"}}`)
	}
}

func (r *recorder) all() []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen)
}

// startRecorder serves a recorder at an address that hubs can be pointed to.
func startRecorder(t *testing.T, c *cluster.Cluster) (*recorder, string) {
	t.Helper()
	g := NewWithT(t)
	certFile, keyFile, err := c.IssueServingCert(t.TempDir(), "127.0.0.1")
	g.Expect(err).NotTo(HaveOccurred())
	pem, err := os.ReadFile(c.ClientCAFile())
	g.Expect(err).NotTo(HaveOccurred())
	pool := x509.NewCertPool()
	g.Expect(pool.AppendCertsFromPEM(pem)).To(BeTrue())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	g.Expect(err).NotTo(HaveOccurred())
	r := &recorder{}
	server := &http.Server{Handler: r, TLSConfig: &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}}
	go func() { _ = server.ServeTLS(listener, certFile, keyFile) }()
	t.Cleanup(func() { _ = server.Close() })
	return r, "https://" + listener.Addr().String()
}

// TestTheHubLendsItsCredentialToNoOne: whatever a caller sends, with or without
// a credential of its own, and with a client certificate of the cluster, reaches
// kube-apiserver without the hub's certificate and with the caller's own
// Authorization header or none. (Case 11: a peer acts as the node for a caller
// without any credential.)
func TestTheHubLendsItsCredentialToNoOne(t *testing.T) {
	g := NewWithT(t)
	c := cluster.StartT(t, cluster.Options{})
	rec, url := startRecorder(t, c)
	h := hub.StartT(t, c, "--server="+url)
	callers := map[string]*http.Client{"anonymous": h.Client(), "with a certificate": h.Client()}
	config, err := c.RESTConfigFor("system:node:"+hub.NodeName, "system:nodes")
	g.Expect(err).NotTo(HaveOccurred())
	pair, err := tls.X509KeyPair(config.CertData, config.KeyData)
	if err != nil {
		pair, err = tls.LoadX509KeyPair(config.CertFile, config.KeyFile)
	}
	g.Expect(err).NotTo(HaveOccurred())
	callers["with a certificate"].Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{pair}

	random := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	sent := map[string]string{}   // path -> Authorization as sent
	kubelets := map[string]bool{} // paths that this node's kubelet asked for, and nobody else
	for i := range 300 {
		path := fmt.Sprintf("/api/v1/namespaces/a/configmaps/caller-%d", i)
		r := hub.Request{Path: path, Method: pick("GET", "GET", "POST", "DELETE", "OPTIONS"), Header: http.Header{}}
		r.UserAgent = pick("edge-hub/v1", "kubelet/v1", "kubelet/evil", "edge-app/1", "", "kube-proxy/x")
		r.Token = pick("", "", "token", "a.b.c")
		for range random.IntN(4) {
			name := pick("X-Remote-User", "X-Remote-Group", "x-remote-extra-scopes", "Impersonate-User", "Connection", "X-Forwarded-For",
				"X-Forwarded-Client-Cert", "Proxy-Authorization", "Forwarded", "Via", "Cookie", "Te", "Host")
			r.Header[name] = append(r.Header[name], pick("admin", "system:masters", "Authorization", "close", "upgrade", "127.0.0.1", "edgehub:edge-1"))
		}
		client := callers["anonymous"]
		if random.IntN(2) == 0 {
			client = callers["with a certificate"]
			kubelets[path] = r.Token == "" && r.Header["Impersonate-User"] == nil
		}
		resp, err := hub.Do(t.Context(), client, h.URL(), r)
		if err != nil {
			continue // refused before it was understood
		}
		g.Expect(resp.Code).To(BeNumerically("<", 500), "%s %s: %s", r.Method, path, resp.Body)
		sent[path] = ""
		if r.Token != "" {
			sent[path] = "Bearer " + r.Token
		}
	}
	own, callersSeen, asNode := 0, 0, 0
	for _, s := range rec.all() {
		if !strings.Contains(s.path, "caller-") {
			g.Expect(s.certificate).To(Equal(hub.User), "the hub's own request for %s", s.path)
			g.Expect(s.path).NotTo(Equal("/elsewhere"), "the hub followed a redirect")
			own++
			continue
		}
		callersSeen++
		if kubelets[s.path] {
			g.Expect(s.certificate).To(Equal("system:node:"+hub.NodeName), "%s of the kubelet", s.path)
			asNode++
		} else {
			g.Expect(s.certificate).To(BeEmpty(), "%s was sent with a certificate", s.path)
		}
		g.Expect(s.header.Get("Authorization")).To(Equal(sent[s.path]), s.path)
		for name := range s.header {
			g.Expect(strings.ToLower(name)).NotTo(HavePrefix("x-remote-"), s.path)
		}
	}
	g.Expect(own).To(BeNumerically(">", 2))
	g.Expect(callersSeen).To(BeNumerically(">", 100))
	g.Expect(asNode).To(BeNumerically(">", 10))
	t.Logf("%d requests of callers, %d of them of the kubelet, and %d of the hub reached the recorder", callersSeen, asNode, own)

	// No redirect is followed, and the caller does not choose where it goes.
	resp, err := hub.Do(t.Context(), h.Client(), h.URL(), hub.Request{Path: "/redirect"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(resp.Code).To(Equal(http.StatusTemporaryRedirect))
	conn, err := tls.Dial("tcp", h.Listen, &tls.Config{InsecureSkipVerify: true})
	g.Expect(err).NotTo(HaveOccurred())
	defer conn.Close()
	g.Expect(conn.SetDeadline(time.Now().Add(10 * time.Second))).To(Succeed())
	fmt.Fprintf(conn, "GET https://127.0.0.1:1/absolute HTTP/1.1\r\nHost: 127.0.0.1:1\r\nConnection: close\r\n\r\n")
	answer, err := io.ReadAll(conn)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(answer)).To(HavePrefix("HTTP/1.1 400"))
}
