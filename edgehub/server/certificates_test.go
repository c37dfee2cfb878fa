package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/edgehub-io/edge-hub/edgehub/upstream"
)

// TestABootstrapCredentialMayComeLater than the hub, such as with the kubelet's first
// certificate.
func TestABootstrapCredentialMayComeLater(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubelet-client-current.pem")
	h := &hub{options: Options{BootstrapCredential: file}, cloud: &cloud{own: &rest.Config{}}, upstream: upstream.New(upstream.Options{})}
	client := h.bootstrapper()
	if _, err := client(); err == nil {
		t.Fatal("there is a credential already")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	both := slices.Concat(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}))
	if err := os.WriteFile(file, both, 0o600); err != nil {
		t.Fatal(err)
	}
	made, err := client()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := client(); err != nil || again != made {
		t.Errorf("the next one is another: %v", err)
	}
}
