package policy

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/fleet"
	"github.com/edgehub-io/edge-hub/controllers/rollout"
)

// setFleet says in the status of policy what the hubs report: how many there are,
// where its agents are in use, and whether their Pods would start without the
// cloud there. It returns where they are in use.
func setFleet(policy *v1alpha1.EdgeHubPolicy, snapshot *fleet.Snapshot, configurations *fleet.Configurations, now time.Time) (uses, error) {
	_, nodes, err := rollout.Selectors(policy)
	if err != nil {
		return uses{}, err
	}
	all, found := snapshot.Count(nodes), inUse(policy, snapshot, nodes, configurations, now)
	policy.Status.Nodes = &v1alpha1.NodeCounts{
		Hubs: int32(all.Hubs), Configured: int32(configured(all.ByHash, policy, configurations)), Unreachable: int32(all.Unreachable),
		InUse: int32(found.nodes), OfflineReady: int32(found.offlineReady), TooLarge: int32(found.tooLarge.nodes),
	}
	policy.Status.OfflineReady = fmt.Sprintf("%d/%d", found.offlineReady, found.nodes)

	ready := metav1.Condition{Type: v1alpha1.ConditionCacheReady, ObservedGeneration: policy.Generation}
	switch of := counted(found.nodes, "node"); {
	case found.nodes == 0:
		ready.Status, ready.Reason, ready.Message = metav1.ConditionUnknown, v1alpha1.ReasonNotInUse, "no hub has seen the agents yet"
	case found.incomplete.nodes > 0:
		ready.Status, ready.Reason = metav1.ConditionFalse, v1alpha1.ReasonCacheIncomplete
		ready.Message = fmt.Sprintf("Pods would start without the cloud on %d of %s: %s", found.offlineReady, of, found.incomplete)
	default:
		ready.Status, ready.Reason = metav1.ConditionTrue, v1alpha1.ReasonOfflineReady
		ready.Message = fmt.Sprintf("Pods would start without the cloud on %d of %s", found.offlineReady, of)
	}
	meta.SetStatusCondition(&policy.Status.Conditions, ready)

	if found.tooLarge.nodes > 0 {
		setCondition(policy, v1alpha1.ConditionCacheTooLarge, true, v1alpha1.ReasonQuotaExceeded,
			fmt.Sprintf("on %s more is listed and watched than may be kept: %s; raise spec.quota, or narrow what the program lists and watches",
				counted(found.tooLarge.nodes, "node"), found.tooLarge))
	} else {
		setCondition(policy, v1alpha1.ConditionCacheTooLarge, false, v1alpha1.ReasonFits, "what is listed and watched may be kept")
	}
	return found, nil
}

// example are nodes where something is the matter, and what it is on the first.
type example struct {
	nodes int
	node  string
	agent *v1alpha1.NodeAgent
}

func (e *example) add(node *fleet.Node, agent *v1alpha1.NodeAgent) {
	if e.nodes++; e.agent == nil {
		e.node, e.agent = node.Name, agent
	}
}

// String says what is the matter on the first node.
func (e example) String() string {
	text := fmt.Sprintf("agent %q on node %s is %s", e.agent.Name, e.node, e.agent.Reason)
	if e.agent.Message != "" {
		text += ", " + e.agent.Message
	}
	return truncate(text)
}

// uses are the nodes where the agents of a policy are in use.
type uses struct {
	nodes, offlineReady int
	// incomplete are nodes that can be reached where an agent is not offline-ready;
	// if none can be reached, all of them.
	incomplete example
	// tooLarge are those where an agent asks for more than fits.
	tooLarge example
	// notWarm are those that can be reached where an agent watches what it listed
	// before it was cached.
	notWarm example
	// reachable are the nodes that can be reached.
	reachable int
	// unheard are those of them whose hub seems to be current and has to report first
	// that it began an agent anew.
	unheard int
	// next is how long it takes until the silence of a hub counts, zero if none waits
	// for that.
	next time.Duration
}

