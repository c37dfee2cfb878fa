// Package hubconfig is the contract between a person or edge-hub-operator, who
// say which programs edge-hub caches, and edge-hub, which does it: the
// ConfigMap kube-system/edge-hub-cfg.
//
//	apiVersion: v1
//	kind: ConfigMap
//	metadata:
//	  name: edge-hub-cfg
//	  namespace: kube-system
//	data:
//	  cache_agents: "edge-app, Kubernetes Java Client"
//
// The value of cache_agents is a list of agents separated by ASCII commas.
// Spaces, tabs and line ends around an agent are ignored, and so are empty
// entries, so that a trailing comma or an empty value does no harm. A missing
// key lists no agent. The entry "*" lists every agent.
//
// A listed agent is cached for every caller, unless the key policies has a rule
// for it: then it is there because of EdgeHubPolicies and cached only for the
// ServiceAccounts of their namespaces. The value is a JSON object (RFC 8259) of
// agents, in which no key may be unknown or repeated:
//
//	{
//	  "edge-app": {"namespaces": {"shop": {"quota": 104857600, "secrets": "Deny"}, "till": {}}},
//	  "monitor": {"clusterWide": true, "namespaces": {"shop": {"secrets": "Deny"}}}
//	}
//
// quota is in bytes; a missing one leaves the bound to edge-hub. secrets is Cache,
// the default, or Deny. Both are about callers of that namespace only.
// clusterWide marks an agent that a person listed and policies name as well: it
// is cached for every caller, "*" does the same for every agent, and still the
// namespaces' own quota and secrets hold. A rule for an agent that is not listed
// has no effect. A hub that knows cache_agents only caches each listed agent for
// every caller. Other keys of the ConfigMap are ignored.
//
// An agent is what a program sends in its User-Agent header up to the first
// "/" (see [AgentOf]). It is compared exactly as sent, case included, because
// two programs may differ in nothing else.
//
// The package does no I/O and depends on little more than the standard library.
package hubconfig
