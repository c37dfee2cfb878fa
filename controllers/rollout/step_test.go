package rollout

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/fleet"
	"github.com/edgehub-io/edge-hub/controllers/nodetest"
	"github.com/edgehub-io/edge-hub/test/cluster"
)

const timeout = 30 * time.Second

// controlPlane is shared by the tests of this package; each has its namespace.
var controlPlane *cluster.Cluster

func TestMain(m *testing.M) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	log.SetLogger(logr.Discard())
	var err error
	controlPlane, err = cluster.Start(ctx, cluster.Options{
		ControllerManager: true,
		// The nodes of the tests send no heartbeats.
		ExtraControllerManagerArgs: []string{"--controllers=*,-node-lifecycle-controller"},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := controlPlane.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// env is a namespace with nodes.
type env struct {
	*WithT
	t         *testing.T
	config    *rest.Config
	client    client.WithWatch
	nodes     *nodetest.Nodes
	namespace string
}

func newEnv(t *testing.T, nodes ...string) *env {
	t.Helper()
	e := &env{WithT: NewWithT(t), t: t, config: controlPlane.RESTConfig()}
	e.SetDefaultEventuallyTimeout(timeout)
	e.SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
	var err error
	e.client, err = client.NewWithWatch(e.config, client.Options{})
	e.Expect(err).NotTo(HaveOccurred())
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	e.Expect(e.client.Create(t.Context(), namespace)).To(Succeed())
	e.namespace = namespace.Name
	for i := range nodes {
		nodes[i] = e.namespace + "-" + nodes[i]
	}
	e.nodes = nodetest.Start(t, e.config, nodes...)
	t.Cleanup(func() {
		// The next test's nodes would adopt the Pods, and nobody would remove
		// those of these nodes.
		for _, object := range []client.Object{&appsv1.Deployment{}, &appsv1.DaemonSet{}, &appsv1.StatefulSet{}, &appsv1.ReplicaSet{}, &corev1.Pod{}} {
			if err := e.client.DeleteAllOf(context.Background(), object, client.InNamespace(e.namespace), client.GracePeriodSeconds(0)); err != nil {
				t.Error(err)
			}
		}
		for _, name := range nodes {
			if err := e.client.Delete(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
				t.Error(err)
			}
		}
	})
	return e
}

func template(app string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			Containers:                    []corev1.Container{{Name: "app", Image: "app"}},
			TerminationGracePeriodSeconds: ptr.To(int64(1)),
		},
	}
}

func selector(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

func (e *env) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: e.namespace, Name: name}
}

func (e *env) deployment(name string, replicas int32) {
	e.t.Helper()
	e.Expect(e.client.Create(e.t.Context(), &appsv1.Deployment{ObjectMeta: e.meta(name), Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: selector(name), Template: template(name),
	}})).To(Succeed())
	e.awaitReady(name, int(replicas))
}

func (e *env) awaitReady(app string, pods int) {
	e.t.Helper()
	e.Eventually(func() int {
		ready := 0
		for _, pod := range e.pods(app) {
			if nodetest.Ready(&pod) {
				ready++
			}
		}
		return ready
	}).Should(Equal(pods))
}

func (e *env) pods(app string) []corev1.Pod {
	e.t.Helper()
	var list corev1.PodList
	e.Expect(e.client.List(e.t.Context(), &list, client.InNamespace(e.namespace), client.MatchingLabels{"app": app})).To(Succeed())
	return list.Items
}

// oldNames are the names of Pods that existed at some time.
func (e *env) oldNames(app string) []string {
	var names []string
	for _, pod := range e.pods(app) {
		names = append(names, pod.Name)
	}
	return names
}

// hash is that of the configuration in force.
const hash = "v1-0123456789abcdef"

// current says that it is.
var current = fleet.ConfigurationOf(hash)

// policy is one that was applied at cutoff.
func (e *env) policy(app string, maxUnavailable intstr.IntOrString, cutoff time.Time) *v1alpha1.EdgeHubPolicy {
	applied := metav1.NewTime(cutoff.Add(-reloadTime))
	return &v1alpha1.EdgeHubPolicy{ObjectMeta: e.meta("policy"), Status: v1alpha1.EdgeHubPolicyStatus{
		Agents: []v1alpha1.AgentStatus{{Name: app, AppliedTime: applied}},
	}, Spec: v1alpha1.EdgeHubPolicySpec{
		PodSelector: &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": v1alpha1.LabelValue(app)}},
		Restart:     v1alpha1.RestartSpec{Strategy: v1alpha1.RollingRestart, MaxUnavailable: &maxUnavailable},
	}}
}

