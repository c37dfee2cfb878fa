package overview

import (
	"cmp"
	"maps"
	"slices"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// Agent is a User-Agent that nodes have seen and that is not cached.
type Agent struct {
	// Name is the User-Agent up to the first "/".
	Name string `json:"name"`
	// Namespaces are those of the ServiceAccounts that send it, "" for callers
	// that are none, sorted.
	Namespaces []string `json:"namespaces"`
	// Nodes is on how many nodes it was seen, Example one of them.
	Nodes   int    `json:"nodes"`
	Example string `json:"example"`
}

// Uncached sums up the agents that hubs have seen and do not cache, those on most
// nodes first. If namespace is not empty, only what it sends counts.
func Uncached(nodes []v1alpha1.EdgeHubNode, namespace string) []Agent {
	type seen struct{ namespaces, nodes map[string]bool }
	byName := map[string]seen{}
	for i := range nodes {
		for _, agent := range nodes[i].Status.Uncached {
			if namespace != "" && agent.Namespace != namespace {
				continue
			}
			if _, known := byName[agent.Name]; !known {
				byName[agent.Name] = seen{map[string]bool{}, map[string]bool{}}
			}
			byName[agent.Name].namespaces[agent.Namespace] = true
			byName[agent.Name].nodes[nodes[i].Name] = true
		}
	}
	agents := []Agent{}
	for name, s := range byName {
		on := slices.Sorted(maps.Keys(s.nodes))
		agents = append(agents, Agent{Name: name, Namespaces: slices.Sorted(maps.Keys(s.namespaces)), Nodes: len(on), Example: on[0]})
	}
	slices.SortFunc(agents, func(a, b Agent) int {
		return cmp.Or(cmp.Compare(b.Nodes, a.Nodes), cmp.Compare(a.Name, b.Name))
	})
	return agents
}
