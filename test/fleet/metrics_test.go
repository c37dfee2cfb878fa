package fleet

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/edgehub-io/edge-hub/test/hub"
)

// metrics is the hub's page.
func (w *world) metrics() string {
	w.Helper()
	resp, err := http.Get("http://" + w.hub.Admin + "/metrics")
	w.Expect(err).NotTo(HaveOccurred())
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	w.Expect(err).NotTo(HaveOccurred())
	return string(page)
}

// series are the lines that begin with a name.
func series(page, name string) (n int) {
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, name) {
			n++
		}
	}
	return n
}

// TestMetricsAreAsPrometheusWantsThem, after all kinds of traffic, and however many
// names clients make up there are no more series than a server can hold.
func TestMetricsAreAsPrometheusWantsThem(t *testing.T) {
	w := newWorld(t, map[string]string{"cache_agents": app + ",*"})
	w.program(w.hub.URL())
	request := func(r hub.Request) {
		r.Token = w.token
		_, err := hub.Do(t.Context(), w.http, w.hub.URL(), r)
		w.Expect(err).NotTo(HaveOccurred())
	}
	before := series(w.metrics(), "edgehub_")
	for i := range 150 {
		agent := fmt.Sprintf("agent-%d/1", i)
		request(hub.Request{Path: configMaps + fmt.Sprintf("?labelSelector=n%d", i), UserAgent: agent})
		request(hub.Request{Path: fmt.Sprintf("/apis/group-%d/v1/resource-%d", i, i), UserAgent: app})
		request(hub.Request{Path: fmt.Sprintf("/path-%d", i), UserAgent: app, Method: fmt.Sprintf("VERB%d", i)})
		request(hub.Request{Path: fmt.Sprintf("/api/v1/namespaces/ns-%d/configmaps/name-%d", i, i), UserAgent: agent})
	}
	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	w.Eventually(w.readyz).Should(ContainSubstring("[!]upstream/"))
	request(hub.Request{Path: configMaps, UserAgent: app})
	w.Expect(w.cluster.RestartAPIServer(t.Context())).To(Succeed())
	w.Eventually(w.readyz).Should(ContainSubstring("[+]upstream/"))

	page := w.metrics()
	problems, err := promlint.New(strings.NewReader(page)).Lint()
	w.Expect(err).NotTo(HaveOccurred(), "%s", page)
	w.Expect(problems).To(BeEmpty())
	after := series(page, "edgehub_")
	t.Logf("%d series before, %d after", before, after)
	w.Expect(after).To(BeNumerically("<", 400))
	w.Expect(page).NotTo(ContainSubstring("agent-1"))
	w.Expect(page).NotTo(ContainSubstring("resource-1"))
	for _, metric := range []string{
		`edgehub_requests_total{agent="edge-app",code="200",resource="configmaps",source="cloud"`,
		`edgehub_requests_total{agent="edge-app",code="200",resource="configmaps",source="cache"`,
		`edgehub_request_duration_seconds_bucket{source="cache",verb="list"`,
		`edgehub_cache_objects{agent="edge-app"} 3`,
		`edgehub_cache_bytes{agent="edge-app"}`,
		`edgehub_cache_recordings `,
		`edgehub_cache_queued_bytes `,
		`edgehub_cache_fsync_duration_seconds_bucket`,
		`edgehub_cache_written_bytes_total `,
		`edgehub_upstream_up `,
		`edgehub_upstream_endpoint_up{server="127.0.0.1:`,
		`edgehub_upstream_losses_total `,
		`edgehub_offline_seconds `,
		`edgehub_certificate_expiration_timestamp_seconds{certificate="serving"}`,
		`edgehub_config_applied_timestamp_seconds 1`,
		`edgehub_agents{offline_ready="true"}`,
		`edgehub_uncached_agents 0`,
		`edgehub_relists_total 0`,
		`edgehub_reports_total `,
		`edgehub_report_errors_total `,
		`edgehub_build_info{version="`,
	} {
		w.Expect(page).To(ContainSubstring(metric))
	}
	docs, err := os.ReadFile("../../docs/edge-hub.md")
	w.Expect(err).NotTo(HaveOccurred())
	var undocumented []string
	for line := range strings.Lines(page) {
		name, ok := strings.CutPrefix(line, "# TYPE ")
		name, _, _ = strings.Cut(name, " ")
		if ok && strings.HasPrefix(name, "edgehub_") && !strings.Contains(string(docs), "`"+name+"`") {
			undocumented = append(undocumented, name)
		}
	}
	w.Expect(undocumented).To(BeEmpty())
}
