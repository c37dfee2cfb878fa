package policy

import (
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// A person who removes an agent by hand is answered by its return, which costs one
// restart of its Pods. A program that writes cache_agents again and again, such as
// one that keeps a cluster as Git has it, would cost one for each of its rounds, and
// every hub its data. So who removes an agent a second time before it has stayed for
// peaceTime gets his way, and a person has to settle it.

// peaceTime is how long an agent must have stayed for its removals to be forgotten,
// and how long it stays out when they were too many.
const peaceTime = time.Hour

// maxRemovals is how many removals are answered by the agent's return.
const maxRemovals = 1

// contested reports whether an agent that was removed stays out now.
func contested(removal v1alpha1.AgentRemoval, now time.Time) bool {
	return removal.Times > maxRemovals && now.Before(removal.Time.Add(peaceTime))
}

// contestedPlaces returns the places that stay out of the configuration of state,
// and until when the first of them does. Where there is no ConfigMap nobody writes
// it.
func contestedPlaces(state hubConfig, now time.Time) (sets.Set[place], time.Time) {
	places, until := sets.New[place](), time.Time{}
	if state.absent {
		return places, until
	}
	for at, policies := range state.tenants.claims {
		if state.config.Admits(at.agent, at.namespace) {
			continue
		}
		for _, policy := range policies {
			removal := removalOf(policy, at.agent)
			if removal == nil || changed(policy) || !contested(*removal, now) {
				continue
			}
			places.Insert(at)
			if end := removal.Time.Add(peaceTime); until.IsZero() || end.Before(until) {
				until = end
			}
		}
	}
	return places, until
}

func removalOf(policy *v1alpha1.EdgeHubPolicy, agent string) *v1alpha1.AgentRemoval {
	i := slices.IndexFunc(policy.Status.Removals, func(r v1alpha1.AgentRemoval) bool { return r.Name == agent })
	if i < 0 {
		return nil
	}
	return &policy.Status.Removals[i]
}

// observeRemovals returns the removals of policy, whose status still lists the agents
// that it had before: those it loses now are added. What a person says by changing
// the policy is that it shall be tried again.
func observeRemovals(policy *v1alpha1.EdgeHubPolicy, state hubConfig, now time.Time) []v1alpha1.AgentRemoval {
	if state.malformed != nil {
		return policy.Status.Removals
	}
	var removals []v1alpha1.AgentRemoval
	for _, agent := range policy.Spec.CacheAgents {
		at := place{agent, policy.Namespace}
		last := removalOf(policy, agent)
		if changed(policy) || len(state.tenants.claims[at]) == 0 {
			last = nil
		}
		applied, listed := appliedTime(policy, agent)
		stayed := listed && !now.Before(applied.Add(peaceTime))
		if stayed {
			last = nil
		}
		switch admitted := state.config.Admits(agent, policy.Namespace); {
		case listed && !admitted && len(state.tenants.claims[at]) > 0:
			removal := v1alpha1.AgentRemoval{Name: agent, Time: metav1.NewTime(now).Rfc3339Copy(), Times: 1, Manager: state.manager}
			if last != nil {
				removal.Times = last.Times + 1
			}
			removals = append(removals, removal)
		case last != nil:
			removals = append(removals, *last)
		}
	}
	return removals
}

// changed reports whether the spec of policy is not the one its status is about.
func changed(policy *v1alpha1.EdgeHubPolicy) bool {
	return !slices.ContainsFunc(policy.Status.Conditions, func(c metav1.Condition) bool {
		return c.Type == v1alpha1.ConditionConfigApplied && c.ObservedGeneration == policy.Generation
	})
}

func appliedTime(policy *v1alpha1.EdgeHubPolicy, agent string) (metav1.Time, bool) {
	for _, status := range policy.Status.Agents {
		if status.Name == agent {
			return status.AppliedTime, true
		}
	}
	return metav1.Time{}, false
}

// contestOutcome says who keeps agents of policy out of the configuration, and how
// long they stay out; an empty reason if nobody does.
func contestOutcome(policy *v1alpha1.EdgeHubPolicy, state hubConfig) outcome {
	for _, agent := range policy.Spec.CacheAgents {
		removal := removalOf(policy, agent)
		if removal == nil || !state.contested.Has(place{agent, policy.Namespace}) {
			continue
		}
		return outcome{reason: v1alpha1.ReasonConfigMapContested, stalled: true, message: fmt.Sprintf(
			"%s removes agent %q from %s again and again: let it list the agent, or leave the ConfigMap to people and policies; the agent stays out, and no Pod is restarted, until %s",
			manager(removal.Manager), agent, configMapKey, removal.Time.Add(peaceTime).UTC().Format(time.RFC3339))}
	}
	return outcome{}
}

// probation returns until when an agent that was removed again and again has to stay
// for Pods to be restarted, zero if there is none.
func probation(policy *v1alpha1.EdgeHubPolicy) (agent string, until time.Time) {
	for _, removal := range policy.Status.Removals {
		applied, listed := appliedTime(policy, removal.Name)
		if end := applied.Add(peaceTime); listed && removal.Times > maxRemovals && end.After(until) {
			agent, until = removal.Name, end
		}
	}
	return agent, until
}

// removed returns what is told of the agents that somebody has just removed.
func removed(before, after *v1alpha1.EdgeHubPolicyStatus) []string {
	var notes []string
	for _, removal := range after.Removals {
		if slices.Contains(before.Removals, removal) {
			continue
		}
		note := fmt.Sprintf("%s removed agent %q from %s: every edge-hub dropped its data", manager(removal.Manager), removal.Name, configMapKey)
		if removal.Times <= maxRemovals {
			note += ", it returns, and its Pods are restarted once more"
		}
		notes = append(notes, note)
	}
	return notes
}

func manager(name string) string {
	if name == "" {
		return "somebody"
	}
	return fmt.Sprintf("field manager %q", name)
}
