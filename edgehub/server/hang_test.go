package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
	"github.com/edgehub-io/edge-hub/edgehub/limits"
)

// TestADiskThatHangsHoldsUpNobody while kube-apiserver answers: neither the kubelet,
// whose Pods are being recorded, nor a Pod whose token is bound to one of them.
func TestADiskThatHangsHoldsUpNobody(t *testing.T) {
	const issuer = "https://kubernetes.default.svc.cluster.local"
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	const pods = `{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"5"},"items":[{"metadata":{"name":"p","namespace":"shop","uid":"pod-1","resourceVersion":"4"}}]}`
	cloud := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Audit-Id", "1")
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(map[string]any{"issuer": issuer, "jwks_uri": issuer + "/openid/v1/jwks"})
		case "/openid/v1/jwks":
			_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
		default:
			_, _ = io.WriteString(w, pods)
		}
	}))
	defer cloud.Close()
	dir := t.TempDir()
	files := journaltest.New()
	h, kubelet := newTestHub(t, dir, cloud, files)
	if err := h.identity.Refresh(t.Context(), h.fetch); err != nil {
		t.Fatal(err)
	}
	handler := h.handler()
	serve := func(r *http.Request) <-chan int {
		answered := make(chan int, 1)
		go func() {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			answered <- w.Code
		}()
		return answered
	}
	await := func(answered <-chan int) {
		t.Helper()
		select {
		case code := <-answered:
			if code != http.StatusOK {
				t.Errorf("answered with %d", code)
			}
		case <-time.After(10 * time.Second):
			t.Error("a request waits for the disk")
		}
	}
	listPods := func() *http.Request {
		r := httptest.NewRequest(http.MethodGet, "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge-1", nil)
		r.Header.Set("User-Agent", "kubelet/v1")
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{kubelet}}
		return r
	}
	now := time.Now()
	token := sign(key, map[string]any{
		"iss": issuer, "aud": []string{issuer}, "sub": "system:serviceaccount:shop:app",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{
			"namespace": "shop", "serviceaccount": map[string]any{"name": "app", "uid": "1"},
			"pod": map[string]any{"name": "p", "uid": "pod-1"}, "node": map[string]any{"name": "edge-1", "uid": "2"},
		},
	})
	app := func(agent string) *http.Request {
		r := httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/shop/pods", nil)
		r.Header.Set("User-Agent", agent)
		r.Header.Set("Authorization", "Bearer "+token)
		return r
	}
	await(serve(listPods()))
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if e, _ := h.pod("shop", "p", "pod-1"); e != 0 {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("the kubelet's Pods are not recorded")
		}
	}

	release, hangs := make(chan struct{}), make(chan struct{}, 1)
	files.Inject(func(journaltest.Op) *journaltest.Fault {
		select {
		case hangs <- struct{}{}:
		default:
		}
		<-release
		return nil
	})
	await(serve(listPods()))
	<-hangs // the list is being written
	for range 2 {
		await(serve(app("kubelet/v1")))
		await(serve(app("stranger/1")))
		await(serve(listPods()))
	}
	close(release)
	if err := h.store.Close(); err != nil {
		t.Error(err)
	}
}

// newTestHub makes a hub that does not run yet, and its kubelet's certificate.
func newTestHub(t *testing.T, dir string, cloud *httptest.Server, files *journaltest.FS) (*hub, *x509.Certificate) {
	t.Helper()
	write := func(name string, kind string, der []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	certificate := func(number int64, subject pkix.Name, parent *x509.Certificate) *x509.Certificate {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(number), Subject: subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: parent == nil, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		if parent == nil {
			parent = c
		}
		return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, c, parent, key.Public(), key))))
	}
	ca := certificate(1, pkix.Name{CommonName: "ca"}, nil)
	kubelet := certificate(2, pkix.Name{CommonName: "system:node:edge-1", Organization: []string{"system:nodes"}}, ca)
	keyFile := write("key", "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key)))
	certFile := write("cert", "CERTIFICATE", kubelet.Raw)
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: cloud.URL, CertificateAuthority: write("cloud", "CERTIFICATE", cloud.Certificate().Raw)}
	config.AuthInfos["hub"] = &clientcmdapi.AuthInfo{Token: "hub"}
	config.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "hub"}
	config.CurrentContext = "c"
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := clientcmd.WriteToFile(*config, kubeconfig); err != nil {
		t.Fatal(err)
	}
	stateDir := filepath.Join(dir, "state")
	state, err := openDir(stateDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = state.Close() })
	h, err := newHub(Options{
		Kubeconfig: kubeconfig, Listen: []string{"127.0.0.1:0"}, TLSCertFile: certFile, TLSPrivateKeyFile: keyFile,
		ClientCAFile: write("ca", "CERTIFICATE", ca.Raw), NodeClientCertFile: certFile, NodeClientKeyFile: keyFile,
		NodeName: "edge-1", StateDir: stateDir, Limits: limits.Defaults(), Version: "test",
	}, state, files)
	if err != nil {
		t.Fatal(err)
	}
	return h, kubelet
}

func sign(key *ecdsa.PrivateKey, claims map[string]any) string {
	signer := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil))
	return must(must(signer.Sign(must(json.Marshal(claims)))).CompactSerialize())
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
