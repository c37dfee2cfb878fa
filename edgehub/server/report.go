package server

import (
	"context"
	"fmt"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/cache"
	"github.com/edgehub-io/edge-hub/edgehub/identity"
	"github.com/edgehub-io/edge-hub/edgehub/report"
)

const (
	// podCheck is how often Pods are forgotten that are gone.
	podCheck = 5 * time.Minute
	// seenSave is how often it is kept who was seen.
	seenSave = 10 * time.Minute
)

// State implements report.Source.
func (h *hub) State() report.State {
	hash, known, problem := h.config.Status()
	applied, first := h.config.Applied()
	state := report.State{Version: h.options.Version, CachingSince: first, Applied: applied, ConfigProblem: problem}
	if known {
		state.Hash = hash
	}
	if p := h.store.Status().Disk; p != nil {
		state.DiskProblem = fmt.Errorf("%w since %s", p.Err, p.Since.UTC().Format(time.RFC3339))
	}
	state.Agents, state.Uncached = h.agents()
	return state
}

// agents returns the agents that are in use: those that are cached, and others.
func (h *hub) agents() (cached []report.Agent, uncached []report.Pair) {
	config := h.config.Current()
	index := map[report.Pair]int{}
	for _, u := range h.store.Usages() {
		pair := report.Pair{Agent: u.Agent, Namespace: u.Namespace}
		if !config.Admits(u.Agent, u.Namespace) {
			continue // about to be removed
		}
		index[pair] = len(cached)
		cached = append(cached, agentOf(pair, u, h.config.Since(u.Agent, u.Namespace)))
	}
	var others []report.Pair // that no Pod is known of
	for _, seen := range h.seen.All() {
		i, found := index[seen.Pair]
		switch {
		case found:
			cached[i].Pods = seen.Pods
		case !config.Admits(seen.Agent, seen.Namespace) && len(seen.Pods) == 0:
			others = append(others, seen.Pair)
		case !config.Admits(seen.Agent, seen.Namespace):
			uncached = append(uncached, seen.Pair)
		case len(seen.Pods) > 0:
			since := h.config.Since(seen.Agent, seen.Namespace)
			cached = append(cached, report.Agent{Pair: seen.Pair, Since: since, Pods: seen.Pods, Unasked: seen.Last.Before(since)})
		}
	}
	return cached, append(uncached, others...)
}

func agentOf(pair report.Pair, u cache.Usage, since time.Time) report.Agent {
	a := report.Agent{
		Pair: pair, Since: since, Views: u.Views, Objects: int64(u.Objects), Bytes: u.Bytes, Relists: u.Relists,
		Missing: map[string]int{}, Example: map[string]string{},
	}
	for reason, n := range u.Missing {
		a.Missing[string(reason)] = n
		a.Example[string(reason)] = u.Example[reason]
	}
	return a
}

// report keeps this node's EdgeHubNode current until ctx ends.
func (h *hub) report(ctx context.Context) {
	report.New(report.Options{Node: h.options.NodeName, Source: h, Client: h.client, Online: h.upstream.Up, Period: h.options.ReportPeriod, Registry: h.registry}).Run(ctx)
}

// keepSeen looks after who was seen until ctx ends.
func (h *hub) keepSeen(ctx context.Context) {
	check, save := time.NewTicker(podCheck), time.NewTicker(seenSave)
	defer check.Stop()
	defer save.Stop()
	for {
		select {
		case <-ctx.Done():
			h.saveSeen()
			return
		case <-check.C:
			h.seen.Forget(h.podGone)
		case <-save.C:
			h.saveSeen()
		}
	}
}

func (h *hub) saveSeen() {
	if err := h.seen.Save(h.state); err != nil {
		klog.ErrorS(err, "Could not keep which User-Agents were seen")
	}
}

// podGone reports whether a Pod that was last seen at some time is known to be gone
// since.
func (h *hub) podGone(namespace, name string, uid types.UID, last time.Time) bool {
	existence, age := h.pod(namespace, name, string(uid))
	return existence == identity.Gone && last.Before(time.Now().Add(-age))
}

func newSeen(state *os.Root) *report.Seen {
	seen := report.NewSeen()
	seen.Load(state)
	return seen
}
