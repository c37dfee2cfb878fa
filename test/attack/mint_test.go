package attack

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	. "github.com/onsi/gomega"
)

// claimsOf reads a token's claims.
func (w *world) claimsOf(token string) map[string]any {
	w.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	w.Expect(err).NotTo(HaveOccurred())
	claims := map[string]any{}
	w.Expect(json.Unmarshal(payload, &claims)).To(Succeed())
	return claims
}

// clusterKey is what kube-apiserver signs tokens with, and its key ID.
func (w *world) clusterKey(token string) (key crypto.Signer, keyID string) {
	w.Helper()
	data, err := os.ReadFile(filepath.Join(w.cluster.Dir(), "pki", "sa.key"))
	w.Expect(err).NotTo(HaveOccurred())
	block, _ := pem.Decode(data)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	w.Expect(err).NotTo(HaveOccurred())
	jws, err := jose.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	w.Expect(err).NotTo(HaveOccurred())
	return parsed.(crypto.Signer), jws.Signatures[0].Header.KeyID
}

// mint makes a token like another one, with other claims, signed by the cluster.
// A nil claim is left out.
func (w *world) mint(like string, change map[string]any) string {
	w.Helper()
	key, keyID := w.clusterKey(like)
	return w.sign(jose.ES256, key, keyID, w.changed(like, change))
}

// forge is mint with a key that is not the cluster's, under the name of the one
// that is.
func (w *world) forge(like string, change map[string]any) string {
	w.Helper()
	_, keyID := w.clusterKey(like)
	return w.sign(jose.ES256, newKey(w.T), keyID, w.changed(like, change))
}

func (w *world) changed(like string, change map[string]any) map[string]any {
	claims := w.claimsOf(like)
	maps.Copy(claims, change)
	maps.DeleteFunc(claims, func(_ string, value any) bool { return value == nil })
	return claims
}

func (w *world) sign(algorithm jose.SignatureAlgorithm, key any, keyID string, claims map[string]any) string {
	w.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key},
		(&jose.SignerOptions{}).WithHeader("kid", keyID))
	w.Expect(err).NotTo(HaveOccurred())
	payload, err := json.Marshal(claims)
	w.Expect(err).NotTo(HaveOccurred())
	jws, err := signer.Sign(payload)
	w.Expect(err).NotTo(HaveOccurred())
	token, err := jws.CompactSerialize()
	w.Expect(err).NotTo(HaveOccurred())
	return token
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// selfSigned is a client certificate that says what one of the cluster would.
func selfSigned(t *testing.T, user string, groups ...string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: user, Organization: groups},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
