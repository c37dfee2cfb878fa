package oracle

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/edgehub-io/edge-hub/test/hub"
)

// TestDiscoveryIsKubeAPIServers: what a client reads before it reads objects is
// the same without the cloud, byte for byte.
func TestDiscoveryIsKubeAPIServers(t *testing.T) {
	w := newWorld(t, []string{"program"})
	const aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	type document struct {
		path, accept string
		gzip         bool
	}
	var documents []document
	for _, path := range []string{
		"/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1", "/apis/farm.example.com", "/apis/farm.example.com/v1", "/apis/farm.example.com/v1beta1",
		"/version", "/openapi/v2", "/openapi/v3", "/openapi/v3/api/v1", "/openapi/v3/apis/apps/v1", "/openapi/v3/apis/farm.example.com/v1",
	} {
		for _, accept := range []string{"", jsonType, aggregated + "," + jsonType, protobufType + "," + jsonType, yamlType} {
			documents = append(documents, document{path, accept, false}, document{path, accept, true})
		}
	}
	documents = append(documents, document{"/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf", true})
	ask := func(server, agent string, d document) *hub.Response {
		h := http.Header{}
		if d.gzip {
			h.Set("Accept-Encoding", "gzip")
		}
		resp, err := hub.Do(w.within(30*time.Second), w.http, server, hub.Request{Path: d.path, Token: w.token, UserAgent: agent + "/1.0", Accept: d.accept, Header: h})
		w.Expect(err).NotTo(HaveOccurred(), "%+v", d)
		return resp
	}
	want := make([]*hub.Response, len(documents))
	for i, d := range documents {
		want[i] = ask(w.cluster.URL(), "direct", d)
		ask(w.hub.URL(), "program", d)
	}
	w.goOffline()
	equal := 0
	for i, d := range documents {
		if want[i].Code != http.StatusOK {
			continue // is not kept
		}
		var got *hub.Response
		w.Eventually(func() int { got = ask(w.hub.URL(), "program", d); return got.Code }).WithTimeout(20*time.Second).Should(Equal(http.StatusOK), "%+v", d)
		for _, name := range []string{"Content-Type", "Etag"} {
			w.Expect(got.Header.Get(name)).To(Equal(want[i].Header.Get(name)), "%s of %+v", name, d)
		}
		w.Expect(bytes.Equal(uncompressed(t, got), uncompressed(t, want[i]))).To(BeTrue(), "%+v", d)
		equal++
	}
	t.Logf("%d of %d documents are equal, the rest are refused online as well", equal, len(documents))
}

// uncompressed is a response's body as it is read.
func uncompressed(t *testing.T, resp *hub.Response) []byte {
	t.Helper()
	if resp.Header.Get("Content-Encoding") != "gzip" {
		return resp.Body
	}
	z, err := gzip.NewReader(bytes.NewReader(resp.Body))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