// hubs is what the hubs of the nodes report: all work with the configuration in
// force, and no agent is in use. change changes it.
func (e *env) hubs(change ...func(node string, status *v1alpha1.EdgeHubNodeStatus)) *fleet.Snapshot {
	e.t.Helper()
	var nodes corev1.NodeList
	e.Expect(e.client.List(e.t.Context(), &nodes)).To(Succeed())
	var hubs []v1alpha1.EdgeHubNode
	for _, node := range nodes.Items {
		hub := v1alpha1.EdgeHubNode{ObjectMeta: metav1.ObjectMeta{Name: node.Name}}
		hub.Status.Configuration = &v1alpha1.NodeConfiguration{Hash: hash}
		for _, c := range change {
			c(strings.TrimPrefix(node.Name, e.namespace+"-"), &hub.Status)
		}
		hubs = append(hubs, hub)
	}
	return fleet.NewSnapshot(hubs, nodes.Items)
}

// cutoffNow returns a cutoff that all Pods are older than and that all Pods
// created from now on are younger than.
func cutoffNow() time.Time {
	now := time.Now().Truncate(time.Second)
	for time.Now().Truncate(time.Second).Equal(now) {
		time.Sleep(10 * time.Millisecond) // creationTimestamp has whole seconds
	}
	return now
}

// rollOut steps until the rollout is complete, as an operator that is restarted
// after every step.
func (e *env) rollOut(policy *v1alpha1.EdgeHubPolicy) {
	e.t.Helper()
	e.Eventually(func(g Gomega) {
		result, err := NewRestarter(e.client, e.client, time.Now).Step(e.t.Context(), policy, e.hubs(), current, true)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(result.Complete()).To(BeTrue(), "%+v", result)
	}).Should(Succeed())
}

func TestStepRestartsDeployment(t *testing.T) {
	e := newEnv(t, "a", "b")
	e.deployment("app", 4)
	old := e.oldNames("app")
	fewest := nodetest.FewestReady(t, e.config, e.namespace, "app=app")
	cutoff := cutoffNow()
	policy := e.policy("app", intstr.FromInt32(1), cutoff)
	e.rollOut(policy)

	for _, pod := range e.pods("app") {
		e.Expect(old).NotTo(ContainElement(pod.Name))
	}
	e.Expect(fewest()).To(Equal(3), "ready Pods at the worst moment")

	// Once more does nothing.
	names := e.oldNames("app")
	result, err := NewRestarter(e.client, e.client, time.Now).Step(t.Context(), policy, e.hubs(), current, true)
	e.Expect(err).NotTo(HaveOccurred())
	e.Expect(result.Evicted).To(BeEmpty())
	e.Expect(e.oldNames("app")).To(ConsistOf(names))
}

func TestStepRestartsManySingles(t *testing.T) {
	// Between the end of a StatefulSet's only Pod and the next one there is no Pod
	// at all that says that one is missing.
	e := newEnv(t, "a")
	for i := range 4 {
		name := fmt.Sprintf("app-%d", i)
		pods := template("app")
		pods.Labels["set"] = name
		match := &metav1.LabelSelector{MatchLabels: map[string]string{"set": name}}
		e.Expect(e.client.Create(t.Context(), &appsv1.StatefulSet{ObjectMeta: e.meta(name), Spec: appsv1.StatefulSetSpec{
			Replicas: ptr.To(int32(1)), Selector: match, Template: pods,
		}})).To(Succeed())
	}
	e.awaitReady("app", 4)
	fewest := nodetest.FewestReady(t, e.config, e.namespace, "app=app")
	e.rollOut(e.policy("app", intstr.FromInt32(2), cutoffNow()))
	e.Expect(fewest()).To(BeNumerically(">=", 2), "ready Pods at the worst moment")
}

