package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	crlog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
)

// result is what was measured.
type result struct {
	size    options
	started time.Duration // until the operator had carried out a first policy

	all     rollout   // all policies, at once
	changes []rollout // one policy, one after the other, with a rollout each
	series  rollout   // the requests of all changes
	quiet   rollout   // one policy that restarts nothing

	restFor       time.Duration
	rest          requests // of the operator while nothing happens
	restHubs      requests // of the hubs meanwhile
	restarts      int      // of the operator
	memory        memory   // since then
	cpu           time.Duration
	totalDuration time.Duration
}

// rollout is what a change causes.
type rollout struct {
	pods     int           // that were to be restarted
	applied  time.Duration // from apply to the ConfigMap
	took     time.Duration // from apply to Ready
	operator requests      // until rest
	hubs     requests
}

// evictions are the Pods that were evicted.
func (r rollout) evictions() int { return r.operator["create pods/eviction"] }

// reports are those of hubs.
func (r rollout) reports() int { return r.hubs["patch edgehubnodes/status"] }

// measure runs everything. The result has what was measured before an error.
func measure(ctx context.Context, o options) (r *result, err error) {
	crlog.SetLogger(logr.Discard())
	began := time.Now()
	r = &result{size: o}
	w, err := newWorld(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		r.totalDuration, r.restarts = time.Since(began), w.restarts
		if w.operator != nil && err != nil {
			o.log("the operator's log ends:\n%s", tail(w.logFile("operator"), 15))
		}
		err = errors.Join(err, w.close())
	}()
	steps := []struct {
		what string
		do   func() error
	}{
		{fmt.Sprintf("%d nodes", o.nodes), func() error { return w.createNodes(ctx) }},
		{fmt.Sprintf("%d hubs", o.nodes), func() error { return w.runHubs(ctx) }},
		{fmt.Sprintf("%d Pods", o.allPods()), func() error { return w.createWorkloads(ctx) }},
		{"the operator", func() error {
			start := time.Now()
			if err := w.prepareOperator(ctx); err != nil {
				return err
			}
			if err := w.startOperator(); err != nil {
				return err
			}
			if err := w.tryOperator(ctx); err != nil {
				return err
			}
			r.started = time.Since(start)
			return w.awaitQuiet(ctx, 0)
		}},
		{fmt.Sprintf("%d policies, and a rollout of each", o.policies), func() error { return w.rollOutAll(ctx, r) }},
		{"changes of single policies", func() error { return w.rollOutSingle(ctx, r) }},
		{"rest", func() error { return w.countRest(ctx, r) }},
	}
	for _, step := range steps {
		start := time.Now()
		o.log("%s ...", step.what)
		if err := step.do(); err != nil {
			return r, fmt.Errorf("%s: %w", step.what, err)
		}
		o.log("%s: %v", step.what, time.Since(start).Round(100*time.Millisecond))
		if w.operator != nil && w.operator.Running() {
			if r.memory, r.cpu, err = w.resources(); err != nil {
				return r, err
			}
		}
	}
	return r, nil
}

// runHubs starts the hubs and waits until each has reported.
func (w *world) runHubs(ctx context.Context) error {
	// As one that installs edge-hub would, with nothing to cache yet.
	if err := w.client.Create(ctx, &corev1.ConfigMap{ObjectMeta: objectMeta(hubconfig.Namespace, hubconfig.Name), Data: map[string]string{hubconfig.KeyCacheAgents: ""}}); err != nil {
		return err
	}
	running, cancel := context.WithCancel(ctx)
	hubs, err := w.startHubs(running)
	w.stopHubs = func() {
		cancel()
		if hubs != nil {
			hubs.running.Wait()
		}
	}
	if err != nil {
		return err
	}
	return w.poll(ctx, 200*time.Millisecond, "reports of all hubs", func() (bool, error) { return hubs.reports.Load() >= int64(w.nodes), nil })
}

// rollOutAll creates all policies at once.
func (w *world) rollOutAll(ctx context.Context, r *result) error {
	all := make([]string, w.policies)
	for i := range all {
		all[i] = agent(i)
	}
	return w.count(ctx, &r.all, func() (err error) {
		r.all, err = w.follow(ctx, w.restartedPods(), all, func() error { return w.createPolicies(ctx) })
		return err
	})
}

