package policy

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/fleet"
)

func message(policy *v1alpha1.EdgeHubPolicy, kind string) string {
	return meta.FindStatusCondition(policy.Status.Conditions, kind).Message
}

func TestCacheReadyIsWhatHubsReport(t *testing.T) {
	e := newEnv(t)
	e.edgeNode("n1")
	e.edgeNode("n2")
	e.edgeNode("n3")
	e.create("one", "a", "b")
	policy := e.reconcile("one")
	e.expectCondition(policy, "RestartsComplete", "False", "WaitingForHubs")
	e.Expect(message(policy, "Ready")).To(Equal("the hubs of 3 nodes do not work with the current configuration yet"))
	e.hubReports("n3")
	e.announced()

	e.hubReports("n1", agent("a", ""), agent("b", "Incomplete"))
	e.hubReports("n2", agent("a", ""), agent("other", "Disk"))
	policy = e.reconcile("one")
	e.expectCondition(policy, "CacheReady", "False", "CacheIncomplete")
	e.Expect(message(policy, "CacheReady")).To(Equal(`Pods would start without the cloud on 1 of 2 nodes: agent "b" on node n1 is Incomplete`))
	e.expectCondition(policy, "Ready", "True", "Ready")
	e.Expect(*policy.Status.Nodes).To(Equal(v1alpha1.NodeCounts{Hubs: 3, Configured: 3, InUse: 2, OfflineReady: 1}))
	e.Expect(policy.Status.OfflineReady).To(Equal("1/2"))
	e.Expect(e.announced()).To(ConsistOf(HavePrefix("Normal Restarted"), HavePrefix("Normal CacheIncomplete Pods would start")))

	// What a node out of reach last said does not keep the policy from being ready.
	e.nodeReady("n1", corev1.ConditionUnknown)
	policy = e.reconcile("one")
	e.expectCondition(policy, "CacheReady", "True", "OfflineReady")
	e.Expect(policy.Status.OfflineReady).To(Equal("1/2"))
	e.Expect(policy.Status.Nodes.Unreachable).To(Equal(int32(1)))
	e.Expect(e.announced()).To(ConsistOf("Normal OfflineReady Pods would start without the cloud on 1 of 2 nodes"))

	// Unless there is no other.
	e.hubReports("n2")
	e.expectCondition(e.reconcile("one"), "CacheReady", "False", "CacheIncomplete")
	e.nodeReady("n1", corev1.ConditionTrue)
	e.hubReports("n1", agent("a", ""), agent("b", ""))
	e.expectCondition(e.reconcile("one"), "CacheReady", "True", "OfflineReady")
	e.announced()

	tooLarge := agent("b", "TooLarge")
	tooLarge.Message = "pods.v1.core in all namespaces needs 200Mi of 100Mi"
	e.hubReports("n1", agent("a", ""), tooLarge)
	policy = e.reconcile("one")
	e.expectCondition(policy, "CacheTooLarge", "True", "QuotaExceeded")
	e.Expect(message(policy, "CacheTooLarge")).To(Equal(`on 1 node more is listed and watched than may be kept: agent "b" on node n1 is TooLarge, ` +
		`pods.v1.core in all namespaces needs 200Mi of 100Mi; raise spec.quota, or narrow what the program lists and watches`))
	e.Expect(e.announced()).To(ConsistOf(HavePrefix("Normal CacheIncomplete"), HavePrefix("Warning QuotaExceeded")))
	e.Expect(policy.Status.Nodes.TooLarge).To(Equal(int32(1)))

	// That it is over is news, too.
	e.hubReports("n1", agent("a", ""), agent("b", ""))
	e.expectCondition(e.reconcile("one"), "CacheTooLarge", "False", "Fits")
	e.Expect(e.announced()).To(ConsistOf(HavePrefix("Normal OfflineReady"), "Normal Fits what is listed and watched may be kept"))
}