func TestStepNamesDisruptionBudget(t *testing.T) {
	e := newEnv(t, "a")
	e.deployment("app", 2)
	e.deployment("free", 1)
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: e.meta("app-budget"), Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: ptr.To(intstr.FromInt32(2)), Selector: selector("app"),
	}}
	e.Expect(e.client.Create(t.Context(), budget)).To(Succeed())
	e.Eventually(func(g Gomega) {
		g.Expect(e.client.Get(t.Context(), client.ObjectKeyFromObject(budget), budget)).To(Succeed())
		g.Expect(budget.Status.CurrentHealthy).To(Equal(int32(2)))
	}).Should(Succeed())
	old := e.oldNames("app")
	cutoff := cutoffNow()
	policy := e.policy("app", intstr.FromInt32(1), cutoff)
	policy.Spec.PodSelector = &v1alpha1.LabelSelector{}

	// The Pod without a budget has its turn although the others are older.
	clock := time.Now()
	restarter := NewRestarter(e.client, e.client, func() time.Time { return clock })
	result, err := restarter.Step(t.Context(), policy, e.hubs(), current, true)
	e.Expect(err).NotTo(HaveOccurred())
	e.Expect(result.Evicted).To(HaveLen(1))
	e.Expect(result.Evicted[0].Name).To(HavePrefix("free-"))
	e.Eventually(func(g Gomega) {
		clock = clock.Add(time.Hour)
		result, err = restarter.Step(t.Context(), policy, e.hubs(), current, true)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(result.Evicted).To(BeEmpty())
		g.Expect(result.Blocked).To(ContainSubstring(`PodDisruptionBudget "app-budget"`))
		g.Expect(result.Counts.Restarted).To(Equal(int32(1)))
	}).Should(Succeed())
	e.Expect(e.oldNames("app")).To(ConsistOf(old))

	// It backs off: no request before the time is over.
	evictions := 0
	counting := interceptor.NewClient(e.client, interceptor.Funcs{
		SubResourceCreate: func(ctx context.Context, c client.Client, sub string, object, subObject client.Object, options ...client.SubResourceCreateOption) error {
			evictions++
			return c.SubResource(sub).Create(ctx, object, subObject, options...)
		},
	})
	restarter.client = counting
	clock = clock.Add(result.NextCheck - time.Millisecond)
	result, err = restarter.Step(t.Context(), policy, e.hubs(), current, true)
	e.Expect(err).NotTo(HaveOccurred())
	e.Expect(evictions).To(BeZero())
	e.Expect(result.NextCheck).To(Equal(time.Millisecond))

	// And finishes when the budget allows it.
	budget.Spec.MinAvailable = ptr.To(intstr.FromInt32(1))
	e.Expect(e.client.Update(t.Context(), budget)).To(Succeed())
	e.rollOut(policy)
	for _, name := range e.oldNames("app") {
		e.Expect(old).NotTo(ContainElement(name))
	}
}

func TestStepTellsOfOverlappingBudgets(t *testing.T) {
	e := newEnv(t, "a")
	e.deployment("app", 1)
	for _, name := range []string{"one", "two"} {
		e.Expect(e.client.Create(t.Context(), &policyv1.PodDisruptionBudget{ObjectMeta: e.meta(name), Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: ptr.To(intstr.FromInt32(1)), Selector: selector("app"),
		}})).To(Succeed())
	}
	cutoff, clock := cutoffNow(), time.Now()
	restarter := NewRestarter(e.client, e.client, func() time.Time { return clock })
	var result Result
	for range 2 { // the first refusal is kept quiet
		clock = clock.Add(time.Hour)
		var err error
		result, err = restarter.Step(t.Context(), e.policy("app", intstr.FromInt32(1), cutoff), e.hubs(), current, true)
		e.Expect(err).NotTo(HaveOccurred())
		e.Expect(result.Evicted).To(BeEmpty())
	}
	e.Expect(result.Blocked).To(ContainSubstring(`PodDisruptionBudgets "one" and "two"`))
}

// TestOverlappingBudgetsHoldUpNoPodThatOneCovers: what the Eviction API refuses is the
// overlap, not the budgets.
func TestOverlappingBudgetsHoldUpNoPodThatOneCovers(t *testing.T) {
	e := newEnv(t, "a")
	e.deployment("both", 1)
	cutoffNow() // so that its Pod is older and comes first
	e.deployment("one", 1)
	for _, selects := range []*metav1.LabelSelector{{}, selector("both")} {
		budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: e.namespace, GenerateName: "budget-"}, Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: ptr.To(intstr.FromInt32(1)), Selector: selects,
		}}
		e.Expect(e.client.Create(t.Context(), budget)).To(Succeed())
		e.Eventually(func(g Gomega) {
			g.Expect(e.client.Get(t.Context(), client.ObjectKeyFromObject(budget), budget)).To(Succeed())
			g.Expect(budget.Status.DisruptionsAllowed).To(Equal(int32(1)))
		}).Should(Succeed())
	}
	policy := e.policy("one", intstr.FromInt32(1), cutoffNow())
	policy.Spec.PodSelector = &v1alpha1.LabelSelector{}
	clock := time.Now()
	restarter := NewRestarter(e.client, e.client, func() time.Time { return clock })
	var evicted []Pod
	for range 3 {
		result, err := restarter.Step(t.Context(), policy, e.hubs(), current, true)
		e.Expect(err).NotTo(HaveOccurred())
		evicted = append(evicted, result.Evicted...)
		clock = clock.Add(time.Hour)
	}
	e.Expect(evicted).NotTo(BeEmpty())
	e.Expect(evicted[0].Name).To(HavePrefix("one-"))
}

