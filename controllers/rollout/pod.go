package rollout

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Pod is what planning needs to know of a Pod that has not finished.
type Pod struct {
	Namespace string
	Name      string
	UID       types.UID
	Labels    map[string]string

	// Workload is the UID of the ReplicaSet, StatefulSet or DaemonSet that would
	// replace the Pod, empty if there is none; Kind is which of them it is.
	Workload types.UID
	Kind     string
	// Created is the Pod's creationTimestamp, which has whole seconds.
	Created time.Time
	// Selected is true if the policy is about the Pod and it is bound to an edge
	// node that nodeSelector matches.
	Selected bool
	// Affected is true if the Pod may have read past the cache: it has to be
	// restarted.
	Affected bool
	// NotBefore is when it may be, zero for at once: a replacement that is created
	// earlier would look affected as well.
	NotBefore time.Time
	// OptedOut is true if the Pod says that it must not be restarted.
	OptedOut bool
	// Scheduled is true once the Pod is bound to a node, Node.
	Scheduled bool
	Node      string
	// Edge is true if a hub runs on that node.
	Edge bool
	// NodeReady is true if that node is ready; NodeLostAt is since when it is not,
	// zero if that is not known.
	NodeReady  bool
	NodeLostAt time.Time
	// HubCurrent is true if the hub of that node works with what the configuration
	// in force says of the Pod's namespace, and what it said last counts.
	HubCurrent bool
	// Hindrance is why a restart is of no use as long as that is so, or ends with a Pod
	// that can't be scheduled; empty if there is none.
	Hindrance string
	// Terminating is true once the Pod is being deleted; DeletedAt is when that was
	// asked for.
	Terminating bool
	DeletedAt   time.Time
	// ReadySince is when the Pod became ready, zero if it is not.
	ReadySince time.Time
}

// State is what a policy makes of a Pod.
type State string

// States of a Pod.
const (
	// NotSelected: the policy is not about the Pod, or it is on no edge node that
	// nodeSelector matches.
	NotSelected State = "NotSelected"
	// Restarted: the Pod started after its node's hub began to cache the agents.
	Restarted State = "Restarted"
	// OptedOut: the Pod has to be restarted and says that it must not be.
	OptedOut State = "OptedOut"
	// Unmanaged: the Pod has to be restarted and nothing would replace it.
	Unmanaged State = "Unmanaged"
	// Deferred: the Pod has to be restarted and its node is out of reach,
	// cordoned or tainted, or can't cache anything now.
	Deferred State = "Deferred"
	// Waiting: the Pod has to be restarted and its node's hub does not work with
	// the current configuration yet.
	Waiting State = "Waiting"
	// Pending: the Pod is restarted when its turn comes.
	Pending State = "Pending"
)

// State returns what the policy makes of p.
func (p Pod) State() State {
	switch {
	case !p.Selected:
		return NotSelected
	case !p.Affected:
		return Restarted
	case p.OptedOut:
		return OptedOut
	case p.Workload == "":
		return Unmanaged
	case !p.NodeReady, p.Hindrance != "":
		return Deferred
	case !p.HubCurrent:
		return Waiting
	}
	return Pending
}

// breakTime is how long after the creation of a Pod the loss of its node counts as
// something that a restart may have caused.
const breakTime = 10 * time.Minute

// mayReplace reports whether p may be the replacement of a Pod that was restarted.
func (p Pod) mayReplace(cutoff time.Time) bool { return p.Created.After(cutoff) }

// counts reports whether p, if it is not available, makes its workload lack a Pod
// as far as the rollout is concerned. The trouble of nodes that are not selected,
// or that were lost long after the Pod came to them, is none of its making.
func (p Pod) counts(cutoff time.Time) bool {
	switch {
	case !p.Scheduled:
		return true
	case p.NodeReady:
		return p.Selected || p.mayReplace(cutoff)
	}
	return p.mayReplace(cutoff) && (p.NodeLostAt.IsZero() || p.NodeLostAt.Sub(p.Created) <= breakTime)
}

// brokeNode reports whether the node of p was lost soon after p, which may be a
// replacement, came to it, or after p was taken away from it for one.
func (p Pod) brokeNode(cutoff time.Time) bool {
	if !p.Edge || p.NodeReady {
		return false
	}
	if p.Terminating && p.DeletedAt.After(cutoff) && p.NodeLostAt.After(p.DeletedAt) && p.NodeLostAt.Sub(p.DeletedAt) <= breakTime {
		return true
	}
	return p.NodeLostAt.After(p.Created) && p.counts(cutoff)
}

// standsIn reports whether p, which is being deleted, stands for the Pod that its
// workload lacks because of it: its node was lost, so that nobody there can confirm its
// end, and somebody asked for that only then, or before the rollout. That is older
// trouble than the rollout's. A StatefulSet and a DaemonSet wait for that end, a
// ReplicaSet replaces it at once.
func (p Pod) standsIn(cutoff time.Time) bool {
	return p.Terminating && p.Scheduled && !p.NodeReady && p.Kind != "ReplicaSet" && !p.counts(cutoff) &&
		!p.NodeLostAt.IsZero() && (!p.NodeLostAt.After(p.DeletedAt) || !p.DeletedAt.After(cutoff))
}
