package overview

import (
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/rollout"
)

func condition(kind string, status metav1.ConditionStatus) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Message: "because"}
}

func hub(name, hash string, conditions ...metav1.Condition) v1alpha1.EdgeHubNode {
	return v1alpha1.EdgeHubNode{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.EdgeHubNodeStatus{
		Configuration: &v1alpha1.NodeConfiguration{Hash: hash}, Conditions: conditions,
	}}
}

func TestStatusCountsEachNodeOnce(t *testing.T) {
	g := NewWithT(t)
	connected, ready := v1alpha1.NodeConnected, v1alpha1.NodeOfflineReady
	nodes := []v1alpha1.EdgeHubNode{
		hub("c", "old", condition(connected, "False"), condition(ready, "False")),
		hub("a", "new", condition(connected, "True"), condition(ready, "True")),
		hub("b", "new", condition(connected, "True"), condition(ready, "False")),
		hub("d", "new", condition(connected, "True"), condition(ready, "True"), condition(v1alpha1.NodeCacheWritable, "False")),
		{ObjectMeta: metav1.ObjectMeta{Name: "e"}}, // it was just made
	}
	s := NewStatus("new", nodes, nil)
	g.Expect(s.Nodes).To(Equal(NodeSummary{Hubs: 5, Connected: 3, OfflineReady: 2, Configured: 3, Versions: map[string]int{}}))
	var trouble []string
	for _, t := range s.Trouble {
		trouble = append(trouble, t.Node+" "+t.Condition)
	}
	g.Expect(trouble).To(Equal([]string{"c Connected", "d CacheWritable", "b OfflineReady"}), "the worst first")
	g.Expect(NewStatus("", nodes, nil).Nodes.Configured).To(Equal(-1))
}

func TestAStatusOfAnOlderGenerationIsNoNews(t *testing.T) {
	g := NewWithT(t)
	policy := v1alpha1.EdgeHubPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p", Generation: 2}}
	g.Expect(newPolicy(&policy).Ready).To(Equal("Unknown"))
	policy.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: "True", ObservedGeneration: 1}}
	g.Expect(newPolicy(&policy).Ready).To(Equal("Unknown"))
	policy.Status.Conditions[0].ObservedGeneration = 2
	g.Expect(newPolicy(&policy).Ready).To(Equal("True"))
}

func TestUncachedAgentsAreSummedUp(t *testing.T) {
	g := NewWithT(t)
	nodes := []v1alpha1.EdgeHubNode{hub("a", ""), hub("b", "")}
	nodes[0].Status.Uncached = []v1alpha1.UncachedAgent{{Name: "x", Namespace: "n"}, {Name: "x", Namespace: "m"}, {Name: "y"}}
	nodes[1].Status.Uncached = []v1alpha1.UncachedAgent{{Name: "z", Namespace: "n"}, {Name: "x", Namespace: "n"}}
	g.Expect(Uncached(nodes, "")).To(Equal([]Agent{
		{Name: "x", Namespaces: []string{"m", "n"}, Nodes: 2, Example: "a"},
		{Name: "y", Namespaces: []string{""}, Nodes: 1, Example: "a"},
		{Name: "z", Namespaces: []string{"n"}, Nodes: 1, Example: "b"},
	}))
	g.Expect(Uncached(nodes, "m")).To(Equal([]Agent{{Name: "x", Namespaces: []string{"m"}, Nodes: 1, Example: "a"}}))
	g.Expect(Uncached(nil, "")).To(BeEmpty())
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// scene has a Pod that is to be restarted and may be.
func scene() Scene {
	started := metav1.NewTime(noon.Add(-time.Hour))
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "till", UID: "u", Labels: map[string]string{"app": "till"}},
		Spec:       corev1.PodSpec{NodeName: "edge-1"},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
			{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: started}}},
		}},
	}
	node := hub("edge-1", "new", condition(v1alpha1.NodeConnected, "True"))
	node.Status.Agents = []v1alpha1.NodeAgent{{Name: "till", Namespace: "shop", Since: metav1.NewTime(noon), Pods: []v1alpha1.NodePod{{Name: "till", UID: "u"}}}}
	policy := &v1alpha1.EdgeHubPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p"}}
	policy.Spec.CacheAgents = []string{"till"}
	policy.Spec.PodSelector = &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": "till"}}
	policy.Status.Agents = []v1alpha1.AgentStatus{{Name: "till", AppliedTime: metav1.NewTime(noon)}}
	return Scene{
		Pod: pod, Node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "edge-1"}}, Hub: &node, Configuration: "new", Now: noon.Add(time.Minute),
		Policies: []Observed{{Policy: policy, Pod: &rollout.Pod{
			Workload: "w", Selected: true, Affected: true, Scheduled: true, Edge: true, NodeReady: true, HubCurrent: true,
		}}},
	}
}

