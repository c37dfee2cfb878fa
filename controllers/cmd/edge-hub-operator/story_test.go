package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	gomegatypes "github.com/onsi/gomega/types"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/edgehub-io/edge-hub/controllers/nodetest"
)

// told are the events about a policy in the order in which they happened, as
// "Warning Reason".
func (s *system) told(policy string) []string {
	s.t.Helper()
	type event struct {
		EventTime    time.Time
		Type, Reason string
		Regarding    struct{ Kind, Name string }
	}
	var list struct{ Items []event }
	s.Expect(json.Unmarshal([]byte(s.kubectl("get", "events.v1.events.k8s.io", "-o", "json")), &list)).To(Succeed())
	slices.SortFunc(list.Items, func(a, b event) int { return a.EventTime.Compare(b.EventTime) })
	var told []string
	for _, event := range list.Items {
		if event.Regarding.Kind == "EdgeHubPolicy" && event.Regarding.Name == policy {
			told = append(told, event.Type+" "+event.Reason)
		}
	}
	return told
}

// TestStory follows the whole life of a policy as a person does, with kubectl get
// ehp -w, kubectl events and kubectl get ehn.
func TestStory(t *testing.T) {
	s := newSystem(t)
	nodes := nodetest.Start(t, s.cluster.RESTConfig(), "edge-1", "edge-2")
	hubs := nodetest.RunHubs(t, s.cluster.RESTConfig(), "edge-1", "edge-2")
	s.apply(deployment)
	s.kubectl("rollout", "status", "deployment/edge-app", "--timeout=120s")
	s.Eventually(func() []string { return strings.Fields(s.kubectl("get", "ehn", "-o", "name")) }).Should(HaveLen(2))
	operator := s.start()
	s.Eventually(func() int { return operator.get("/readyz") }).Should(Equal(http.StatusOK))

	watched, err := os.Create(filepath.Join(t.TempDir(), "watch"))
	s.Expect(err).NotTo(HaveOccurred())
	watch := s.cluster.Kubectl("get", "ehp", "-w")
	watch.Stdout = watched
	s.Expect(watch.Start()).To(Succeed())
	t.Cleanup(func() { watch.Process.Kill(); watch.Wait(); watched.Close() })
	seen := func() string {
		text, err := os.ReadFile(watched.Name())
		s.Expect(err).NotTo(HaveOccurred())
		return string(text)
	}

	s.kubectl("apply", "-f", "../../../config/samples/edgehubpolicy.yaml")
	s.kubectl("wait", "--for=condition=Ready", "ehp/edge-app", "--timeout=180s")
	s.kubectl("wait", "--for=condition=CacheReady", "ehp/edge-app", "--timeout=180s")
	s.Eventually(seen).Should(MatchRegexp(`(?s)NAME +AGENTS +READY +RESTARTED +NODES +STATUS.*` +
		`\nedge-app .* False +0/3 .*left, restarts begin when.*` +
		`\nedge-app .* False +[0-3]/[1-3] .*1 restarted Pod not available yet.*` +
		`\nedge-app .* True +3/3 .*1 agent in kube-system/edge-hub-cfg; 3 of 3 Pods restarted`))

	// A hub that says its share of the disk is too small.
	hubs["edge-1"].TooLarge(true)
	hubs["edge-2"].TooLarge(true)
	s.kubectl("wait", "--for=condition=CacheTooLarge", "ehp/edge-app", "--timeout=120s")
	s.Expect(s.kubectl("get", "ehn")).To(MatchRegexp(`(?m)^edge-. +True +False`))
	hubs["edge-1"].TooLarge(false)
	hubs["edge-2"].TooLarge(false)
	s.kubectl("wait", "--for=condition=CacheReady", "ehp/edge-app", "--timeout=120s")

	// A node that is out of reach, and returns.
	nodes.SetReady(t, "edge-1", false)
	s.kubectl("wait", "--for=condition=Connected=False", "ehn/edge-1", "--timeout=120s")
	s.Expect(s.kubectl("get", "ehn", "edge-1", "-o", "wide")).To(ContainSubstring("the Node is not ready since 20"))
	nodes.SetReady(t, "edge-1", true)
	s.kubectl("wait", "--for=condition=Connected", "ehn/edge-1", "--timeout=120s")
	s.expectMetrics(operator)

	before := s.kubectl("get", "pods", "-o", "name")
	s.kubectl("delete", "ehp", "edge-app")
	s.Eventually(s.agents).Should(BeEmpty())
	s.Eventually(func() []string { return s.told("edge-app") }).Should(ContainElement("Normal Deleted"))
	s.Expect(s.kubectl("get", "pods", "-o", "name")).To(Equal(before), "nothing is restarted")
	told := s.told("edge-app")
	for _, want := range []string{
		"Normal Applied", "Normal Debouncing", "Normal Restarting", "Normal Restarted", "Warning QuotaExceeded", "Normal Deleted",
	} {
		at := slices.Index(told, want)
		s.Expect(at).To(BeNumerically(">=", 0), "%s in its turn in %v", want, s.told("edge-app"))
		told = told[at+1:]
	}
	s.Expect(s.kubectl("events", "--for", "edgehubpolicy/edge-app")).To(And(
		ContainSubstring("Applied"), ContainSubstring("3 of 3 Pods restarted"), ContainSubstring("OfflineReady"), ContainSubstring("Deleted")))
	s.Expect(s.kubectl("events", "--for", "edgehubnode/edge-1", "-A")).To(And(ContainSubstring("NodeNotReady"), ContainSubstring("the Node is ready again")))

	s.Expect(strings.Count(s.kubectl("get", "events.v1.events.k8s.io", "--field-selector", "reason=EvictedByPolicy", "-o", "jsonpath={.items[*].regarding.kind}"), "Pod")).To(Equal(3))

	// An EdgeHubNode goes with its Node.
	s.kubectl("delete", "node", "edge-2")
	s.Eventually(func() string { return s.kubectl("get", "ehn", "-o", "name") }).Should(Equal("edgehubnode.edgehub.io/edge-1"))
	s.Expect(operator.output()).NotTo(ContainSubstring("forbidden"))
}

