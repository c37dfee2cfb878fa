package config

import (
	"cmp"
	"slices"
	"time"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
)

// admission is since when an agent is cached for the ServiceAccounts of a namespace,
// or for every caller if Namespace is empty, without a break.
type admission struct {
	Agent     string    `json:"agent"`
	Namespace string    `json:"namespace,omitempty"`
	Since     time.Time `json:"since"`
}

// admissions is since when what is cached is. The zero value is of a hub that has
// not taken a configuration yet.
type admissions struct {
	// Hub is when a hub first took a configuration on this node. What is always
	// cached is cached since then at the latest.
	Hub time.Time `json:"hub,omitzero"`
	// All is since when every agent is cached, zero if not every one is.
	All time.Time `json:"all,omitzero"`
	// Agents are sorted.
	Agents []admission `json:"agents,omitempty"`
}

// since returns since when what a caller reads as agent is cached, zero if it is
// not. namespace is that of its ServiceAccount, "" if it is none.
func (a admissions) since(agent, namespace string) time.Time {
	if hubconfig.IsAlwaysCached(agent) {
		return a.Hub
	}
	first := a.All
	for _, key := range []string{"", namespace} {
		i, found := slices.BinarySearchFunc(a.Agents, admission{Agent: agent, Namespace: key}, compareAdmissions)
		if found && (first.IsZero() || a.Agents[i].Since.Before(first)) {
			first = a.Agents[i].Since
		}
	}
	return first
}

func compareAdmissions(a, b admission) int {
	return cmp.Or(cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.Namespace, b.Namespace))
}

// after returns the admissions once a configuration takes the place of one that was
// before. What both cache is cached since it was.
func (a admissions) after(before, config hubconfig.Config, now time.Time) admissions {
	next := admissions{Hub: a.Hub}
	if next.Hub.IsZero() {
		next.Hub = now
	}
	if config.All {
		next.All = now
		if before.All && !a.All.IsZero() {
			next.All = a.All
		}
	}
	add := func(agent, namespace string) {
		if !config.Admits(agent, namespace) || hubconfig.IsAlwaysCached(agent) {
			return
		}
		since := now
		if was := a.since(agent, namespace); before.Admits(agent, namespace) && !was.IsZero() {
			since = was
		}
		next.Agents = append(next.Agents, admission{agent, namespace, since})
	}
	for _, known := range a.Agents {
		add(known.Agent, known.Namespace)
	}
	for _, agent := range config.Agents {
		add(agent, "")
		for namespace := range config.Rules[agent].Namespaces {
			add(agent, namespace)
		}
	}
	slices.SortFunc(next.Agents, compareAdmissions)
	next.Agents = slices.CompactFunc(next.Agents, func(a, b admission) bool { return compareAdmissions(a, b) == 0 })
	return next
}