// TestTenantsDoNotWaitForEachOther: a hub that does not know of a change in another
// namespace works with all that matters to the policy.
func TestTenantsDoNotWaitForEachOther(t *testing.T) {
	e := newEnv(t)
	e.edgeNode("n1")
	e.create("one", "a")
	e.reconcile("one")
	e.hubReports("n1")
	e.expectCondition(e.reconcile("one"), "Ready", "True", "Ready")

	e.createAsked("till/two", "a", "", "")
	policy := e.reconcile("one")
	e.Expect(policy.Status.Nodes.Configured).To(Equal(int32(1)))
	update := func() {
		policy.Spec.CacheAgents = append(policy.Spec.CacheAgents, "b")
		e.Expect(e.client.Update(t.Context(), policy)).To(Succeed())
	}
	update()
	e.expectCondition(e.reconcile("one"), "RestartsComplete", "False", "WaitingForHubs")
	e.hubReports("n1")
	e.expectCondition(e.reconcile("one"), "Ready", "True", "Ready")

	// What was there before somebody took an agent out says nothing.
	policy = e.reconcile("one")
	e.Expect(policy.Status.Nodes.Configured).To(Equal(int32(1)))
	e.createAsked("till/three", "c", "", "")
	e.byHand("c")
	for range 3 {
		policy = e.reconcile("one")
	}
	e.Expect(policy.Status.Agents).To(HaveLen(2))
	e.Expect(policy.Status.Nodes.Configured).To(BeZero())
}

// TestAnAgentThatWasAwayIsNotReady: what a hub reported before an agent left and came
// back says nothing of its cache, which the hub has dropped, although the configuration
// is, letter for letter, the one that it reported.
func TestAnAgentThatWasAwayIsNotReady(t *testing.T) {
	anew := func(e *env, change func(*v1alpha1.EdgeHubPolicySpec)) {
		e.delete("one")
		e.Expect(e.configMap().Data["cache_agents"]).To(BeEmpty())
		policy := &v1alpha1.EdgeHubPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "one"}}
		policy.Spec.CacheAgents = []string{"a"}
		change(&policy.Spec)
		e.Expect(e.client.Create(e.t.Context(), policy)).To(Succeed())
	}
	for name, away := range map[string]func(e *env){
		"the policy is deleted and made anew": func(e *env) { anew(e, func(*v1alpha1.EdgeHubPolicySpec) {}) },
		"and has a podSelector": func(e *env) {
			anew(e, func(s *v1alpha1.EdgeHubPolicySpec) { s.PodSelector = &v1alpha1.LabelSelector{} })
		},
		"and has the strategy Relist": func(e *env) {
			anew(e, func(s *v1alpha1.EdgeHubPolicySpec) {
				s.Restart.Strategy, s.Restart.Paused = v1alpha1.Relist, true // so that the configuration is the same
			})
		},
		"the agent is removed from the policy and added again": func(e *env) {
			for _, agents := range [][]string{{"other"}, {"a"}} {
				policy := e.reconcile("one")
				policy.Spec.CacheAgents = agents
				e.Expect(e.client.Update(e.t.Context(), policy)).To(Succeed())
				e.reconcile("one")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.edgeNode("n1")
			pod := e.pod("app", "n1", e.replicaSet("app"))
			e.create("one", "a")
			e.reconcile("one")
			row := agent("a", "")
			row.Since, row.Pods = metav1.NewTime(time.Now().Add(-time.Hour)), []v1alpha1.NodePod{{Name: pod.Name, UID: pod.UID}}
			e.hubReports("n1", row)
			e.clock = e.clock.Add(time.Minute)
			before := e.config()
			e.expectCondition(e.reconcile("one"), "Ready", "True", "Ready")
			nextSecond()

			away(e)
			policy, result, err := e.tryReconcile("one")
			e.Expect(err).NotTo(HaveOccurred())
			e.Expect(e.config()).To(Equal(before))
			e.expectCondition(policy, "Ready", "False", "WaitingForHubs")
			e.expectCondition(policy, "RestartsComplete", "False", "WaitingForHubs")
			e.expectCondition(policy, "CacheReady", "False", "CacheIncomplete")
			e.Expect(message(policy, "CacheReady")).To(Equal(
				`Pods would start without the cloud on 0 of 1 node: agent "a" on node n1 is unknown, its hub has not reported since the agent returned`))
			e.Expect(result.RequeueAfter).To(And(BeNumerically(">", 0), BeNumerically("<=", fleet.SilentTime)))
			e.Expect(e.client.Get(t.Context(), client.ObjectKeyFromObject(pod), pod)).To(Succeed())
			e.Expect(pod.DeletionTimestamp).To(BeNil())

			// A hub that did not notice has nothing to report.
			began, clock := e.clock, e.clock
			for e.clock.Sub(began) < 2*fleet.SilentTime {
				_, result, err := e.tryReconcile("one")
				e.Expect(err).NotTo(HaveOccurred())
				if result.RequeueAfter == 0 {
					break
				}
				e.clock = e.clock.Add(result.RequeueAfter)
			}
			policy = e.reconcile("one")
			e.expectCondition(policy, "Ready", "True", "Ready")
			e.expectCondition(policy, "CacheReady", "True", "OfflineReady")

			// One that did says so.
			e.clock = clock
			row.Since, row.OfflineReady, row.Reason = metav1.Now(), false, v1alpha1.NodeAgentNotWarm
			e.hubReports("n1", row)
			policy = e.reconcile("one")
			e.expectCondition(policy, "CacheReady", "False", "CacheIncomplete")
			e.Expect(message(policy, "CacheReady")).To(ContainSubstring(`agent "a" on node n1 is NotWarm`))
			if policy.Spec.Restart.Strategy == v1alpha1.RollingRestart {
				e.Expect(policy.Status.Pods.Pending + policy.Status.Pods.Unavailable).NotTo(BeZero())
			}
		})
	}
}

