package policy

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/fleet"
	"github.com/edgehub-io/edge-hub/test/cluster"
)

// controlPlane is shared by the tests of this package, one after the other.
var controlPlane *cluster.Cluster

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var err error
	if controlPlane, err = cluster.Start(ctx, cluster.Options{}); err == nil {
		err = controlPlane.Kubectl("apply", "-k", "../../config/crd").Run()
	}
	if err == nil {
		err = controlPlane.Kubectl("wait", "--for=condition=Established", "crd", "--all").Run()
	}
	code := 1
	if err == nil {
		code = m.Run()
	}
	if controlPlane != nil {
		if stopErr := controlPlane.Stop(); err == nil {
			err = stopErr
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// env calls a Reconciler that reads from kube-apiserver without a cache, so that
// each call sees everything that happened before.
type env struct {
	*WithT
	t          *testing.T
	client     client.WithWatch
	reconciler *Reconciler
	events     *events.FakeRecorder
	clock      time.Time
	writes     []string
	lists      int // of policies
	// stale is what the cache shows of the ConfigMap, nil for what there is.
	stale *corev1.ConfigMap
	// meanwhile runs before the next write of the ConfigMap.
	meanwhile func()
}

func newEnv(t *testing.T) *env {
	t.Helper()
	e := &env{WithT: NewWithT(t), t: t, events: events.NewFakeRecorder(100), clock: time.Now()}
	scheme := runtime.NewScheme()
	e.Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	e.Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	var err error
	e.client, err = client.NewWithWatch(controlPlane.RESTConfig(), client.Options{Scheme: scheme})
	e.Expect(err).NotTo(HaveOccurred())
	wrapped := interceptor.NewClient(e.client, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
			if configMap, ok := object.(*corev1.ConfigMap); ok && e.stale != nil {
				e.stale.DeepCopyInto(configMap)
				return nil
			}
			return c.Get(ctx, key, object, options...)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if _, ok := list.(*v1alpha1.EdgeHubPolicyList); ok {
				e.lists++
			}
			return c.List(ctx, list, options...)
		},
		Apply: func(ctx context.Context, c client.WithWatch, object runtime.ApplyConfiguration, options ...client.ApplyOption) error {
			if e.meanwhile != nil {
				e.meanwhile()
				e.meanwhile = nil
			}
			e.writes = append(e.writes, "apply")
			return c.Apply(ctx, object, options...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, object client.Object, patch client.Patch, options ...client.SubResourcePatchOption) error {
			e.writes = append(e.writes, sub)
			return c.SubResource(sub).Patch(ctx, object, patch, options...)
		},
	})
	e.reconciler = NewReconciler(wrapped, e.client, fleet.NewView(wrapped), &fleet.Configurations{}, e.events, func() time.Time { return e.clock }, DefaultMaxQuota)
	t.Cleanup(func() {
		ctx := context.Background()
		if err := e.client.DeleteAllOf(ctx, &v1alpha1.EdgeHubPolicy{}, client.InNamespace("default")); err != nil {
			t.Error(err)
		}
		if err := e.client.Delete(ctx, configMapObject("")); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
		if err := e.client.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace("default"), client.GracePeriodSeconds(0)); err != nil {
			t.Error(err)
		}
	})
	return e
}

func configMapObject(agents string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: configMapKey.Namespace, Name: configMapKey.Name},
		Data:       map[string]string{"cache_agents": agents, "other": "stays"},
	}
}

