package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
)

// verdicts is a hub in front of a kube-apiserver that answers as it is told to.
type verdicts struct {
	*hub
	handler http.Handler
	answer  atomic.Pointer[http.HandlerFunc]
	token   string
}

func newVerdicts(t *testing.T) *verdicts {
	t.Helper()
	const issuer = "https://kubernetes.default.svc.cluster.local"
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	v := &verdicts{}
	cloud := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch answer := v.answer.Load(); r.URL.Path {
		case "/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(map[string]any{"issuer": issuer, "jwks_uri": issuer + "/openid/v1/jwks"})
		case "/openid/v1/jwks":
			_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
		case "/readyz":
		default:
			(*answer)(w, r)
		}
	}))
	t.Cleanup(cloud.Close)
	v.hub, _ = newTestHub(t, t.TempDir(), cloud, journaltest.New())
	v.handler = v.hub.handler()
	if err := v.identity.Refresh(t.Context(), v.fetch); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.store.Close() })
	now := time.Now()
	v.token = sign(key, map[string]any{
		"iss": issuer, "aud": []string{issuer}, "sub": "system:serviceaccount:shop:app",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{"namespace": "shop", "serviceaccount": map[string]any{"name": "app", "uid": "1"}},
	})
	return v
}

// request is one of ServiceAccount shop/app.
func (v *verdicts) request(path string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Header.Set("Authorization", "Bearer "+v.token)
	return r
}

// ask sends a request that is answered with a code, by kube-apiserver or in its place.
func (v *verdicts) ask(t *testing.T, r *http.Request, code int, apiserver bool, body string) {
	t.Helper()
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if apiserver {
			w.Header().Set("Audit-Id", "1")
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	})
	v.answer.Store(&answer)
	w := httptest.NewRecorder()
	v.handler.ServeHTTP(w, r)
	if w.Code != code {
		t.Fatalf("%s is answered with %d, not %d", r.URL, w.Code, code)
	}
}

// TestARefusalThatKubeAPIServerPassesOnIsNotItsOwn: what a Pod or a node says through
// it is no verdict on the caller's token.
func TestARefusalThatKubeAPIServerPassesOnIsNotItsOwn(t *testing.T) {
	v := newVerdicts(t)
	for _, path := range []string{
		"/api/v1/namespaces/shop/services/x/proxy/login", "/api/v1/namespaces/shop/pods/x/proxy", "/api/v1/nodes/edge-1/proxy/metrics",
		"/api/v1/namespaces/shop/pods/x/exec", "/api/v1/namespaces/shop/pods/x/attach", "/api/v1/namespaces/shop/pods/x/portforward",
		"/api/v1/namespaces/shop/pods/x/log",
	} {
		v.ask(t, v.request(path), http.StatusUnauthorized, true, "")
		if _, err := v.identity.Authenticate(v.request("/")); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	v.ask(t, v.request("/api/v1/namespaces/shop/pods/x/status"), http.StatusUnauthorized, true, "")
	if _, err := v.identity.Authenticate(v.request("/")); err == nil {
		t.Error("kube-apiserver's own refusal counts for nothing")
	}
}
