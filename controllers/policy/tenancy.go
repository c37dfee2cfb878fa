package policy

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/fleet"
	"github.com/edgehub-io/edge-hub/controllers/rollout"
)

const (
	// maxAgentsPerNamespace bounds the agents that the policies of one namespace
	// may name together.
	maxAgentsPerNamespace = 128

	// maxConfigBytes bounds what the agents of all policies take in the
	// ConfigMap. All its values together may have 1 MiB; the rest is for agents
	// that people list. The annotation, which may have 256 KiB, repeats each agent
	// once where agentCost counts it six times.
	maxConfigBytes = 768 << 10
)

// DefaultMaxQuota is the largest quota that a policy may ask for, unless the
// platform says otherwise.
var DefaultMaxQuota = resource.MustParse("1Gi")

// MinQuota is the smallest quota, as the validation of policies has it.
var MinQuota = resource.MustParse("1Mi")

// place is where an agent is cached: for the ServiceAccounts of a namespace.
type place struct{ agent, namespace string }

// tenants is what all policies ask for together.
type tenants struct {
	maxQuota resource.Quantity
	// claims are the policies that name an agent in a namespace, oldest first.
	claims map[place][]*v1alpha1.EdgeHubPolicy
	// surplus are the places for which the ConfigMap has no room.
	surplus map[place]bool
}

// newTenants returns what policies ask for. Those that are being deleted ask for
// nothing. Older policies come first, so that a new one takes no room from them.
func newTenants(policies []v1alpha1.EdgeHubPolicy, maxQuota resource.Quantity) tenants {
	t := tenants{maxQuota: maxQuota, claims: map[place][]*v1alpha1.EdgeHubPolicy{}, surplus: map[place]bool{}}
	room := room{bytes: maxConfigBytes, agents: map[string]bool{}, perNamespace: map[string]int{}}
	for _, policy := range byAge(policies) {
		for _, agent := range policy.Spec.CacheAgents {
			at := place{agent, policy.Namespace}
			switch claimed := len(t.claims[at]) > 0; {
			case notAllowed(agent) != nil, t.surplus[at]:
			case !claimed && !room.take(at):
				t.surplus[at] = true
			default:
				t.claims[at] = append(t.claims[at], policy)
			}
		}
	}
	return t
}

// known is false of the zero value, which says nothing of any policy.
func (t tenants) known() bool { return t.claims != nil }

