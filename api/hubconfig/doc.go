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
// key lists no agent. The entry "*" lists every agent. Other keys of the
// ConfigMap are ignored.
//
// An agent is what a program sends in its User-Agent header up to the first
// "/" (see [AgentOf]). It is compared exactly as sent, case included, because
// two programs may differ in nothing else.
//
// The package does no I/O and depends on the standard library only.
package hubconfig
