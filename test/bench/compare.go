package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// load is what is asked of each target in turn, round by round.
type load struct {
	targets  []target
	clients  int // concurrent ones, each with its own connections
	requests int // in a round, of all clients
	rounds   int
	path     func(i int) string
	accept   string
}

// result is one target's figures over all rounds.
type result struct {
	target   target
	rates    []float64 // requests per second, by round
	latency  []time.Duration
	requests int
	bytes    int64
	used     []usage // of the program in between, by round; kube-apiserver's if direct
	clients  []*http.Client

	failed    int // requests that got no answer
	fromCache int // those that kube-apiserver did not answer
}

func (r *result) rate() float64                      { return median(r.rates) }
func (r *result) percentile(p float64) time.Duration { return percentile(r.latency, p) }

// perRequest is what one request cost, by a figure of a round's usage.
func (r *result) perRequest(figure func(usage) float64) float64 {
	var values []float64
	for _, u := range r.used {
		values = append(values, figure(u)*float64(len(r.used))/float64(r.requests))
	}
	return median(values)
}

// warmPath is read once over each connection before the clock runs.
const warmPath = "/api/v1/namespaces/default"

// compare runs a load. The results are in the order of the targets.
func (b *bench) compare(ctx context.Context, l load) ([]*result, error) {
	var results []*result
	for _, t := range l.targets {
		r := &result{target: t}
		for range l.clients { // connections are made before the clock runs
			c := b.newClient()
			defer c.CloseIdleConnections()
			if _, err := b.get(ctx, c, t, warmPath, asJSON); err != nil {
				return nil, err
			}
			r.clients = append(r.clients, c)
		}
		results = append(results, r)
	}
	for range l.rounds {
		for _, r := range results {
			if err := b.round(ctx, l, r); err != nil {
				return nil, err
			}
		}
	}
	return results, nil
}

// round sends one round's requests to one target.
func (b *bench) round(ctx context.Context, l load, r *result) error {
	before, err := usageOf(ctx, r.target.program)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var failure error
	var wg sync.WaitGroup
	answered := 0
	start := time.Now()
	for w, c := range r.clients {
		wg.Go(func() {
			for i := w; i < l.requests && ctx.Err() == nil; i += l.clients {
				begin := time.Now()
				a, err := b.get(ctx, c, r.target, l.path(i), l.accept)
				took := time.Since(begin)
				mu.Lock()
				r.requests++
				if err != nil {
					r.failed++
					failure = err
				} else {
					answered++
					r.latency = append(r.latency, took)
					r.bytes += a.bytes
				}
				if a.fromCache {
					r.fromCache++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	if failure != nil {
		fmt.Fprintf(os.Stderr, "%d of %d requests failed, the last with: %v\n", l.requests-answered, l.requests, failure)
	}
	if answered == 0 {
		return failure
	}
	after, err := usageOf(ctx, r.target.program)
	if err != nil {
		return err
	}
	r.rates = append(r.rates, float64(answered)/elapsed.Seconds())
	r.used = append(r.used, after.since(before))
	return context.Cause(ctx)
}

// amiss says what should not have happened while kube-apiserver was there: under
// load the hub may take it for lost.
func (r *result) amiss() (text string) {
	if r.failed > 0 {
		text += fmt.Sprintf(", %d of %d failed", r.failed, r.requests)
	}
	if r.fromCache > 0 {
		text += fmt.Sprintf(", %d of %d from the cache", r.fromCache, r.requests)
	}
	return text
}

// rates adds a row of rates and their ratios to the first result's. least are
// the least ratios for those columns that have a target.
func (b *bench) rates(work string, results []*result, least map[column]float64) *row {
	row := b.table.add(work + ": rate (ratio to direct)")
	first := results[0].rate()
	for _, r := range results {
		c := r.target.column
		if c == direct {
			row.set(c, "%s%s", perSecond(r.rate()), r.amiss())
			continue
		}
		row.set(c, "%s (%s)%s", perSecond(r.rate()), ratio(r.rate()/first), r.amiss())
		if bound, ok := least[c]; ok {
			row.want(c, r.rate()/first, ">=", bound, ratio)
		}
	}
	return row
}

// costs adds rows of what the programs in between spent per request, and of the
// processor time that kube-apiserver spent on a direct one.
func (b *bench) costs(work string, results []*result) {
	cpu := b.table.add(work + ": CPU per request")
	memory := b.table.add(work + ": allocated per request (bytes, objects)")
	for _, r := range results {
		metric := func(name string) float64 {
			return r.perRequest(func(u usage) float64 { return u.metrics[name] })
		}
		cpu.set(r.target.column, "%s", seconds(r.perRequest(func(u usage) float64 { return u.cpu.Seconds() })))
		if r.target.program == nil {
			continue
		}
		memory.set(r.target.column, "%s, %.0f", bytesOf(metric(allocated)), metric(mallocs))
	}
}

// latencies adds a row of how long a request took.
func (b *bench) latencies(work string, results []*result) {
	row := b.table.add(work + ": p50 / p99")
	for _, r := range results {
		row.set(r.target.column, "%s / %s", span(r.percentile(.5)), span(r.percentile(.99)))
	}
}

// median is zero if there are no values.
func median[T time.Duration | float64](values []T) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// percentile is the value below which a share p of the values lies.
func percentile(values []time.Duration, p float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}