func TestStepLeavesOthersAlone(t *testing.T) {
	e := newEnv(t, "a", "b")
	pods := template("app")
	pods.Spec.NodeName = e.namespace + "-a"
	create := func(name string, change func(*corev1.Pod)) {
		pod := &corev1.Pod{ObjectMeta: e.meta(name), Spec: pods.Spec}
		pod.Labels = map[string]string{"app": "app"}
		change(pod)
		e.Expect(e.client.Create(t.Context(), pod)).To(Succeed())
	}
	e.nodes.Hold(func(pod *corev1.Pod) bool { return pod.Name == "finished" })
	create("bare", func(*corev1.Pod) {})
	create("other-node", func(pod *corev1.Pod) { pod.Spec.NodeName = e.namespace + "-b" })
	create("other-app", func(pod *corev1.Pod) { pod.Labels["app"] = "other" })
	create("static", func(pod *corev1.Pod) { pod.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} })
	create("finished", func(pod *corev1.Pod) {})
	owner := &corev1.ConfigMap{ObjectMeta: e.meta("owner")}
	e.Expect(e.client.Create(t.Context(), owner)).To(Succeed())
	create("owned", func(pod *corev1.Pod) {
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID, Controller: ptr.To(true)}}
	})
	e.awaitReady("app", 4)
	finished := &corev1.Pod{ObjectMeta: e.meta("finished")}
	e.Eventually(func() error {
		if err := e.client.Get(t.Context(), client.ObjectKeyFromObject(finished), finished); err != nil {
			return err
		}
		finished.Status.Phase = corev1.PodSucceeded
		return e.client.Status().Update(t.Context(), finished)
	}).Should(Succeed())

	policy := e.policy("app", intstr.FromInt32(10), cutoffNow())
	policy.Spec.NodeSelector = &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"node": v1alpha1.LabelValue(e.namespace + "-a")}}
	result, err := NewRestarter(e.client, e.client, time.Now).Step(t.Context(), policy, e.hubs(), current, true)
	e.Expect(err).NotTo(HaveOccurred())
	e.Expect(result.Evicted).To(BeEmpty())
	e.Expect(result.Counts).To(Equal(v1alpha1.PodCounts{Unmanaged: 2}), "bare and owned")
}

func TestStepSparesDeadNodes(t *testing.T) {
	e := newEnv(t, "a", "b")
	e.Expect(e.client.Create(t.Context(), &appsv1.DaemonSet{ObjectMeta: e.meta("app"), Spec: appsv1.DaemonSetSpec{
		Selector: selector("app"), Template: template("app"),
	}})).To(Succeed())
	e.Eventually(func() int { return len(e.pods("app")) }).Should(Equal(2))
	e.awaitReady("app", 2)
	dead := e.pods("app")[0]
	e.nodes.Hold(func(pod *corev1.Pod) bool { return pod.UID == dead.UID })
	e.nodes.SetReady(t, dead.Spec.NodeName, false)
	e.awaitReady("app", 1)

	policy := e.policy("app", intstr.FromInt32(1), cutoffNow())
	e.Eventually(func(g Gomega) {
		result, err := NewRestarter(e.client, e.client, time.Now).Step(t.Context(), policy, e.hubs(), current, true)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(result.Counts).To(Equal(v1alpha1.PodCounts{Matched: 2, Restarted: 1, Pending: 1, Deferred: 1}))
	}).Should(Succeed())
	e.Expect(e.oldNames("app")).To(ContainElement(dead.Name))

	e.nodes.Hold(nil)
	e.nodes.SetReady(t, dead.Spec.NodeName, true)
	e.rollOut(policy)
	e.Expect(e.oldNames("app")).NotTo(ContainElement(dead.Name))
}

