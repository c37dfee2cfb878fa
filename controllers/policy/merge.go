package policy

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// AnnotationPolicyAgents lists, separated by commas, the agents of cache_agents
// that are there because of policies. They leave with the last policy that names
// them; all others were written by hand and stay. A person who wants to keep an
// agent whatever happens to the policies removes it from this annotation.
const AnnotationPolicyAgents = "edgehub.io/policy-agents"

// merged is what the ConfigMap should say.
type merged struct {
	// config is what cache_agents should list.
	config hubconfig.Config
	// policyAgents is what the annotation should list, sorted.
	policyAgents []string
	// changed is true if the ConfigMap lists anything else. Order, spacing and
	// repetition are left as a person wrote them.
	changed bool
}

// merge brings the agents of policies into current, of which the agents in
// annotated came from policies before.
//
// An agent that is in a policy and in current but not in annotated was written
// by hand; it stays out of the annotation so that it outlives the policy. An
// agent in waiting is wanted by policies but must not be added yet.
func merge(current hubconfig.Config, annotated, wanted, waiting sets.Set[string]) merged {
	listed := sets.New(current.Agents...)
	byHand := listed.Difference(annotated)
	fromPolicies := wanted.Difference(byHand).Difference(waiting)
	config := hubconfig.Config{
		Agents: sets.List(byHand.Union(fromPolicies)),
		All:    current.All,
	}
	// What waits causes no write, whether or not it was annotated.
	fromPolicies = fromPolicies.Union(waiting.Intersection(annotated))
	return merged{
		config:       config,
		policyAgents: sets.List(fromPolicies),
		changed:      !config.Equal(current) || !fromPolicies.Equal(annotated),
	}
}

// wantedAgents returns the agents of policies, and those of them that have to
// wait before they are added to current.
//
// An agent waits when it is missing from current although the status of a policy
// says that it is applied: somebody removed it, every edge-hub dropped its data,
// and its Pods have to be restarted once more. So first each policy takes it out
// of its status, and only then it returns, with a new appliedTime. That way
// nothing is lost if the operator stops in between.
func wantedAgents(policies []v1alpha1.EdgeHubPolicy, current hubconfig.Config) (wanted, waiting sets.Set[string]) {
	wanted, waiting = sets.New[string](), sets.New[string]()
	for i := range policies {
		policy := &policies[i]
		if !policy.DeletionTimestamp.IsZero() {
			continue
		}
		for _, agent := range policy.Spec.CacheAgents {
			wanted.Insert(agent)
			applied := slices.ContainsFunc(policy.Status.Agents, func(status v1alpha1.AgentStatus) bool { return status.Name == agent })
			if applied && !slices.Contains(current.Agents, agent) {
				waiting.Insert(agent)
			}
		}
	}
	return wanted, waiting
}

// parseAnnotation reads AnnotationPolicyAgents. What is no agent is ignored: an
// agent that is wrongly missing counts as written by hand, so at worst it stays.
func parseAnnotation(value string) sets.Set[string] {
	agents := sets.New[string]()
	for entry := range strings.SplitSeq(value, ",") {
		if agent := strings.TrimSpace(entry); hubconfig.ValidateAgent(agent) == nil {
			agents.Insert(agent)
		}
	}
	return agents
}

// formatAnnotation writes AnnotationPolicyAgents.
func formatAnnotation(agents []string) string { return strings.Join(agents, ",") }
