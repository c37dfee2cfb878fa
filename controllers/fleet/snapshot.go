package fleet

import (
	"cmp"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// Use is an agent as the ServiceAccounts of a namespace use it.
type Use struct{ Agent, Namespace string }

// Node is an edge node: a Node with an EdgeHubNode of the same name.
type Node struct {
	// Name is the name of both.
	Name string
	// Labels are those of the Node, nil if it is gone.
	Labels labels.Set
	// Exists is true if there is a Node.
	Exists bool
	// Ready is true if the Node is ready, so that its hub reaches kube-apiserver:
	// its kubelet speaks through the hub.
	Ready bool
	// LostAt is since when the Node is not ready, zero if it is or if that is not
	// known.
	LostAt time.Time
	// Cordoned is true if no new Pods come to the Node, those of DaemonSets left out.
	Cordoned bool
	// Taints are those of the Node that keep Pods away which do not tolerate them,
	// without those that Cordoned, Ready and LostAt say as well.
	Taints []corev1.Taint
	// Hash is that of the configuration the hub works with.
	Hash string
	// Reported is when the hub last reported, by the clock of kube-apiserver, zero if
	// that is not known.
	Reported time.Time
	// CachingSince is when a hub first took a configuration on this node.
	CachingSince time.Time
	// OfflineReady is true if every agent's Pods would start without the cloud.
	OfflineReady bool
	// Stale is true if the hub does not take configurations although the Node is
	// ready: it may have been removed.
	Stale bool
	// CacheFails is true if the cache directory can't be written.
	CacheFails bool

	agents []v1alpha1.NodeAgent
}

// Agent returns what the hub says of an agent, nil if it is not in use on the node.
// It must not be changed.
func (n *Node) Agent(use Use) *v1alpha1.NodeAgent {
	for i := range n.agents {
		if agent := &n.agents[i]; agent.Name == use.Agent && agent.Namespace == use.Namespace {
			return agent
		}
	}
	return nil
}

// Sends reports whether a Pod was seen to send the User-Agent of agent.
func Sends(agent *v1alpha1.NodeAgent, pod types.UID) bool {
	return agent != nil && slices.ContainsFunc(agent.Pods, func(p v1alpha1.NodePod) bool { return p.UID == pod })
}

// Counts counts edge nodes.
type Counts struct {
	// Hubs are all of them, Unreachable those whose Node is not ready.
	Hubs, Unreachable int
	// ByHash are those that work with each configuration, by its hash;
	// ReachableByHash leaves out those that are unreachable or stale.
	ByHash, ReachableByHash map[string]int
	// ByState are those in each state.
	ByState map[State]int
}

// State is the state of an edge node.
type State struct{ Ready, OfflineReady bool }

// Snapshot is the fleet at one moment. It is safe for concurrent use.
type Snapshot struct {
	nodes map[string]*Node
	users map[Use][]*Node

	mu     sync.Mutex
	counts map[string]Counts // by the text of the node selector
}

// NewSnapshot puts together what hubs report and the Nodes they are on. It keeps
// parts of both, which must not change.
func NewSnapshot(hubs []v1alpha1.EdgeHubNode, nodes []corev1.Node) *Snapshot {
	byName := make(map[string]*corev1.Node, len(nodes))
	for i := range nodes {
		byName[nodes[i].Name] = &nodes[i]
	}
	s := &Snapshot{nodes: make(map[string]*Node, len(hubs)), users: map[Use][]*Node{}, counts: map[string]Counts{}}
	for i := range hubs {
		node := newNode(&hubs[i], byName[hubs[i].Name])
		s.nodes[node.Name] = node
		for i := range node.agents {
			use := Use{node.agents[i].Name, node.agents[i].Namespace}
			s.users[use] = append(s.users[use], node)
		}
	}
	return s
}

func newNode(hub *v1alpha1.EdgeHubNode, object *corev1.Node) *Node {
	node := &Node{Name: hub.Name, Reported: reportedAt(hub), agents: hub.Status.Agents}
	if configuration := hub.Status.Configuration; configuration != nil {
		node.Hash = configuration.Hash
	}
	if since := hub.Status.CachingSince; since != nil {
		node.CachingSince = since.Time
	}
	node.OfflineReady = meta.IsStatusConditionTrue(hub.Status.Conditions, v1alpha1.NodeOfflineReady)
	node.Stale = isFalse(hub, v1alpha1.NodeConfigCurrent)
	node.CacheFails = isFalse(hub, v1alpha1.NodeCacheWritable)
	if object != nil {
		node.Exists, node.Labels, node.Cordoned = true, object.Labels, object.Spec.Unschedulable
		node.Taints = taints(object)
		node.Ready, node.LostAt = Readiness(object)
	}
	return node
}

// taints returns the taints of a Node that keep Pods away, without those that come and
// go with its cordon and with its condition Ready.
func taints(node *corev1.Node) []corev1.Taint {
	var found []corev1.Taint
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if KeepsAway(taint.Key, taint.Effect) {
			found = append(found, corev1.Taint{Key: taint.Key, Value: taint.Value, Effect: taint.Effect})
		}
	}
	return found
}

// KeepsAway reports whether taints with a key and an effect, or any if that is empty,
// may be among those of a [Node].
func KeepsAway(key string, effect corev1.TaintEffect) bool {
	switch key {
	case corev1.TaintNodeUnschedulable, corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable:
		return false
	}
	return effect != corev1.TaintEffectPreferNoSchedule
}

// Readiness reports whether a Node is ready, and if it is not, since when.
func Readiness(node *corev1.Node) (ready bool, lostAt time.Time) {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			if condition.Status == corev1.ConditionTrue {
				return true, time.Time{}
			}
			return false, condition.LastTransitionTime.Time
		}
	}
	return false, time.Time{}
}

// readySince returns since when a Node, which may be nil, is ready, zero if it is not.
func readySince(node *corev1.Node) time.Time {
	if node == nil {
		return time.Time{}
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			return condition.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// Node returns an edge node, nil if name is not that of one.
func (s *Snapshot) Node(name string) *Node { return s.nodes[name] }

// Users returns the nodes where agents are in use for a namespace, by name, of
// those that selector matches.
func (s *Snapshot) Users(agents []string, namespace string, selector labels.Selector) []*Node {
	seen := map[*Node]bool{}
	var users []*Node
	for _, agent := range agents {
		for _, node := range s.users[Use{agent, namespace}] {
			if !seen[node] && selector.Matches(node.Labels) {
				seen[node] = true
				users = append(users, node)
			}
		}
	}
	slices.SortFunc(users, func(a, b *Node) int { return cmp.Compare(a.Name, b.Name) })
	return users
}

// Count counts the edge nodes that selector matches. Every policy asks, most of
// them with the same selector, so each is counted once.
func (s *Snapshot) Count(selector labels.Selector) Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := selector.String()
	counts, found := s.counts[text]
	if found {
		return counts
	}
	counts.ByHash, counts.ReachableByHash, counts.ByState = map[string]int{}, map[string]int{}, map[State]int{}
	for _, node := range s.nodes {
		if !selector.Matches(node.Labels) {
			continue
		}
		counts.Hubs++
		counts.ByHash[node.Hash]++
		counts.ByState[State{node.Ready, node.OfflineReady}]++
		switch {
		case !node.Ready:
			counts.Unreachable++
		case !node.Stale:
			counts.ReachableByHash[node.Hash]++
		}
	}
	s.counts[text] = counts
	return counts
}
