package overview

import (
	"cmp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// Status is an overview of the fleet and of the policies.
type Status struct {
	// Configuration is the hash of kube-system/edge-hub-cfg, empty if it is not
	// known.
	Configuration string `json:"configuration,omitempty"`
	// Nodes sums up the nodes with a hub.
	Nodes NodeSummary `json:"nodes"`
	// Trouble are the nodes that are out of reach, not offline-ready, or have
	// another problem, the worst first, then by name.
	Trouble []NodeTrouble `json:"trouble"`
	// Policies are the EdgeHubPolicies, by namespace and name.
	Policies []Policy `json:"policies"`
}

// NodeSummary sums up the nodes with a hub.
type NodeSummary struct {
	// Hubs are all of them.
	Hubs int `json:"hubs"`
	// Connected are those within reach.
	Connected int `json:"connected"`
	// OfflineReady are those where every agent's Pods would start without the
	// cloud; of those out of reach it is what they last reported.
	OfflineReady int `json:"offlineReady"`
	// Configured are those that work with the current configuration, -1 if that
	// is not known.
	Configured int `json:"configured"`
	// Objects and Bytes are those in all caches.
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
	// Versions counts the nodes with each version of edge-hub.
	Versions map[string]int `json:"versions"`
}

// NodeTrouble is what is wrong with a node.
type NodeTrouble struct {
	Node string `json:"node"`
	// Condition is the type of the condition that says so, Reason and Message are
	// the condition's.
	Condition string `json:"condition"`
	Reason    string `json:"reason,omitempty"`
	Message   string `json:"message,omitempty"`
	// Since is when it changed.
	Since time.Time `json:"since"`
	// Reported is when the hub last reported a change.
	Reported *time.Time `json:"reported,omitempty"`
}

// Policy is how an EdgeHubPolicy is.
type Policy struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Agents    []string `json:"agents"`
	Strategy  string   `json:"strategy"`
	// Ready is the status of the condition Ready: True, False or Unknown. Reason
	// and Message are the condition's.
	Ready   string `json:"ready"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Stalled is true if a person has to act.
	Stalled bool `json:"stalled"`
	// Restarted and OfflineReady are such as "2/3".
	Restarted    string `json:"restarted,omitempty"`
	OfflineReady string `json:"offlineReady,omitempty"`
	// CacheTooLarge is true if an agent asks for more than its quota.
	CacheTooLarge bool `json:"cacheTooLarge"`
}

// NewStatus sums up. configuration is the hash of the current one, empty if it is
// not known.
func NewStatus(configuration string, nodes []v1alpha1.EdgeHubNode, policies []v1alpha1.EdgeHubPolicy) Status {
	s := Status{
		Configuration: configuration,
		Nodes:         NodeSummary{Hubs: len(nodes), Versions: map[string]int{}},
		Trouble:       []NodeTrouble{},
		Policies:      []Policy{},
	}
	if configuration == "" {
		s.Nodes.Configured = -1
	}
	for i := range nodes {
		s.add(&nodes[i])
	}
	for i := range policies {
		s.Policies = append(s.Policies, newPolicy(&policies[i]))
	}
	slices.SortFunc(s.Trouble, func(a, b NodeTrouble) int {
		worse := func(t NodeTrouble) int { return slices.Index(nodeConditions, t.Condition) }
		return cmp.Or(worse(a)-worse(b), cmp.Compare(a.Node, b.Node))
	})
	slices.SortFunc(s.Policies, func(a, b Policy) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return s
}

// nodeConditions are those that tell of trouble when they are not True; the first
// one that does is shown.
var nodeConditions = []string{v1alpha1.NodeConnected, v1alpha1.NodeConfigCurrent, v1alpha1.NodeCacheWritable, v1alpha1.NodeConfigValid, v1alpha1.NodeOfflineReady}

func (s *Status) add(node *v1alpha1.EdgeHubNode) {
	status := &node.Status
	s.Nodes.Objects += status.Objects
	s.Nodes.Bytes += status.Bytes
	if status.Version != "" {
		s.Nodes.Versions[status.Version]++
	}
	if meta.IsStatusConditionTrue(status.Conditions, v1alpha1.NodeConnected) {
		s.Nodes.Connected++
	}
	if meta.IsStatusConditionTrue(status.Conditions, v1alpha1.NodeOfflineReady) {
		s.Nodes.OfflineReady++
	}
	if status.Configuration != nil && s.Configuration != "" && status.Configuration.Hash == s.Configuration {
		s.Nodes.Configured++
	}
	for _, name := range nodeConditions {
		condition := meta.FindStatusCondition(status.Conditions, name)
		if condition == nil || condition.Status == metav1.ConditionTrue {
			continue
		}
		trouble := NodeTrouble{
			Node: node.Name, Condition: name, Reason: condition.Reason, Message: condition.Message, Since: condition.LastTransitionTime.UTC(),
		}
		if status.ReportTime != nil {
			reported := status.ReportTime.UTC()
			trouble.Reported = &reported
		}
		s.Trouble = append(s.Trouble, trouble)
		return
	}
}

func newPolicy(object *v1alpha1.EdgeHubPolicy) Policy {
	p := Policy{
		Namespace: object.Namespace, Name: object.Name, Agents: object.Spec.CacheAgents,
		Strategy: string(object.Spec.Restart.Strategy),
		Ready:    string(metav1.ConditionUnknown), Message: "the operator has not seen it yet",
		Restarted: object.Status.Restarted, OfflineReady: object.Status.OfflineReady,
		Stalled:       meta.IsStatusConditionTrue(object.Status.Conditions, v1alpha1.ConditionStalled),
		CacheTooLarge: meta.IsStatusConditionTrue(object.Status.Conditions, v1alpha1.ConditionCacheTooLarge),
	}
	if ready := meta.FindStatusCondition(object.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
		p.Ready, p.Reason, p.Message = string(ready.Status), ready.Reason, ready.Message
		if ready.ObservedGeneration != object.Generation {
			p.Ready, p.Message = string(metav1.ConditionUnknown), "the operator has not seen the last change yet"
		}
	}
	return p
}
