package server

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
)

// farLink leads to an address with a round-trip time, and returns its own.
func farLink(t *testing.T, to string, rtt time.Duration) string {
	t.Helper()
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	t.Cleanup(func() { _ = listener.Close() })
	type piece struct {
		due   time.Time
		bytes []byte
	}
	carry := func(to, from net.Conn) {
		pieces := make(chan piece, 1<<16)
		go func() {
			defer close(pieces)
			for {
				b := make([]byte, 64<<10)
				n, err := from.Read(b)
				if n > 0 {
					pieces <- piece{time.Now().Add(rtt / 2), b[:n]}
				}
				if err != nil {
					return
				}
			}
		}()
		for p := range pieces {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.bytes); err != nil {
				break
			}
		}
		_, _ = to.Close(), from.Close()
	}
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			go carry(near, far)
			go carry(far, near)
		}
	}()
	return listener.Addr().String()
}

// TestEveryInformerOfAProgramSyncsInTime over a link with a round-trip time, however
// many others of the program have their watches open, and all of them get what comes
// after.
func TestEveryInformerOfAProgramSyncsInTime(t *testing.T) {
	const (
		issuer = "https://kubernetes.default.svc.cluster.local"
		rtt    = 20 * time.Millisecond
		size   = 512 << 10
		before = 16 // watches of the program, and as many again
	)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	happens := make(chan struct{})
	event := func(kind, version, more string) string {
		return fmt.Sprintf(`{"type":%q,"object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":%q%s}}}`+"\n", kind, version, more)
	}
	cloud := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Audit-Id", "1")
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(map[string]any{"issuer": issuer, "jwks_uri": issuer + "/openid/v1/jwks"})
			return
		case "/openid/v1/jwks":
			_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
			return
		}
		if r.URL.Query().Has("sendInitialEvents") {
			object := event("ADDED", "1", `,"annotations":{"a":"`+strings.Repeat("x", 16<<10)+`"}`)
			for range size / len(object) {
				_, _ = w.Write([]byte(object))
			}
			_, _ = w.Write([]byte(event("BOOKMARK", "2", `,"annotations":{"k8s.io/initial-events-end":"true"}`)))
		}
		w.(http.Flusher).Flush()
		select {
		case <-happens:
			_, _ = w.Write([]byte(event("ADDED", "3", "")))
		case <-r.Context().Done():
		}
	}))
	cloud.EnableHTTP2 = true
	cloud.StartTLS()
	t.Cleanup(cloud.Close)
	cloud.URL = "https://" + farLink(t, strings.TrimPrefix(cloud.URL, "https://"), rtt)
	h, _ := newTestHub(t, t.TempDir(), cloud, journaltest.New())
	if err := h.identity.Refresh(t.Context(), h.fetch); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.store.Close() })
	hub := httptest.NewUnstartedServer(h.handler())
	hub.EnableHTTP2 = true
	hub.StartTLS()
	t.Cleanup(func() { hub.CloseClientConnections(); hub.Close() })
	now := time.Now()
	token := sign(key, map[string]any{
		"iss": issuer, "aud": []string{issuer}, "sub": "system:serviceaccount:shop:app",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{"namespace": "shop", "serviceaccount": map[string]any{"name": "app", "uid": "1"}},
	})
	watch := func(query string) *bufio.Reader {
		r := must(http.NewRequestWithContext(t.Context(), http.MethodGet, hub.URL+"/api/v1/namespaces/shop/configmaps?watch=1&"+query, nil))
		r.Header.Set("User-Agent", "app/1")
		r.Header.Set("Authorization", "Bearer "+token)
		resp := must(hub.Client().Do(r))
		t.Cleanup(func() { _ = resp.Body.Close() })
		return bufio.NewReaderSize(resp.Body, 32<<10)
	}
	var opened sync.Mutex
	var open []*bufio.Reader
	sync := func() time.Duration {
		began := time.Now()
		events := watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")
		for {
			line, err := events.ReadSlice('\n')
			if err != nil {
				t.Error(err)
				break
			}
			if bytes.HasPrefix(line, []byte(`{"type":"BOOKMARK"`)) {
				break
			}
		}
		opened.Lock()
		open = append(open, events)
		opened.Unlock()
		return time.Since(began)
	}
	open = append(open, watch("resourceVersion=1")) // connections are made
	first := min(sync(), sync())
	for range before / 2 {
		open = append(open, watch("resourceVersion=1"))
	}
	began := time.Now()
	all := make(chan time.Duration, before)
	for range before {
		go func() { all <- sync() }()
	}
	for range before {
		<-all
	}
	together := time.Since(began)
	last := min(sync(), sync(), sync())
	t.Logf("%d bytes took %v as the first watch, %v as the last, and %v as %d", size, first, last, together, before)
	if last > 10*first {
		t.Errorf("%d bytes took %v as the first watch, %v as the last, and %v as %d", size, first, last, together, before)
	}
	close(happens)
	for i, events := range open {
		if line, err := events.ReadString('\n'); err != nil || !strings.HasPrefix(line, `{"type":"ADDED"`) {
			t.Errorf("%d of %d: %v: %q", i, len(open), err, line)
		}
	}
}