// TestTheSilenceOfAHubCountsInTime: where nothing else is left to do the policy is
// looked at again when it does.
func TestTheSilenceOfAHubCountsInTime(t *testing.T) {
	e := newEnv(t)
	e.edgeNode("n1")
	create := func() {
		policy := &v1alpha1.EdgeHubPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "one"}}
		policy.Spec.CacheAgents, policy.Spec.Restart.Strategy = []string{"a"}, v1alpha1.NeverRestart
		e.Expect(e.client.Create(t.Context(), policy)).To(Succeed())
	}
	create()
	e.reconcile("one")
	e.hubReports("n1", agent("a", ""))
	e.expectCondition(e.reconcile("one"), "CacheReady", "True", "OfflineReady")
	nextSecond()
	e.delete("one")
	create()
	policy, result, err := e.tryReconcile("one")
	e.Expect(err).NotTo(HaveOccurred())
	e.expectCondition(policy, "CacheReady", "False", "CacheIncomplete")
	e.Expect(result.RequeueAfter).To(And(BeNumerically(">", 0), BeNumerically("<=", fleet.SilentTime+time.Since(e.clock))))
	e.clock = e.clock.Add(result.RequeueAfter)
	policy, result, err = e.tryReconcile("one")
	e.Expect(err).NotTo(HaveOccurred())
	e.expectCondition(policy, "CacheReady", "True", "OfflineReady")
	e.Expect(result.RequeueAfter).To(BeZero())
}

// nextSecond waits for it: times of reports have whole seconds.
func nextSecond() { time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) }

