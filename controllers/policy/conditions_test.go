package policy

import (
	"errors"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/rollout"
)

func TestRestartOutcome(t *testing.T) {
	noSelector := func(p *v1alpha1.EdgeHubPolicy) { p.Spec.PodSelector = nil }
	closed := func(reason string) gate { return gate{reason: reason, message: "because"} }
	never := func(p *v1alpha1.EdgeHubPolicy) { p.Spec.Restart.Strategy = v1alpha1.NeverRestart }
	some := v1alpha1.PodCounts{Matched: 3, Restarted: 1, Pending: 2}
	with := func(change func(*v1alpha1.PodCounts)) v1alpha1.PodCounts {
		counts := some
		change(&counts)
		return counts
	}
	completed := func(p *v1alpha1.EdgeHubPolicy) {
		p.Status.Conditions = []metav1.Condition{{Type: "RestartsComplete", Status: "True"}}
	}
	for _, test := range []struct {
		name        string
		change      func(*v1alpha1.EdgeHubPolicy)
		result      rollout.Result
		gate        gate
		err         error
		wantDone    bool
		wantStalled bool
		wantReason  string
		wantMessage string
		wantWhole   bool // the message is nothing else
	}{
		{name: "no selector, no hub has seen a Pod", change: noSelector, wantDone: true, wantReason: "Restarted", wantMessage: "no hub has seen a Pod send the agents"},
		{name: "no selector, restarting", change: noSelector, result: rollout.Result{Counts: v1alpha1.PodCounts{Unavailable: 1}, Restarting: 1, Recent: true}, wantReason: "Restarting", wantMessage: "1 restarted Pod not available"},
		{name: "no selector, older trouble", change: noSelector, result: rollout.Result{Counts: v1alpha1.PodCounts{Matched: 1, Restarted: 1, Unavailable: 1}, Recent: true}, wantDone: true, wantReason: "Restarted"},
		{name: "no selector, trouble that nobody caused", change: noSelector, result: rollout.Result{Counts: v1alpha1.PodCounts{Matched: 1, Restarted: 1, Unavailable: 1}, Restarting: 1}, wantDone: true, wantReason: "Restarted"},
		{name: "never", change: never, result: rollout.Result{Counts: some}, wantDone: true, wantReason: "NotRequested", wantMessage: "1 of 3 Pods restarted"},
		{name: "never, and all is done", change: never, result: rollout.Result{Counts: v1alpha1.PodCounts{Matched: 1, Restarted: 1}}, wantDone: true, wantReason: "NotRequested", wantMessage: "1 of 1 Pod restarted", wantWhole: true},
		{name: "no Pods", wantDone: true, wantReason: "Restarted", wantMessage: "podSelector matches no Pod"},
		{name: "no hubs", change: func(p *v1alpha1.EdgeHubPolicy) { p.Status.Nodes = &v1alpha1.NodeCounts{} }, wantDone: true, wantReason: "Restarted", wantMessage: "no edge-hub has reported from the selected nodes yet"},
		{name: "failed", err: errors.New("list Pods: x\ny"), wantReason: "RestartFailed", wantMessage: "list Pods: x; y"},
		{name: "paused", gate: closed("Paused"), result: rollout.Result{Counts: some}, wantReason: "Paused", wantMessage: "1 of 3 Pods restarted: 2 Pods left, because"},
		{name: "paused but complete", gate: closed("Paused"), result: rollout.Result{Counts: v1alpha1.PodCounts{Matched: 1, Restarted: 1}}, wantDone: true, wantReason: "Restarted", wantMessage: "1 of 1 Pod restarted"},
		{name: "stalled gate", gate: gate{reason: "WindowInvalid", message: "because", stalled: true}, result: rollout.Result{Counts: some}, wantStalled: true, wantReason: "WindowInvalid"},
		{name: "opted out", result: rollout.Result{Counts: v1alpha1.PodCounts{Matched: 2, Restarted: 1, OptedOut: 1}}, wantDone: true, wantReason: "Restarted", wantMessage: "1 of 2 Pods restarted, 1 opted out"},
		{name: "nodes broke", result: rollout.Result{Counts: some, Broken: []string{"n1", "n2"}, Restarting: 1}, wantStalled: true, wantReason: "NodesBroke", wantMessage: "2 nodes became unreachable after Pods were restarted there, such as n1: restarts go on"},
		{name: "nodes that broke when all was done", result: rollout.Result{Counts: v1alpha1.PodCounts{Matched: 1, Restarted: 1, Unavailable: 1}, Broken: []string{"n1"}, Restarting: 1}, wantReason: "Restarting"},
		{name: "another rollout", result: rollout.Result{Counts: some, Holder: "default/other"}, wantReason: "OtherRollout", wantMessage: "EdgeHubPolicy default/other restarts"},
		{name: "hubs behind", result: rollout.Result{Counts: with(func(c *v1alpha1.PodCounts) { c.Deferred, c.Waiting = 1, 1 }), WaitingFor: "n1"}, wantReason: "WaitingForHubs", wantMessage: "1 Pod left on nodes whose hub does not work with the current configuration yet, such as n1"},
		{name: "restarting", result: rollout.Result{Counts: some, Restarting: 1, Unavailable: "Pod app-1"}, wantReason: "Restarting", wantMessage: "1 restarted Pod not available yet, such as Pod app-1"},
		{name: "blocked", result: rollout.Result{Counts: some, Blocked: `PodDisruptionBudget "b"`}, wantReason: "BlockedByPodDisruptionBudget", wantMessage: `"b"`},
		{name: "denied", result: rollout.Result{Counts: some, Denied: "Pod app-1 can't be evicted: no"}, wantReason: "RestartFailed", wantMessage: "Pod app-1 can't be evicted: no: it is asked for again; have it allowed, or give the Pod the annotation edgehub.io/restart=Never"},
		{name: "denied while others are restarted", result: rollout.Result{Counts: some, Denied: "Pod app-1 can't be evicted: no", Restarting: 1}, wantReason: "Restarting"},
		{name: "overload", result: rollout.Result{Counts: some, Busy: true}, wantReason: "Restarting", wantMessage: "2 Pods left, kube-apiserver has no time for evictions now"},
		{name: "unavailable for other reasons", result: rollout.Result{Counts: with(func(c *v1alpha1.PodCounts) { c.Unavailable = 1 })}, wantReason: "WaitingForPods", wantMessage: "waiting for 1 Pod"},
		{name: "dead nodes", result: rollout.Result{Counts: with(func(c *v1alpha1.PodCounts) { c.Deferred = 2 }), DeferredOn: "n1"}, wantDone: true, wantReason: "Deferred", wantMessage: "1 of 3 Pods restarted, 2 Pods left until their nodes are ready, not cordoned or tainted, and can cache, such as n1"},
		{name: "dead nodes, paused", gate: closed("Paused"), result: rollout.Result{Counts: with(func(c *v1alpha1.PodCounts) { c.Deferred = 2 })}, wantDone: true, wantReason: "Deferred"},
		{name: "dead nodes and one that can be reached", gate: closed("Paused"), result: rollout.Result{Counts: with(func(c *v1alpha1.PodCounts) { c.Deferred = 1 })}, wantReason: "Paused", wantMessage: "1 Pod left, because"},
		{name: "dead nodes and trouble elsewhere", result: rollout.Result{Counts: with(func(c *v1alpha1.PodCounts) { c.Deferred, c.Unavailable = 2, 1 }), Unavailable: "Pod app-1"}, wantReason: "WaitingForPods", wantMessage: "waiting for 1 Pod, unavailable for other reasons, such as Pod app-1"},
		{name: "dead nodes and Pods nothing replaces", result: rollout.Result{Counts: with(func(c *v1alpha1.PodCounts) { c.Deferred, c.Unmanaged = 2, 1 })}, wantStalled: true, wantReason: "PodsNeedAttention"},
		{name: "a workload that lacks Pods", result: rollout.Result{Counts: with(func(c *v1alpha1.PodCounts) { c.Deferred = 1 }), Lacking: "ReplicaSet/app-5d8"}, wantReason: "WaitingForPods", wantMessage: "ReplicaSet/app-5d8 lacks as many Pods"},
		{name: "unmanaged", result: rollout.Result{Counts: v1alpha1.PodCounts{Matched: 1, Restarted: 1, Unmanaged: 1}}, wantStalled: true, wantReason: "PodsNeedAttention", wantMessage: "restart 1 Pod by hand"},
		{name: "stays complete when a Pod fails later", change: completed, result: rollout.Result{Counts: v1alpha1.PodCounts{Matched: 1, Restarted: 1, Unavailable: 1}, Restarting: 1}, wantDone: true, wantReason: "Restarted"},
		{name: "but not when a Pod has to be restarted", change: completed, result: rollout.Result{Counts: some}, wantReason: "Restarting"},
		{name: "a first refusal", result: rollout.Result{Counts: some}, wantReason: "Restarting", wantMessage: "2 Pods left"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			policy := &v1alpha1.EdgeHubPolicy{Spec: v1alpha1.EdgeHubPolicySpec{PodSelector: &v1alpha1.LabelSelector{}}}
			if test.change != nil {
				test.change(policy)
			}
			got := restartOutcome(policy, test.result, test.gate, test.err)
			g.Expect(got.done).To(Equal(test.wantDone))
			g.Expect(got.stalled).To(Equal(test.wantStalled))
			g.Expect(got.reason).To(Equal(test.wantReason))
			g.Expect(got.message).To(ContainSubstring(test.wantMessage))
			if test.wantWhole {
				g.Expect(got.message).To(Equal(test.wantMessage))
			}
		})
	}
}