// byAge sorts policies that are not being deleted.
func byAge(policies []v1alpha1.EdgeHubPolicy) []*v1alpha1.EdgeHubPolicy {
	var sorted []*v1alpha1.EdgeHubPolicy
	for i := range policies {
		if policies[i].DeletionTimestamp.IsZero() {
			sorted = append(sorted, &policies[i])
		}
	}
	slices.SortFunc(sorted, func(a, b *v1alpha1.EdgeHubPolicy) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return sorted
}

// room is the room that is left in the ConfigMap.
type room struct {
	bytes        int
	agents       map[string]bool
	perNamespace map[string]int
}

// take reports whether there is room for one more place, and takes it.
func (r *room) take(at place) bool {
	cost := placeCost(at)
	if !r.agents[at.agent] {
		cost += agentCost(at.agent)
	}
	if cost > r.bytes || r.perNamespace[at.namespace] == maxAgentsPerNamespace {
		return false
	}
	r.bytes -= cost
	r.agents[at.agent] = true
	r.perNamespace[at.namespace]++
	return true
}

// agentCost is at least what an agent takes, in bytes: in cache_agents, in the
// annotation, and, every character of it escaped, in policies and relist.
func agentCost(agent string) int { return 6*len(agent) + 64 }

// placeCost is at least what a namespace takes in the rule of an agent and in
// relist.
func placeCost(at place) int { return 2*len(at.namespace) + 64 }

// notAllowed returns why a policy may not name agent, nil if it may. Validation
// refuses such a policy; one that is older than the validation is found here.
func notAllowed(agent string) error {
	switch {
	case agent == hubconfig.AllAgents:
		return fmt.Errorf("stands for every agent, a choice for the whole platform: an administrator writes it into %s of ConfigMap %s by hand",
			hubconfig.KeyCacheAgents, configMapKey)
	case hubconfig.IsAlwaysCached(agent):
		return fmt.Errorf("is always cached on every edge node: what the platform's own programs need an administrator writes into %s of ConfigMap %s by hand",
			hubconfig.KeyCacheAgents, configMapKey)
	}
	return hubconfig.ValidateAgent(agent)
}

// rules are what is in force for each agent and namespace.
func (t tenants) rules() map[string]map[string]hubconfig.NamespaceRule {
	rules := map[string]map[string]hubconfig.NamespaceRule{}
	for at := range t.claims {
		if rules[at.agent] == nil {
			rules[at.agent] = map[string]hubconfig.NamespaceRule{}
		}
		rules[at.agent][at.namespace] = t.inForce(at)
	}
	return rules
}

// digests are what config says of the agents of each namespace's policies, hashed.
func (t tenants) digests(config hubconfig.Config) map[string]uint64 {
	agents := map[string][]string{}
	for at := range t.claims {
		agents[at.namespace] = append(agents[at.namespace], at.agent)
	}
	digests := make(map[string]uint64, len(agents))
	for namespace, names := range agents {
		slices.Sort(names)
		hash := fnv.New64a()
		for _, agent := range names {
			fmt.Fprintf(hash, "%q %t %d %s %t\n", agent, config.Admits(agent, namespace), config.Quota(agent, namespace),
				config.Secrets(agent, namespace), config.Relists(agent, namespace))
		}
		digests[namespace] = hash.Sum64()
	}
	return digests
}

// uses are what config caches because of policies.
func (t tenants) uses(config hubconfig.Config) map[fleet.Use]bool {
	uses := make(map[fleet.Use]bool, len(t.claims))
	for at := range t.claims {
		if config.Admits(at.agent, at.namespace) {
			uses[fleet.Use{Agent: at.agent, Namespace: at.namespace}] = true
		}
	}
	return uses
}

// relist are the namespaces of each agent whose watches shall begin with a list
// through the cache, because a policy of the namespace says so. It holds for ever
// unless the second result says until when.
func (t tenants) relist(now time.Time) (map[string][]string, time.Time) {
	relist, until := map[string][]string{}, time.Time{}
	for at, policies := range t.claims {
		if slices.ContainsFunc(policies, func(policy *v1alpha1.EdgeHubPolicy) bool { return relists(policy, now) }) {
			relist[at.agent] = append(relist[at.agent], at.namespace)
		}
		if slices.ContainsFunc(policies, func(policy *v1alpha1.EdgeHubPolicy) bool {
			return policy.Spec.Restart.Strategy == v1alpha1.Relist && policy.Spec.Restart.Window != nil
		}) {
			until = now.Add(windowInterval)
		}
	}
	return relist, until
}

// windowInterval is how often it is looked at whether a window opens or closes that
// is about relists.
const windowInterval = time.Minute

// relists reports whether policy has programs list again now.
func relists(policy *v1alpha1.EdgeHubPolicy, now time.Time) bool {
	if policy.Spec.Restart.Strategy != v1alpha1.Relist || policy.Spec.Restart.Paused {
		return false
	}
	open, _, err := rollout.Window(policy.Spec.Restart.Window, now)
	return open && err == nil
}

// inForce combines what the policies of a namespace say of an agent. They are
// one tenant's and bind nobody else. Secrets stay off the disk if any policy
// says so, for a mistake there can't be taken back. The largest quota holds, for
// a cache that is too small is missed when the cloud is away.
func (t tenants) inForce(at place) hubconfig.NamespaceRule {
	var rule hubconfig.NamespaceRule
	for _, policy := range t.claims[at] {
		one := t.asked(policy)
		rule.Quota = max(rule.Quota, one.Quota)
		if one.Secrets == hubconfig.DenySecrets {
			rule.Secrets = one.Secrets
		}
	}
	return rule
}

// asked is what policy asks for, within what the platform allows. A quota that
// validation would not have let pass is the smallest.
func (t tenants) asked(policy *v1alpha1.EdgeHubPolicy) hubconfig.NamespaceRule {
	var rule hubconfig.NamespaceRule
	if policy.Spec.Quota != nil {
		// A copy, for comparing may change how a quantity is kept.
		quota := policy.Spec.Quota.DeepCopy()
		switch {
		case quota.Cmp(t.maxQuota) > 0:
			quota = t.maxQuota
		case quota.Cmp(MinQuota) < 0:
			quota = MinQuota
		}
		rule.Quota = quota.Value()
	}
	if policy.Spec.Secrets == v1alpha1.DenySecrets {
		rule.Secrets = hubconfig.DenySecrets
	}
	return rule
}

// refused returns why agents of policy are left out, an empty reason if none is.
func (t tenants) refused(policy *v1alpha1.EdgeHubPolicy) (reason, message string) {
	var problems, surplus []string
	for _, agent := range policy.Spec.CacheAgents {
		if err := notAllowed(agent); err != nil {
			problems = append(problems, fmt.Sprintf("agent %q %s", agent, err))
		} else if t.surplus[place{agent, policy.Namespace}] {
			surplus = append(surplus, fmt.Sprintf("%q", agent))
		}
	}
	switch {
	case len(problems) > 0:
		return v1alpha1.ReasonAgentNotAllowed, truncate("remove from cacheAgents: " + strings.Join(problems, "; "))
	case len(surplus) > 0:
		return v1alpha1.ReasonTooManyAgents, truncate(fmt.Sprintf(
			"remove agents from policies: there is no room in %s for %s; a namespace may have %d agents",
			configMapKey, strings.Join(surplus, ", "), maxAgentsPerNamespace))
	}
	return "", ""
}

// asWritten says whether quota and secrets are in force as policy has them.
func (t tenants) asWritten(policy *v1alpha1.EdgeHubPolicy) outcome {
	var reasons, messages []string
	if quota := policy.Spec.Quota; quota != nil && t.maxQuota.Cmp(*quota) < 0 {
		reasons = append(reasons, v1alpha1.ReasonQuotaCapped)
		messages = append(messages, fmt.Sprintf("quota is capped: the platform allows %s, not %s", t.maxQuota.String(), quota.String()))
	}
	for _, agent := range policy.Spec.CacheAgents {
		at := place{agent, policy.Namespace}
		if names := t.strategies(at); len(names) > 0 {
			reasons = append(reasons, v1alpha1.ReasonPoliciesDiffer)
			messages = append(messages, fmt.Sprintf("agent %q: EdgeHubPolicies %s differ in restart.strategy: programs are made to list again, and each policy does what it says with Pods", agent, strings.Join(names, ", ")))
		}
		if names := t.rivals(at); len(names) > 0 {
			reasons = append(reasons, v1alpha1.ReasonPoliciesDiffer)
			messages = append(messages, fmt.Sprintf("agent %q: EdgeHubPolicies %s differ, %s", agent, strings.Join(names, ", "), describe(t.inForce(at))))
		}
	}
	if len(reasons) > 0 {
		return outcome{reason: reasons[0], message: truncate(strings.Join(messages, "; "))}
	}
	return outcome{done: true, reason: v1alpha1.ReasonAsWritten, message: "quota and secrets are in force as written"}
}

// strategies returns the names of the policies of a namespace that name an agent, if
// some of them have the strategy Relist and others do not.
func (t tenants) strategies(at place) []string {
	var (
		names  []string
		relist int
	)
	for _, policy := range t.claims[at] {
		names = append(names, policy.Name)
		if policy.Spec.Restart.Strategy == v1alpha1.Relist {
			relist++
		}
	}
	if relist == 0 || relist == len(names) {
		return nil
	}
	slices.Sort(names)
	return names
}

// rivals returns the names of the policies of a namespace that name an agent, if
// they say different things of it.
func (t tenants) rivals(at place) []string {
	var (
		names  []string
		differ bool
	)
	for _, policy := range t.claims[at] {
		names = append(names, policy.Name)
		differ = differ || t.asked(policy) != t.asked(t.claims[at][0])
	}
	if !differ {
		return nil
	}
	slices.Sort(names)
	return names
}

// describe says what rule is.
func describe(rule hubconfig.NamespaceRule) string {
	secrets := cmp.Or(rule.Secrets, hubconfig.CacheSecrets)
	if rule.Quota == 0 {
		return fmt.Sprintf("in force is secrets %s", secrets)
	}
	return fmt.Sprintf("in force are quota %s, the largest, and secrets %s", resource.NewQuantity(rule.Quota, resource.BinarySI), secrets)
}
