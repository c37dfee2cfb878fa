// Package policy reconciles EdgeHubPolicies into the ConfigMap
// kube-system/edge-hub-cfg and lets the Pods they select be restarted.
//
// cache_agents of that ConfigMap is one text shared with people. The operator
// remembers which agents in it are there because of policies in an annotation
// of the ConfigMap; everything else was written by hand and stays. merge.go is
// that rule. Its key policies is the operator's own and follows from the policies
// alone: tenancy.go says what they may ask for, and what holds when they differ.
// configmap.go reads and writes the ConfigMap; conditions.go says in the status of
// a policy what came of it.
package policy