func TestEvictSparesPodOfTheSameName(t *testing.T) {
	e := newEnv(t, "a")
	e.Expect(e.client.Create(t.Context(), &appsv1.StatefulSet{ObjectMeta: e.meta("app"), Spec: appsv1.StatefulSetSpec{
		Replicas: ptr.To(int32(1)), Selector: selector("app"), Template: template("app"),
	}})).To(Succeed())
	e.awaitReady("app", 1)
	restarter := NewRestarter(e.client, e.client, time.Now)
	gone := []Pod{{Namespace: e.namespace, Name: "app-0", UID: "of-the-one-before"}, {Namespace: e.namespace, Name: "no-such-pod", UID: "x"}}
	e.Expect(restarter.evict(t.Context(), gone)).To(Equal([]answer{{pod: gone[0]}, {pod: gone[1]}}))
	pod := e.pods("app")[0]
	e.Expect(pod.DeletionTimestamp).To(BeNil())
}

// TestEvictionsSideBySideAskABudgetOnce: a budget that allows one of many is asked
// for little more, and looked up once.
func TestEvictionsSideBySideAskABudgetOnce(t *testing.T) {
	e := newEnv(t, "a")
	e.deployment("app", 8)
	e.Expect(e.client.Create(t.Context(), &policyv1.PodDisruptionBudget{ObjectMeta: e.meta("app"), Spec: policyv1.PodDisruptionBudgetSpec{
		Selector: selector("app"), MinAvailable: ptr.To(intstr.FromInt32(7)),
	}})).To(Succeed())
	e.Eventually(func(g Gomega) {
		var budget policyv1.PodDisruptionBudget
		g.Expect(e.client.Get(t.Context(), client.ObjectKey{Namespace: e.namespace, Name: "app"}, &budget)).To(Succeed())
		g.Expect(budget.Status.DisruptionsAllowed).To(Equal(int32(1)))
	}).Should(Succeed())
	lists := 0
	live := interceptor.NewClient(e.client, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if _, ok := list.(*policyv1.PodDisruptionBudgetList); ok {
				lists++
			}
			return c.List(ctx, list, options...)
		},
	})
	restarter := NewRestarter(e.client, live, time.Now)
	var result Result
	pods := []Pod{}
	for _, pod := range e.pods("app") {
		pods = append(pods, Pod{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, Labels: pod.Labels})
	}
	e.Expect(restarter.evictAll(t.Context(), refusals{}, pods, pods, &result)).To(BeZero())
	e.Expect(result.Evicted).To(HaveLen(1))
	e.Expect(lists).To(Equal(1))
	e.Expect(restarter.evicted[e.namespace]).To(HaveLen(1), "what was refused is not taken for evicted")
	for _, block := range restarter.budgets {
		e.Expect(block.delay).To(Equal(firstBackOff), "refused once")
	}
	e.Expect(restarter.budgets).To(HaveLen(1))
}

// TestStepSurvivesStaleCache steps with a cache that shows nothing of what was
// done, and with answers that get lost.
func TestStepSurvivesStaleCache(t *testing.T) {
	e := newEnv(t, "a")
	e.deployment("app", 3)
	e.nodes.Hold(func(*corev1.Pod) bool { return true }) // replacements stay unready
	var frozen corev1.PodList
	e.Expect(e.client.List(t.Context(), &frozen, client.InNamespace(e.namespace))).To(Succeed())
	for i := range frozen.Items {
		frozen.Items[i].Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	evictions := 0
	stale := interceptor.NewClient(e.client, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if pods, ok := list.(*corev1.PodList); ok {
				frozen.DeepCopyInto(pods)
				return nil
			}
			return c.List(ctx, list, options...)
		},
		SubResourceCreate: func(ctx context.Context, c client.Client, sub string, object, subObject client.Object, options ...client.SubResourceCreateOption) error {
			evictions++
			if err := c.SubResource(sub).Create(ctx, object, subObject, options...); err != nil {
				return err
			}
			return apierrors.NewTimeoutError("the answer is lost", 1)
		},
	})
	policy := e.policy("app", intstr.FromInt32(1), cutoffNow())
	restarter := NewRestarter(stale, e.client, time.Now)
	result := e.step(restarter, policy, e.hubs())
	e.Expect(result.Evicted).To(BeEmpty(), "nobody knows")
	e.Expect(result.NextCheck).To(And(BeNumerically(">", 0), BeNumerically("<=", busyInterval)))
	for range 3 {
		result, err := restarter.Step(t.Context(), policy, e.hubs(), current, true)
		e.Expect(err).NotTo(HaveOccurred())
		e.Expect(result.Evicted).To(BeEmpty())
	}
	e.Expect(evictions).To(Equal(1))
}

