package rollout

import (
	"time"

	"github.com/edgehub-io/edge-hub/controllers/fleet"
)

// touched says when a Pod was last evicted from a node. A Pod that is still there tells
// by itself, see Pod.brokeNode; once it is gone, and replaced elsewhere, nothing else
// does. To forget that in a restart of the operator lets a rollout go on that should
// have halted, by the rules of every other one.
type touched map[string]time.Time

// broken returns the nodes that were lost soon after that and have not returned. It
// forgets those that have stayed, or do not exist any more.
func (t touched) broken(hubs *fleet.Snapshot, now time.Time) []string {
	var broken []string
	for name, at := range t {
		switch node := hubs.Node(name); {
		case node == nil || !node.Exists || node.Ready && now.Sub(at) > breakTime:
			delete(t, name)
		case !node.Ready && node.LostAt.After(at) && node.LostAt.Sub(at) <= breakTime:
			broken = append(broken, name)
		}
	}
	return broken
}
