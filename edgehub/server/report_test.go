package server

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
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

// cacheTill makes the configuration of the next hub over dir one that caches till, since
// now.
func cacheTill(t *testing.T, dir string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "state", "edge-hub-cfg.json")
	if err := os.WriteFile(file, []byte(`{"data":{"cache_agents":"till"},"resourceVersion":"1"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestAnAgentThatWasRemovedIsNotReadyOnceItIsBack, nor where the node's clock is behind: its
// Pods go on, and nothing of what they have read is there any more.
func TestAnAgentThatWasRemovedIsNotReadyOnceItIsBack(t *testing.T) {
	for _, behind := range []time.Duration{0, time.Hour} {
		cloud := httptest.NewTLSServer(http.NotFoundHandler())
		defer cloud.Close()
		dir := t.TempDir()
		h, _ := newTestHub(t, dir, cloud, journaltest.New())
		h.identity.ObserveTime(time.Now().Add(behind))
		h.seen.Note(report.Request{Pair: report.Pair{Agent: "till", Namespace: "shop"}, Pod: "till-a", UID: "a", Cached: true, Read: "till/x/services.v1.core/shop.jsonl"})
		h.setAgents(hubconfig.Config{})
		if !h.saveSeen() {
			t.Fatal("who was seen is not kept")
		}
		cacheTill(t, dir)
		again, _ := newTestHub(t, dir, cloud, journaltest.New())
		if status := again.State().Status(); status.AgentsReady != "0/1" {
			t.Errorf("%v behind: %s ready: %+v", behind, status.AgentsReady, status.Agents)
		}
	}
}

// TestAClockThatWasAheadKeepsNoAgentFromBeingReady: who reads now can't have read before.
func TestAClockThatWasAheadKeepsNoAgentFromBeingReady(t *testing.T) {
	cloud := httptest.NewTLSServer(http.NotFoundHandler())
	defer cloud.Close()
	dir := t.TempDir()
	newTestHub(t, dir, cloud, journaltest.New())
	file := cacheTill(t, dir)
	ahead := time.Now().AddDate(1, 0, 0)
	if err := os.Chtimes(file, ahead, ahead); err != nil {
		t.Fatal(err)
	}
	h, _ := newTestHub(t, dir, cloud, journaltest.New())
	h.seen.Note(report.Request{Pair: report.Pair{Agent: "till", Namespace: "shop"}, Pod: "till-a", UID: "a", Cached: true, Read: "till/x/services.v1.core/shop.jsonl"})
	status := h.State().Status()
	if len(status.Agents) != 1 || !status.Agents[0].Since.After(time.Now()) {
		t.Fatalf("this shows nothing: %+v", status.Agents)
	}
	if status.AgentsReady != "1/1" {
		t.Errorf("%s ready: %+v", status.AgentsReady, status.Agents)
	}
}

// TestTheMetricSaysWhatTheEdgeHubNodeSays also of an agent of which all that was asked
// for is there, and that was cached once before and removed since.
func TestTheMetricSaysWhatTheEdgeHubNodeSays(t *testing.T) {
	cloud := httptest.NewTLSServer(http.NotFoundHandler())
	defer cloud.Close()
	dir := t.TempDir()
	h, _ := newTestHub(t, dir, cloud, journaltest.New())
	till := report.Pair{Agent: "till", Namespace: "shop"}
	h.seen.Note(report.Request{Pair: till, Pod: "till-a", UID: "a", Cached: true, Read: "till/x/services.v1.core/shop.jsonl"})
	if !h.saveSeen() {
		t.Fatal("who was seen is not kept")
	}
	cacheTill(t, dir)
	again, _ := newTestHub(t, dir, cloud, journaltest.New())
	again.seen.Note(report.Request{Pair: till, Pod: "till-b", UID: "b"})
	if status := again.State().Status(); status.AgentsReady != "0/1" {
		t.Fatalf("the EdgeHubNode says %s: %+v", status.AgentsReady, status.Agents)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(&fleetMetrics{again})
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP edgehub_agents Cached agents in use, for each namespace that uses them, by whether their Pods would start without the cloud now.
# TYPE edgehub_agents gauge
edgehub_agents{offline_ready="false"} 1
edgehub_agents{offline_ready="true"} 0
`), "edgehub_agents"); err != nil {
		t.Error(err)
	}
}