// TestStepKnowsWhatItsPredecessorDid has an operator that led before evict a Pod,
// which the cache of its successor does not show.
func TestStepKnowsWhatItsPredecessorDid(t *testing.T) {
	e := newEnv(t, "a")
	e.deployment("app", 3)
	e.nodes.Hold(func(*corev1.Pod) bool { return true }) // replacements stay unready
	policy := e.policy("app", intstr.FromInt32(1), cutoffNow())
	var frozen corev1.PodList
	e.Expect(e.client.List(t.Context(), &frozen, client.InNamespace(e.namespace))).To(Succeed())
	for i := range frozen.Items {
		frozen.Items[i].Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	trailing := interceptor.NewClient(e.client, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if pods, ok := list.(*corev1.PodList); ok {
				frozen.DeepCopyInto(pods)
				return nil
			}
			return c.List(ctx, list, options...)
		},
	})
	e.Expect(e.step(NewRestarter(trailing, e.client, time.Now), policy, e.hubs()).Evicted).To(HaveLen(1))
	successor := NewRestarter(trailing, e.client, time.Now)
	for range 3 {
		e.Expect(e.step(successor, policy, e.hubs()).Evicted).To(BeEmpty())
	}
}

// TestWhatWasGoneWasNotEvicted: somebody else deleted a Pod, and another has its name.
func TestWhatWasGoneWasNotEvicted(t *testing.T) {
	e := newEnv(t, "a")
	e.deployment("app", 2)
	pods := []Pod{{Namespace: e.namespace, Name: "gone", UID: "gone"}}
	for _, pod := range e.pods("app") {
		pods = append(pods, Pod{Namespace: e.namespace, Name: pod.Name, UID: pod.UID})
	}
	pods[1].UID = "before"
	var result Result
	e.Expect(NewRestarter(e.client, e.client, time.Now).evictAll(t.Context(), refusals{}, pods, pods, &result)).To(BeZero())
	e.Expect(result.Evicted).To(ConsistOf(HaveField("UID", pods[2].UID)))
	e.Expect(pods).To(HaveEach(HaveField("Terminating", true)))
}

// TestWhatRefusalsMean has answers to evictions that are no PodDisruptionBudget's,
// though one covers the Pod.
func TestWhatRefusalsMean(t *testing.T) {
	e := newEnv(t, "a")
	for _, name := range []string{"one", "two"} {
		e.Expect(e.client.Create(t.Context(), &policyv1.PodDisruptionBudget{ObjectMeta: e.meta(name), Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: ptr.To(intstr.FromInt32(1)), Selector: selector("app"),
		}})).To(Succeed())
	}
	many := "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
	webhook := func(code int32, reason metav1.StatusReason) error {
		return &apierrors.StatusError{ErrStatus: metav1.Status{Code: code, Reason: reason, Message: `admission webhook "x" denied the request: no`}}
	}
	for _, test := range []struct {
		err                          error
		blocked, denied, busy, fails bool
	}{
		{err: apierrors.NewInternalError(fmt.Errorf("failed calling webhook")), fails: true},
		{err: apierrors.NewInternalError(fmt.Errorf("%s", many)), blocked: true},
		{err: apierrors.NewTooManyRequests("overload", 1), busy: true},
		{err: apierrors.NewTimeoutError("late", 1), busy: true},
		{err: apierrors.NewServiceUnavailable("down"), busy: true},
		{err: apierrors.NewForbidden(corev1.Resource("pods"), "x", fmt.Errorf("no")), denied: true},
		{err: apierrors.NewForbidden(corev1.Resource("pods"), "x", fmt.Errorf(`User "x" cannot create resource "pods/eviction" in API group ""`)), fails: true},
		{err: apierrors.NewUnauthorized("who"), fails: true},
		{err: apierrors.NewBadRequest("no"), denied: true},
		{err: webhook(403, metav1.StatusReasonForbidden), denied: true},
		{err: webhook(429, metav1.StatusReasonTooManyRequests), denied: true},
		{err: webhook(500, metav1.StatusReasonInternalError), denied: true},
		{err: context.DeadlineExceeded, fails: true},
		{err: apierrors.NewNotFound(corev1.Resource("pods"), "x")},
	} {
		restarter := NewRestarter(e.client, e.client, time.Now)
		a := answer{pod: Pod{Namespace: e.namespace, Name: "x", Labels: map[string]string{"app": "app"}}, err: test.err}
		restarter.judge(t.Context(), &a)
		e.Expect([]bool{a.blocked, a.denied != "", a.busy, a.err != nil}).To(Equal([]bool{test.blocked, test.denied, test.busy, test.fails}), "%v", test.err)
	}
}

