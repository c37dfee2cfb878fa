package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
	"github.com/edgehub-io/edge-hub/edgehub/limits"
	"github.com/edgehub-io/edge-hub/edgehub/upstream"
)

// pair is a key with its certificate in PEM.
func pair(template *x509.Certificate) []byte {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	certificate := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return slices.Concat(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}))
}

// TestABootstrapCredentialMayComeLater than the hub, such as with the kubelet's first
// certificate.
func TestABootstrapCredentialMayComeLater(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubelet-client-current.pem")
	h := &hub{options: Options{BootstrapCredential: file}, cloud: &cloud{own: &rest.Config{}}, upstream: upstream.New(upstream.Options{})}
	client := h.bootstrapper()
	if _, err := client(); err == nil {
		t.Fatal("there is a credential already")
	}
	if err := os.WriteFile(file, pair(&x509.Certificate{SerialNumber: big.NewInt(1)}), 0o600); err != nil {
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

// TestABootstrapTokenMayBeRenewed: the one that was there when the hub started may have
// expired until it is approved.
func TestABootstrapTokenMayBeRenewed(t *testing.T) {
	asked := make(chan string, 1)
	kube := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.Header.Get("Authorization") }))
	defer kube.Close()
	file := filepath.Join(t.TempDir(), "bootstrap")
	own := &rest.Config{TLSClientConfig: rest.TLSClientConfig{CAData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: kube.Certificate().Raw})}}
	h := &hub{
		options: Options{BootstrapCredential: file}, cloud: &cloud{own: own},
		upstream: upstream.New(upstream.Options{Servers: []*url.URL{must(url.Parse(kube.URL))}}),
	}
	client := h.bootstrapper()
	var before rest.Interface
	for _, token := range []string{"first", "second"} {
		config := clientcmdapi.NewConfig()
		config.Clusters["c"] = &clientcmdapi.Cluster{Server: kube.URL}
		config.AuthInfos["b"] = &clientcmdapi.AuthInfo{Token: token}
		config.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "b"}
		config.CurrentContext = "c"
		if err := clientcmd.WriteToFile(*config, file); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			made, err := client()
			if err != nil {
				t.Fatal(err)
			}
			if err := made.Get().AbsPath("/version").Do(t.Context()).Error(); err != nil {
				t.Fatal(err)
			}
			if got := <-asked; got != "Bearer "+token {
				t.Errorf("it asks with %s, want %s", got, token)
			}
			before = made
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if made, err := client(); err != nil || made != before {
		t.Errorf("the credential is gone, and with it the client: %v", err)
	}
}

// TestTheHubsOwnRequestsShowThatItsCertificateIsUnknown, whatever they ask for: then it
// asks for another one, long before it is to be renewed.
func TestTheHubsOwnRequestsShowThatItsCertificateIsUnknown(t *testing.T) {
	asked := make(chan struct{}, 100)
	cloud := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Audit-Id", "1")
		if r.Header.Get("Authorization") != "Bearer bootstrap" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusForbidden)
		asked <- struct{}{}
	}))
	defer cloud.Close()
	dir := t.TempDir()
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: cloud.URL, CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cloud.Certificate().Raw})}
	config.AuthInfos["b"] = &clientcmdapi.AuthInfo{Token: "bootstrap"}
	config.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "b"}
	config.CurrentContext = "c"
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := clientcmd.WriteToFile(*config, kubeconfig); err != nil {
		t.Fatal(err)
	}
	state, err := openDir(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	own := pair(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "edgehub:node:edge-1", Organization: []string{"edgehub:nodes"}},
		NotBefore: time.Now(), NotAfter: time.Now().Add(1000 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err := state.Mkdir("pki", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := state.WriteFile("pki/client.pem", own, 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := newHub(Options{Kubeconfig: kubeconfig, Listen: []string{"127.0.0.1:0"}, NodeName: "edge-1", Limits: limits.Defaults(), Version: "test"}, state, journaltest.New())
	if err != nil {
		t.Fatal(err)
	}
	defer h.store.Close()
	if _, err := h.fetch(t.Context(), "/openid/v1/jwks"); err == nil {
		t.Fatal("kube-apiserver knows the certificate")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	done := make(chan error, 1)
	go func() { done <- h.runCertificates(ctx) }()
	select {
	case <-asked:
	case <-ctx.Done():
		t.Error("it does not ask for another one")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
