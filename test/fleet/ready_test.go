package fleet

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/test/hub"
)

// TestOfflineReadyIsTrueOnlyWhenNothingIsMissing: too large, then with room for it.
func TestOfflineReadyIsTrueOnlyWhenNothingIsMissing(t *testing.T) {
	const tight = `{"` + app + `": {"namespaces": {"` + namespace + `": {"quota": 2048}}}}`
	w := newWorld(t, map[string]string{"cache_agents": app, "policies": tight})
	w.configMap("large", strings.Repeat("x", 8<<10))
	w.Expect(w.get(configMaps + "/cm-0")).To(Equal(200))
	w.Eventually(w.row).Should(Equal("true"))
	w.Expect(w.get(configMaps)).To(Equal(200))
	w.Eventually(w.row).Should(Equal(v1alpha1.NodeAgentTooLarge))
	w.Expect(w.agent().Incomplete).To(Equal(int32(1)))
	w.Expect(w.agent().Message).To(ContainSubstring("configmaps.v1.core/shop: more than the quota"))
	output, err := w.cluster.Kubectl("get", "ehn", "-o", "wide").CombinedOutput()
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(string(output)).To(MatchRegexp(`edge-1 +True +False +0/1 .* edge-app of shop \(TooLarge\)`))

	roomy := map[string]string{"cache_agents": app, "policies": strings.Replace(tight, "2048", "1000000", 1)}
	w.configure(roomy)
	w.awaitConfiguration(roomy)
	w.Eventually(func() string { // until it is tried again
		w.get(configMaps)
		return w.row()
	}).WithTimeout(90 * time.Second).WithPolling(time.Second).Should(Equal("true"))

	denied := map[string]string{"cache_agents": app, "policies": strings.Replace(tight, `"quota": 2048`, `"secrets": "Deny"`, 1)}
	w.configure(denied)
	w.awaitConfiguration(denied)
	w.Expect(w.get("/api/v1/namespaces/" + namespace + "/secrets")).To(Equal(200))
	w.Eventually(w.row).Should(Equal(v1alpha1.NodeAgentSecretsDenied))
}

// TestARestartForgetsNothing: neither since when an agent is cached nor what is
// missing, so that a hub that starts does not claim to be ready.
func TestARestartForgetsNothing(t *testing.T) {
	w := newWorld(t, map[string]string{"cache_agents": app})
	w.Expect(w.get(configMaps)).To(Equal(200))
	w.Eventually(w.row).Should(Equal("true"))
	since := w.agent().Since
	list := w.send(hub.Request{Path: "/api/v1/namespaces/" + namespace + "/services", Token: w.token, UserAgent: "lister/1"})
	_, version, _ := strings.Cut(string(list.Body), `"resourceVersion":"`)
	version, _, _ = strings.Cut(version, `"`)
	resp, err := hub.Open(t.Context(), w.http, w.hub.URL(), hub.Request{
		Path:  "/api/v1/namespaces/" + namespace + "/services?watch=true&resourceVersion=" + version,
		Token: w.token, UserAgent: app + "/1.0",
	})
	w.Expect(err).NotTo(HaveOccurred())
	w.Eventually(w.row).Should(Equal(v1alpha1.NodeAgentNotWarm))
	resp.Body.Close()
	time.Sleep(2 * time.Second) // what was known longer ago must survive
	w.Expect(w.hub.Kill()).To(Succeed())

	w.Expect(w.hub.Start(t.Context())).To(Succeed())
	reported := w.node().Status.ReportTime
	// Something else is reported, and what is missing with it.
	w.Expect(w.send(hub.Request{Path: configMaps, Token: w.token, UserAgent: "another/1"}).Code).To(Equal(200))
	w.Eventually(func() string { return fmt.Sprint(w.node().Status.Uncached) }).Should(ContainSubstring("another"))
	w.Expect(w.node().Status.ReportTime).NotTo(Equal(reported))
	w.Expect(w.row()).To(Equal(v1alpha1.NodeAgentNotWarm))
	w.Expect(w.agent().Since).To(Equal(since))

	w.Expect(w.get("/api/v1/namespaces/" + namespace + "/services")).To(Equal(200))
	w.Eventually(w.row).Should(Equal("true"))
}

// TestWhatWasReadBeforeItIsCachedIsNotReady, whatever else is: a list that nobody
// watches, and discovery. A hub that was killed meanwhile knows it too.
func TestWhatWasReadBeforeItIsCachedIsNotReady(t *testing.T) {
	const lease = "/apis/coordination.k8s.io/v1/namespaces/" + namespace + "/leases"
	w := newWorld(t, map[string]string{"cache_agents": ""})
	renew := func(pod string) {
		w.Helper()
		resp := w.send(hub.Request{Path: lease, Method: http.MethodPost, Token: w.token, UserAgent: app + "/1.0", Body: `{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"generateName": "` + pod + `-"}}`, Header: http.Header{"Content-Type": {"application/json"}}})
		w.Expect(resp.Code).To(Equal(http.StatusCreated), "%s", resp.Body)
	}
	w.Expect(w.get("/apis")).To(Equal(200))
	w.Expect(w.get(configMaps)).To(Equal(200))
	time.Sleep(2 * time.Second) // what was read longer ago must survive
	w.Expect(w.hub.Kill()).To(Succeed())
	w.Expect(w.hub.Start(t.Context())).To(Succeed())

	cached := map[string]string{"cache_agents": app}
	w.configure(cached)
	w.awaitConfiguration(cached)
	renew("old")
	w.Eventually(w.row).Should(Equal(v1alpha1.NodeAgentNotRestarted))
	w.Expect(w.agent().Message).To(Equal("configmaps.v1.core/shop and 1 more: read before the agent was cached, and not since: restart its Pods"))
	w.Consistently(w.row, 5*time.Second, time.Second).Should(Equal(v1alpha1.NodeAgentNotRestarted))
	w.Expect(w.get(configMaps)).To(Equal(200))
	w.Eventually(func() string { return w.agent().Message }).Should(ContainSubstring("discovery/%2Fapis"))
	w.Expect(w.row()).To(Equal(v1alpha1.NodeAgentNotRestarted))
	w.Expect(w.get("/apis")).To(Equal(200))
	w.Eventually(w.row).Should(Equal("true"))

	// What was cached once and removed since is not known.
	w.configure(map[string]string{"cache_agents": ""})
	w.Eventually(w.row).Should(BeEmpty())
	w.configure(cached)
	w.awaitConfiguration(cached)
	w.Expect(w.get(configMaps)).To(Equal(200))
	w.Eventually(w.row).Should(Equal(v1alpha1.NodeAgentNotRestarted))
	w.Expect(w.agent().Message).To(ContainSubstring("is not known"))
}
