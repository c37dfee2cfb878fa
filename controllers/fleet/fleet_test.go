package fleet

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
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

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func node(name string, ready corev1.ConditionStatus, labels map[string]string) corev1.Node {
	return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse},
		{Type: corev1.NodeReady, Status: ready, LastTransitionTime: metav1.NewTime(noon)},
	}}}
}

func hub(name, hash string, agents ...v1alpha1.NodeAgent) v1alpha1.EdgeHubNode {
	return v1alpha1.EdgeHubNode{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.EdgeHubNodeStatus{
		Version: "v1", Configuration: &v1alpha1.NodeConfiguration{Hash: hash}, CachingSince: &metav1.Time{Time: noon}, Agents: agents,
	}}
}

func row(name, namespace string, pods ...types.UID) v1alpha1.NodeAgent {
	agent := v1alpha1.NodeAgent{Name: name, Namespace: namespace, Since: metav1.NewTime(noon), Objects: 7, Message: "m"}
	for _, uid := range pods {
		agent.Pods = append(agent.Pods, v1alpha1.NodePod{Name: "pod-" + string(uid), UID: uid})
	}
	return agent
}

func names(nodes []*Node) []string {
	var all []string
	for _, node := range nodes {
		all = append(all, node.Name)
	}
	return all
}

func TestSnapshot(t *testing.T) {
	g := NewWithT(t)
	s := NewSnapshot([]v1alpha1.EdgeHubNode{
		hub("c", "new", row("app", "shop", "1"), row("app", "till")), hub("a", "old", row("app", "shop")), hub("b", "new"), hub("gone", "new", row("other", "shop")),
	}, []corev1.Node{
		node("a", "True", map[string]string{"site": "x"}), node("b", "Unknown", nil), node("c", "True", nil), node("cloud", "True", nil),
	})
	g.Expect(s.Node("cloud")).To(BeNil())
	g.Expect(*s.Node("b")).To(And(HaveField("Exists", true), HaveField("Ready", false), HaveField("LostAt", noon), HaveField("Hash", "new")))
	g.Expect(*s.Node("gone")).To(And(HaveField("Exists", false), HaveField("Ready", false)))
	g.Expect(names(s.Users([]string{"app", "other"}, "shop", labels.Everything()))).To(Equal([]string{"a", "c", "gone"}))
	g.Expect(names(s.Users([]string{"app"}, "till", labels.Everything()))).To(Equal([]string{"c"}))
	site := labels.SelectorFromSet(labels.Set{"site": "x"})
	g.Expect(names(s.Users([]string{"app"}, "shop", site))).To(Equal([]string{"a"}))
	agent := s.Node("c").Agent(Use{"app", "shop"})
	g.Expect(Sends(agent, "1")).To(BeTrue())
	g.Expect(Sends(agent, "2")).To(BeFalse())
	g.Expect(Sends(s.Node("c").Agent(Use{"app", "yard"}), "1")).To(BeFalse())
	for range 2 {
		all := s.Count(labels.Everything())
		g.Expect(all).To(And(HaveField("Hubs", 4), HaveField("Unreachable", 2)))
		g.Expect(all.ByHash).To(Equal(map[string]int{"new": 3, "old": 1}))
		g.Expect(all.ReachableByHash).To(Equal(map[string]int{"new": 1, "old": 1}))
		g.Expect(s.Count(site)).To(And(HaveField("Hubs", 1), HaveField("Unreachable", 0)))
	}
}