// rollOutSingle changes policies one after the other.
func (w *world) rollOutSingle(ctx context.Context, r *result) error {
	err := w.count(ctx, &r.series, func() error {
		for i := range w.changes {
			policy, added := w.changed(i), fmt.Sprintf("extra-%d", i)
			change, err := w.follow(ctx, w.replicas(), []string{added}, func() error { return w.change(ctx, policy, added) })
			if err != nil {
				return err
			}
			r.changes = append(r.changes, change)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return w.count(ctx, &r.quiet, func() (err error) {
		r.quiet, err = w.follow(ctx, 0, []string{"extra-quiet"}, func() error { return w.change(ctx, w.policies-1, "extra-quiet") })
		return err
	})
}

// count counts into r the requests that do causes until all has come to rest.
func (w *world) count(ctx context.Context, r *rollout, do func() error) error {
	from, err := w.audit.mark()
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	if err := w.awaitQuiet(ctx, w.settle); err != nil {
		return err
	}
	operator, hubs, err := w.audit.between(from, 0)
	r.operator, r.hubs = operator.but(" leases"), hubs
	w.log("  the operator: %v", r.operator)
	w.log("  the hubs: %v", r.hubs)
	return err
}

// follow makes a change and waits until agents are in the ConfigMap and all policies
// are Ready again.
func (w *world) follow(ctx context.Context, pods int, agents []string, change func() error) (rollout, error) {
	r := rollout{pods: pods}
	applied, stop, err := w.awaitAgents(ctx, agents)
	if err != nil {
		return r, err
	}
	defer stop()
	start := time.Now()
	if err := change(); err != nil {
		return r, err
	}
	if err := w.poll(ctx, 20*time.Millisecond, "the ConfigMap", func() (bool, error) {
		select {
		case at := <-applied:
			r.applied = at.Sub(start)
			return true, nil
		default:
			return false, nil
		}
	}); err != nil {
		return r, err
	}
	if err := w.awaitReady(ctx); err != nil {
		return r, err
	}
	r.took = time.Since(start)
	w.log("  %d Pods in %v", pods, r.took.Round(100*time.Millisecond))
	return r, nil
}

// awaitAgents sends when agents are in the ConfigMap.
func (w *world) awaitAgents(ctx context.Context, agents []string) (<-chan time.Time, func(), error) {
	watching, err := client.NewWithWatch(w.cluster.RESTConfig(), client.Options{Scheme: w.client.Scheme()})
	if err != nil {
		return nil, nil, err
	}
	stream, err := watching.Watch(ctx, &corev1.ConfigMapList{}, client.InNamespace(hubconfig.Namespace), client.MatchingFields{"metadata.name": hubconfig.Name})
	if err != nil {
		return nil, nil, err
	}
	found := make(chan time.Time, 1)
	go func() {
		for e := range stream.ResultChan() {
			configMap, ok := e.Object.(*corev1.ConfigMap)
			if !ok {
				continue
			}
			config, err := hubconfig.Parse(configMap.Data)
			if err == nil && !slices.ContainsFunc(agents, func(a string) bool { return !slices.Contains(config.Agents, a) }) {
				found <- time.Now()
				return
			}
		}
	}()
	return found, stream.Stop, nil
}

// statusInterval is how long the operator may keep numbers to itself that changed
// in a status.
const statusInterval = time.Minute

// hubInterval is how long a hub may wait before it reports.
func (w *world) hubInterval() time.Duration { return w.reportInterval + w.reportInterval/jitter }

// awaitQuiet waits for a time in which what was put off is written, and then until
// neither the operator nor a hub has written anything for longer than a hub waits.
func (w *world) awaitQuiet(ctx context.Context, first time.Duration) error {
	const margin = 2 * time.Second
	sleep(ctx, first)
	mark, err := w.audit.mark()
	if err != nil {
		return err
	}
	quiet := max(w.hubInterval()-first, 0) + margin
	since := time.Now()
	return w.poll(ctx, 500*time.Millisecond, "the operator to come to rest", func() (bool, error) {
		operator, hubs, err := w.audit.between(mark, 0)
		if err != nil {
			return false, err
		}
		if operator.but(" leases", "watch ").total()+hubs.but("watch ", "list ").total() > 0 {
			since, quiet = time.Now(), w.hubInterval()+margin
			mark, err = w.audit.mark()
		}
		return time.Since(since) > quiet, err
	})
}

// countRest counts requests while nothing happens.
func (w *world) countRest(ctx context.Context, r *result) error {
	if w.settle < statusInterval { // else that was waited for
		if err := w.awaitQuiet(ctx, statusInterval); err != nil {
			return err
		}
	}
	from, err := w.audit.mark()
	if err != nil {
		return err
	}
	start := time.Now()
	sleep(ctx, w.options.rest)
	r.restFor = time.Since(start)
	r.rest, r.restHubs, err = w.audit.between(from, 0)
	return errors.Join(err, ctx.Err())
}

// memory of a process, in bytes.
type memory struct{ now, peak int64 }

// resources reads what the operator has used so far, see proc(5).
func (w *world) resources() (m memory, cpu time.Duration, err error) {
	pid := w.operator.PID()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, 0, fmt.Errorf("the operator has ended: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		kilobytes, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch name {
		case "VmRSS":
			m.now = kilobytes << 10
		case "VmHWM":
			m.peak = kilobytes << 10
		}
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return m, 0, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return m, time.Duration(user+system) * 10 * time.Millisecond, nil // 100 ticks a second
}

func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(len(all)-lines, 0):], "\n")
}

