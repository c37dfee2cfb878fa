package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	clocktesting "k8s.io/utils/clock/testing"
)

const testIssuer = "https://kubernetes.default.svc.cluster.local"

// start is the time at which the fixtures' tokens are issued.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Keys are slow to make, so all tests share them.
var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	ecKey    = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// cluster plays the part of kube-apiserver that publishes an issuer and keys.
type cluster struct {
	issuer string
	keys   []jose.JSONWebKey
	err    error
}

func newCluster() *cluster {
	return &cluster{issuer: testIssuer, keys: []jose.JSONWebKey{
		{Key: rsaKey().Public(), KeyID: "rsa", Algorithm: "RS256", Use: "sig"},
		{Key: ecKey().Public(), KeyID: "ec", Algorithm: "ES256", Use: "sig"},
	}}
}

func (c *cluster) fetch(_ context.Context, path string) ([]byte, error) {
	switch {
	case c.err != nil:
		return nil, c.err
	case path == discoveryPath:
		return json.Marshal(map[string]any{"issuer": c.issuer, "jwks_uri": "https://elsewhere.invalid/keys"})
	case path == jwksPath:
		return json.Marshal(jose.JSONWebKeySet{Keys: c.keys})
	}
	return nil, fmt.Errorf("unexpected path %s", path)
}

// node is a state directory and a clock that outlive an Authenticator.
type node struct {
	t     *testing.T
	path  string
	dir   *os.Root
	clock *clocktesting.FakePassiveClock

	options Options // further ones
}

func newNode(t *testing.T) *node {
	path := t.TempDir()
	dir := must(os.OpenRoot(path))
	t.Cleanup(func() { dir.Close() })
	return &node{t: t, path: path, dir: dir, clock: clocktesting.NewFakePassiveClock(start)}
}

func (n *node) open() *Authenticator {
	n.t.Helper()
	o := n.options
	o.StateDir, o.Clock = n.dir, n.clock
	a, err := Open(o)
	if err != nil {
		n.t.Fatal(err)
	}
	return a
}

// openWith opens the node with the cluster's keys known.
func (n *node) openWith(c *cluster) *Authenticator {
	n.t.Helper()
	a := n.open()
	if err := a.Refresh(n.t.Context(), c.fetch); err != nil {
		n.t.Fatal(err)
	}
	return a
}

// podClaims are the claims of a bound token of ServiceAccount default/edge-app as
// kube-apiserver writes them, changed by edits; a nil value deletes a claim.
func podClaims(edits map[string]any) map[string]any {
	c := map[string]any{
		"iss": testIssuer,
		"aud": []string{testIssuer},
		"sub": "system:serviceaccount:default:edge-app",
		"jti": "8f4b9c7e-0000-4000-8000-000000000001",
		"iat": start.Unix(),
		"nbf": start.Unix(),
		"exp": start.Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{
			"namespace":      "default",
			"serviceaccount": map[string]any{"name": "edge-app", "uid": "uid-1"},
			"pod":            map[string]any{"name": "edge-app-0", "uid": "pod-1"},
			"node":           map[string]any{"name": "node-1", "uid": "node-uid"},
			"warnafter":      start.Add(50 * time.Minute).Unix(),
		},
	}
	maps.Copy(c, edits)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func serviceAccount(namespace, name, uid string) map[string]any {
	return map[string]any{
		"sub": "system:serviceaccount:" + namespace + ":" + name,
		"kubernetes.io": map[string]any{
			"namespace":      namespace,
			"serviceaccount": map[string]any{"name": name, "uid": uid},
		},
	}
}

func sign(alg jose.SignatureAlgorithm, key any, kid string, claims map[string]any) string {
	signer := must(jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil))
	return must(must(signer.Sign(must(json.Marshal(claims)))).CompactSerialize())
}

// podToken is a token the test cluster would issue.
func podToken(edits map[string]any) string {
	return sign(jose.RS256, rsaKey(), "rsa", podClaims(edits))
}

// rawToken is a JWT put together by hand.
func rawToken(header, payload any, signature []byte) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc(must(json.Marshal(header))) + "." + enc(must(json.Marshal(payload))) + "." + enc(signature)
}

func request(authorization ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/default/configmaps/x", nil)
	for _, a := range authorization {
		r.Header.Add("Authorization", a)
	}
	return r
}

func bearer(token string) *http.Request { return request("Bearer " + token) }

// observe has upstream answer a request with this token.
func observe(t *testing.T, a *Authenticator, token string, code int) Identity {
	t.Helper()
	id, c, ok := a.Caller(bearer(token))
	if !ok {
		t.Fatal("the token names nobody")
	}
	a.Observe(c, code)
	return id
}