// byHand writes cache_agents as a person does.
func (e *env) byHand(agents string) {
	e.t.Helper()
	object := configMapObject(agents)
	err := e.client.Create(e.t.Context(), object, client.FieldOwner("kubectl-create"))
	if apierrors.IsAlreadyExists(err) {
		patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"data":{"cache_agents":%q}}`, agents))
		err = e.client.Patch(e.t.Context(), object, patch, client.FieldOwner("kubectl-edit"))
	}
	e.Expect(err).NotTo(HaveOccurred())
}

func (e *env) configMap() *corev1.ConfigMap {
	e.t.Helper()
	var object corev1.ConfigMap
	e.Expect(e.client.Get(e.t.Context(), configMapKey, &object)).To(Succeed())
	return &object
}

func (e *env) agents() string {
	e.t.Helper()
	return e.configMap().Data["cache_agents"]
}

func (e *env) create(name string, agents ...string) *v1alpha1.EdgeHubPolicy {
	e.t.Helper()
	policy := &v1alpha1.EdgeHubPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	policy.Spec.CacheAgents = agents
	e.Expect(e.client.Create(e.t.Context(), policy)).To(Succeed())
	return policy
}

func (e *env) delete(name string) {
	e.t.Helper()
	policy := &v1alpha1.EdgeHubPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	e.Expect(e.client.Delete(e.t.Context(), policy)).To(Succeed())
	e.reconcile(name)
}

// reconcile reconciles a policy once and returns it.
func (e *env) reconcile(name string) *v1alpha1.EdgeHubPolicy {
	e.t.Helper()
	policy, _, err := e.tryReconcile(name)
	e.Expect(err).NotTo(HaveOccurred())
	return policy
}

func (e *env) tryReconcile(name string) (*v1alpha1.EdgeHubPolicy, ctrl.Result, error) {
	e.t.Helper()
	key := client.ObjectKey{Namespace: "default", Name: name}
	result, err := e.reconciler.Reconcile(e.t.Context(), ctrl.Request{NamespacedName: key})
	var policy v1alpha1.EdgeHubPolicy
	e.Expect(client.IgnoreNotFound(e.client.Get(e.t.Context(), key, &policy))).To(Succeed())
	return &policy, result, err
}

func (e *env) expectCondition(policy *v1alpha1.EdgeHubPolicy, kind string, status metav1.ConditionStatus, reason string) {
	e.t.Helper()
	condition := meta.FindStatusCondition(policy.Status.Conditions, kind)
	e.Expect(condition).NotTo(BeNil(), kind)
	e.Expect(*condition).To(And(HaveField("Status", status), HaveField("Reason", reason)), kind)
}

// edgeNode makes a Node that is ready, with a hub that works with the configuration
// in force when hubReports was called last.
func (e *env) edgeNode(name string) {
	e.t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	e.Expect(e.client.Create(e.t.Context(), node)).To(Succeed())
	hub := &v1alpha1.EdgeHubNode{ObjectMeta: metav1.ObjectMeta{Name: name}}
	e.Expect(e.client.Create(e.t.Context(), hub)).To(Succeed())
	e.t.Cleanup(func() {
		for _, object := range []client.Object{node, hub} {
			e.Expect(e.client.Delete(context.Background(), object)).To(Succeed())
		}
	})
	e.nodeReady(name, corev1.ConditionTrue)
}

func (e *env) nodeReady(name string, ready corev1.ConditionStatus) {
	e.t.Helper()
	node := &corev1.Node{}
	e.Expect(e.client.Get(e.t.Context(), client.ObjectKey{Name: name}, node)).To(Succeed())
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, LastTransitionTime: metav1.Now()}}
	e.Expect(e.client.Status().Update(e.t.Context(), node)).To(Succeed())
}

// hubReports lets the hub of a node report agents, and that it works with the
// ConfigMap as it is now. It applies as hubs do, so that it is known when.
func (e *env) hubReports(name string, agents ...v1alpha1.NodeAgent) {
	e.t.Helper()
	now := metav1.Now()
	status, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&v1alpha1.EdgeHubNodeStatus{
		ReportTime: &now, Configuration: &v1alpha1.NodeConfiguration{Hash: hubconfig.Hash(e.config())}, Agents: agents,
	})
	e.Expect(err).NotTo(HaveOccurred())
	hub := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": name}, "status": status}}
	hub.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("EdgeHubNode"))
	e.Expect(e.client.Status().Apply(e.t.Context(), client.ApplyConfigurationFromUnstructured(hub), client.FieldOwner("edge-hub"), client.ForceOwnership)).To(Succeed())
}

// replicaSet makes one that wants a Pod, which nobody makes.
func (e *env) replicaSet(name string) metav1.OwnerReference {
	e.t.Helper()
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: appsv1.ReplicaSetSpec{
		Replicas: ptr.To(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "edge"}},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "edge"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}},
		},
	}}
	e.Expect(e.client.Create(e.t.Context(), set)).To(Succeed())
	e.t.Cleanup(func() { e.Expect(e.client.Delete(context.Background(), set)).To(Succeed()) })
	return metav1.OwnerReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: set.Name, UID: set.UID, Controller: ptr.To(true)}
}

// pod makes one on a node, whose container runs.
func (e *env) pod(name, node string, owners ...metav1.OwnerReference) *corev1.Pod {
	e.t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}
	e.Expect(client.IgnoreAlreadyExists(e.client.Create(e.t.Context(), account))).To(Succeed())
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": "edge"}, OwnerReferences: owners},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "app", Image: "app"}}, AutomountServiceAccountToken: new(bool)},
	}
	e.Expect(e.client.Create(e.t.Context(), pod)).To(Succeed())
	running := &corev1.ContainerStateRunning{StartedAt: metav1.Now()}
	pod.Status = corev1.PodStatus{
		Phase:             corev1.PodRunning,
		Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Running: running}}},
	}
	e.Expect(e.client.Status().Update(e.t.Context(), pod)).To(Succeed())
	return pod
}

// agent is what a hub reports of one in namespace default. reason is why it is not
// offline-ready, empty if it is.
func agent(name, reason string) v1alpha1.NodeAgent {
	return v1alpha1.NodeAgent{Name: name, Namespace: "default", Since: metav1.Now(), OfflineReady: reason == "", Reason: reason}
}

// announced returns the events written since the last call.
func (e *env) announced() []string {
	var all []string
	for {
		select {
		case event := <-e.events.Events:
			all = append(all, event)
		default:
			return all
		}
	}
}

func TestAgentsComeAndGo(t *testing.T) {
	e := newEnv(t)
	e.create("one", "a", "b")
	policy := e.reconcile("one")
	e.Expect(e.agents()).To(Equal("a,b"))
	e.expectCondition(policy, "Ready", "True", "Ready")
	e.expectCondition(policy, "ConfigApplied", "True", "Applied")
	e.expectCondition(policy, "RestartsComplete", "True", "Restarted")
	e.expectCondition(policy, "Stalled", "False", "NotStalled")
	e.expectCondition(policy, "Reconciling", "False", "NotReconciling")
	e.Expect(policy.Status.ObservedGeneration).To(Equal(policy.Generation))
	e.Expect(policy.Status.Agents).To(HaveLen(2))
	e.expectCondition(policy, "CacheReady", "Unknown", "NotInUse")
	e.expectCondition(policy, "CacheTooLarge", "False", "Fits")
	e.Expect(*policy.Status.Pods).To(Equal(v1alpha1.PodCounts{}))
	e.Expect(e.announced()).To(Equal([]string{
		"Normal Applied 2 agents in kube-system/edge-hub-cfg", "Normal Restarted no edge-hub has reported from the selected nodes yet, see kubectl get edgehubnodes",
	}))

	e.create("two", "b", "c")
	e.reconcile("two")
	e.Expect(e.agents()).To(Equal("a,b,c"))
	e.delete("one")
	e.Expect(e.agents()).To(Equal("b,c"), "b is still in a policy")
	e.announced()
	e.delete("two")
	e.Expect(e.configMap().Data).To(Equal(map[string]string{"cache_agents": "", "policies": ""}))
	e.Expect(e.announced()).To(Equal([]string{"Normal Deleted the agents that no other policy names have left kube-system/edge-hub-cfg; no Pod is restarted"}))
	e.reconcile("two")
	e.Expect(e.announced()).To(BeEmpty(), "it is told once")
}

// kstatus is what tools make of a policy that wait for it, by
// https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md.
func kstatus(policy *v1alpha1.EdgeHubPolicy) string {
	is := func(kind string, status metav1.ConditionStatus) bool {
		return meta.IsStatusConditionPresentAndEqual(policy.Status.Conditions, kind, status)
	}
	switch {
	case !policy.DeletionTimestamp.IsZero():
		return "Terminating"
	case policy.Status.ObservedGeneration != policy.Generation && policy.Status.ObservedGeneration != 0:
		return "InProgress"
	case is("Reconciling", metav1.ConditionTrue):
		return "InProgress"
	case is("Stalled", metav1.ConditionTrue):
		return "Failed"
	case is("Ready", metav1.ConditionFalse), is("Ready", metav1.ConditionUnknown):
		return "InProgress"
	}
	return "Current"
}

func TestKStatus(t *testing.T) {
	e := newEnv(t)
	e.edgeNode("n1")
	policy := e.create("one", "a")
	e.Expect(kstatus(policy)).To(Equal("InProgress"), "the operator has not seen it")
	policy = e.reconcile("one")
	e.Expect(kstatus(policy)).To(Equal("InProgress"), "hubs have to report")
	e.hubReports("n1")
	policy = e.reconcile("one")
	e.Expect(kstatus(policy)).To(Equal("Current"))
	policy.Spec.CacheAgents = []string{"a", "b"}
	e.Expect(e.client.Update(t.Context(), policy)).To(Succeed())
	e.Expect(kstatus(policy)).To(Equal("InProgress"), "nor the change")
	e.byHand("b/c")
	e.Expect(kstatus(e.reconcile("one"))).To(Equal("Failed"))
	e.byHand("a, b")
	e.reconcile("one")
	e.hubReports("n1")
	e.Expect(kstatus(e.reconcile("one"))).To(Equal("Current"))
}

func TestAgentsByHandStay(t *testing.T) {
	e := newEnv(t)
	e.byHand("hand, both")
	e.create("one", "a", "both")
	e.reconcile("one")
	e.Expect(e.agents()).To(Equal("a,both,hand"))
	e.Expect(e.configMap().Annotations).To(HaveKeyWithValue(AnnotationPolicyAgents, "a"))

	e.byHand("a,both,hand,later")
	e.reconcile("one")
	e.delete("one")
	e.Expect(e.agents()).To(Equal("both,hand,later"))
	e.Expect(e.configMap().Data).To(HaveKeyWithValue("other", "stays"))
}

func TestFormattingByHandStays(t *testing.T) {
	e := newEnv(t)
	e.byHand("a,\n  hand,")
	e.create("one", "a")
	e.reconcile("one")
	e.Expect(e.agents()).To(Equal("a,\n  hand,"))
	e.Expect(e.writes).To(Equal([]string{"status"}))
}

func TestNoConfigMapWithoutAgents(t *testing.T) {
	e := newEnv(t)
	e.reconcile("no-such-policy")
	err := e.client.Get(t.Context(), configMapKey, &corev1.ConfigMap{})
	e.Expect(apierrors.IsNotFound(err)).To(BeTrue())
}

func TestSecondReconcileWritesNothing(t *testing.T) {
	e := newEnv(t)
	e.byHand("hand")
	policy := e.create("one", "a", "hand")
	policy.Spec.PodSelector = &v1alpha1.LabelSelector{}
	e.Expect(e.client.Update(t.Context(), policy)).To(Succeed())
	before := e.reconcile("one")
	version := e.configMap().ResourceVersion
	e.Expect(e.writes).To(Equal([]string{"apply", "status"}))
	e.announced()

	e.writes = nil
	for range 3 {
		e.clock = e.clock.Add(time.Hour)
		after := e.reconcile("one")
		e.Expect(after.ResourceVersion).To(Equal(before.ResourceVersion))
	}
	e.Expect(e.writes).To(BeEmpty())
	e.Expect(e.configMap().ResourceVersion).To(Equal(version))
	e.Expect(e.announced()).To(BeEmpty())

	// An operator that starts anew has nothing to do either.
	e.reconciler = NewReconciler(e.reconciler.client, e.reconciler.client, fleet.NewView(e.reconciler.client), &fleet.Configurations{}, e.events, e.reconciler.now, DefaultMaxQuota)
	e.reconcile("one")
	e.Expect(e.writes).To(BeEmpty())
}

func TestAgentRemovedByHandReturns(t *testing.T) {
	e := newEnv(t)
	e.create("one", "a")
	e.create("two", "a")
	e.reconcile("one")
	e.reconcile("two")
	first := e.reconcile("two").Status.Agents[0].AppliedTime

	time.Sleep(time.Until(first.Add(1100 * time.Millisecond))) // times have whole seconds
	e.byHand("hand")
	// Both policies let go of it before it returns, whichever is first.
	policy := e.reconcile("one")
	e.Expect(policy.Status.Agents).To(BeEmpty())
	e.expectCondition(policy, "ConfigApplied", "False", "Applying")
	e.Expect(e.agents()).To(Equal("hand"))
	e.reconcile("one")
	e.Expect(e.agents()).To(Equal("hand"))
	e.reconcile("two")
	e.reconcile("one")
	e.Expect(e.agents()).To(Equal("a,hand"))
	for _, name := range []string{"one", "two"} {
		applied := e.reconcile(name).Status.Agents
		e.Expect(applied).To(HaveLen(1))
		e.Expect(applied[0].AppliedTime.After(first.Time)).To(BeTrue())
	}
}

func TestConfigMapDeletedByHandReturns(t *testing.T) {
	e := newEnv(t)
	e.create("one", "a")
	e.reconcile("one")
	e.Expect(e.client.Delete(t.Context(), configMapObject(""))).To(Succeed())
	e.reconcile("one")
	e.reconcile("one")
	e.Expect(e.agents()).To(Equal("a"))
}

func TestMalformedConfigMapIsLeftAlone(t *testing.T) {
	e := newEnv(t)
	e.byHand("hand, a/b")
	version := e.configMap().ResourceVersion
	e.create("one", "a")
	policy, result, err := e.tryReconcile("one")
	e.Expect(err).NotTo(HaveOccurred())
	e.Expect(result).To(Equal(ctrl.Result{}), "no retry: only a person can help")
	e.Expect(e.configMap().ResourceVersion).To(Equal(version))
	e.expectCondition(policy, "Stalled", "True", "ConfigMapMalformed")
	e.expectCondition(policy, "ConfigApplied", "False", "ConfigMapMalformed")
	e.expectCondition(policy, "Ready", "False", "ConfigMapMalformed")
	e.Expect(meta.FindStatusCondition(policy.Status.Conditions, "Ready").Message).To(ContainSubstring(`entry 2 "a/b" contains "/"`))
	e.Expect(e.announced()).To(ConsistOf(ContainSubstring("Warning ConfigMapMalformed correct ConfigMap kube-system/edge-hub-cfg")))
	e.reconcile("one")
	e.Expect(e.announced()).To(BeEmpty())

	e.byHand("hand, a")
	policy = e.reconcile("one")
	e.expectCondition(policy, "Ready", "True", "Ready")

	// Once applied, an agent stays so while the ConfigMap is malformed: the hubs
	// keep it too.
	applied := policy.Status.Agents
	e.byHand("a/b")
	e.Expect(e.reconcile("one").Status.Agents).To(Equal(applied))
}

func TestConcurrentEditIsNotLost(t *testing.T) {
	for _, before := range []string{"", "hand"} {
		t.Run("before: "+before, func(t *testing.T) {
			e := newEnv(t)
			if before != "" {
				e.byHand(before)
			}
			e.create("one", "a")
			e.meanwhile = func() { e.byHand("hand,concurrent") }
			policy, result, err := e.tryReconcile("one")
			e.Expect(err).NotTo(HaveOccurred())
			e.Expect(result.RequeueAfter).To(BeNumerically(">", 0))
			e.expectCondition(policy, "ConfigApplied", "False", "Applying")
			e.Expect(e.agents()).To(Equal("hand,concurrent"))
			e.reconcile("one")
			e.Expect(e.agents()).To(Equal("a,concurrent,hand"))
		})
	}
}

func TestApplyFailureIsReported(t *testing.T) {
	e := newEnv(t)
	e.create("one", "a")
	broken := interceptor.NewClient(e.client, interceptor.Funcs{
		Apply: func(context.Context, client.WithWatch, runtime.ApplyConfiguration, ...client.ApplyOption) error {
			return apierrors.NewForbidden(corev1.Resource("configmaps"), configMapKey.Name, nil)
		},
	})
	e.reconciler = NewReconciler(broken, broken, fleet.NewView(broken), &fleet.Configurations{}, e.events, time.Now, DefaultMaxQuota)
	policy, _, err := e.tryReconcile("one")
	e.Expect(err).To(MatchError(ContainSubstring("forbidden")), "so that it is retried")
	e.expectCondition(policy, "ConfigApplied", "False", "ApplyFailed")
	e.expectCondition(policy, "Reconciling", "True", "ApplyFailed")
	e.expectCondition(policy, "Stalled", "False", "NotStalled")
}

func TestAppliedTimeIsThatOfTheConfigMap(t *testing.T) {
	e := newEnv(t)
	e.byHand("hand")
	// The operator's clock is an hour ahead; Pods are stamped by kube-apiserver.
	e.clock = time.Now().Add(time.Hour)
	e.create("one", "hand", "a")
	for _, agent := range e.reconcile("one").Status.Agents {
		e.Expect(agent.AppliedTime.Time).To(BeTemporally("~", time.Now(), 5*time.Second))
	}
}

func TestPodsThatNothingReplacesNeedAttention(t *testing.T) {
	e := newEnv(t)
	e.edgeNode("node")
	pod := e.pod("bare", "node")
	policy := e.create("one", "a")
	policy.Spec.PodSelector = &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": "edge"}}
	e.Expect(e.client.Update(t.Context(), policy)).To(Succeed())

	policy = e.reconcile("one")
	e.expectCondition(policy, "ConfigApplied", "True", "Applied")
	e.expectCondition(policy, "RestartsComplete", "False", "PodsNeedAttention")
	e.expectCondition(policy, "Stalled", "True", "PodsNeedAttention")
	e.Expect(policy.Status.Restarted).To(Equal("0/0"))
	e.Expect(policy.Status.Pods.Unmanaged).To(Equal(int32(1)))
	e.Expect(e.announced()).To(ConsistOf(ContainSubstring("Normal Applied"), ContainSubstring("Warning PodsNeedAttention")))

	e.Expect(e.client.Delete(t.Context(), pod, client.GracePeriodSeconds(0))).To(Succeed())
	e.Eventually(func() error { return e.client.Get(t.Context(), client.ObjectKeyFromObject(pod), pod) }).WithTimeout(20 * time.Second).ShouldNot(Succeed())
	policy = e.reconcile("one")
	e.expectCondition(policy, "Ready", "True", "Ready")
}

// TestAMissingPodHoldsUpNobodyForGood: without a podSelector it may be a replacement, to
// an operator that has just begun, and it may be missing for ever.
func TestAMissingPodHoldsUpNobodyForGood(t *testing.T) {
	e := newEnv(t)
	e.replicaSet("short")
	policy := e.create("one", "a")
	policy.Spec.Restart.Paused = true
	e.Expect(e.client.Update(t.Context(), policy)).To(Succeed())
	policy, result, err := e.tryReconcile("one")
	e.Expect(err).NotTo(HaveOccurred())
	e.expectCondition(policy, "RestartsComplete", "False", "Restarting")
	e.Expect(result.RequeueAfter).To(Equal(retryInterval), "nothing else would tell when it is over")
	e.clock = e.clock.Add(10 * time.Minute)
	e.expectCondition(e.reconcile("one"), "RestartsComplete", "True", "Restarted")
}

// TestAPodIsAvailableInTime: nothing but time tells that a Pod has been ready for long
// enough, whether or not Pods are left to restart.
func TestAPodIsAvailableInTime(t *testing.T) {
	for name, strategy := range map[string]v1alpha1.RestartStrategy{"done": v1alpha1.NeverRestart, "paused": v1alpha1.RollingRestart} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.edgeNode("node")
			e.pod("app", "node", e.replicaSet("app"))
			policy := e.create("one", "a")
			policy.Spec.PodSelector = &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": "edge"}}
			policy.Spec.Restart.Strategy, policy.Spec.Restart.Paused, policy.Spec.Restart.MinReadySeconds = strategy, true, 60
			e.Expect(e.client.Update(t.Context(), policy)).To(Succeed())
			e.clock = time.Now().Add(30 * time.Second)
			e.reconcile("one")
			policy, result, err := e.tryReconcile("one")
			e.Expect(err).NotTo(HaveOccurred())
			e.Expect(policy.Status.Pods.Unavailable).To(Equal(int32(1)))
			e.Expect(result.RequeueAfter).To(And(BeNumerically(">", 0), BeNumerically("<=", 31*time.Second)))
			e.clock = e.clock.Add(result.RequeueAfter)
			_, result, err = e.tryReconcile("one")
			e.Expect(err).NotTo(HaveOccurred())
			e.clock = e.clock.Add(result.RequeueAfter) // mere numbers are written later
			policy, result, err = e.tryReconcile("one")
			e.Expect(err).NotTo(HaveOccurred())
			e.Expect(policy.Status.Pods.Unavailable).To(BeZero())
			e.Expect(result.RequeueAfter).To(BeZero())
		})
	}
}

// createAsked makes a policy in a namespace with a quota and secrets.
func (e *env) createAsked(key, agents, quota string, secrets v1alpha1.SecretCaching) *v1alpha1.EdgeHubPolicy {
	e.t.Helper()
	policy := ask(key, agents, quota, secrets)
	if policy.Namespace != "default" {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: policy.Namespace}}
		e.Expect(client.IgnoreAlreadyExists(e.client.Create(e.t.Context(), namespace))).To(Succeed())
		e.t.Cleanup(func() {
			e.Expect(e.client.DeleteAllOf(context.Background(), &v1alpha1.EdgeHubPolicy{}, client.InNamespace(policy.Namespace))).To(Succeed())
		})
	}
	e.Expect(e.client.Create(e.t.Context(), &policy)).To(Succeed())
	return &policy
}

// config is what a hub reads.
func (e *env) config() hubconfig.Config {
	e.t.Helper()
	config, err := hubconfig.Parse(e.configMap().Data)
	e.Expect(err).NotTo(HaveOccurred())
	return config
}

func TestAPolicyIsForItsNamespaceOnly(t *testing.T) {
	e := newEnv(t)
	e.byHand("hand")
	e.createAsked("default/one", "app hand", "100Mi", v1alpha1.DenySecrets)
	e.reconcile("one")
	config := e.config()
	e.Expect(config.Admits("app", "default")).To(BeTrue())
	e.Expect(config.Admits("app", "till")).To(BeFalse())
	e.Expect(config.Admits("app", "")).To(BeFalse())
	e.Expect(config.Admits("hand", "till")).To(BeTrue(), "a person listed it")
	e.Expect(config.Secrets("hand", "till")).To(Equal(hubconfig.CacheSecrets))
	e.Expect(config.Secrets("hand", "default")).To(Equal(hubconfig.DenySecrets))
	e.Expect(config.Quota("app", "default")).To(Equal(int64(100 << 20)))

	e.createAsked("till/two", "app", "", v1alpha1.CacheSecrets)
	e.reconcile("one")
	config = e.config()
	e.Expect(e.agents()).To(Equal("app,hand"))
	e.Expect(config.Admits("app", "till")).To(BeTrue())
	e.Expect(config.Secrets("app", "till")).To(Equal(hubconfig.CacheSecrets), "another tenant's Secrets are its own choice")
	e.Expect(config.Quota("app", "till")).To(BeZero())

	e.delete("one")
	config = e.config()
	e.Expect(config.Admits("app", "default")).To(BeFalse())
	e.Expect(config.Admits("app", "till")).To(BeTrue())
	e.Expect(config.Admits("hand", "")).To(BeTrue())
}

// TestANewNamespaceHasItsOwnAppliedTime shows that an agent which is listed for
// another namespace is new for this one, whose Pods have to be restarted.
func TestANewNamespaceHasItsOwnAppliedTime(t *testing.T) {
	e := newEnv(t)
	e.createAsked("till/two", "app", "", "")
	e.reconcile("none")
	before := lastChange(e.configMap(), time.Now())
	time.Sleep(time.Until(before.Add(1100 * time.Millisecond))) // times have whole seconds
	e.create("one", "app")
	policy := e.reconcile("one")
	e.Expect(e.agents()).To(Equal("app"), "nothing new there")
	e.Expect(policy.Status.Agents).To(HaveLen(1))
	e.Expect(policy.Status.Agents[0].AppliedTime.After(before.Time)).To(BeTrue())
}

// TestTheFirstRulesRestartNothing shows that a ConfigMap of an operator without
// rules gets them, and that Pods which are cached already stay as they are.
func TestTheFirstRulesRestartNothing(t *testing.T) {
	e := newEnv(t)
	policy := e.create("one", "app")
	since := metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
	policy.Status.Agents = []v1alpha1.AgentStatus{{Name: "app", AppliedTime: since}}
	e.Expect(e.client.Status().Update(t.Context(), policy)).To(Succeed())
	object := configMapObject("app")
	object.Annotations = map[string]string{AnnotationPolicyAgents: "app"}
	e.Expect(e.client.Create(t.Context(), object, client.FieldOwner(FieldOwner))).To(Succeed())

	policy = e.reconcile("one")
	e.Expect(e.config().Admits("app", "till")).To(BeFalse())
	e.Expect(e.config().Admits("app", "default")).To(BeTrue())
	e.Expect(policy.Status.Agents).To(HaveLen(1))
	e.Expect(policy.Status.Agents[0].AppliedTime.Time).To(BeTemporally("==", since.Time))
}

func TestNamespaceRemovedByHandReturns(t *testing.T) {
	e := newEnv(t)
	e.createAsked("till/two", "app", "", "")
	e.create("one", "app")
	first := e.reconcile("one").Status.Agents[0].AppliedTime
	time.Sleep(time.Until(first.Add(1100 * time.Millisecond))) // times have whole seconds
	e.policiesByHand(`{"app": {"namespaces": {"till": {}}}}`)
	e.Expect(e.reconcile("one").Status.Agents).To(BeEmpty(), "the hubs dropped its data")
	applied := e.reconcile("one").Status.Agents
	e.Expect(applied).To(HaveLen(1))
	e.Expect(applied[0].AppliedTime.After(first.Time)).To(BeTrue())
}

// policiesByHand writes the key policies as a person does.
func (e *env) policiesByHand(text string) {
	e.t.Helper()
	patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"data":{"policies":%q}}`, text))
	e.Expect(e.client.Patch(e.t.Context(), configMapObject(""), patch, client.FieldOwner("kubectl-edit"))).To(Succeed())
}

