package fleet

import (
	"context"
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

func TestConfigurations(t *testing.T) {
	g := NewWithT(t)
	c := &Configurations{}
	_, known := c.BehindSince("old")
	g.Expect(known).To(BeFalse())
	behindSince := func(hash string) time.Time {
		since, known := c.BehindSince(hash)
		g.Expect(known).To(BeTrue())
		return since
	}
	c.Set("one", map[string]uint64{"shop": 1, "till": 1}, nil, noon)
	g.Expect(behindSince("of-before")).To(Equal(noon))
	c.Set("two", map[string]uint64{"shop": 1, "till": 2, "new": 3}, nil, noon.Add(time.Minute))
	c.Set("two", map[string]uint64{"shop": 1, "till": 2, "new": 3}, nil, noon.Add(2*time.Minute))
	for namespace, want := range map[string]bool{"shop": true, "till": false, "new": false, "none": false} {
		g.Expect(c.Current("one", namespace)).To(Equal(want), namespace)
		g.Expect(c.Current("two", namespace)).To(BeTrue(), namespace)
		g.Expect(c.Current("of-before", namespace)).To(BeFalse(), namespace)
	}
	g.Expect(behindSince("one")).To(Equal(noon.Add(time.Minute)))
	g.Expect(behindSince("two")).To(BeZero())
	c.Set("one", map[string]uint64{"shop": 1, "till": 1}, nil, noon.Add(3*time.Minute))
	g.Expect(c.Current("two", "shop")).To(BeTrue())
	g.Expect(behindSince("one")).To(BeZero(), "it is in force again")
	c.Forget()
	g.Expect(c.Current("two", "shop")).To(BeFalse())
	g.Expect(c.Current("one", "shop")).To(BeTrue())

	// It is bounded, in number and in time.
	for i := range 10 * maxCompared {
		c.Set(fmt.Sprint(i), map[string]uint64{"shop": 1}, nil, noon.Add(4*time.Minute))
	}
	g.Expect(c.Current(fmt.Sprint(9*maxCompared), "shop")).To(BeTrue())
	g.Expect(c.Current("0", "shop")).To(BeFalse())
	g.Expect(behindSince("0")).To(Equal(noon.Add(4 * time.Minute)))
	c.Set("last", nil, nil, noon.Add(5*time.Minute))
	c.Set("last", nil, nil, noon.Add(3*rememberTime))
	g.Expect(c.known).To(HaveLen(1))
}

func TestWhatAHubSaidBeforeDoesNotCount(t *testing.T) {
	c, use, other := &Configurations{}, Use{Agent: "a", Namespace: "shop"}, Use{Agent: "b", Namespace: "shop"}
	before := &Node{Reported: noon.Add(-time.Second), Hash: "one"}
	if !c.Heard(before, use, noon, noon) {
		t.Error("nothing is known yet: nothing can be said against the hub")
	}
	c.Set("one", nil, map[Use]bool{use: true}, noon.Add(-time.Hour))
	if !c.Heard(before, use, noon, noon) {
		t.Error("it was never away")
	}
	c.Set("none", nil, map[Use]bool{}, noon.Add(-2*time.Second))
	c.Set("one", nil, map[Use]bool{use: true, other: true}, noon)
	for _, test := range []struct {
		name     string
		reported time.Duration // after the agent was applied
		use      Use
		hash     string
		now      time.Duration
		want     bool
	}{
		{"before", -time.Second, use, "one", SilentTime - time.Second, false},
		{"in the same second", 0, use, "one", 0, true},
		{"after", time.Second, use, "one", time.Second, true},
		{"after, with another configuration", time.Second, use, "two", time.Second, true},
		{"before, of what was never there", -time.Second, other, "one", 0, true},
		{"before, and silent since", -time.Second, use, "one", SilentTime, true},
		{"before, silent, with another configuration", -time.Second, use, "two", time.Hour, false},
		{"before, by an operator's clock that is behind", -time.Second, use, "one", -time.Hour, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			node := &Node{Reported: noon.Add(test.reported), Hash: test.hash}
			if got := c.Heard(node, test.use, noon, noon.Add(test.now)); got != test.want {
				t.Errorf("heard: %v", got)
			}
		})
	}
	if !c.Heard(&Node{Hash: "one"}, use, noon, noon) {
		t.Error("it is not known when the hub reported")
	}
	c.Set("one", nil, map[Use]bool{use: true}, noon.Add(2*rememberTime))
	if !c.Heard(before, use, noon, noon) {
		t.Error("it was away long ago")
	}
	object := hub("a", "one")
	object.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "edge-hub", Subresource: "status", Time: &metav1.Time{Time: noon}}}
	if got := NewSnapshot([]v1alpha1.EdgeHubNode{object}, nil).Node("a").Reported; !got.Equal(noon) {
		t.Errorf("reported at %v", got)
	}
}

