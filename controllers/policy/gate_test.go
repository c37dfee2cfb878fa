package policy

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

func TestGate(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name    string
		restart v1alpha1.RestartSpec
		applied time.Duration // before noon
		changed time.Duration
		reason  string
		message string
		wait    time.Duration
	}{
		{"open", v1alpha1.RestartSpec{}, time.Hour, time.Hour, "", "", 0},
		{"never", v1alpha1.RestartSpec{Strategy: v1alpha1.NeverRestart}, time.Hour, time.Hour, "NotRequested", "", 0},
		{"the hubs read", v1alpha1.RestartSpec{}, time.Second, time.Hour, "WaitingForConfig", "hubs", 3 * time.Second},
		{"paused", v1alpha1.RestartSpec{Paused: true, DebounceSeconds: ptr.To(int32(10))}, time.Hour, 0, "Paused", "restart.paused is true", 0},
		{"debouncing", v1alpha1.RestartSpec{DebounceSeconds: ptr.To(int32(10))}, time.Hour, 4 * time.Second, "Debouncing", "at 2026-01-01T12:00:06Z", 6 * time.Second},
		{"debounced", v1alpha1.RestartSpec{DebounceSeconds: ptr.To(int32(10))}, time.Hour, 10 * time.Second, "", "", 0},
		{"outside the window", v1alpha1.RestartSpec{Window: &v1alpha1.RestartWindow{Start: "22:00", End: "23:00", TimeZone: "Europe/Berlin"}},
			time.Hour, time.Hour, "OutsideWindow", "restart.window opens at 2026-01-01 22:00 CET", 9 * time.Hour},
		{"inside the window", v1alpha1.RestartSpec{Window: &v1alpha1.RestartWindow{Start: "13:00", End: "13:01", TimeZone: "Europe/Berlin"}}, time.Hour, time.Hour, "", "", 0},
		{"a window in no zone", v1alpha1.RestartSpec{Window: &v1alpha1.RestartWindow{Start: "13:00", End: "13:01", TimeZone: "Mars"}},
			time.Hour, time.Hour, "WindowInvalid", "spec.restart.window.timeZone: unknown time zone Mars", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			policy := &v1alpha1.EdgeHubPolicy{Spec: v1alpha1.EdgeHubPolicySpec{Restart: test.restart}}
			policy.CreationTimestamp = metav1.NewTime(noon.Add(-24 * time.Hour))
			changed := metav1.NewTime(noon.Add(-test.changed))
			status := metav1.NewTime(noon)
			policy.ManagedFields = []metav1.ManagedFieldsEntry{{Time: &changed}, {}, {Time: &status, Subresource: "status"}}
			policy.Status.Agents = []v1alpha1.AgentStatus{{AppliedTime: metav1.NewTime(noon.Add(-test.applied))}}
			got := newGate(policy, noon)
			g.Expect(got.open()).To(Equal(test.reason == ""))
			g.Expect(got.reason).To(Equal(test.reason))
			g.Expect(got.message).To(ContainSubstring(test.message))
			g.Expect(got.wait).To(Equal(test.wait))
			g.Expect(got.stalled).To(Equal(test.reason == "WindowInvalid"))

			trimmed, err := trimPolicy(policy.DeepCopy())
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(newGate(trimmed.(*v1alpha1.EdgeHubPolicy), noon)).To(Equal(got), "as the cache shows it")
		})
	}
}

func TestPace(t *testing.T) {
	g := NewWithT(t)
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	key := configMapKey
	p := pace{}
	status := func(ready, reconciling metav1.ConditionStatus, restarted string) *v1alpha1.EdgeHubPolicyStatus {
		return &v1alpha1.EdgeHubPolicyStatus{Restarted: restarted, Conditions: []metav1.Condition{
			{Type: "Ready", Status: ready, Reason: "x", Message: restarted}, {Type: "Reconciling", Status: reconciling, Reason: "y"},
		}}
	}
	busy, idle := status("False", "True", "0/9"), status("True", "False", "9/9")
	g.Expect(p.later(key, &v1alpha1.EdgeHubPolicyStatus{}, busy, now)).To(BeZero(), "what is news is written at once")
	p.wrote(key, now)
	g.Expect(p.later(key, busy, idle, now)).To(BeZero())
	g.Expect(p.later(key, busy, status("False", "True", "1/9"), now.Add(time.Second))).To(Equal(busyInterval - time.Second))
	g.Expect(p.later(key, busy, status("False", "True", "2/9"), now.Add(busyInterval))).To(BeZero())

	// When nothing is in progress, what comes and goes is never written.
	p.wrote(key, now)
	now = now.Add(time.Hour)
	other := status("True", "False", "8/8")
	g.Expect(p.later(key, idle, other, now)).To(Equal(idleInterval))
	g.Expect(p.later(key, idle, other, now.Add(idleInterval/2))).To(Equal(idleInterval / 2))
	g.Expect(p.later(key, idle, idle.DeepCopy(), now.Add(idleInterval/2))).To(BeZero())
	g.Expect(p.later(key, idle, other, now.Add(idleInterval))).To(Equal(idleInterval))
	g.Expect(p.later(key, idle, other, now.Add(2*idleInterval))).To(BeZero())
}