func TestSetConditions(t *testing.T) {
	done, open := outcome{done: true, reason: "Done", message: "done"}, outcome{reason: "Open", message: "open"}
	stalled := outcome{reason: "Stuck", message: "stuck", stalled: true}
	for _, test := range []struct {
		name                           string
		config, restarts               outcome
		ready, reconciling, stalled    bool
		wantReason                     string
		wantObservedGeneration         int64
		wantConfigApplied, wantRestart bool
	}{
		{"ready", done, done, true, false, false, v1alpha1.ReasonReady, 7, true, true},
		{"config first", open, stalled, false, true, false, "Open", 0, false, false},
		{"restarts", done, open, false, true, false, "Open", 0, true, false},
		{"stalled", stalled, open, false, false, true, "Stuck", 7, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			policy := &v1alpha1.EdgeHubPolicy{ObjectMeta: metav1.ObjectMeta{Generation: 7}}
			setConditions(policy, test.config, test.restarts)
			for kind, want := range map[string]bool{
				"Ready": test.ready, "Reconciling": test.reconciling, "Stalled": test.stalled,
				"ConfigApplied": test.wantConfigApplied, "RestartsComplete": test.wantRestart,
			} {
				condition := meta.FindStatusCondition(policy.Status.Conditions, kind)
				g.Expect(condition).NotTo(BeNil(), kind)
				g.Expect(condition.Status == metav1.ConditionTrue).To(Equal(want), kind)
				g.Expect(condition.ObservedGeneration).To(Equal(int64(7)), kind)
				g.Expect(condition.Reason).NotTo(BeEmpty(), kind)
			}
			g.Expect(meta.FindStatusCondition(policy.Status.Conditions, "Ready").Reason).To(Equal(test.wantReason))
			g.Expect(policy.Status.ObservedGeneration).To(Equal(test.wantObservedGeneration))
		})
	}
}