// TestStepGoesOnBesideAPodThatIsRefused has a Pod, the first in line, whose eviction a
// webhook denies, or for which kube-apiserver fails or never has time.
func TestStepGoesOnBesideAPodThatIsRefused(t *testing.T) {
	denied := apierrors.NewForbidden(corev1.Resource("pods"), "x", fmt.Errorf(`admission webhook "x" denied the request: no`))
	for name, refusal := range map[string]error{
		"denied": denied, "failed": apierrors.NewInternalError(fmt.Errorf("failed calling webhook")), "busy": apierrors.NewTooManyRequests("overload", 1),
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, "a")
			e.deployment("app", 3)
			cutoff := cutoffNow()
			clock := time.Now()
			refusing, asked := "", 0
			restarter := NewRestarter(interceptor.NewClient(e.client, interceptor.Funcs{
				SubResourceCreate: func(ctx context.Context, c client.Client, sub string, object, subObject client.Object, options ...client.SubResourceCreateOption) error {
					if refusing == "" {
						refusing = object.GetName()
					}
					if object.GetName() == refusing {
						asked++
						return refusal
					}
					return c.SubResource(sub).Create(ctx, object, subObject, options...)
				},
			}), e.client, func() time.Time { return clock })
			policy := e.policy("app", intstr.FromInt32(1), cutoff)
			var result Result
			e.Eventually(func(g Gomega) {
				clock = clock.Add(time.Second)
				result, _ = restarter.Step(t.Context(), policy, e.hubs(), current, true)
				g.Expect(e.oldNames("app")).To(ContainElement(refusing))
				g.Expect(result.Counts.Restarted).To(Equal(int32(2)))
				g.Expect(result.Counts.Unavailable).To(BeZero())
			}).Should(Succeed())
			if name != "denied" {
				return
			}
			e.Eventually(func() string {
				result = e.step(restarter, policy, e.hubs())
				return result.Denied
			}).Should(Equal("Pod " + refusing + " can't be evicted: " + denied.Error()))
			e.Expect(result.Complete()).To(BeFalse())
			// It backs off: 1 s, 2 s and so on up to two minutes.
			clock, asked = clock.Add(time.Hour), 0
			for range 5 * 60 {
				clock = clock.Add(time.Second)
				e.Expect(e.step(restarter, policy, e.hubs()).NextCheck).To(BeNumerically(">=", firstBackOff))
			}
			e.Expect(asked).To(BeNumerically("<=", 12))
			// And finishes when nobody minds any more.
			refusing = "nobody"
			clock = clock.Add(maxBackOff)
			e.Expect(e.step(restarter, policy, e.hubs()).Evicted).To(HaveLen(1))
			e.Eventually(func() bool { return e.step(restarter, policy, e.hubs()).Complete() }).Should(BeTrue())
			e.Expect(restarter.refused[e.namespace+"/policy"]).To(BeEmpty())
		})
	}
}

// TestStepAsksLittleWhereAllIsDenied: however many Pods there are, a step asks for few
// of them, and the next one for others.
func TestStepAsksLittleWhereAllIsDenied(t *testing.T) {
	e := newEnv(t, "a")
	e.deployment("app", 2*maxDenied+1)
	asked := map[string]int{}
	restarter := NewRestarter(interceptor.NewClient(e.client, interceptor.Funcs{
		SubResourceCreate: func(_ context.Context, _ client.Client, _ string, object, _ client.Object, _ ...client.SubResourceCreateOption) error {
			asked[object.GetName()]++
			return apierrors.NewBadRequest(strings.Repeat("no", maxDenial))
		},
	}), e.client, time.Now)
	policy := e.policy("app", intstr.FromInt32(1), cutoffNow())
	for i := range 2 {
		e.Expect(e.step(restarter, policy, e.hubs()).NextCheck).To(Equal(busyInterval))
		e.Expect(asked).To(HaveLen((i + 1) * maxDenied))
	}
	for _, refusal := range restarter.refused[e.namespace+"/policy"] {
		e.Expect(len(refusal.message)).To(BeNumerically("<", 2*maxDenial))
	}
	restarter.Forget(e.namespace + "/policy")
	e.Expect(restarter.refused).To(BeEmpty())
}