func TestConnectedIsTheHubsWordWhileItReports(t *testing.T) {
	now := noon.Add(time.Hour)
	for _, test := range []struct {
		name     string
		before   metav1.ConditionStatus
		node     corev1.ConditionStatus // since noon; empty for none
		reported time.Time
		behind   bool
		want     string // reason, empty for no change
	}{
		{name: "ready", before: "True", node: "True"},
		{name: "lost", before: "True", node: "Unknown", reported: noon.Add(-time.Second), want: "NodeNotReady"},
		{name: "only the kubelet", before: "True", node: "Unknown", reported: now.Add(-time.Minute)},
		{name: "only the kubelet, and nothing was heard for long", before: "True", node: "Unknown", reported: now.Add(-trustTime), want: "NodeNotReady"},
		{name: "a report from the future", before: "True", node: "Unknown", reported: now.Add(time.Hour), want: "NodeNotReady"},
		{name: "gone", before: "True", reported: now.Add(-time.Minute), want: "NodeNotReady"},
		{name: "returns", before: "False", node: "True", want: "Reporting"},
		{name: "behind", before: "True", node: "True", behind: true, reported: noon, want: "NotReporting"},
		{name: "behind, and reports", before: "True", node: "True", behind: true, reported: now.Add(-time.Minute)},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			object := hub("n1", "old")
			object.Status.Conditions = []metav1.Condition{{Type: "Connected", Status: test.before, Reason: "x"}}
			object.ManagedFields = []metav1.ManagedFieldsEntry{
				{Manager: FieldOwner, Subresource: "status", Time: &metav1.Time{Time: now}}, {Manager: "edge-hub", Time: &metav1.Time{Time: now}},
				{Manager: "edge-hub", Subresource: "status", Time: &metav1.Time{Time: test.reported}},
			}
			var on *corev1.Node
			if test.node != "" {
				n := node("n1", test.node, nil)
				on = &n
			}
			trimmed, err := trimHub(&object)
			g.Expect(err).NotTo(HaveOccurred())
			for _, seen := range []*v1alpha1.EdgeHubNode{&object, trimmed.(*v1alpha1.EdgeHubNode)} {
				got := ""
				if condition := connected(seen, on, test.behind, now); condition != nil {
					got = condition.Reason
				}
				g.Expect(got).To(Equal(test.want))
			}
		})
	}
}

// TestAHubThatIsGone follows an EdgeHubNode whose hub was removed from a Node that
// stays ready, and whose hub comes back.
func TestAHubThatIsGone(t *testing.T) {
	g, c := NewWithT(t), newClient(t)
	recorder, configurations := events.NewFakeRecorder(10), &Configurations{}
	clock := time.Now()
	reconciler := NewReconciler(c, configurations, recorder, func() time.Time { return clock })
	reconcile := func() *v1alpha1.EdgeHubNode {
		t.Helper()
		var object v1alpha1.EdgeHubNode
		for range 2 {
			result, err := reconciler.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: "gone"}})
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(result.RequeueAfter).To(BeNumerically(">", 0))
		}
		g.Expect(c.Get(t.Context(), client.ObjectKey{Name: "gone"}, &object)).To(Succeed())
		return &object
	}
	on := node("gone", "True", nil)
	on.Status.Conditions[1].LastTransitionTime = metav1.NewTime(clock.Add(-time.Hour))
	status := on.Status
	g.Expect(c.Create(t.Context(), &on)).To(Succeed())
	on.Status = status
	g.Expect(c.Status().Update(t.Context(), &on)).To(Succeed())
	object := hub("gone", "one")
	g.Expect(c.Create(t.Context(), &object)).To(Succeed())
	t.Cleanup(func() {
		for _, made := range []client.Object{&on, &object} {
			g.Expect(c.Delete(context.Background(), made)).To(Succeed())
		}
	})
	report := func(hash string) {
		t.Helper()
		g.Expect(c.Get(t.Context(), client.ObjectKey{Name: "gone"}, &object)).To(Succeed())
		object.Status.Configuration = &v1alpha1.NodeConfiguration{Hash: hash}
		meta.SetStatusCondition(&object.Status.Conditions, metav1.Condition{Type: "Connected", Status: "True", Reason: "Reporting"})
		g.Expect(c.Status().Update(t.Context(), &object, client.FieldOwner("edge-hub"))).To(Succeed())
	}
	configurations.Set("one", nil, nil, clock)
	report("one")
	g.Expect(reconcile().Status.Conditions).To(HaveLen(1))
	configurations.Set("two", nil, nil, clock)
	clock = clock.Add(staleTime)
	g.Expect(reconcile().Status.Conditions).To(HaveLen(1), "it may take that long")
	clock = clock.Add(trustTime)
	stale := reconcile()
	g.Expect(meta.FindStatusCondition(stale.Status.Conditions, "ConfigCurrent")).To(And(HaveField("Status", metav1.ConditionFalse), HaveField("Reason", "Behind"),
		HaveField("Message", ContainSubstring("kubectl delete edgehubnode gone"))))
	g.Expect(meta.FindStatusCondition(stale.Status.Conditions, "Connected")).To(And(HaveField("Status", metav1.ConditionFalse), HaveField("Reason", "NotReporting"),
		HaveField("Message", ContainSubstring("has reported nothing for 15m0s: it does not run, or had nothing to report"))))
	g.Expect(recorder.Events).To(HaveLen(2))
	// An operator that takes over knows of no configuration at first, and for as long as
	// the ConfigMap is malformed.
	successor := NewReconciler(c, &Configurations{}, recorder, func() time.Time { return clock })
	_, err := successor.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: "gone"}})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(reconcile().ResourceVersion).To(Equal(stale.ResourceVersion), "it leaves what was found")
	g.Expect(recorder.Events).To(HaveLen(2))
	snapshot := NewSnapshot([]v1alpha1.EdgeHubNode{*stale}, []corev1.Node{on})
	g.Expect(snapshot.Node("gone").Stale).To(BeTrue())
	g.Expect(snapshot.Count(labels.Everything())).To(And(HaveField("Hubs", 1), HaveField("Unreachable", 0), HaveField("ReachableByHash", BeEmpty())))
	g.Expect(HubChanged(&object, stale)).To(BeTrue())

	clock = time.Now()
	report("two")
	back := reconcile()
	g.Expect(meta.IsStatusConditionTrue(back.Status.Conditions, "ConfigCurrent")).To(BeTrue())
	g.Expect(meta.IsStatusConditionTrue(back.Status.Conditions, "Connected")).To(BeTrue())
	version := back.ResourceVersion
	g.Expect(reconcile().ResourceVersion).To(Equal(version))
}
