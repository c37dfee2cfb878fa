package policy

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

const (
	// busyInterval is how long it takes at least from one write of a status in
	// which only numbers and messages changed to the next, during a rollout.
	busyInterval = 3 * time.Second
	// idleInterval is the same when nothing is in progress. Numbers that come and
	// go in that time, as they do for every policy while hubs take a new
	// configuration, are not written at all.
	idleInterval = time.Minute
)

// pace keeps a fleet whose hubs report one by one from causing a write of each
// policy's status for each report. To forget it in a restart of the operator
// costs at most one write for each policy.
type pace map[client.ObjectKey]paced

type paced struct {
	// written is when the status was last written, differs since when it has not
	// been what it should be.
	written, differs time.Time
}

// later returns how long the change of a policy's status can wait, zero if there
// is none or it is to be written now.
func (p pace) later(key client.ObjectKey, before, after *v1alpha1.EdgeHubPolicyStatus, now time.Time) time.Duration {
	paced := p[key]
	if equality.Semantic.DeepEqual(before, after) {
		paced.differs = time.Time{}
		p[key] = paced
		return 0
	}
	if paced.differs.IsZero() {
		paced.differs = now
	}
	p[key] = paced
	if urgent(before, after) {
		return 0
	}
	due := paced.differs.Add(idleInterval)
	if meta.IsStatusConditionTrue(after.Conditions, v1alpha1.ConditionReconciling) {
		due = paced.written.Add(busyInterval)
	}
	return max(due.Sub(now), 0)
}

// wrote says that the status was written.
func (p pace) wrote(key client.ObjectKey, now time.Time) { p[key] = paced{written: now} }

// urgent reports whether more than numbers and messages changed.
func urgent(before, after *v1alpha1.EdgeHubPolicyStatus) bool {
	return before.ObservedGeneration != after.ObservedGeneration ||
		!equality.Semantic.DeepEqual(before.Agents, after.Agents) ||
		!slices.EqualFunc(before.Conditions, after.Conditions, func(a, b metav1.Condition) bool {
			return a.Type == b.Type && sameNews(&a, &b) && a.ObservedGeneration == b.ObservedGeneration
		})
}

// sameNews reports whether two conditions of a type say the same, but for numbers and what
// is an example of them. The message of AsWritten names every policy that differs.
func sameNews(a, b *metav1.Condition) bool {
	return a.Status == b.Status && a.Reason == b.Reason && (a.Type != v1alpha1.ConditionAsWritten || a.Message == b.Message)
}
