package rollout

import (
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/fleet"
)

func (e *env) daemonSet(name string, pods int) {
	e.t.Helper()
	e.Expect(e.client.Create(e.t.Context(), &appsv1.DaemonSet{ObjectMeta: e.meta(name), Spec: appsv1.DaemonSetSpec{
		Selector: selector(name), Template: template(name),
	}})).To(Succeed())
	e.awaitReady(name, pods)
}

// podOn returns the Pod of app on a node.
func (e *env) podOn(app, node string) corev1.Pod {
	e.t.Helper()
	for _, pod := range e.pods(app) {
		if pod.Spec.NodeName == e.namespace+"-"+node && pod.DeletionTimestamp == nil {
			return pod
		}
	}
	e.t.Fatalf("no Pod of %s on %s", app, node)
	return corev1.Pod{}
}

// using reports that agent is in use on node since a time, by Pods. What hubs report has
// whole seconds.
func (e *env) using(node, agent string, since time.Time, pods ...corev1.Pod) func(string, *v1alpha1.EdgeHubNodeStatus) {
	return func(name string, status *v1alpha1.EdgeHubNodeStatus) {
		if name != node {
			return
		}
		row := v1alpha1.NodeAgent{Name: agent, Namespace: e.namespace, Since: metav1.NewTime(since.Truncate(time.Second))}
		for _, pod := range pods {
			row.Pods = append(row.Pods, v1alpha1.NodePod{Name: pod.Name, UID: pod.UID})
		}
		status.Agents = append(status.Agents, row)
	}
}

func without(node string) func(string, *v1alpha1.EdgeHubNodeStatus) {
	return func(name string, status *v1alpha1.EdgeHubNodeStatus) {
		if name == node {
			status.Configuration.Hash = "v1-other"
		}
	}
}

func (e *env) step(restarter *Restarter, policy *v1alpha1.EdgeHubPolicy, hubs *fleet.Snapshot) Result {
	e.t.Helper()
	result, err := restarter.Step(e.t.Context(), policy, hubs, current, true)
	e.Expect(err).NotTo(HaveOccurred())
	return result
}

// TestStepGoesByWhatHubsSay has a node whose hub cached the agent before its Pod
// started, one whose hub does not work with the configuration yet, and one that has
// no hub.
func TestStepGoesByWhatHubsSay(t *testing.T) {
	e := newEnv(t, "warm", "late", "cloud")
	e.daemonSet("app", 3)
	late := e.podOn("app", "late")
	policy := e.policy("app", intstr.FromInt32(3), cutoffNow())
	warm := e.using("warm", "app", time.Now().Add(-time.Hour))

	restarter := NewRestarter(e.client, e.client, time.Now)
	withoutCloud := func(change ...func(string, *v1alpha1.EdgeHubNodeStatus)) *fleet.Snapshot {
		var nodes corev1.NodeList
		e.Expect(e.client.List(t.Context(), &nodes)).To(Succeed())
		var hubs []v1alpha1.EdgeHubNode
		for _, name := range []string{"warm", "late"} {
			hub := v1alpha1.EdgeHubNode{ObjectMeta: metav1.ObjectMeta{Name: e.namespace + "-" + name}}
			hub.Status.Configuration = &v1alpha1.NodeConfiguration{Hash: hash}
			for _, c := range change {
				c(name, &hub.Status)
			}
			hubs = append(hubs, hub)
		}
		return fleet.NewSnapshot(hubs, nodes.Items)
	}
	result := e.step(restarter, policy, withoutCloud(warm, without("late")))
	e.Expect(result.Evicted).To(BeEmpty())
	e.Expect(result.Counts).To(Equal(v1alpha1.PodCounts{Matched: 2, Restarted: 1, Pending: 1, Waiting: 1}))
	e.Expect(result.WaitingFor).To(Equal(e.namespace + "-late"))

	result = e.step(restarter, policy, withoutCloud(warm))
	e.Expect(result.Evicted).To(ConsistOf(HaveField("Name", late.Name)))
}

