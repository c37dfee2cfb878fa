package integration

import (
	"net/http"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/edgehub-io/edge-hub/test/hub"
)

const protobuf = "application/vnd.kubernetes.protobuf"

// TestReadsSurviveTheLossOfTheCloud: GET and LIST through the hub are
// kube-apiserver's byte for byte, and the same once it is gone.
func TestReadsSurviveTheLossOfTheCloud(t *testing.T) {
	w := newWorld(t)
	paths := []string{
		"/api/v1/namespaces/shop/configmaps",
		"/api/v1/namespaces/shop/configmaps/cm-1",
		"/api/v1/namespaces/shop/configmaps?labelSelector=tier%3Dfront",
		"/api/v1/namespaces/shop/configmaps?fieldSelector=metadata.name%3Dcm-2",
		"/api/v1/services",
		"/api/v1/namespaces/shop",
		"/api/v1/namespaces",
	}
	online := map[string]*hub.Response{}
	for _, accept := range []string{"", "application/json", protobuf} {
		for _, path := range paths {
			r := hub.Request{Path: path, Token: w.token, Accept: accept}
			through, direct := w.viaHub(r), w.direct(r)
			w.Expect(through.Code).To(Equal(http.StatusOK), "%s: %s", path, through.Body)
			w.Expect(through.Body).To(Equal(direct.Body), path)
			w.Expect(through.Header.Get("Content-Type")).To(Equal(direct.Header.Get("Content-Type")))
			online[path+accept] = through
		}
	}
	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	start := time.Now()
	first := w.viaHub(hub.Request{Path: paths[0], Token: w.token, Accept: "application/json"})
	t.Logf("first answer after a refused connection: %v", time.Since(start))
	w.Expect(first.Code).To(Equal(http.StatusOK), "%s", first.Body)
	for _, accept := range []string{"", "application/json", protobuf} {
		for _, path := range paths {
			offline := w.viaHub(hub.Request{Path: path, Token: w.token, Accept: accept})
			w.Expect(offline.Code).To(Equal(http.StatusOK), "%s: %s", path, offline.Body)
			w.Expect(string(offline.Body)).To(Equal(string(online[path+accept].Body)), "%s %s", path, accept)
			w.Expect(offline.Header.Get("Content-Type")).To(Equal(online[path+accept].Header.Get("Content-Type")))
			w.Expect(offline.Header.Get("Cache-Status")).To(HavePrefix("edge-hub; hit"))
		}
	}
	for name, token := range map[string]string{"another ServiceAccount": w.other, "a forged token": w.token[:len(w.token)-8] + "AAAAAAAA", "no token": ""} {
		for _, path := range paths {
			refused := w.viaHub(hub.Request{Path: path, Token: token})
			w.Expect(refused.Code).To(BeElementOf(http.StatusUnauthorized, http.StatusForbidden), "%s %s", name, path)
			w.Expect(string(refused.Body)).NotTo(ContainSubstring("value-0"), name)
		}
	}
}