func TestAVerdictSaysWhatThePodWaitsFor(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Scene, *Observed)
		state  rollout.State
		says   string
	}{
		"its turn":       {func(*Scene, *Observed) {}, rollout.Pending, "the operator has not come to it yet"},
		"a finished one": {func(_ *Scene, o *Observed) { o.Pod = nil }, rollout.NotSelected, "has finished"},
		"other labels":   {func(s *Scene, o *Observed) { s.Pod.Labels, o.Pod.Selected = nil, false }, rollout.NotSelected, "podSelector does not match"},
		"another node": {func(_ *Scene, o *Observed) {
			o.Policy.Spec.NodeSelector = &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"zone": "a"}}
			o.Pod.Selected = false
		}, rollout.NotSelected, "nodeSelector does not match"},
		"no hub":         {func(s *Scene, o *Observed) { s.Hub, o.Pod.Edge, o.Pod.Selected = nil, false, false }, rollout.NotSelected, "no hub reports"},
		"not bound":      {func(_ *Scene, o *Observed) { o.Pod.Scheduled, o.Pod.Selected = false, false }, rollout.NotSelected, "not bound"},
		"agent not seen": {func(_ *Scene, o *Observed) { o.Policy.Spec.PodSelector, o.Pod.Selected = nil, false }, rollout.NotSelected, "has not seen the Pod send"},
		"done":           {func(_ *Scene, o *Observed) { o.Pod.Affected = false }, rollout.Restarted, "after its node began to cache till, at 2026-03-01T12:00:00Z"},
		"done, by a clock that is ahead": {func(s *Scene, o *Observed) {
			s.Hub.Status.Agents[0].Since, o.Pod.Affected = metav1.NewTime(noon.Add(24*time.Hour)), false
		}, rollout.Restarted, "created after its agents came into the configuration, at 2026-03-01T12:00:00Z"},
		"opted out":               {func(_ *Scene, o *Observed) { o.Pod.OptedOut = true }, rollout.OptedOut, "edgehub.io/restart=Never"},
		"unmanaged":               {func(_ *Scene, o *Observed) { o.Pod.Workload = "" }, rollout.Unmanaged, "no ReplicaSet, StatefulSet or DaemonSet"},
		"node away":               {func(_ *Scene, o *Observed) { o.Pod.NodeReady, o.Pod.NodeLostAt = false, noon }, rollout.Deferred, "not ready since 2026-03-01T12:00:00Z"},
		"hub behind":              {func(_ *Scene, o *Observed) { o.Pod.HubCurrent = false }, rollout.Waiting, "may not have taken yet what the current configuration says of its namespace: it is restarted after that"},
		"nothing is cached there": {func(_ *Scene, o *Observed) { o.Pod.Hindrance = "its cache can't be written" }, rollout.Deferred, "its cache can't be written: it is restarted when that is over"},
		"node away, never": {func(_ *Scene, o *Observed) {
			o.Pod.NodeReady, o.Policy.Spec.Restart.Strategy = false, v1alpha1.NeverRestart
		}, rollout.Deferred, "restart it by hand after that"},
		"hub behind, relist": {func(_ *Scene, o *Observed) {
			o.Pod.HubCurrent, o.Policy.Spec.Restart.Strategy = false, v1alpha1.Relist
		}, rollout.Waiting, "list again instead"},
		"never":  {func(_ *Scene, o *Observed) { o.Policy.Spec.Restart.Strategy = v1alpha1.NeverRestart }, rollout.Pending, "strategy is Never"},
		"relist": {func(_ *Scene, o *Observed) { o.Policy.Spec.Restart.Strategy = v1alpha1.Relist }, rollout.Pending, "strategy is Relist"},
		"paused": {func(_ *Scene, o *Observed) { o.Policy.Spec.Restart.Paused = true }, rollout.Pending, "paused"},
		"window": {func(_ *Scene, o *Observed) {
			o.Policy.Spec.Restart.Window = &v1alpha1.RestartWindow{Start: "22:00", End: "23:00", TimeZone: "UTC"}
		}, rollout.Pending, "opens at 2026-03-01T22:00:00Z"},
		"no such zone": {func(_ *Scene, o *Observed) {
			o.Policy.Spec.Restart.Window = &v1alpha1.RestartWindow{Start: "22:00", End: "23:00", TimeZone: "Nowhere"}
		}, rollout.Pending, "timeZone"},
		"too early": {func(s *Scene, o *Observed) { o.Pod.NotBefore = s.Now.Add(time.Hour) }, rollout.Pending, "2026-03-01T13:01:00Z at the earliest"},
		"what the operator says": {func(_ *Scene, o *Observed) {
			o.Policy.Status.Conditions = []metav1.Condition{condition(v1alpha1.ConditionRestartsComplete, "False")}
		}, rollout.Pending, "the operator says: because"},
	} {
		t.Run(name, func(t *testing.T) {
			s := scene()
			test.change(&s, &s.Policies[0])
			e := Explain(s)
			if v := e.Policies[0]; v.State != test.state || !strings.Contains(v.Message, test.says) {
				t.Errorf("the verdict is %+v, want %s, %q", v, test.state, test.says)
			}
		})
	}
}