// TestRulesByHandAreMended shows that nobody widens a policy by writing the key
// that belongs to the operator, and that it is written once.
func TestRulesByHandAreMended(t *testing.T) {
	for name, text := range map[string]string{
		"emptied": "", "malformed": "no JSON", "wider": `{"app": {"clusterWide": true}}`, "of another agent": `{"hand": {"namespaces": {"till": {}}}}`,
	} {
		for _, agent := range []string{"app", ""} {
			t.Run(name+" with policy for "+agent, func(t *testing.T) {
				e := newEnv(t)
				e.byHand("hand")
				if agent != "" {
					e.create("one", agent)
				}
				e.reconcile("one")
				want := e.config()
				e.policiesByHand(text)
				e.writes = nil
				e.reconcile("one")
				e.Expect(e.config()).To(Equal(want))
				e.Expect(want.Admits("hand", "")).To(BeTrue())
				e.Expect(want.Admits("app", "till")).To(BeFalse())
				e.writes = nil
				e.reconcile("one")
				e.Expect(e.writes).To(BeEmpty())
			})
		}
	}
}

func TestSettingsThatAreNotAsWritten(t *testing.T) {
	e := newEnv(t)
	e.createAsked("default/one", "app", "2Gi", "")
	policy := e.reconcile("one")
	e.expectCondition(policy, "AsWritten", "False", "QuotaCapped")
	e.expectCondition(policy, "Ready", "True", "Ready")
	e.Expect(e.config().Quota("app", "default")).To(Equal(int64(1 << 30)))
	e.Expect(e.announced()).To(ConsistOf("Normal Applied 1 agent in kube-system/edge-hub-cfg", HavePrefix("Normal Restarted"), "Warning QuotaCapped quota is capped: the platform allows 1Gi, not 2Gi"))

	policy.Spec.Quota = new(resource.MustParse("100Mi"))
	e.Expect(e.client.Update(t.Context(), policy)).To(Succeed())
	e.expectCondition(e.reconcile("one"), "AsWritten", "True", "AsWritten")
	e.Expect(e.announced()).To(ConsistOf("Normal AsWritten quota and secrets are in force as written"))

	e.createAsked("default/two", "app", "50Mi", v1alpha1.DenySecrets)
	for _, name := range []string{"two", "one"} {
		policy := e.reconcile(name)
		e.expectCondition(policy, "AsWritten", "False", "PoliciesDiffer")
		e.expectCondition(policy, "Ready", "True", "Ready")
		e.Expect(e.announced()).To(ContainElement(
			`Warning PoliciesDiffer agent "app": EdgeHubPolicies one, two differ, in force are quota 100Mi, the largest, and secrets Deny`))
	}
	e.Expect(e.config().Quota("app", "default")).To(Equal(int64(100 << 20)))
	e.Expect(e.config().Secrets("app", "default")).To(Equal(hubconfig.DenySecrets))
	e.writes = nil
	e.reconcile("one")
	e.reconcile("two")
	e.Expect(e.writes).To(BeEmpty())

	e.delete("two")
	e.announced()
	e.expectCondition(e.reconcile("one"), "AsWritten", "True", "AsWritten")
	e.Expect(e.announced()).To(ConsistOf("Normal AsWritten quota and secrets are in force as written"))
	e.Expect(e.config().Secrets("app", "default")).To(Equal(hubconfig.CacheSecrets))
}

