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
// agent whatever happens to the policies removes it from this annotation; it is
// then cached for every caller.
const AnnotationPolicyAgents = "edgehub.io/policy-agents"

// merged is what the ConfigMap should say.
type merged struct {
	// config is what cache_agents and policies should say.
	config hubconfig.Config
	// policyAgents is what the annotation should list, sorted.
	policyAgents []string
	// changed is true if the ConfigMap says anything else. Order, spacing and
	// repetition are left as a person wrote them.
	changed bool
}

// merge brings the agents of policies into current, of which the agents in
// annotated came from policies before. wanted is what policies say of an agent by
// namespace.
//
// An agent that is in a policy and in current but not in annotated was written
// by hand; it stays out of the annotation so that it outlives the policy, and is
// cached for every caller. A place in waiting must not be added yet. relist is what
// the key relist should say; it is the operator's own.
func merge(current hubconfig.Config, annotated sets.Set[string], wanted map[string]map[string]hubconfig.NamespaceRule, waiting sets.Set[place], relist map[string][]string) merged {
	byHand := sets.New(current.Agents...).Difference(annotated)
	config := hubconfig.Config{All: current.All, Rules: map[string]hubconfig.Rule{}, Relist: relist}
	fromPolicies, annotate := sets.New[string](), sets.New[string]()
	for agent, namespaces := range wanted {
		rule := hubconfig.Rule{ClusterWide: byHand.Has(agent), Namespaces: map[string]hubconfig.NamespaceRule{}}
		for namespace, r := range namespaces {
			if !waiting.Has(place{agent, namespace}) {
				rule.Namespaces[namespace] = r
			}
		}
		switch {
		case len(rule.Namespaces) > 0:
			config.Rules[agent] = rule
			fromPolicies.Insert(agent)
		case annotated.Has(agent):
			// What waits causes no write, whether or not it was annotated.
			annotate.Insert(agent)
		}
	}
	config.Agents = sets.List(byHand.Union(fromPolicies))
	annotate = annotate.Union(fromPolicies.Difference(byHand))
	return merged{
		config:       config,
		policyAgents: sets.List(annotate),
		changed:      !config.Equal(current) || !annotate.Equal(annotated),
	}
}

// waitingPlaces returns the places that have to wait before they are added to
// current.
//
// A place waits when current does not admit it although the status of a policy
// says that the agent is applied: somebody removed it, every edge-hub dropped its
// data, and its Pods have to be restarted once more. So first each policy takes
// it out of its status, and only then it returns, with a new appliedTime. That
// way nothing is lost if the operator stops in between.
func waitingPlaces(claims map[place][]*v1alpha1.EdgeHubPolicy, current hubconfig.Config) sets.Set[place] {
	waiting := sets.New[place]()
	for at, policies := range claims {
		if current.Admits(at.agent, at.namespace) {
			continue
		}
		if slices.ContainsFunc(policies, func(policy *v1alpha1.EdgeHubPolicy) bool { return lists(policy, at.agent) }) {
			waiting.Insert(at)
		}
	}
	return waiting
}

// lists reports whether the status of policy says that agent is applied.
func lists(policy *v1alpha1.EdgeHubPolicy, agent string) bool {
	return slices.ContainsFunc(policy.Status.Agents, func(status v1alpha1.AgentStatus) bool { return status.Name == agent })
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