// TestTrimKeepsWhatMatters shows that a Snapshot of what the cache keeps is the
// same, and that the cache keeps nothing else.
func TestTrimKeepsWhatMatters(t *testing.T) {
	g := NewWithT(t)
	full := hub("a", "new", row("app", "shop", "1", "2"))
	full.Status.Conditions = []metav1.Condition{{Type: "Connected", Status: "False"}, {Type: "OfflineReady", Status: "True"}, {Type: "ConfigValid"}}
	full.Status.Uncached = []v1alpha1.UncachedAgent{{Name: "x"}}
	full.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "edge-hub"}}
	object := node("a", "Unknown", map[string]string{"l": "v"})
	object.Spec.Unschedulable = true
	object.Spec.Taints = []corev1.Taint{
		{Key: "full", Value: "v", Effect: "NoExecute", TimeAdded: &metav1.Time{Time: noon}}, {Key: "node.kubernetes.io/unschedulable", Effect: "NoSchedule"},
	}
	object.Status.Images = []corev1.ContainerImage{{Names: []string{"large"}}}
	trimmedHub, err := trimHub(&full)
	g.Expect(err).NotTo(HaveOccurred())
	trimmedNode, err := trimNode(&object)
	g.Expect(err).NotTo(HaveOccurred())
	short := trimmedHub.(*v1alpha1.EdgeHubNode)
	want := *NewSnapshot([]v1alpha1.EdgeHubNode{full}, []corev1.Node{object}).Node("a")
	got := *NewSnapshot([]v1alpha1.EdgeHubNode{*short}, []corev1.Node{*trimmedNode.(*corev1.Node)}).Node("a")
	want.agents, got.agents = nil, nil
	g.Expect(got).To(Equal(want))
	g.Expect(short.Status.Conditions).To(HaveLen(2))
	g.Expect(short.Status.Uncached).To(BeEmpty())
	g.Expect(short.ManagedFields).To(BeEmpty())
	g.Expect(short.Status.Agents).To(Equal([]v1alpha1.NodeAgent{{
		Name: "app", Namespace: "shop", Since: metav1.NewTime(noon), Message: "m", Pods: []v1alpha1.NodePod{{UID: "1"}, {UID: "2"}},
	}}))
	g.Expect(trimmedNode.(*corev1.Node).Status.Images).To(BeEmpty())
	g.Expect(trimmedNode.(*corev1.Node).Spec.Taints).To(Equal([]corev1.Taint{{Key: "full", Value: "v", Effect: "NoExecute"}}))
	for _, trim := range []func(any) (any, error){trimHub, trimNode} {
		g.Expect(trim("a tombstone")).To(Equal("a tombstone"))
	}
}

func TestWhatChanged(t *testing.T) {
	g := NewWithT(t)
	before := hub("a", "old", row("app", "shop", "1"), row("gone", "shop"), row("same", "shop"))
	after := hub("a", "old", row("app", "shop", "2"), row("same", "shop"), row("new", "till"))
	after.Status.Objects, after.Status.Agents[1].Objects = 99, 99
	g.Expect(ChangedUses(&before, &after)).To(ConsistOf(Use{"app", "shop"}, Use{"gone", "shop"}, Use{"new", "till"}))
	g.Expect(HubChanged(&before, &after)).To(BeFalse())
	after.Status.Configuration.Hash = "new"
	g.Expect(HubChanged(&before, &after)).To(BeTrue())
	ready, same, lost := node("a", "True", nil), node("a", "True", nil), node("a", "False", nil)
	same.Status.Conditions[1].LastHeartbeatTime = metav1.NewTime(noon)
	g.Expect(NodeChanged(&ready, &same)).To(BeFalse())
	g.Expect(NodeChanged(&ready, &lost)).To(BeTrue())
	same.Labels = map[string]string{"l": "v"}
	g.Expect(NodeChanged(&ready, &same)).To(BeTrue())
	cordoned := node("a", "True", nil)
	cordoned.Spec.Unschedulable = true
	g.Expect(NodeChanged(&ready, &cordoned)).To(BeTrue())
	tainted := node("a", "True", nil)
	tainted.Spec.Taints = []corev1.Taint{{Key: "full", Effect: "NoSchedule"}}
	g.Expect(NodeChanged(&ready, &tainted)).To(BeTrue())
	g.Expect(NodeChanged(&tainted, &ready)).To(BeTrue())
	told := node("a", "True", nil)
	told.Spec.Taints = []corev1.Taint{
		{Key: "node.kubernetes.io/unreachable", Effect: "NoExecute"}, {Key: "node.kubernetes.io/not-ready", Effect: "NoSchedule"},
		{Key: "node.kubernetes.io/unschedulable", Effect: "NoSchedule"}, {Key: "better-not", Effect: "PreferNoSchedule"},
	}
	g.Expect(NodeChanged(&ready, &told)).To(BeFalse(), "they say nothing new, or keep nobody away")
}

func newClient(t *testing.T) client.WithWatch {
	t.Helper()
	g, scheme := NewWithT(t), runtime.NewScheme()
	g.Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	g.Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	c, err := client.NewWithWatch(controlPlane.RESTConfig(), client.Options{Scheme: scheme})
	g.Expect(err).NotTo(HaveOccurred())
	return c
}

// TestViewReadsWhatChanged shows that a View reads again exactly when it was told
// of a change.
func TestViewReadsWhatChanged(t *testing.T) {
	g := NewWithT(t)
	lists := 0
	counting := interceptor.NewClient(newClient(t), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			lists++
			return c.List(ctx, list, options...)
		},
	})
	view := NewView(counting)
	for want := 2; want <= 4; want += 2 {
		_, err := view.Snapshot(t.Context())
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(lists).To(Equal(want), "nobody tells it of changes")
	}
	view.Follow()
	for want := 6; want <= 8; want += 2 {
		view.Changed()
		for range 3 {
			_, err := view.Snapshot(t.Context())
			g.Expect(err).NotTo(HaveOccurred())
		}
		g.Expect(lists).To(Equal(want))
	}
}

