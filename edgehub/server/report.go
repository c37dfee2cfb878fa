package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/edgehub/cache"
	"github.com/edgehub-io/edge-hub/edgehub/identity"
	"github.com/edgehub-io/edge-hub/edgehub/report"
)

const (
	// podCheck is how often Pods are forgotten that are gone.
	podCheck = time.Minute
	// seenSave is how often it is kept who was seen last, and seenCheck how soon it
	// is kept who was seen for the first time. seenRetry is how long after a
	// failure it is tried again.
	seenSave  = 10 * time.Minute
	seenCheck = time.Second
	seenRetry = 30 * time.Second
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
		pods := seen.Pods()
		i, found := index[seen.Pair]
		switch {
		case found:
		case !config.Admits(seen.Agent, seen.Namespace) && len(pods) == 0:
			others = append(others, seen.Pair)
			continue
		case !config.Admits(seen.Agent, seen.Namespace):
			uncached = append(uncached, seen.Pair)
			continue
		case len(pods) == 0:
			continue // that it was used once says nothing
		default:
			i = len(cached)
			cached = append(cached, agentOf(seen.Pair, cache.Usage{}, h.config.Since(seen.Agent, seen.Namespace)))
			cached[i].Unasked = !seen.Asked(h.begun(cached[i]))
		}
		h.judge(&cached[i], &seen)
	}
	return cached, append(uncached, others...)
}

// judge says what a restart of an agent's Pods would fail for although it was never
// asked for since the agent is cached.
func (h *hub) judge(agent *report.Agent, seen *report.Sighting) {
	agent.Pods, agent.Unknown = seen.Pods(), seen.Unknown(h.begun(*agent))
	if n, example := h.store.Unkept(slices.Collect(maps.Keys(seen.Reads))); n > 0 {
		agent.Missing[v1alpha1.NodeAgentNotRestarted] = n
		agent.Example[v1alpha1.NodeAgentNotRestarted] = example
	}
}

// begun is when the hub began to cache an agent: nobody has read past it before if it
// is one that is always cached, whenever a configuration came. A time that is still to
// come, of a clock that was ahead, counts for nothing.
func (h *hub) begun(agent report.Agent) time.Time {
	if hubconfig.IsAlwaysCached(agent.Agent) || agent.Since.After(h.identity.Now()) {
		return time.Time{}
	}
	return agent.Since
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
	if h.store.AwaitScan(ctx) != nil {
		return
	}
	report.New(report.Options{Node: h.options.NodeName, Source: h, Client: h.client, Online: h.upstream.Up, Period: h.options.ReportPeriod, Registry: h.registry}).Run(ctx)
}

// keepSeen looks after who was seen until ctx ends.
func (h *hub) keepSeen(ctx context.Context) {
	forget, save, check := time.NewTicker(podCheck), time.NewTicker(seenSave), time.NewTicker(seenCheck)
	defer forget.Stop()
	defer save.Stop()
	defer check.Stop()
	var after time.Time // a failure
	for {
		select {
		case <-ctx.Done():
			h.saveSeen()
			return
		case <-forget.C:
			h.seen.Forget(h.podGone)
		case <-save.C:
			h.saveSeen()
		case now := <-check.C:
			if h.seen.Changed() && now.After(after) && !h.saveSeen() {
				after = now.Add(seenRetry)
			}
		}
	}
}

func (h *hub) saveSeen() bool {
	err := h.seen.Save(h.state)
	if err != nil {
		klog.ErrorS(err, "Could not keep which User-Agents were seen")
	}
	return err == nil
}

// podGone reports whether a Pod that was last seen at some time is gone since, and
// whether that is known.
func (h *hub) podGone(namespace, name string, uid types.UID, last time.Time) (gone, known bool) {
	existence, age := h.pod(namespace, name, string(uid))
	return existence == identity.Gone && last.Before(h.identity.Now().Add(-age)), existence == identity.Exists
}

// seeing returns who was seen by earlier runs.
func (h *hub) seeing() *report.Seen {
	seen := report.NewSeen(h.identity.Now)
	seen.Load(h.state)
	return seen
}