// TestStepRetriesRefusedEviction shows that an eviction that did not happen is
// not mistaken for one that did.
func TestStepRetriesRefusedEviction(t *testing.T) {
	e := newEnv(t, "a")
	e.deployment("app", 1)
	refuse := true
	refusing := interceptor.NewClient(e.client, interceptor.Funcs{
		SubResourceCreate: func(ctx context.Context, c client.Client, sub string, object, subObject client.Object, options ...client.SubResourceCreateOption) error {
			if refuse {
				return apierrors.NewInternalError(fmt.Errorf("out of order"))
			}
			return c.SubResource(sub).Create(ctx, object, subObject, options...)
		},
	})
	policy := e.policy("app", intstr.FromInt32(1), cutoffNow())
	restarter := NewRestarter(refusing, e.client, time.Now)
	_, err := restarter.Step(t.Context(), policy, e.hubs(), current, true)
	e.Expect(err).To(MatchError(ContainSubstring("out of order")))
	refuse = false
	result, err := restarter.Step(t.Context(), policy, e.hubs(), current, true)
	e.Expect(err).NotTo(HaveOccurred())
	e.Expect(result.Evicted).To(HaveLen(1))
}

func TestTrimKeepsWhatIsObserved(t *testing.T) {
	e := newEnv(t, "a")
	e.deployment("app", 1)
	original := e.pods("app")[0]
	policy := e.policy("app", intstr.FromInt32(1), time.Now())
	selector, nodes, err := Selectors(policy)
	e.Expect(err).NotTo(HaveOccurred())
	observe := func(pod *corev1.Pod) Pod {
		o := observer{Sight: Sight{Reader: e.client, Fleet: e.hubs(), Configurations: current, Now: time.Now()}, policy: policy, pods: selector, nodes: nodes}
		observed, err := o.observe(t.Context(), pod)
		e.Expect(err).NotTo(HaveOccurred())
		return observed
	}
	ends := metav1.NewTime(time.Now().Add(time.Minute))
	original.DeletionTimestamp, original.DeletionGracePeriodSeconds = &ends, ptr.To(int64(90))
	e.Expect(observe(&original).DeletedAt).To(BeTemporally("==", ends.Add(-90*time.Second)))
	original.Annotations = map[string]string{"other": "x", v1alpha1.RestartAnnotation: "Never"}
	trimmed, err := trimPod(original.DeepCopy())
	e.Expect(err).NotTo(HaveOccurred())
	e.Expect(observe(trimmed.(*corev1.Pod))).To(Equal(observe(&original)))
	e.Expect(startedAt(trimmed.(*corev1.Pod))).To(Equal(startedAt(&original)))
	e.Expect(startedAt(&original)).NotTo(BeZero())
	e.Expect(observe(&original)).To(And(HaveField("Selected", true), HaveField("OptedOut", true), HaveField("HubCurrent", true)))
	e.Expect(trimmed.(*corev1.Pod).Spec.Containers).To(BeEmpty())
	for wanted, label := range map[int32]string{0: "", 1: "app"} {
		set, err := trimReplicaSet(&appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Replicas: &wanted, Template: template("app")}})
		e.Expect(err).NotTo(HaveOccurred())
		e.Expect(set.(*appsv1.ReplicaSet).Spec.Template.Labels["app"]).To(Equal(label))
	}
	daemons, deleted := appsv1.DaemonSetStatus{DesiredNumberScheduled: 2, NumberMisscheduled: 1}, metav1.Now()
	set, err := trimDaemonSet(&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &deleted}, Status: daemons})
	e.Expect(err).NotTo(HaveOccurred())
	e.Expect(set).To(And(HaveField("Status", daemons), HaveField("DeletionTimestamp", &deleted)))
	for _, tombstone := range []any{"x", &corev1.Secret{}} {
		for _, trim := range []func(any) (any, error){trimPod, trimReplicaSet, trimStatefulSet, trimDaemonSet} {
			e.Expect(trim(tombstone)).To(Equal(tombstone))
		}
	}
	e.Expect(slices.IndexFunc(original.ManagedFields, func(f metav1.ManagedFieldsEntry) bool { return strings.Contains(f.Manager, "kube") })).To(BeNumerically(">=", 0))
	e.Expect(trimmed.(*corev1.Pod).ManagedFields).To(BeEmpty())
}