// TestStepSparesNodesThatCannotCache has nodes whose hub was removed, whose cache
// directory can't be written, and where the agent's disk is full.
func TestStepSparesNodesThatCannotCache(t *testing.T) {
	e := newEnv(t, "gone", "readonly", "full", "well")
	e.daemonSet("app", 4)
	policy := e.policy("app", intstr.FromInt32(4), cutoffNow())
	condition := func(node, kind string) func(string, *v1alpha1.EdgeHubNodeStatus) {
		return func(name string, status *v1alpha1.EdgeHubNodeStatus) {
			if name == node {
				status.Conditions = append(status.Conditions, metav1.Condition{Type: kind, Status: metav1.ConditionFalse})
			}
		}
	}
	full := func(name string, status *v1alpha1.EdgeHubNodeStatus) {
		if name == "full" {
			status.Agents = []v1alpha1.NodeAgent{{Name: "app", Namespace: e.namespace, Since: metav1.Now(), Reason: v1alpha1.NodeAgentDisk}}
		}
	}
	well := e.podOn("app", "well")
	result := e.step(NewRestarter(e.client, e.client, time.Now), policy,
		e.hubs(condition("gone", v1alpha1.NodeConfigCurrent), without("gone"), condition("readonly", v1alpha1.NodeCacheWritable), full))
	e.Expect(result.Evicted).To(ConsistOf(HaveField("Name", well.Name)))
	e.Expect(result.Counts).To(And(HaveField("Deferred", int32(3)), HaveField("Waiting", int32(0))))
	e.Expect(result.NothingLeft()).To(BeTrue())
}

// TestStepSparesCordonedNodes: what is evicted there could not come back, save what a
// DaemonSet keeps.
func TestStepSparesCordonedNodes(t *testing.T) {
	e := newEnv(t, "a")
	e.deployment("app", 1)
	e.daemonSet("agent", 1)
	cordon := func(cordoned bool) {
		patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"unschedulable":%v}}`, cordoned))
		e.Expect(e.client.Patch(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: e.namespace + "-a"}}, patch)).To(Succeed())
	}
	cordon(true)
	policy := e.policy("app", intstr.FromInt32(2), cutoffNow())
	policy.Spec.PodSelector = &v1alpha1.LabelSelector{}
	restarter := NewRestarter(e.client, e.client, time.Now)
	result := e.step(restarter, policy, e.hubs())
	e.Expect(result.Evicted).To(ConsistOf(HaveField("Kind", "DaemonSet")))
	e.Expect(result.Counts.Deferred).To(Equal(int32(1)))
	e.Expect(result.NothingLeft()).To(BeTrue())
	cordon(false)
	e.Expect(e.step(restarter, policy, e.hubs()).Evicted).To(ConsistOf(HaveField("Kind", "ReplicaSet")))
}

// TestStepSparesTaintedNodes: nor could what does not tolerate a taint, until that is
// gone.
func TestStepSparesTaintedNodes(t *testing.T) {
	for _, test := range []struct {
		taint, effect string
		deferred      int32
	}{
		{"node.kubernetes.io/disk-pressure", "NoSchedule", 1}, {"maintenance", "NoSchedule", 1},
		{"better-not", "PreferNoSchedule", 0}, {"node.kubernetes.io/not-ready", "NoSchedule", 0},
	} {
		t.Run(test.taint, func(t *testing.T) {
			e := newEnv(t, "a")
			e.deployment("app", 1)
			taints := func(text string) {
				patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"taints":%s}}`, text))
				e.Expect(e.client.Patch(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: e.namespace + "-a"}}, patch)).To(Succeed())
			}
			policy := e.policy("app", intstr.FromInt32(2), cutoffNow())
			restarter := NewRestarter(e.client, e.client, time.Now)
			taints(fmt.Sprintf(`[{"key":%q,"effect":%q}]`, test.taint, test.effect))
			result := e.step(restarter, policy, e.hubs())
			e.Expect(result.Evicted).To(HaveLen(int(1 - test.deferred)))
			e.Expect(result.Counts.Deferred).To(Equal(test.deferred))
			e.Expect(result.NothingLeft()).To(BeTrue())
			taints("null")
			if test.deferred == 1 {
				e.Expect(e.step(restarter, policy, e.hubs()).Evicted).To(HaveLen(1))
			}
		})
	}
}

