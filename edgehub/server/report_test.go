package server

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
	"github.com/edgehub-io/edge-hub/edgehub/report"
)

// TestWhatIsAlwaysCachedHasReadNothingPastTheCache, though a hub was started anew or a
// configuration came since.
func TestWhatIsAlwaysCachedHasReadNothingPastTheCache(t *testing.T) {
	cloud := httptest.NewTLSServer(http.NotFoundHandler())
	defer cloud.Close()
	dir := t.TempDir()
	h, _ := newTestHub(t, dir, cloud, journaltest.New())
	proxy := report.Pair{Agent: "kube-proxy", Namespace: "kube-system"}
	h.seen.Note(report.Request{Pair: proxy, Pod: "kube-proxy-x", UID: "1", Cached: true, Read: "kube-proxy/x/services.v1.core/all.jsonl"})
	if !h.saveSeen() {
		t.Fatal("who was seen is not kept")
	}
	again, _ := newTestHub(t, dir, cloud, journaltest.New())
	cached, _ := again.agents()
	if len(cached) != 1 || cached[0].Pair != proxy {
		t.Fatalf("agents in use: %+v", cached)
	}
	if !cached[0].Since.After(again.seen.All()[0].Last) {
		t.Fatal("this shows nothing: the hub was not started after it was seen")
	}
	if cached[0].Unknown || cached[0].Unasked {
		t.Errorf("it counts as one that has read past the cache: %+v", cached[0])
	}
}