func TestAPodIsOfflineReadyIfAllOfItsAgentsAre(t *testing.T) {
	g := NewWithT(t)
	s := scene()
	s.Hub.Status.Agents[0].OfflineReady = true
	g.Expect(Explain(s).OfflineReady).To(BeTrue())
	// An agent that no policy names, and that the Pod was seen to send.
	s.Hub.Status.Agents = append(s.Hub.Status.Agents, v1alpha1.NodeAgent{Name: "kit", Namespace: "shop", Pods: []v1alpha1.NodePod{{UID: "u"}}})
	e := Explain(s)
	g.Expect(e.Agents).To(HaveLen(2))
	g.Expect(e.OfflineReady).To(BeFalse())
	// Others' agents are none of its.
	s.Hub.Status.Agents[1].Namespace = "bank"
	g.Expect(Explain(s).Agents).To(HaveLen(1))
	// One that has not been in use is not known to be ready.
	s.Hub.Status.Agents = nil
	e = Explain(s)
	g.Expect(e.OfflineReady).To(BeFalse())
	g.Expect(e.Agents).To(HaveLen(1))
	s.Policies = nil
	g.Expect(Explain(s).OfflineReady).To(BeFalse(), "there is no agent")
}

// TestOthersAgentsOfAPolicyAreNoneOfAPods: without a podSelector a policy is about what each
// Pod was seen to send.
func TestOthersAgentsOfAPolicyAreNoneOfAPods(t *testing.T) {
	g := NewWithT(t)
	s := scene()
	policy := s.Policies[0].Policy
	policy.Spec.PodSelector, policy.Spec.CacheAgents = nil, []string{"kit", "till", "never-used"}
	policy.Status.Agents = append([]v1alpha1.AgentStatus{{Name: "kit", AppliedTime: metav1.NewTime(noon)}}, policy.Status.Agents...)
	s.Policies[0].Pod.Affected = false
	till := &s.Hub.Status.Agents[0]
	till.OfflineReady, till.Since = true, metav1.NewTime(noon.Add(-2*time.Hour))
	s.Hub.Status.Agents = append(s.Hub.Status.Agents, v1alpha1.NodeAgent{Name: "kit", Namespace: "shop", Since: metav1.NewTime(noon), Pods: []v1alpha1.NodePod{{UID: "another"}}})
	e := Explain(s)
	g.Expect(e.Policies[0].State).To(Equal(rollout.Restarted))
	g.Expect(e.Policies[0].Message).To(ContainSubstring("began to cache till, at 2026-03-01T10:00:00Z"))
	g.Expect(e.Agents).To(ConsistOf(HaveField("Name", "till")))
	g.Expect(e.OfflineReady).To(BeTrue())
}
