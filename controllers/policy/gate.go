package policy

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/rollout"
)

// gate says whether a policy lets restarts begin now. The zero value does.
type gate struct {
	// reason is why not, empty if it does.
	reason  string
	message string
	// wait is how long it takes until that changes by itself, zero if it does not.
	wait time.Duration
	// stalled is true if a person has to act.
	stalled bool
}

func (g gate) open() bool { return g.reason == "" }

// newGate looks at policy, whose agents are all applied.
func newGate(policy *v1alpha1.EdgeHubPolicy, now time.Time) gate {
	restart := policy.Spec.Restart
	// A replacement created in the same second as the cutoff would be restarted
	// again, because creationTimestamp has whole seconds.
	if ready := rollout.Cutoff(policy).Add(time.Second); now.Before(ready) {
		return gate{reason: v1alpha1.ReasonWaitingForConfig, wait: ready.Sub(now),
			message: "restarts begin when the hubs have read the new configuration"}
	}
	if agent, until := probation(policy); now.Before(until) {
		return gate{reason: v1alpha1.ReasonProbation, wait: until.Sub(now), message: fmt.Sprintf(
			"agent %q was removed from %s again and again: restarts begin if it stays until %s", agent, configMapKey, until.UTC().Format(time.RFC3339))}
	}
	open, opens, err := rollout.Window(restart.Window, now)
	debounced := specChanged(policy)
	if restart.DebounceSeconds != nil {
		debounced = debounced.Add(time.Duration(*restart.DebounceSeconds) * time.Second)
	}
	switch {
	case restart.Strategy == v1alpha1.NeverRestart:
		return gate{reason: v1alpha1.ReasonNotRequested}
	case restart.Paused:
		return gate{reason: v1alpha1.ReasonPaused, message: "restart.paused is true"}
	case err != nil:
		return gate{reason: v1alpha1.ReasonWindowInvalid, message: truncate(err.Error()), stalled: true}
	case now.Before(debounced):
		return gate{reason: v1alpha1.ReasonDebouncing, wait: debounced.Sub(now),
			message: "restarts begin when the policy was left alone for a while, at " + debounced.UTC().Format(time.RFC3339)}
	case !open:
		return gate{reason: v1alpha1.ReasonOutsideWindow, wait: opens.Sub(now),
			message: fmt.Sprintf("restart.window opens at %s", opens.Format("2006-01-02 15:04 MST"))}
	}
	return gate{}
}

// specChanged returns when policy was last written by anybody but through its
// status, which is at or after the last change of its spec, by the clock of
// kube-apiserver.
func specChanged(policy *v1alpha1.EdgeHubPolicy) time.Time {
	latest := policy.CreationTimestamp.Time
	for _, entry := range policy.ManagedFields {
		if entry.Subresource == "" && entry.Time != nil && entry.Time.After(latest) {
			latest = entry.Time.Time
		}
	}
	return latest
}

// trimPolicy keeps of managedFields only when a policy was changed.
func trimPolicy(object any) (any, error) {
	policy, ok := object.(*v1alpha1.EdgeHubPolicy)
	if !ok {
		return object, nil
	}
	changed := metav1.NewTime(specChanged(policy))
	policy.ManagedFields = []metav1.ManagedFieldsEntry{{Time: &changed}}
	return policy, nil
}