func TestConfigOutcomeBoundsMessages(t *testing.T) {
	g := NewWithT(t)
	_, err := hubconfig.Parse(map[string]string{hubconfig.KeyCacheAgents: strings.Repeat("a/b,", 1000)})
	got := configOutcome(&v1alpha1.EdgeHubPolicy{}, hubConfig{malformed: err}, nil)
	g.Expect(got.stalled).To(BeTrue())
	g.Expect(got.message).To(HavePrefix(`correct ConfigMap kube-system/edge-hub-cfg by hand, it is left alone until then: entry 1 "a/b" contains`))
	g.Expect(len(got.message)).To(BeNumerically("<", 2*maxMessage))
	g.Expect(got.message).NotTo(ContainSubstring("\n"))
}

func TestSummary(t *testing.T) {
	g := NewWithT(t)
	g.Expect(summary([]string{"a"})).To(Equal("a"))
	g.Expect(summary([]string{"a", "Kubernetes Java Client"})).To(Equal("a,Kubernetes Java Client"))
	g.Expect(summary(strings.Split(strings.Repeat("edge-app ", 32)+"x", " "))).To(Equal("edge-app,edge-app,edge-app and 30 more"))
	long := strings.Repeat("x", 128)
	g.Expect(summary([]string{long, "a"})).To(Equal(long + " and 1 more"))
}