// inUse finds where the agents of policy are in use. What a hub reported before an agent
// returned says nothing of what it has cached.
func inUse(policy *v1alpha1.EdgeHubPolicy, snapshot *fleet.Snapshot, selector labels.Selector, configurations *fleet.Configurations, now time.Time) uses {
	nodes := snapshot.Users(policy.Spec.CacheAgents, policy.Namespace, selector)
	found := uses{nodes: len(nodes)}
	for _, node := range nodes {
		if node.Ready {
			found.reachable++
		}
	}
	for _, node := range nodes {
		var incomplete, tooLarge, notWarm *v1alpha1.NodeAgent
		unheard := false
		for _, name := range policy.Spec.CacheAgents {
			use := fleet.Use{Agent: name, Namespace: policy.Namespace}
			agent := node.Agent(use)
			if agent == nil {
				continue
			}
			if applied, _ := appliedTime(policy, name); !configurations.Heard(node, use, applied.Time, now) {
				unheard = true
				found.next = sooner(found.next, max(applied.Add(fleet.SilentTime).Sub(now), 0))
				agent = &v1alpha1.NodeAgent{Name: name, Reason: "unknown", Message: "its hub has not reported since the agent returned"}
			}
			if agent.OfflineReady {
				continue
			}
			if incomplete == nil {
				incomplete = agent
			}
			switch agent.Reason {
			case v1alpha1.NodeAgentTooLarge:
				tooLarge = agent
			case v1alpha1.NodeAgentNotWarm:
				notWarm = agent
			}
		}
		if unheard && node.Ready && !node.Stale && configurations.Current(node.Hash, policy.Namespace) {
			found.unheard++
		}
		counts := node.Ready || found.reachable == 0
		switch {
		case incomplete == nil:
			found.offlineReady++
		case counts:
			found.incomplete.add(node, incomplete)
		}
		if tooLarge != nil {
			found.tooLarge.add(node, tooLarge)
		}
		if notWarm != nil && node.Ready {
			found.notWarm.add(node, notWarm)
		}
	}
	return found
}

// configured returns how many of hubs, counted by the hash of their configuration,
// work with what the one in force says of the namespace of policy.
func configured(hubs map[string]int, policy *v1alpha1.EdgeHubPolicy, configurations *fleet.Configurations) int {
	sum := 0
	for hash, number := range hubs {
		if configurations.Current(hash, policy.Namespace) {
			sum += number
		}
	}
	return sum
}

// hubsBehind says that hubs which can be reached do not work with the configuration
// in force yet, as far as they have reported, which is the second result. It matters to
// policies that go by what hubs say of their agents, and once only: later on it stays
// false, for other policies change the configuration too.
func hubsBehind(policy *v1alpha1.EdgeHubPolicy, all fleet.Counts, found uses, configurations *fleet.Configurations) (outcome, bool) {
	done := meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.ConditionRestartsComplete)
	settled := done != nil && done.Status == metav1.ConditionTrue && done.ObservedGeneration == policy.Generation
	behind := found.unheard - configured(all.ReachableByHash, policy, configurations)
	for _, hubs := range all.ReachableByHash {
		behind += hubs
	}
	return outcome{reason: v1alpha1.ReasonWaitingForHubs, message: fmt.Sprintf(
		"the hubs of %s do not work with the current configuration yet", counted(behind, "node"))}, behind > 0 && !settled
}

// relistOutcome says how far programs are with listing again through the cache.
func relistOutcome(policy *v1alpha1.EdgeHubPolicy, snapshot *fleet.Snapshot, found uses, configurations *fleet.Configurations, now time.Time) outcome {
	_, nodes, err := rollout.Selectors(policy)
	if err != nil {
		return outcome{reason: v1alpha1.ReasonRestartFailed, message: truncate(err.Error())}
	}
	waiting, behind := hubsBehind(policy, snapshot.Count(nodes), found, configurations)
	open, opens, err := rollout.Window(policy.Spec.Restart.Window, now)
	switch {
	case err != nil:
		return outcome{reason: v1alpha1.ReasonWindowInvalid, message: truncate(err.Error()), stalled: true}
	case policy.Spec.Restart.Paused && found.notWarm.nodes > 0:
		return outcome{reason: v1alpha1.ReasonPaused, message: fmt.Sprintf(
			"programs on %s have to list again, restart.paused is true", counted(found.notWarm.nodes, "node"))}
	case !open && found.notWarm.nodes > 0:
		return outcome{reason: v1alpha1.ReasonOutsideWindow, message: fmt.Sprintf(
			"programs on %s have to list again, restart.window opens at %s", counted(found.notWarm.nodes, "node"), opens.Format("2006-01-02 15:04 MST"))}
	case behind:
		return waiting
	case found.notWarm.nodes > 0:
		return outcome{reason: v1alpha1.ReasonRelisting, message: fmt.Sprintf(
			"programs on %s have to list again through the cache: %s", counted(found.notWarm.nodes, "node"), found.notWarm)}
	case found.nodes == 0:
		return outcome{done: true, reason: v1alpha1.ReasonRelisted, message: "no program has to list again: no hub has seen the agents yet"}
	}
	message := fmt.Sprintf("programs on %d of %s listed through the cache", found.nodes-found.tooLarge.nodes, counted(found.nodes, "node"))
	if found.tooLarge.nodes > 0 {
		message += fmt.Sprintf("; %s", found.tooLarge)
	}
	return outcome{done: true, reason: v1alpha1.ReasonRelisted, message: message}
}