// expectMetrics lints the page /metrics and looks for what the operator says of
// itself.
func (s *system) expectMetrics(o *operator) {
	s.t.Helper()
	page := func() string {
		response, err := http.Get("http://" + o.metrics + "/metrics")
		s.Expect(err).NotTo(HaveOccurred())
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		s.Expect(err).NotTo(HaveOccurred())
		return string(text)
	}
	var wanted []gomegatypes.GomegaMatcher
	for _, want := range []string{
		`edgehub_operator_policies{condition="Ready",status="True"} 1`,
		`edgehub_operator_policies{condition="CacheReady",status="True"} 1`,
		`edgehub_operator_rollouts{reason="Restarted"} 1`,
		`edgehub_operator_pods{state="restarted"} 3`,
		`edgehub_operator_pods{state="pending"} 0`,
		`edgehub_operator_agents{origin="policy"} 1`,
		`edgehub_operator_agents{origin="hand"} 0`,
		`edgehub_operator_nodes{offline_ready="true",reachable="true"} 2`,
		`edgehub_operator_nodes_configured 2`,
		`edgehub_operator_config_valid 1`,
		`edgehub_operator_config_writes_total{result="written"} 1`,
		`edgehub_operator_evictions_total{result="evicted"} 3`,
		`edgehub_operator_evictions_total{result="failed"} 0`,
		`controller_runtime_reconcile_total{controller="edgehubpolicy",result="success"}`,
		`controller_runtime_reconcile_total{controller="edgehubnode",result="success"}`,
	} {
		wanted = append(wanted, ContainSubstring(want))
	}
	s.Eventually(page).Should(And(wanted...))
	s.Expect(page()).To(MatchRegexp(`edgehub_operator_status_writes_total\{result="written"\} [1-9]`))

	problems, err := promlint.New(strings.NewReader(page())).Lint()
	s.Expect(err).NotTo(HaveOccurred())
	for _, problem := range problems {
		// Those of libraries are as they are.
		s.Expect(problem.Metric).NotTo(HavePrefix("edgehub_"), problem.Text)
	}
	s.Expect(strings.Count(page(), "\nedgehub_")).To(And(BeNumerically(">", 20), BeNumerically("<", 100)), "series, which do not grow with the cluster")
}
