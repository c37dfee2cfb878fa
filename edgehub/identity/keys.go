package identity

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/go-jose/go-jose/v4"
	"k8s.io/klog/v2"
)

// Where kube-apiserver publishes its issuer and keys (KEP-1393). The jwks_uri
// of the configuration document is not followed: the keys come from where every
// other answer comes from.
const (
	discoveryPath = "/.well-known/openid-configuration"
	jwksPath      = "/openid/v1/jwks"
)

// Bounds of what upstream may make the hub keep.
const (
	maxDocumentBytes = 1 << 20
	maxIssuerBytes   = 1 << 10
	maxKeys          = 64
)

// signatureAlgorithms are those of asymmetric keys that ServiceAccount tokens can
// be signed with (KEP-740). "none" and HS256 are not among them, so the public
// keys can never serve as a shared secret.
var signatureAlgorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512,
	jose.ES256, jose.ES384, jose.ES512,
}

// keySet is what the cluster publishes about its ServiceAccount tokens. It is
// immutable; entries made with another keySet are out of date.
type keySet struct {
	issuer string
	all    []jose.JSONWebKey
	byID   map[string][]jose.JSONWebKey
	raw    []byte // the content of issuerFile
}

// issuerState is the content of issuerFile.
type issuerState struct {
	Version int                `json:"version"`
	Issuer  string             `json:"issuer"`
	JWKS    jose.JSONWebKeySet `json:"jwks"`
}

// candidates returns the keys that a token with this key ID may be signed with;
// all of them if it names none, like kube-apiserver.
func (ks *keySet) candidates(keyID string) []jose.JSONWebKey {
	if keyID == "" {
		return ks.all
	}
	return ks.byID[keyID]
}

func newKeySet(issuer string, published []jose.JSONWebKey) (*keySet, error) {
	if issuer == "" || len(issuer) > maxIssuerBytes {
		return nil, fmt.Errorf("issuer of %d bytes", len(issuer))
	}
	ks := &keySet{issuer: issuer, byID: map[string][]jose.JSONWebKey{}}
	for _, key := range published {
		if !signs(key) {
			continue
		}
		// Only what verification needs, so that nothing else reaches the disk.
		key = jose.JSONWebKey{Key: key.Key, KeyID: key.KeyID, Algorithm: key.Algorithm, Use: key.Use}
		ks.all = append(ks.all, key)
		ks.byID[key.KeyID] = append(ks.byID[key.KeyID], key)
	}
	if len(ks.all) == 0 || len(ks.all) > maxKeys {
		return nil, fmt.Errorf("%d usable keys, want 1 to %d", len(ks.all), maxKeys)
	}
	var err error
	ks.raw, err = json.MarshalIndent(issuerState{Version: 1, Issuer: issuer, JWKS: jose.JSONWebKeySet{Keys: ks.all}}, "", "  ")
	return ks, err
}

// signs tells whether key is a public key for signatures. Private and symmetric
// keys have no business in a published set.
func signs(key jose.JSONWebKey) bool {
	if key.Use != "" && key.Use != "sig" || !key.Valid() {
		return false
	}
	switch key.Key.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey:
		return true
	}
	return false
}

func openKeys(dir *os.Root) (*keySet, error) {
	data, err := readState(dir, issuerFile)
	if err != nil {
		return nil, fmt.Errorf("read issuer keys: %w", err)
	}
	if data == nil {
		return nil, nil
	}
	var state issuerState
	err = json.Unmarshal(data, &state)
	if err == nil {
		var ks *keySet
		if ks, err = newKeySet(state.Issuer, state.JWKS.Keys); err == nil {
			ks.raw = data
			return ks, nil
		}
	}
	klog.ErrorS(err, "The issuer keys are damaged: no ServiceAccount token can be verified until the cloud has been reached", "file", issuerFile)
	return nil, nil
}

// Refresh asks the cluster for its issuer and keys and persists them. fetch does a
// GET of the path with the hub's own credential and returns the body of a 200
// answer; it should bound the body's size and honour ctx.
//
// The published set replaces the persisted one: a key that the cluster no
// longer publishes verifies nothing any more, online or offline. kube-apiserver
// publishes every key it still accepts, so rotation needs no grace here. An
// answer without a usable key is an error and changes nothing, and an unchanged
// one writes nothing.
func (a *Authenticator) Refresh(ctx context.Context, fetch func(ctx context.Context, path string) ([]byte, error)) error {
	var discovery struct {
		Issuer string `json:"issuer"`
	}
	if err := fetchJSON(ctx, fetch, discoveryPath, &discovery); err != nil {
		return fmt.Errorf("refresh issuer: %w", err)
	}
	var published jose.JSONWebKeySet
	if err := fetchJSON(ctx, fetch, jwksPath, &published); err != nil {
		return fmt.Errorf("refresh issuer keys: %w", err)
	}
	fresh, err := newKeySet(discovery.Issuer, published.Keys)
	if err != nil {
		return fmt.Errorf("refresh issuer keys: upstream publishes %w", err)
	}
	return a.adopt(fresh)
}

// adopt makes fresh the keys in use, on disk first: a crash must not bring a
// withdrawn key back.
func (a *Authenticator) adopt(fresh *keySet) error {
	a.keysMu.Lock()
	defer a.keysMu.Unlock()
	old := a.keys.Load()
	if old != nil && bytes.Equal(old.raw, fresh.raw) {
		return nil
	}
	if err := writeState(a.dir, issuerFile, fresh.raw); err != nil {
		return fmt.Errorf("save issuer keys: %w", err)
	}
	if old != nil && old.issuer != fresh.issuer {
		a.tokens.forgetAudiences()
	}
	a.keys.Store(fresh)
	klog.InfoS("ServiceAccount token keys changed", "issuer", fresh.issuer, "keys", len(fresh.all))
	return nil
}

func fetchJSON(ctx context.Context, fetch func(context.Context, string) ([]byte, error), path string, into any) error {
	data, err := fetch(ctx, path)
	if err != nil {
		return err
	}
	if len(data) > maxDocumentBytes {
		return errors.New(path + ": answer is too large")
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