// asHub applies the status that a hub reports, whose condition Connected is True.
func asHub(g *WithT, c client.Client, name string) {
	object := map[string]any{"apiVersion": v1alpha1.GroupVersion.String(), "kind": "EdgeHubNode", "metadata": map[string]any{"name": name}, "status": map[string]any{
		"version": "v1", "conditions": []any{
			map[string]any{"type": "Connected", "status": "True", "reason": "Reporting", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
			map[string]any{"type": "OfflineReady", "status": "True", "reason": "Complete", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
		}}}
	g.Expect(c.Status().Apply(context.Background(), client.ApplyConfigurationFromUnstructured(&unstructured.Unstructured{Object: object}), client.FieldOwner("edge-hub"), client.ForceOwnership)).To(Succeed())
}

// TestConnected follows an EdgeHubNode whose Node goes and returns, while its hub
// reports as well.
func TestConnected(t *testing.T) {
	g, c := NewWithT(t), newClient(t)
	recorder := events.NewFakeRecorder(10)
	writes := 0
	counting := interceptor.NewClient(c, interceptor.Funcs{
		SubResourceApply: func(ctx context.Context, c client.Client, sub string, object runtime.ApplyConfiguration, options ...client.SubResourceApplyOption) error {
			writes++
			return c.SubResource(sub).Apply(ctx, object, options...)
		},
	})
	reconciler := NewReconciler(counting, &Configurations{}, recorder, func() time.Time { return noon.Add(time.Minute) })
	reconcile := func() *metav1.Condition {
		t.Helper()
		for range 2 { // the second one has nothing to do
			_, err := reconciler.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: "n1"}})
			g.Expect(err).NotTo(HaveOccurred())
		}
		var object v1alpha1.EdgeHubNode
		g.Expect(c.Get(t.Context(), client.ObjectKey{Name: "n1"}, &object)).To(Succeed())
		g.Expect(meta.IsStatusConditionTrue(object.Status.Conditions, "OfflineReady")).To(BeTrue(), "it is the hub's")
		return meta.FindStatusCondition(object.Status.Conditions, "Connected")
	}
	setReady := func(status corev1.ConditionStatus) {
		object := node("n1", status, nil)
		if err := c.Create(t.Context(), object.DeepCopy()); err != nil {
			g.Expect(client.IgnoreAlreadyExists(err)).To(Succeed())
		}
		patch := client.RawPatch(types.StrategicMergePatchType, fmt.Appendf(nil, `{"status":{"conditions":[{"type":"Ready","status":%q,"lastTransitionTime":"2026-01-01T12:00:00Z"}]}}`, status))
		g.Expect(c.Status().Patch(t.Context(), &object, patch)).To(Succeed())
	}
	_, err := reconciler.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: "n1"}})
	g.Expect(err).NotTo(HaveOccurred(), "there is none")
	setReady("True")
	created := hub("n1", "")
	g.Expect(c.Create(t.Context(), &created)).To(Succeed())
	asHub(g, c, "n1")
	g.Expect(reconcile()).To(HaveField("Reason", "Reporting"))
	g.Expect(writes).To(BeZero())

	setReady("Unknown")
	g.Expect(*reconcile()).To(And(HaveField("Status", metav1.ConditionFalse), HaveField("Reason", "NodeNotReady"),
		HaveField("Message", "the Node is not ready since 2026-01-01T12:00:00Z; what is shown is what its hub last reported")))
	g.Expect(writes).To(Equal(1))
	g.Expect(recorder.Events).To(Receive(HavePrefix("Warning NodeNotReady the Node is not ready since")))
	asHub(g, c, "n1")
	g.Expect(*reconcile()).To(HaveField("Status", metav1.ConditionFalse), "the operator's word counts")
	g.Expect(recorder.Events).To(Receive())

	setReady("True")
	g.Expect(*reconcile()).To(And(HaveField("Status", metav1.ConditionTrue), HaveField("Reason", "Reporting")))
	g.Expect(recorder.Events).To(Receive(Equal("Normal Reporting the Node is ready again")))
	g.Expect(c.Delete(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})).To(Succeed())
	g.Expect(*reconcile()).To(And(HaveField("Status", metav1.ConditionFalse), HaveField("Message", HavePrefix("the Node is gone"))))

	output, err := controlPlane.Kubectl("get", "ehn").CombinedOutput()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(output)).To(MatchRegexp(`NAME +CONNECTED +OFFLINE-READY +AGENTS +OBJECTS +BYTES +CONFIGURATION +REPORTED +AGE\nn1 +False +True `))
}
