package policy

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/fleet"
)

// listed is a queue that lists what is added to it, and after how long.
type listed struct {
	queue
	added []string
	after []time.Duration
}

func (l *listed) AddAfter(request reconcile.Request, after time.Duration) {
	l.added, l.after = append(l.added, request.Name), append(l.after, after)
}
func (l *listed) Add(request reconcile.Request) { l.AddAfter(request, 0) }

// TestWhatMattersToWhom shows which policies an object wakes, and that a fleet whose
// hubs report one by one wakes each policy once in a while.
func TestWhatMattersToWhom(t *testing.T) {
	e := newEnv(t)
	selecting := e.create("selecting", "a")
	selecting.Spec.PodSelector = &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": "x"}}
	e.Expect(e.client.Update(t.Context(), selecting)).To(Succeed())
	e.create("unselecting", "b")
	relisting := e.create("relisting", "a", "c")
	relisting.Spec.Restart.Strategy = v1alpha1.Relist
	e.Expect(e.client.Update(t.Context(), relisting)).To(Succeed())

	changes := 0
	var timers []func()
	fire := func() {
		t.Helper()
		e.Expect(timers).To(HaveLen(1))
		fired := timers[0]
		timers = nil
		fired()
	}
	enqueue := &enqueuer{reader: e.client, changed: func() { changes++ }, view: fleet.NewView(e.client), after: func(delay time.Duration, f func()) {
		e.Expect(delay).To(Equal(reportInterval))
		timers = append(timers, f)
	}}
	q := &listed{}
	expect := func(want ...string) {
		t.Helper()
		e.Expect(q.added).To(ConsistOf(want))
		q.added = nil
	}
	pod := func(app string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", Labels: map[string]string{"app": app}}}
	}
	enqueue.pods().Create(t.Context(), event.CreateEvent{Object: pod("x")}, q)
	expect("selecting", "unselecting")
	enqueue.pods().Update(t.Context(), event.UpdateEvent{ObjectOld: pod("x"), ObjectNew: pod("x")}, q)
	expect()
	enqueue.pods().Update(t.Context(), event.UpdateEvent{ObjectOld: pod("x"), ObjectNew: pod("y")}, q)
	expect("selecting", "unselecting")

	before, after := &v1alpha1.EdgeHubNode{}, &v1alpha1.EdgeHubNode{}
	after.Status.Agents = []v1alpha1.NodeAgent{agent("a", "")}
	q.after = nil
	enqueue.hubs().Update(t.Context(), event.UpdateEvent{ObjectOld: before, ObjectNew: after}, q)
	expect("selecting", "relisting")
	e.Expect(q.after).To(HaveEach(reportInterval))
	for range 100 {
		enqueue.hubs().Create(t.Context(), event.CreateEvent{Object: after}, q)
		enqueue.configMap().Create(t.Context(), event.CreateEvent{Object: &corev1.ConfigMap{}}, q)
		enqueue.nodes().Create(t.Context(), event.CreateEvent{Object: &corev1.Node{}}, q)
	}
	e.Expect(changes).To(Equal(100))
	e.Expect(q.added).To(HaveLen(100), "the ConfigMap each time")
	q.added = nil
	e.create("new", "z")
	fire()
	expect("selecting", "unselecting", "relisting", "new") // one that was made meanwhile, too
	enqueue.hubs().Delete(t.Context(), event.DeleteEvent{Object: after}, q)
	expect()
	fire()
	expect("selecting", "unselecting", "relisting", "new")

	rival := selecting.DeepCopy()
	rival.Generation++
	changes = 0
	enqueue.policies().Update(t.Context(), event.UpdateEvent{ObjectOld: selecting, ObjectNew: rival}, q)
	expect("selecting", "relisting")
	e.Expect(changes).To(Equal(1))
	counted := rival.DeepCopy()
	counted.Status.Restarted = "1/2"
	enqueue.policies().Update(t.Context(), event.UpdateEvent{ObjectOld: rival, ObjectNew: counted}, q)
	expect()
	e.Expect(changes).To(Equal(1), "its own words are no news")
	counted.Status.Agents = []v1alpha1.AgentStatus{{Name: "a"}}
	enqueue.policies().Update(t.Context(), event.UpdateEvent{ObjectOld: rival, ObjectNew: counted}, q)
	expect()
	e.Expect(changes).To(Equal(2), "an agent that was let go may return")
}
