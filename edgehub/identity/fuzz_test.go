package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// FuzzIssuer takes any documents for those that kube-apiserver publishes. What is
// adopted can verify and nothing else, and is the same after a restart.
func FuzzIssuer(f *testing.F) {
	good := must(json.Marshal(jose.JSONWebKeySet{Keys: newCluster().keys}))
	private := must(json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: ecKey(), KeyID: "private"}, {Key: []byte("shared"), KeyID: "shared"}}}))
	issuer := []byte(`{"issuer":"` + testIssuer + `"}`)
	f.Add(issuer, good)
	f.Add(issuer, private)
	f.Add(issuer, []byte(strings.ReplaceAll(string(good), `"sig"`, `"enc"`)))
	f.Add([]byte(`{"issuer":""}`), good)
	f.Add([]byte(`{"issuer":1}`), []byte(`{"keys":[null,{"kty":"oct","k":""},{"kty":"RSA","n":"","e":"AQAB"}]}`))
	f.Fuzz(func(t *testing.T, discovery, jwks []byte) {
		n := newNode(t)
		a := n.open()
		err := a.Refresh(t.Context(), func(_ context.Context, path string) ([]byte, error) {
			if path == jwksPath {
				return jwks, nil
			}
			return discovery, nil
		})
		if (err == nil) != a.KeysKnown() {
			t.Fatalf("keys known %v: %v", a.KeysKnown(), err)
		}
		if err != nil {
			return
		}
		for _, key := range a.keys.Load().all {
			switch key.Key.(type) {
			case *rsa.PublicKey, *ecdsa.PublicKey:
			default:
				t.Fatalf("a %T was adopted from %s", key.Key, jwks)
			}
		}
		name, keys := a.Issuer()
		if again, n := n.open().Issuer(); again != name || n != keys || name == "" {
			t.Fatalf("%q with %d keys is %q with %d after a restart", name, keys, again, n)
		}
	})
}

// FuzzState starts with anything in the files of an earlier run. Damage lets nobody
// in who was not let in before, and does not keep the hub from starting.
func FuzzState(f *testing.F) {
	f.Add([]byte("k"), []byte(`{"version":1}`), []byte(`{"version":1,"audiences":[["api"]],"accepted":{"00":1},"refused":{}}`), []byte(`{"version":1,"time":"9999-12-31T23:59:59Z"}`))
	f.Add(make([]byte, 32), []byte(`{"jwks":{"keys":[{}]}}`), []byte(`null`), []byte(`{"time":"0001-01-01T00:00:00Z"}`))
	f.Add([]byte{}, []byte{}, []byte{}, []byte{})
	token := podToken(nil)
	f.Fuzz(func(t *testing.T, key, issuer, tokens, clock []byte) {
		n := newNode(t)
		if err := n.dir.Mkdir("identity", 0o700); err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{nodeKeyFile: key, issuerFile: issuer, tokensFile: tokens, clockFile: clock} {
			if err := os.WriteFile(n.path+"/"+name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		a := n.open()
		for _, token := range []string{token, "opaque"} {
			if id, err := a.Authenticate(bearer(token)); err == nil {
				t.Fatalf("it is %v", id)
			}
		}
		if a.Now().Before(start) {
			t.Fatal("the clock went back")
		}
		if err := a.Save(); err != nil {
			t.Fatal(err)
		}
	})
}