// TestADaemonSetsPodsWhereItWantsNoneStandInForNoOther: by its status a DaemonSet wants
// no Pod on a node with a taint, such as that of a node that is lost, and keeps the one
// that it has there.
func TestADaemonSetsPodsWhereItWantsNoneStandInForNoOther(t *testing.T) {
	for _, taint := range []string{"node.kubernetes.io/unreachable", "maintenance"} {
		t.Run(taint, func(t *testing.T) {
			e := newEnv(t, "a", "b", "c")
			e.daemonSet("app", 3)
			policy := e.policy("app", intstr.FromInt32(1), cutoffNow())
			tainted := e.podOn("app", "a")
			if taint != "maintenance" {
				e.nodes.Hold(func(pod *corev1.Pod) bool { return pod.UID == tainted.UID })
				e.nodes.SetReady(t, tainted.Spec.NodeName, false)
				e.awaitReady("app", 2)
			}
			patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"taints":[{"key":%q,"effect":"NoSchedule"}]}}`, taint))
			e.Expect(e.client.Patch(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: tainted.Spec.NodeName}}, patch)).To(Succeed())
			// Its status follows when something else happens to it.
			patch = client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"a":"b"}}}`))
			e.Expect(e.client.Patch(t.Context(), &appsv1.DaemonSet{ObjectMeta: e.meta("app")}, patch)).To(Succeed())
			e.Eventually(func(g Gomega) {
				var set appsv1.DaemonSet
				g.Expect(e.client.Get(t.Context(), client.ObjectKey{Namespace: e.namespace, Name: "app"}, &set)).To(Succeed())
				g.Expect(set.Status.DesiredNumberScheduled).To(Equal(int32(2)))
			}).Should(Succeed())
			result := e.step(NewRestarter(e.client, e.client, time.Now), policy, e.hubs())
			e.Expect(result.Evicted).To(HaveLen(1))
			e.Expect(result.Counts).To(Equal(v1alpha1.PodCounts{Matched: 2, Pending: 2, Deferred: 1, Unavailable: 1}))
			e.rollOut(policy)
			e.Expect(e.oldNames("app")).To(ContainElement(tainted.Name))
		})
	}
}

