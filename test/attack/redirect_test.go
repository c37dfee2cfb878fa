package attack

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/edgehub-io/edge-hub/test/hub"
	"github.com/edgehub-io/edge-hub/test/link"
	"github.com/edgehub-io/edge-hub/test/recorder"
	"github.com/edgehub-io/edge-hub/test/report"
)

// trap is where nobody should come.
type trap struct {
	address string
	caught  atomic.Int32
}

func newTrap(t *testing.T) *trap {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	trap := &trap{address: listener.Addr().String()}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			trap.caught.Add(1)
			_ = conn.Close()
		}
	}()
	return trap
}

// fakeCloud starts a hub in front of a recorder whose answers a test chooses. Its
// only agent is one that needs no configuration, its only identity an opaque
// token that the recorder accepts with its first 200.
func fakeCloud(t *testing.T, handler http.HandlerFunc, extra ...string) (*world, *recorder.Recorder) {
	t.Helper()
	w := newWorld(t)
	rec := recorder.Start(t, w.cluster, handler)
	w.link = link.New(t, rec.URL)
	w.hub = hub.StartT(t, w.cluster, append(extra, "--server=https://"+w.link.Address())...)
	return w, rec
}

const cachedAgent = "coredns/1.12"

// TestRedirectsAreNeitherFollowedNorCached, neither with the hub's own credential
// nor with a caller's.
func TestRedirectsAreNeitherFollowedNorCached(t *testing.T) {
	trap := newTrap(t)
	const paths = "/api/v1/namespaces/a/configmaps/code-"
	var turned atomic.Bool // from now on everything is redirected
	w, rec := fakeCloud(t, func(w http.ResponseWriter, r *http.Request) {
		code := 0
		switch {
		case strings.HasPrefix(r.URL.Path, paths):
			_, _ = fmt.Sscanf(strings.TrimPrefix(r.URL.Path, paths), "%d", &code)
		case r.URL.Path != "/readyz" && !strings.Contains(r.URL.Path, "configmaps/x"):
			code = http.StatusTemporaryRedirect // the hub's own requests
		}
		if code == 0 || strings.HasSuffix(r.URL.Path, "kept") && !turned.Load() {
			answerConfigMap(w, r)
			return
		}
		w.Header().Set("Location", []string{"https://", "http://", "//"}[code%3]+trap.address+"/api/v1/namespaces/a/configmaps/followed")
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"redirect-body","namespace":"a","resourceVersion":"1"}}`)
	})
	client, kubelet := w.dial(), w.dial(w.certificate("system:node:"+hub.NodeName, "system:nodes"))
	codes := []int{300, 301, 302, 303, 304, 305, 307, 308}
	get := func(path string) *hub.Response {
		return w.send(client, hub.Request{Path: path, Token: "opaque", UserAgent: cachedAgent})
	}
	w.Expect(get("/api/v1/namespaces/a/configmaps/x").Code).To(Equal(http.StatusOK))
	for _, code := range codes {
		for _, method := range []string{"GET", "HEAD", "POST", "DELETE", "PATCH"} {
			for _, c := range []*http.Client{client, kubelet} {
				q := hub.Request{Method: method, Path: fmt.Sprint(paths, code), UserAgent: cachedAgent}
				if c == client {
					q.Token = "opaque"
				}
				w.Expect(w.send(c, q).Code).To(Equal(code), "it is passed on")
			}
		}
	}
	w.loseCloud()
	w.Expect(get("/api/v1/namespaces/a/configmaps/x").Code).To(Equal(http.StatusOK), "what was answered with 200 is cached")
	for _, code := range codes {
		for _, path := range []string{fmt.Sprint(paths, code), "/api/v1/namespaces/a/configmaps/followed", "/api/v1/namespaces/a/configmaps/redirect-body"} {
			w.Expect(get(path).Code).To(Equal(http.StatusServiceUnavailable), path)
		}
	}
	for _, s := range rec.All() {
		w.Expect(s.URI).NotTo(ContainSubstring("followed"))
	}
	w.Expect(trap.caught.Load()).To(BeZero())
}

// TestTheCallerNeverChoosesTheUpstream: nothing in a request makes the hub connect
// anywhere but to the servers that it was started with.
func TestTheCallerNeverChoosesTheUpstream(t *testing.T) {
	trap := newTrap(t)
	w, rec := fakeCloud(t, answerConfigMap)
	sent := 0
	raw := func(format string, args ...any) {
		sent++
		conn, err := tls.Dial("tcp", w.hub.Listen, w.clientTLS())
		w.Expect(err).NotTo(HaveOccurred())
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, format, args...)
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, _ = io.Copy(io.Discard, conn)
	}
	const end = "\r\nConnection: close\r\n\r\n"
	for _, target := range []string{
		"http://%s/x", "https://%s/x", "HTTPS://%s/x", "//%s/x", "/\\%s/x", "/%%2f%s/x", "///%s", "ftp://%s/", "https:%s/x", "https://x@%s/x", "https://kubernetes@%s/x", "%s", "%s/x",
		"/api/v1/namespaces/a/services/https:%s:/proxy/", "/api/v1/nodes/%s/proxy/", "/proxy?url=https://%s/", "/x?host=%s", "/x#@%s/", "/@%s/", "/;@%s", "/x?@%s",
	} {
		target = fmt.Sprintf(target, trap.address)
		for _, method := range []string{"GET", "POST", "CONNECT", "OPTIONS"} {
			raw("%s %s HTTP/1.1\r\nHost: kubernetes%s", method, target, end)
			raw("%s %s HTTP/1.1\r\nHost: %s%s", method, target, trap.address, end)
		}
	}
	for _, header := range []string{
		"Host: %s", "X-Forwarded-Host: %s", "X-Forwarded-Server: %s", "X-Host: %s", "Forwarded: host=%s", "X-Original-URL: https://%s/", "X-Rewrite-URL: https://%s/",
		"Destination: https://%s/", "Location: https://%s/", "Referer: https://%s/", "Origin: https://%s", "X-Backend: %s", "Proxy-Connection: %s", "X-Envoy-Original-Dst-Host: %s",
		"Upgrade: h2c\r\nX: %s", "Connection: %s", "Alt-Used: %s", "X-Forwarded-Proto: https\r\nX-Forwarded-Port: %s",
	} {
		header = fmt.Sprintf(header, trap.address)
		if !strings.HasPrefix(header, "Host") {
			header = "Host: kubernetes\r\n" + header
		}
		raw("GET /api/v1/namespaces/a/configmaps/x HTTP/1.1\r\n%s%s", header, end)
	}
	// The server name of TLS and of HTTP/2 choose nothing either.
	config := w.clientTLS()
	config.ServerName, config.InsecureSkipVerify, config.NextProtos = "evil.example", true, []string{"h2"}
	conn, err := tls.Dial("tcp", w.hub.Listen, config)
	w.Expect(err).NotTo(HaveOccurred())
	_ = sendFrames(conn, []stream{{fields: []field{{":method", "GET"}, {":scheme", "https"}, {":authority", trap.address}, {":path", "/api/v1/namespaces/a/configmaps/x"}}}})
	_ = conn.Close()

	reached := 0
	for _, s := range rec.All() {
		w.Expect(s.Host).To(Equal(w.link.Address()), s.URI)
		if s.Certificate == "" {
			reached++
		}
	}
	report.Line(t, "%d requests tried to choose another upstream, %d of them reached the right one, %d another", sent, reached, trap.caught.Load())
	w.Expect(trap.caught.Load()).To(BeZero())
	w.Expect(reached).To(BeNumerically(">", 20))
}

// TestUpgradesAreSplicedOnlyAfter101: whatever else upstream answers to an
// upgrade, what the caller sends next is read as a request like any other.
func TestUpgradesAreSplicedOnlyAfter101(t *testing.T) {
	w, rec := fakeCloud(t, func(w http.ResponseWriter, r *http.Request) {
		code := 0
		_, _ = fmt.Sscanf(r.URL.Path, "/api/v1/namespaces/a/pods/%d/exec", &code)
		if code != http.StatusSwitchingProtocols {
			w.WriteHeader(max(code, http.StatusOK))
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		protocol := r.Header.Get("Upgrade")
		if r.URL.RawQuery == "other" || protocol == "" {
			protocol = "another/1"
		}
		_, _ = fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
		_ = rw.Flush()
		line, err := rw.ReadString('\n')
		if err == nil {
			_, _ = fmt.Fprintf(rw, "spliced %s", line)
			_ = rw.Flush()
		}
	})
	const hidden = "GET /smuggled HTTP/1.1\r\nX-Remote-User: system:admin\r\nHost: x\r\nConnection: close\r\n\r\n"
	upgrade := func(code int, query, header string) string {
		conn, err := tls.Dial("tcp", w.hub.Listen, w.clientTLS())
		w.Expect(err).NotTo(HaveOccurred())
		defer conn.Close()
		_, err = fmt.Fprintf(conn, "GET /api/v1/namespaces/a/pods/%d/exec%s HTTP/1.1\r\nHost: kubernetes\r\n%s\r\n", code, query, header)
		w.Expect(err).NotTo(HaveOccurred())
		_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
		r := bufio.NewReader(conn)
		head := ""
		if code == http.StatusSwitchingProtocols { // what is sent before the answer is no part of the new protocol
			for !strings.HasSuffix(head, "\r\n\r\n") {
				line, err := r.ReadString('\n')
				head += line
				if err != nil {
					return head
				}
			}
		}
		_, _ = io.WriteString(conn, hidden)
		rest, _ := io.ReadAll(r)
		return head + string(rest)
	}
	const asked = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
	w.Expect(upgrade(101, "", asked)).To(ContainSubstring("spliced GET /smuggled"), "after 101 bytes pass as they are")
	for _, code := range []int{200, 204, 302, 400, 401, 403, 404, 426, 500} {
		w.Expect(upgrade(code, "", asked)).NotTo(ContainSubstring("spliced"), "after %d", code)
	}
	w.Expect(upgrade(101, "?other", asked)).NotTo(ContainSubstring("spliced"), "another protocol than was asked for")
	w.Expect(upgrade(101, "", "")).NotTo(ContainSubstring("spliced"), "no upgrade was asked for")
	w.Expect(w.hub.Stop()).To(Succeed())
	n := 0
	for _, s := range rec.All() {
		w.Expect(s.Header).NotTo(HaveKey("X-Remote-User"))
		if s.URI == "/smuggled" {
			n++
		}
	}
	w.Expect(n).To(BeNumerically("<=", strings.Count(w.hub.SettledLogT(w.T), ": /smuggled with status code ")), "upstream saw a request that the hub did not")
}
