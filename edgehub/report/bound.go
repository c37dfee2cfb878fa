package report

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// bounded returns as many agents as may be reported, those that are not ready
// first, and how many that leaves out.
func bounded(agents []v1alpha1.NodeAgent) (some []v1alpha1.NodeAgent, omitted int32) {
	if len(agents) > v1alpha1.MaxNodeAgents {
		slices.SortStableFunc(agents, func(a, b v1alpha1.NodeAgent) int {
			if a.OfflineReady == b.OfflineReady {
				return 0
			} else if b.OfflineReady {
				return -1
			}
			return 1
		})
		omitted = int32(len(agents) - v1alpha1.MaxNodeAgents)
		agents = agents[:v1alpha1.MaxNodeAgents]
	}
	slices.SortFunc(agents, func(a, b v1alpha1.NodeAgent) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Namespace, b.Namespace))
	})
	return agents, omitted
}

// boundPods keeps the Pods of all agents together to as many as may be reported. What
// there is room for is shared by namespaces, and within one by its agents: whoever has
// few loses none to those who have many.
func boundPods(agents []v1alpha1.NodeAgent) {
	all := map[string]int{}                 // Pods of a namespace
	perAgent := map[string]map[string]int{} // and of each of its agents
	for _, a := range agents {
		if perAgent[a.Namespace] == nil {
			perAgent[a.Namespace] = map[string]int{}
		}
		all[a.Namespace] += len(a.Pods)
		perAgent[a.Namespace][a.Name] = len(a.Pods)
	}
	share := level(all, v1alpha1.MaxNodePods)
	for i := range agents {
		a := &agents[i]
		a.Pods = a.Pods[:min(len(a.Pods), level(perAgent[a.Namespace], share))]
	}
}

// level is how much each may have at most so that all have no more than there is room
// for.
func level(wanted map[string]int, room int) int {
	sizes := slices.Sorted(maps.Values(wanted))
	for i, n := range sizes {
		if share := room / (len(sizes) - i); n > share {
			return share
		}
		room -= n
	}
	return math.MaxInt
}
