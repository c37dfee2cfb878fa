package fleet

import (
	"bufio"
	"strconv"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/edgehub-io/edge-hub/test/hub"
)

// writes is how many requests kube-apiserver has counted that were about
// EdgeHubNodes, reads of this test apart.
func (w *world) writes() (n float64) {
	w.Helper()
	output, err := w.cluster.Kubectl("get", "--raw", "/metrics").Output()
	w.Expect(err).NotTo(HaveOccurred())
	lines := bufio.NewScanner(strings.NewReader(string(output)))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if !strings.HasPrefix(line, "apiserver_request_total{") || !strings.Contains(line, `resource="edgehubnodes"`) ||
			strings.Contains(line, `verb="GET"`) || strings.Contains(line, `verb="LIST"`) || strings.Contains(line, `verb="WATCH"`) {
			continue
		}
		value, err := strconv.ParseFloat(line[strings.LastIndex(line, " ")+1:], 64)
		w.Expect(err).NotTo(HaveOccurred())
		n += value
	}
	return n
}

// TestNothingIsWrittenAtRest, nor by a restart of the hub, nor because the cloud was
// away; but what changes is reported again when it is back.
func TestNothingIsWrittenAtRest(t *testing.T) {
	w := newWorld(t, map[string]string{"cache_agents": app})
	w.program(w.hub.URL())
	w.Eventually(w.row).Should(Equal("true"))
	settled := func() {
		w.Helper()
		last := -1.0
		w.Eventually(func() bool { // numbers that drift
			before := last
			last = w.writes()
			return before == last
		}).WithPolling(5 * time.Second).Should(BeTrue())
	}
	settled()
	before := w.writes()
	w.Expect(before).To(BeNumerically(">", 0))
	w.Consistently(w.writes, 20*time.Second, 5*time.Second).Should(Equal(before), "at rest, for twenty periods")

	w.Expect(w.hub.Stop()).To(Succeed())
	w.Expect(w.hub.Start(t.Context())).To(Succeed())
	w.Consistently(w.writes, 8*time.Second, time.Second).Should(Equal(before), "a restart is no news")

	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	w.Eventually(w.readyz).Should(ContainSubstring("[!]upstream/"))
	w.Expect(w.cluster.RestartAPIServer(t.Context())).To(Succeed())
	w.Eventually(w.readyz).Should(ContainSubstring("[+]upstream/"))
	w.Expect(w.send(hub.Request{Path: configMaps, Token: w.token, UserAgent: "news/1"}).Code).To(Equal(200))
	w.Eventually(func() int { return len(w.node().Status.Uncached) }).Should(Equal(1))
	w.Expect(w.row()).To(Equal("true"))
}
