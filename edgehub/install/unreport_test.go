package install

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestUninstallDeletesTheEdgeHubNode as the hub, before its certificate is gone; and
// says so where the cloud can't be reached.
func TestUninstallDeletesTheEdgeHubNode(t *testing.T) {
	asRoot(t)
	var asked []string
	code := http.StatusOK
	cloud := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path+" as "+r.TLS.PeerCertificates[0].Subject.CommonName)
		w.WriteHeader(code)
	}))
	cloud.EnableHTTP2, cloud.TLS = true, &tls.Config{ClientAuth: tls.RequestClientCert}
	cloud.StartTLS()
	defer cloud.Close()

	uninstall := func(reported bool) (said string) {
		t.Helper()
		root := newRoot(t, "system:node:edge-1")
		replace := func(name, old, with string) {
			content, err := os.ReadFile(filepath.Join(root, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(root, name), []byte(strings.ReplaceAll(string(content), old, with)), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		replace(DefaultKubeletKubeconfig, server, cloud.URL)
		replace("/etc/kubernetes/pki/ca.crt", "-----BEGIN", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cloud.Certificate().Raw}))+"-----BEGIN")
		if err := Install(t.Context(), optionsFor(root)); err != nil {
			t.Fatal(err)
		}
		if reported {
			if err := os.Mkdir(filepath.Join(root, stateDir, "pki"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, stateDir, "pki/client.pem"), []byte(certificate(t, "edgehub:node:edge-1")), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var out strings.Builder
		o := optionsFor(root)
		o.Out = &out
		if err := Uninstall(t.Context(), o, false); !errors.Is(err, ErrRestart) {
			t.Fatalf("got %v, want that the kubelet is to be restarted", err)
		}
		if err := Uninstall(t.Context(), o, true); err != nil {
			t.Fatal(err)
		}
		if o.exists(stateDir) {
			t.Error("the hub's state is left")
		}
		return out.String()
	}
	expect := func(said, want string) {
		t.Helper()
		if !strings.Contains(said, want) {
			t.Errorf("it said\n%s\nwant %q", said, want)
		}
	}
	const request = "DELETE /apis/edgehub.io/v1alpha1/edgehubnodes/edge-1 as edgehub:node:edge-1"
	expect(uninstall(true), "\nEdgeHubNode edge-1 is gone\n")
	code = http.StatusNotFound
	expect(uninstall(true), "\nEdgeHubNode edge-1 is gone\n")
	if got := strings.Join(asked, ", "); got != request+", "+request {
		t.Errorf("asked was %s", got)
	}
	if said := uninstall(false); strings.Contains(said, "EdgeHubNode") || len(asked) != 2 {
		t.Errorf("a hub that has never had a certificate: %s, %v", said, asked)
	}
	code = http.StatusForbidden
	expect(uninstall(true), "403 Forbidden): once the cloud can be reached, kubectl delete edgehubnode edge-1\n")
	cloud.Close()
	expect(uninstall(true), "connection refused): once the cloud can be reached, kubectl delete edgehubnode edge-1\n")
}
