package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"github.com/edgehub-io/edge-hub/edgehub/identity"
	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
)

// verdicts is a hub in front of a kube-apiserver that answers as it is told to.
type verdicts struct {
	*hub
	handler http.Handler
	answer  atomic.Pointer[http.HandlerFunc]
	extra   http.Header // of what kube-apiserver answers
	token   string
	kubelet *x509.Certificate
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
	v.hub, v.kubelet = newTestHub(t, t.TempDir(), cloud, journaltest.New())
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
	extra := v.extra
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		if apiserver {
			w.Header().Set("Audit-Id", "1")
			w.Header().Set("Content-Type", "application/json")
			for name, values := range extra {
				w.Header()[http.CanonicalHeaderKey(name)] = values
			}
		}
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

// TestA401BehindAnAPIServiceIsNotKubeAPIServersOwn, which has let the caller in if
// priority and fairness have seen the request.
func TestA401BehindAnAPIServiceIsNotKubeAPIServersOwn(t *testing.T) {
	const path = "/apis/metrics.k8s.io/v1beta1/namespaces/shop/pods"
	v := newVerdicts(t)
	v.ask(t, v.request("/api/v1/namespaces/shop/pods"), http.StatusOK, true, `{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"5"},"items":[]}`)
	v.extra = http.Header{flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID: {"1"}}
	for range 2 {
		v.ask(t, v.request(path), http.StatusUnauthorized, true, "")
		if _, err := v.identity.Authenticate(v.request("/")); err != nil {
			t.Fatal(err)
		}
	}
	v.extra = nil
	v.ask(t, v.request(path), http.StatusUnauthorized, true, "")
	if _, err := v.identity.Authenticate(v.request("/")); err == nil {
		t.Error("kube-apiserver's own refusal counts for nothing")
	}
}

// TestWhatAGatewayRefusesTeachesNothing: neither is a token refused by it, nor does what
// is cached go, until kube-apiserver says so.
func TestWhatAGatewayRefusesTeachesNothing(t *testing.T) {
	v := newVerdicts(t)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		v.upstream.Run(ctx, v.own, func(rt http.RoundTripper) http.RoundTripper { return rt })
	})
	defer running.Wait()
	defer cancel()
	eventually := func(what string, f func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
		}
	}
	eventually("kube-apiserver is not ready", v.upstream.Ready)
	pods := httptest.NewRequest(http.MethodGet, "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge-1", nil)
	pods.Header.Set("User-Agent", "kubelet/v1")
	pods.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{v.kubelet}}
	isCached := func() bool {
		e, _ := v.pod("shop", "p", "pod-1")
		return e == identity.Exists
	}
	v.ask(t, pods, http.StatusOK, true, `{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"5"},"items":[{"metadata":{"name":"p","namespace":"shop","uid":"pod-1","resourceVersion":"4"}}]}`)
	eventually("the kubelet's Pods are not recorded", isCached)
	for _, code := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound} {
		v.ask(t, pods, code, false, "")
		v.ask(t, v.request("/api/v1/namespaces/shop/pods"), code, false, "")
	}
	if _, err := v.identity.Authenticate(v.request("/")); err != nil {
		t.Error(err)
	}
	for range 50 { // what is withdrawn goes in its own time
		if time.Sleep(time.Millisecond); !isCached() {
			t.Fatal("what is cached is withdrawn")
		}
	}
	v.ask(t, pods, http.StatusNotFound, true, "")
	eventually("kube-apiserver's own refusal withdraws nothing", func() bool { return !isCached() })
}