// TestEachContradictionIsTold: also to a policy that is not as written already.
func TestEachContradictionIsTold(t *testing.T) {
	e := newEnv(t)
	e.createAsked("default/one", "app", "2Gi", "")
	e.expectCondition(e.reconcile("one"), "AsWritten", "False", "QuotaCapped")
	for _, test := range []struct{ name, names string }{{"two", "one, two"}, {"three", "one, three, two"}} {
		e.createAsked("default/"+test.name, "app", "50Mi", v1alpha1.DenySecrets)
		e.reconcile(test.name)
		e.announced()
		policy := e.reconcile("one")
		e.Expect(message(policy, "AsWritten")).To(ContainSubstring("EdgeHubPolicies " + test.names + " differ"))
		e.Expect(e.announced()).To(ConsistOf(ContainSubstring("EdgeHubPolicies " + test.names + " differ")))
	}
	e.writes = nil
	e.reconcile("one")
	e.Expect(e.writes).To(BeEmpty())
	e.Expect(e.announced()).To(BeEmpty())
}

// TestPoliciesOlderThanTheValidation makes policies that are refused today, under
// a CRD without its rules, and shows that the operator refuses them too.
func TestPoliciesOlderThanTheValidation(t *testing.T) {
	e := newEnv(t)
	many := list(strings.Repeat("/", 100) + " " + strings.Repeat("/", 101) + " " + strings.Repeat("/", 102) + " " + strings.Repeat("/", 103) + " " + strings.Repeat("/", 104))
	e.withoutRules(func() { e.create("one", append(list("good kubelet * a,b"), many...)...) })
	policy, result, err := e.tryReconcile("one")
	e.Expect(err).NotTo(HaveOccurred())
	e.Expect(result).To(Equal(ctrl.Result{}), "no retry: only a person can help")
	e.Expect(e.agents()).To(Equal("good"))
	e.Expect(e.config().All).To(BeFalse())
	e.expectCondition(policy, "Stalled", "True", "AgentNotAllowed")
	e.expectCondition(policy, "ConfigApplied", "False", "AgentNotAllowed")
	e.expectCondition(policy, "Ready", "False", "AgentNotAllowed")
	e.Expect(policy.Status.Agents).To(ConsistOf(HaveField("Name", "good")))
	e.Expect(policy.Status.ObservedGeneration).To(Equal(policy.Generation))
	message := meta.FindStatusCondition(policy.Status.Conditions, "Stalled").Message
	e.Expect(message).To(HavePrefix("1 of 9 agents in kube-system/edge-hub-cfg: remove from cacheAgents: "))
	e.Expect(message).To(And(ContainSubstring(`agent "kubelet" is always cached`), ContainSubstring(`agent "*" stands for every agent`), ContainSubstring(`agent "a,b" contains a comma`)))
	announced := e.announced()
	e.Expect(announced).To(ConsistOf(HavePrefix("Warning AgentNotAllowed ")))
	e.Expect(len(message)).To(BeNumerically(">", 1024), "for the sake of this test")
	e.Expect(len(announced[0])-len("Warning AgentNotAllowed ")).To(BeNumerically("<=", 1024), "what kube-apiserver takes")

	e.writes = nil
	e.reconcile("one")
	e.Expect(e.writes).To(BeEmpty())

	policy.Spec.CacheAgents = []string{"good"}
	e.Expect(e.client.Update(t.Context(), policy)).To(Succeed())
	e.expectCondition(e.reconcile("one"), "Ready", "True", "Ready")
}

// withoutRules calls f while the validation of policies has no CEL rules.
func (e *env) withoutRules(f func()) {
	e.t.Helper()
	name := "crd/edgehubpolicies.edgehub.io"
	path := "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/cacheAgents/items/x-kubernetes-validations"
	e.Expect(controlPlane.Kubectl("patch", name, "--type=json", "-p", `[{"op":"remove","path":"`+path+`"}]`).Run()).To(Succeed())
	// kube-apiserver takes a new validation up a moment later.
	taken := func(want bool) {
		probe := ask("default/probe", "kubelet", "", "")
		e.Eventually(func() bool { return e.client.Create(e.t.Context(), probe.DeepCopy(), client.DryRunAll) == nil }).WithTimeout(30 * time.Second).Should(Equal(want))
	}
	defer func() {
		e.Expect(controlPlane.Kubectl("apply", "-k", "../../config/crd").Run()).To(Succeed())
		taken(false)
	}()
	taken(true)
	f()
}