func TestNodeSelectorOfTheFleet(t *testing.T) {
	e := newEnv(t)
	e.edgeNode("n1")
	e.edgeNode("n2")
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"site":"a"}}}`))
	e.Expect(e.client.Patch(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, patch)).To(Succeed())
	policy := e.create("one", "a")
	policy.Spec.NodeSelector = &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"site": "a"}}
	e.Expect(e.client.Update(t.Context(), policy)).To(Succeed())
	e.reconcile("one")
	e.hubReports("n1", agent("a", ""))
	e.hubReports("n2", agent("a", "Disk"))
	policy = e.reconcile("one")
	e.expectCondition(policy, "CacheReady", "True", "OfflineReady")
	e.Expect(*policy.Status.Nodes).To(Equal(v1alpha1.NodeCounts{Hubs: 1, Configured: 1, InUse: 1, OfflineReady: 1}))
}

// TestReportsAreWrittenInTime shows that reports which change nothing but numbers
// cause no write each.
func TestReportsAreWrittenInTime(t *testing.T) {
	e := newEnv(t)
	e.edgeNode("n1")
	e.edgeNode("n2")
	e.create("one", "a")
	e.reconcile("one")
	e.hubReports("n2")
	e.hubReports("n1", agent("a", ""))
	e.reconcile("one")
	e.writes = nil
	e.hubReports("n2", agent("a", ""))
	policy, result, err := e.tryReconcile("one")
	e.Expect(err).NotTo(HaveOccurred())
	e.Expect(policy.Status.OfflineReady).To(Equal("1/1"))
	e.Expect(e.writes).To(BeEmpty())
	e.Expect(result.RequeueAfter).To(Equal(idleInterval))
	e.clock = e.clock.Add(idleInterval)
	e.Expect(e.reconcile("one").Status.OfflineReady).To(Equal("2/2"))
	e.Expect(e.writes).To(Equal([]string{"status"}))
}

func TestRelist(t *testing.T) {
	e := newEnv(t)
	e.edgeNode("n1")
	e.byHand("hand")
	policy := e.create("one", "a", "hand")
	policy.Spec.Restart.Strategy = v1alpha1.Relist
	e.Expect(e.client.Update(t.Context(), policy)).To(Succeed())
	policy = e.reconcile("one")
	e.Expect(e.configMap().Data).To(HaveKeyWithValue("relist", "{\n  \"a\": [\"default\"],\n  \"hand\": [\"default\"]\n}\n"))
	e.expectCondition(policy, "RestartsComplete", "False", "WaitingForHubs")
	e.Expect(policy.Status.Pods).To(BeNil())

	e.hubReports("n1", agent("a", "NotWarm"))
	policy = e.reconcile("one")
	e.expectCondition(policy, "RestartsComplete", "False", "Relisting")
	e.Expect(message(policy, "Ready")).To(Equal(`programs on 1 node have to list again through the cache: agent "a" on node n1 is NotWarm`))
	e.hubReports("n1", agent("a", ""))
	policy = e.reconcile("one")
	e.expectCondition(policy, "RestartsComplete", "True", "Relisted")
	e.expectCondition(policy, "Ready", "True", "Ready")

	// Another policy changes the configuration: that is no news of this one.
	e.create("two", "b")
	e.reconcile("two")
	e.Expect(e.config().Relists("b", "default")).To(BeFalse())
	e.expectCondition(e.reconcile("one"), "RestartsComplete", "True", "Relisted")
	e.writes = nil
	e.reconcile("one")
	e.Expect(e.writes).To(BeEmpty())

	// Paused, and gone.
	policy = e.reconcile("one")
	policy.Spec.Restart.Paused = true
	e.Expect(e.client.Update(t.Context(), policy)).To(Succeed())
	e.hubReports("n1", agent("a", "NotWarm"))
	e.expectCondition(e.reconcile("one"), "RestartsComplete", "False", "Paused")
	e.Expect(e.config().Relist).To(BeEmpty())
	policy = e.reconcile("one")
	policy.Spec.Restart.Paused = false
	e.Expect(e.client.Update(t.Context(), policy)).To(Succeed())
	e.reconcile("one")
	e.Expect(e.config().Relists("a", "default")).To(BeTrue())
	e.delete("one")
	e.Expect(e.config().Relist).To(BeEmpty())
}

// TestRelistInItsWindow has programs list again while the window is open only.
func TestRelistInItsWindow(t *testing.T) {
	e := newEnv(t)
	e.reconciler.follows = true
	e.edgeNode("n1")
	policy := e.create("one", "a")
	policy.Spec.Restart.Strategy = v1alpha1.Relist
	policy.Spec.Restart.Window = &v1alpha1.RestartWindow{Start: "22:00", End: "23:00"}
	e.Expect(e.client.Update(t.Context(), policy)).To(Succeed())
	e.clock = time.Date(2026, 1, 1, 21, 59, 30, 0, time.UTC)
	e.reconcile("one")
	e.hubReports("n1", agent("a", "NotWarm"))
	policy, result, err := e.tryReconcile("one")
	e.Expect(err).NotTo(HaveOccurred())
	e.expectCondition(policy, "RestartsComplete", "False", "OutsideWindow")
	e.Expect(message(policy, "Ready")).To(Equal("programs on 1 node have to list again, restart.window opens at 2026-01-01 22:00 UTC"))
	e.Expect(result.RequeueAfter).To(Equal(windowInterval))
	e.Expect(e.config().Relist).To(BeEmpty())

	e.clock = e.clock.Add(windowInterval)
	e.reconcile("one")
	e.Expect(e.config().Relists("a", "default")).To(BeTrue())
	e.hubReports("n1", agent("a", "NotWarm"))
	e.expectCondition(e.reconcile("one"), "RestartsComplete", "False", "Relisting")

	e.clock = e.clock.Add(time.Hour)
	e.reconcile("one")
	e.Expect(e.config().Relist).To(BeEmpty())
	e.hubReports("n1", agent("a", "TooLarge"))
	policy = e.reconcile("one")
	e.expectCondition(policy, "RestartsComplete", "True", "Relisted")
	e.Expect(message(policy, "RestartsComplete")).To(HavePrefix(`programs on 0 of 1 node listed through the cache; agent "a" on node n1 is TooLarge`))
}

// TestTheEndOfAPolicyIsToldTruly: agents that can't leave have not left.
func TestTheEndOfAPolicyIsToldTruly(t *testing.T) {
	e := newEnv(t)
	e.create("one", "a")
	e.reconcile("one")
	e.byHand("a, b/c")
	e.announced()
	e.delete("one")
	e.Expect(e.announced()).To(ConsistOf(HaveSuffix("leave kube-system/edge-hub-cfg when a person has corrected it; no Pod is restarted")))
}

// TestTheConfigurationIsNotLookedAtForEachPolicy shows that policies which did not
// change cost nothing but themselves, and that none is missed.
func TestTheConfigurationIsNotLookedAtForEachPolicy(t *testing.T) {
	e := newEnv(t)
	e.reconciler.follows = true
	e.create("one", "a")
	e.reconcile("one")
	lists := e.lists
	for range 5 {
		e.reconcile("one")
	}
	e.Expect(e.lists).To(Equal(lists))
	e.create("two", "b")
	e.reconciler.changes.Add(1)
	e.reconcile("two")
	e.Expect(e.agents()).To(Equal("a,b"))
	e.Expect(e.lists).To(Equal(lists + 1))
}

// TestARolloutWaits follows one that has to wait for the configuration, the debounce
// and the hub, one after the other.
func TestARolloutWaits(t *testing.T) {
	e := newEnv(t)
	e.edgeNode("n1")
	owner := e.replicaSet("app")
	e.pod("app", "n1", owner)
	policy := e.create("one", "a")
	policy.Spec.PodSelector = &v1alpha1.LabelSelector{}
	e.Expect(e.client.Update(t.Context(), policy)).To(Succeed())
	began := time.Now()
	e.clock = began
	most := func(d time.Duration) time.Duration { return d + time.Since(began) } // kube-apiserver has its own clock
	next := func() (*v1alpha1.EdgeHubPolicy, time.Duration) {
		policy, result, err := e.tryReconcile("one")
		e.Expect(err).NotTo(HaveOccurred())
		e.clock = e.clock.Add(result.RequeueAfter)
		return policy, result.RequeueAfter
	}
	policy, wait := next()
	e.expectCondition(policy, "RestartsComplete", "False", "WaitingForConfig")
	e.Expect(wait).To(And(BeNumerically(">", 0), BeNumerically("<=", most(5*time.Second))))
	policy, wait = next()
	e.expectCondition(policy, "RestartsComplete", "False", "Debouncing")
	e.Expect(wait).To(And(BeNumerically(">", 0), BeNumerically("<=", most(10*time.Second))))
	policy, _ = next()
	e.expectCondition(policy, "RestartsComplete", "False", "WaitingForHubs")
	e.Expect(policy.Status.Pods.Waiting).To(Equal(int32(1)))
	e.Expect(e.announced()).To(HaveExactElements(
		HavePrefix("Normal Applied"), HavePrefix("Normal Debouncing"), HavePrefix("Normal WaitingForHubs")))

	e.hubReports("n1")
	next()
	e.Expect(e.announced()).To(HaveExactElements(
		Equal("Normal EvictedByPolicy evicted because of EdgeHubPolicy one: it started before the hub of its node, n1, cached what it reads"),
		HavePrefix("Normal Restarting")))
	e.Expect(e.client.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace("default"), client.GracePeriodSeconds(0))).To(Succeed())
	e.pod("app-2", "n1", owner)

	// A hub that cached the agent all along leaves nothing to restart.
	row := agent("a", "")
	row.Since = metav1.NewTime(time.Now().Add(-time.Hour))
	e.hubReports("n1", row)
	policy = e.reconcile("one")
	e.expectCondition(policy, "RestartsComplete", "True", "Restarted")
	e.Expect(policy.Status.Restarted).To(Equal("1/1"))
}

// TestADeferredPodIsRestartedBeforeItIsDone: a policy that was done without it is done
// again when what takes its place is available.
func TestADeferredPodIsRestartedBeforeItIsDone(t *testing.T) {
	e := newEnv(t)
	e.edgeNode("n1")
	e.nodeReady("n1", corev1.ConditionUnknown)
	owner := e.replicaSet("app")
	e.pod("app", "n1", owner)
	policy := e.create("one", "a")
	policy.Spec.PodSelector = &v1alpha1.LabelSelector{}
	e.Expect(e.client.Update(t.Context(), policy)).To(Succeed())
	e.reconcile("one")
	e.hubReports("n1")
	e.clock = e.clock.Add(time.Minute)
	e.expectCondition(e.reconcile("one"), "RestartsComplete", "True", "Deferred")

	e.nodeReady("n1", corev1.ConditionTrue)
	for range 2 { // evicts it, and waits
		policy = e.reconcile("one")
		e.expectCondition(policy, "RestartsComplete", "False", "Restarting")
		e.expectCondition(policy, "Ready", "False", "Restarting")
	}
	e.Expect(e.client.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace("default"), client.GracePeriodSeconds(0))).To(Succeed())
	e.pod("app-2", "n1", owner)
	row := agent("a", "")
	row.Since = metav1.NewTime(time.Now().Add(-time.Hour))
	e.hubReports("n1", row)
	e.expectCondition(e.reconcile("one"), "RestartsComplete", "True", "Restarted")
}

// TestABrokenNodeIsRememberedWhileTheConfigurationIsWrong: that a rollout has to wait for
// something else does not undo what it did.
func TestABrokenNodeIsRememberedWhileTheConfigurationIsWrong(t *testing.T) {
	e := newEnv(t)
	for _, node := range []string{"n1", "n2", "n3"} {
		e.edgeNode(node)
	}
	first, second := e.replicaSet("app-1"), e.replicaSet("app-2")
	gone, stays := e.pod("app-1", "n1", first), e.pod("app-2", "n2", second)
	policy := e.create("one", "a")
	policy.Spec.PodSelector = &v1alpha1.LabelSelector{}
	e.Expect(e.client.Update(t.Context(), policy)).To(Succeed())
	e.reconcile("one")
	e.hubReports("n1")
	e.hubReports("n2")
	row := agent("a", "")
	row.Since = metav1.NewTime(time.Now().Add(-time.Hour))
	e.hubReports("n3", row)
	e.clock = e.clock.Add(time.Minute)
	e.expectCondition(e.reconcile("one"), "RestartsComplete", "False", "Restarting")
	e.Expect(e.client.Delete(t.Context(), gone, client.GracePeriodSeconds(0))).To(Succeed())
	e.pod("app-1-moved", "n3", first)

	// Its node breaks while somebody writes a mistake into the ConfigMap.
	e.byHand("a/b")
	e.expectCondition(e.reconcile("one"), "RestartsComplete", "False", "WaitingForConfig")
	e.clock = e.clock.Add(time.Minute)
	node := &corev1.Node{}
	e.Expect(e.client.Get(t.Context(), client.ObjectKey{Name: "n1"}, node)).To(Succeed())
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, LastTransitionTime: metav1.NewTime(e.clock)}}
	e.Expect(e.client.Status().Update(t.Context(), node)).To(Succeed())
	e.byHand("a")
	for range 2 {
		e.expectCondition(e.reconcile("one"), "RestartsComplete", "False", "NodesBroke")
	}
	e.Expect(e.client.Get(t.Context(), client.ObjectKeyFromObject(stays), stays)).To(Succeed())
	e.Expect(stays.DeletionTimestamp).To(BeNil())
}