// TestAWorkloadThatIsBeingDeletedHoldsUpNoOther: it makes no Pods any more, and when it is
// deleted in the foreground it stays until its last Pod is gone, for as long as that one's
// node is lost.
func TestAWorkloadThatIsBeingDeletedHoldsUpNoOther(t *testing.T) {
	e := newEnv(t, "a")
	e.deployment("app", 1)
	replicas := ptr.To(int32(1))
	for _, gone := range []client.Object{
		&appsv1.ReplicaSet{ObjectMeta: e.meta("gone-1"), Spec: appsv1.ReplicaSetSpec{Replicas: replicas, Selector: selector("gone-1"), Template: template("gone-1")}},
		&appsv1.StatefulSet{ObjectMeta: e.meta("gone-2"), Spec: appsv1.StatefulSetSpec{Replicas: replicas, Selector: selector("gone-2"), Template: template("gone-2")}},
		&appsv1.DaemonSet{ObjectMeta: e.meta("gone-3"), Spec: appsv1.DaemonSetSpec{Selector: selector("gone-3"), Template: template("gone-3")}},
	} {
		app := gone.GetName()
		e.Expect(e.client.Create(t.Context(), gone)).To(Succeed())
		e.awaitReady(app, 1)
		pod := e.pods(app)[0]
		finalizers := func(text string) {
			patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"finalizers":%s}}`, text))
			e.Expect(e.client.Patch(t.Context(), &pod, patch)).To(Succeed())
		}
		finalizers(`["example.com/kubelet"]`) // which does not answer
		defer finalizers("null")
		e.Expect(e.client.Delete(t.Context(), gone, client.PropagationPolicy(metav1.DeletePropagationForeground))).To(Succeed())
		e.Eventually(func() bool { return e.pods(app)[0].DeletionTimestamp != nil }).Should(BeTrue())
	}
	policy := e.policy("app", intstr.FromInt32(1), cutoffNow())
	policy.Spec.PodSelector = &v1alpha1.LabelSelector{}
	e.Expect(e.step(NewRestarter(e.client, e.client, time.Now), policy, e.hubs()).Evicted).To(HaveLen(1))
	e.rollOut(policy)
}

// TestTolerations: a Pod of a DaemonSet tolerates by its spec that a disk is full.
func TestTolerations(t *testing.T) {
	full := corev1.Taint{Key: "node.kubernetes.io/disk-pressure", Effect: "NoSchedule"}
	down := corev1.Taint{Key: "maintenance", Value: "today", Effect: "NoExecute"}
	number := corev1.Taint{Key: "level", Value: "none", Effect: "NoSchedule"}
	pod := &corev1.Pod{}
	pod.Spec.Tolerations = []corev1.Toleration{
		{Key: "node.kubernetes.io/not-ready", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: ptr.To(int64(300))},
		{Key: "node.kubernetes.io/disk-pressure", Operator: "Exists", Effect: "NoSchedule"},
		{Key: "maintenance", Value: "today", TolerationSeconds: ptr.To(int64(300))},
		{Key: "level", Operator: "Gt", Value: "3"}, {Key: "better-not", Operator: "Exists", Effect: "PreferNoSchedule"},
	}
	trimmed, err := trimPod(pod)
	g := NewWithT(t)
	g.Expect(err).NotTo(HaveOccurred())
	short := trimmed.(*corev1.Pod)
	g.Expect(short.Spec.Tolerations).To(HaveLen(3))
	g.Expect(pod.Spec.Tolerations[2].TolerationSeconds).NotTo(BeNil(), "what is trimmed is a copy")
	for _, p := range []*corev1.Pod{pod, short} {
		g.Expect(toleratesAll(p, nil)).To(BeTrue())
		g.Expect(toleratesAll(p, []corev1.Taint{full, down})).To(BeTrue())
		g.Expect(toleratesAll(p, []corev1.Taint{full, number})).To(BeFalse())
	}
	more := short.DeepCopy()
	more.Spec.Tolerations = append(more.Spec.Tolerations, corev1.Toleration{Operator: "Exists"})
	g.Expect(toleratesAll(more, []corev1.Taint{full, number})).To(BeTrue())
	g.Expect(PodChanged(short, more)).To(BeTrue())
	g.Expect(PodChanged(short, short.DeepCopy())).To(BeFalse())
}

func TestStepWithoutPodSelector(t *testing.T) {
	e := newEnv(t, "a", "b")
	e.daemonSet("app", 2)
	e.daemonSet("other", 2)
	policy := e.policy("app", intstr.FromInt32(1), cutoffNow())
	policy.Spec.PodSelector = nil
	since := time.Now()
	restarter := NewRestarter(e.client, e.client, time.Now)

	result := e.step(restarter, policy, e.hubs())
	e.Expect(result.Evicted).To(BeEmpty(), "nobody was seen to send the agent")
	e.Expect(result.Counts.Matched).To(BeZero())
	a, b := e.podOn("app", "a"), e.podOn("app", "b")
	hubs := e.hubs(e.using("a", "app", since, a), e.using("b", "app", since, b), e.using("a", "different", since, e.podOn("other", "a")))
	cutoffNow() // since is over
	result = e.step(restarter, policy, hubs)
	e.Expect(result.Evicted).To(HaveLen(1))
	e.Expect([]string{a.Name, b.Name}).To(ContainElement(result.Evicted[0].Name))
	e.Expect(result.Recent).To(BeTrue())

	// What comes in its place is no Pod that the hubs know. It counts all the same,
	// also for an operator that was restarted.
	e.nodes.Hold(func(pod *corev1.Pod) bool {
		return pod.Name != a.Name && pod.Name != b.Name && pod.Labels["app"] == "app"
	})
	for range 3 {
		result = e.step(NewRestarter(e.client, e.client, time.Now), policy, hubs)
		e.Expect(result.Evicted).To(BeEmpty())
	}
	e.nodes.Hold(nil)
	e.Eventually(func(g Gomega) {
		result, err := NewRestarter(e.client, e.client, time.Now).Step(t.Context(), policy, hubs, current, true)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(result.NothingLeft()).To(BeTrue())
	}).Should(Succeed())
	e.awaitReady("app", 2)
	for _, pod := range e.pods("app") {
		e.Expect(pod.Name).NotTo(BeElementOf(a.Name, b.Name))
	}
}

// TestTheLastReplacementIsWaitedFor by an operator that takes over as well: no hub knows
// it before it runs.
func TestTheLastReplacementIsWaitedFor(t *testing.T) {
	e := newEnv(t, "a")
	e.daemonSet("app", 1)
	policy := e.policy("app", intstr.FromInt32(1), cutoffNow())
	policy.Spec.PodSelector = nil
	old := e.podOn("app", "a")
	hubs := e.hubs(e.using("a", "app", time.Now(), old))
	e.nodes.Hold(func(pod *corev1.Pod) bool { return pod.UID != old.UID })
	clock := time.Now().Add(time.Second)
	first := NewRestarter(e.client, e.client, func() time.Time { return clock })
	e.Expect(e.step(first, policy, hubs).Evicted).To(HaveLen(1))
	e.Eventually(func() bool { return containsPod(e.pods("app"), old.Name) }).Should(BeFalse())
	for _, restarter := range []*Restarter{first, NewRestarter(e.client, e.client, func() time.Time { return clock })} {
		for _, recent := range []bool{true, true, false} {
			result := e.step(restarter, policy, hubs)
			e.Expect(result.NothingLeft()).To(BeTrue())
			e.Expect(result.Restarting).To(Equal(1))
			e.Expect(result.Recent).To(Equal(recent))
			clock = clock.Add(recentTime / 2)
		}
	}
}

func TestStepHaltsWhenANodeBreaks(t *testing.T) {
	e := newEnv(t, "a", "b", "c")
	e.daemonSet("app", 3)
	policy := e.policy("app", intstr.FromInt32(2), cutoffNow())
	first := e.podOn("app", "a")
	restarter := NewRestarter(e.client, e.client, time.Now)
	result, err := restarter.Step(t.Context(), policy, e.hubs(without("b"), without("c")), current, true)
	e.Expect(err).NotTo(HaveOccurred())
	e.Expect(result.Evicted).To(ConsistOf(HaveField("Name", first.Name)))
	e.Eventually(func() bool {
		pods := e.pods("app")
		return len(pods) == 3 && !containsPod(pods, first.Name)
	}).Should(BeTrue())
	e.awaitReady("app", 3)
	cutoffNow() // lastTransitionTime has whole seconds
	node := e.namespace + "-a"
	e.nodes.SetReady(t, node, false)

	result = e.step(restarter, policy, e.hubs())
	e.Expect(result.Broken).To(Equal([]string{node}))
	e.Expect(result.Evicted).To(BeEmpty(), "although one more might be unavailable")
	e.nodes.SetReady(t, node, true)
	e.rollOut(policy)
}

// TestStepHaltsWhenANodeBreaksThatAPodHasLeft: its replacement is on another node, so
// that no Pod tells of it.
func TestStepHaltsWhenANodeBreaksThatAPodHasLeft(t *testing.T) {
	e := newEnv(t, "a", "b", "c")
	e.deployment("app", 2)
	policy := e.policy("app", intstr.FromInt32(1), cutoffNow())
	restarter := NewRestarter(e.client, e.client, time.Now)
	evicted := e.step(restarter, policy, e.hubs()).Evicted
	e.Expect(evicted).To(HaveLen(1))
	node := evicted[0].Node
	e.Eventually(func() bool { // until its replacement is elsewhere
		pods := e.pods("app")
		for i := range pods {
			if pods[i].Spec.NodeName == node {
				e.Expect(client.IgnoreNotFound(e.client.Delete(t.Context(), &pods[i]))).To(Succeed())
				return false
			}
		}
		return len(pods) == 2
	}).Should(BeTrue())
	e.awaitReady("app", 2)
	cutoffNow() // lastTransitionTime has whole seconds
	e.nodes.SetReady(t, node, false)

	result := e.step(restarter, policy, e.hubs())
	e.Expect(result.Broken).To(Equal([]string{node}))
	e.Expect(result.Evicted).To(BeEmpty())
	e.nodes.SetReady(t, node, true)
	e.Expect(e.step(restarter, policy, e.hubs()).Evicted).To(HaveLen(1))
}

func containsPod(pods []corev1.Pod, name string) bool {
	for _, pod := range pods {
		if pod.Name == name {
			return true
		}
	}
	return false
}

func TestStepSparesWhoOptsOut(t *testing.T) {
	e := newEnv(t, "a")
	pods := template("app")
	pods.Annotations = map[string]string{v1alpha1.RestartAnnotation: "Never"}
	e.Expect(e.client.Create(t.Context(), &appsv1.StatefulSet{ObjectMeta: e.meta("app"), Spec: appsv1.StatefulSetSpec{
		Replicas: ptr.To(int32(1)), Selector: selector("app"), Template: pods,
	}})).To(Succeed())
	e.awaitReady("app", 1)
	result := e.step(NewRestarter(e.client, e.client, time.Now), e.policy("app", intstr.FromInt32(1), cutoffNow()), e.hubs())
	e.Expect(result.Counts).To(Equal(v1alpha1.PodCounts{Matched: 1, OptedOut: 1}))
	e.Expect(result.Evicted).To(BeEmpty())
	e.Expect(result.Complete()).To(BeTrue())
}

// TestARolloutThatWaitsHoldsNothing: a policy is about two workloads, of which one has
// a replacement that never becomes ready.
func TestARolloutThatWaitsHoldsNothing(t *testing.T) {
	e := newEnv(t, "a")
	e.deployment("well", 1)
	e.deployment("ill", 2)
	cutoff := cutoffNow()
	old := e.pods("ill")
	e.nodes.Hold(func(pod *corev1.Pod) bool { return pod.Labels["app"] == "ill" && !containsPod(old, pod.Name) })
	e.Expect(e.client.Delete(t.Context(), &old[0])).To(Succeed())
	e.Eventually(func() bool { return containsPod(e.pods("ill"), old[0].Name) }).Should(BeFalse())
	e.Eventually(func() int { return len(e.pods("ill")) }).Should(Equal(2))
	e.awaitReady("ill", 1)
	clock := time.Now()
	restarter := NewRestarter(e.client, e.client, func() time.Time { return clock })
	both, well := e.policy("well", intstr.FromInt32(1), cutoff), e.policy("well", intstr.FromInt32(1), cutoff)
	both.Spec.PodSelector, well.Name = &v1alpha1.LabelSelector{}, "well"
	result := e.step(restarter, both, e.hubs())
	e.Expect(result.Evicted).To(BeEmpty())
	e.Expect(result.Restarting).To(Equal(1))
	result = e.step(restarter, well, e.hubs())
	e.Expect(result.Holder).To(BeEmpty())
	e.Expect(result.Evicted).To(HaveLen(1))
}

func TestOneRolloutOfAWorkloadAtATime(t *testing.T) {
	e := newEnv(t, "a", "b")
	e.daemonSet("app", 2)
	cutoff := cutoffNow()
	one, two := e.policy("app", intstr.FromInt32(1), cutoff), e.policy("app", intstr.FromInt32(2), cutoff)
	two.Name = "two"
	two.Status.Agents[0].Name = "other"
	clock := time.Now()
	restarter := NewRestarter(e.client, e.client, func() time.Time { return clock })
	// What the first evicted is not made up for, so the second waits, though its own
	// rules would let it go on.
	e.nodes.Hold(func(*corev1.Pod) bool { return true })
	e.Expect(e.step(restarter, one, e.hubs()).Evicted).To(HaveLen(1))
	for range 3 {
		clock = clock.Add(claimTime / 2)
		e.Expect(e.step(restarter, one, e.hubs()).Evicted).To(BeEmpty())
		result := e.step(restarter, two, e.hubs())
		e.Expect(result.Evicted).To(BeEmpty())
		e.Expect(result.Holder).To(Equal(e.namespace + "/policy"))
		e.Expect(result.NextCheck).To(Equal(heldInterval))
	}

	// A policy that is paused, deleted or not looked at any more holds nothing.
	_, err := restarter.Step(t.Context(), one, e.hubs(), current, false)
	e.Expect(err).NotTo(HaveOccurred())
	e.Expect(restarter.claims).To(BeEmpty())
	restarter.claims[e.pods("app")[0].OwnerReferences[0].UID] = claim{policy: "gone/gone", until: clock.Add(claimTime)}
	e.Expect(e.step(restarter, two, e.hubs()).Holder).To(Equal("gone/gone"))
	restarter.Forget("gone/gone")
	e.Expect(e.step(restarter, two, e.hubs()).Evicted).To(HaveLen(1))
}