// median of durations that pick picks.
func median(all []rollout, pick func(rollout) time.Duration) time.Duration {
	var values []time.Duration
	for _, r := range all {
		values = append(values, pick(r))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// print prints a table in Markdown that is aligned as well.
func (r *result) print(to io.Writer) {
	w := tabwriter.NewWriter(to, 0, 0, 1, ' ', 0)
	line := func(what, value string) { fmt.Fprintf(w, "| %s\t| %s\t|\n", what, value) }
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
	mib := func(bytes int64) string { return fmt.Sprintf("%.0f MiB", float64(bytes)/(1<<20)) }
	line("measure", fmt.Sprintf("%d nodes, %d Pods, %d policies", r.size.nodes, r.size.allPods(), r.size.policies))
	line("---", "---")
	if r.started > 0 {
		line("operator: start until it has carried out a first policy", seconds(r.started))
	}
	if r.restarts > 0 {
		line("operator: ended and started again, as the machine was too busy", fmt.Sprint(r.restarts))
	}
	if r.memory.now > 0 {
		line("operator: memory at the end, at its peak", mib(r.memory.now)+", "+mib(r.memory.peak))
		line("operator: CPU, in all", seconds(r.cpu))
	}
	if r.all.took > 0 {
		line("all policies at once: apply until the ConfigMap has every agent", seconds(r.all.applied))
		line(fmt.Sprintf("all policies at once: apply until %d Pods are restarted and every policy is Ready", r.all.pods), seconds(r.all.took))
		line("all policies at once: the operator's requests, per Pod", fmt.Sprintf("%d, %.2f", r.all.operator.total(), float64(r.all.operator.total())/float64(r.all.pods)))
		line("all policies at once: reports, per node", fmt.Sprintf("%d, %.1f", r.all.reports(), float64(r.all.reports())/float64(r.size.nodes)))
	}
	if len(r.changes) > 0 {
		line("one policy: apply until the ConfigMap has its agent (median)", seconds(median(r.changes, func(c rollout) time.Duration { return c.applied })))
		line(fmt.Sprintf("one policy: apply until %d Pods are restarted and it is Ready (median)", r.changes[0].pods), seconds(median(r.changes, func(c rollout) time.Duration { return c.took })))
		n := float64(len(r.changes))
		line("one policy: the operator's requests, those that are no evictions (mean)", fmt.Sprintf("%.1f, %.1f", float64(r.series.operator.total())/n, float64(r.series.operator.total()-r.series.evictions())/n))
		line("one policy: reports, per node (mean)", fmt.Sprintf("%.0f, %.1f", float64(r.series.reports())/n, float64(r.series.reports())/n/float64(r.size.nodes)))
	}
	if r.quiet.took > 0 {
		line("one policy, strategy Never: apply until the ConfigMap, until Ready", seconds(r.quiet.applied)+", "+seconds(r.quiet.took))
		line("one policy, strategy Never: the operator's requests", r.quiet.operator.String())
	}
	if r.restFor > 0 {
		minute := func(n int) string { return fmt.Sprintf("%.1f", float64(n)/r.restFor.Minutes()) }
		rest := r.rest.but(" leases")
		line("at rest: the operator's requests a minute: leases, watches begun anew, others", minute(r.rest.total()-rest.total())+", "+minute(rest.total()-rest.but("watch ").total())+", "+minute(rest.but("watch ").total()))
		if others := rest.but("watch "); others.total() > 0 {
			line("at rest: the others", others.String())
		}
		line("at rest: the hubs' requests a minute, watches aside", minute(r.restHubs.but("watch ", "list ").total()))
	}
	line("all of it", seconds(r.totalDuration))
	_ = w.Flush() // to a terminal or a buffer
}
