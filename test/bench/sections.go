package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// section is a part of the table.
type section struct {
	name string
	run  func(context.Context, *bench) error
}

var sections = []section{
	{"memory, idle", idle},
	{"GET, one ConfigMap of 1.5 KB, 8 clients", gets},
	{"GET, one client: added latency", latency},
	{"LIST, 5,000 ConfigMaps, JSON", func(ctx context.Context, b *bench) error { return lists(ctx, b, "application/json") }},
	{"LIST, 5,000 ConfigMaps, protobuf", func(ctx context.Context, b *bench) error {
		return lists(ctx, b, "application/vnd.kubernetes.protobuf")
	}},
	{"memory, after the lists", idle},
	{"offline", offline},
}

func idle(_ context.Context, b *bench) error {
	now, peak := memory(b.hub.PID())
	fmt.Printf("  %-24s %s now, %s peak\n", "edge-hub", mb(now), mb(peak))
	now, peak = memory(b.plain.PID())
	fmt.Printf("  %-24s %s now, %s peak\n", "plain ReverseProxy", mb(now), mb(peak))
	return nil
}

// result is one target's figures over all rounds.
type result struct {
	target  target
	rates   []float64 // per second
	cpu     []time.Duration
	latency []time.Duration
}

// compare runs work against each target in turn, round by round, and prints the
// ratios to the first.
func (b *bench) compare(ctx context.Context, targets []target, requests int, work func(context.Context, *http.Client, target, int) error) ([]result, error) {
	results := make([]result, len(targets))
	clients := make([][]*http.Client, len(targets))
	for i, t := range targets {
		results[i].target = t
		for range b.clients {
			clients[i] = append(clients[i], b.newClient())
		}
		for _, c := range clients[i] { // connections are made before the clock runs
			if err := work(ctx, c, t, 0); err != nil {
				return nil, err
			}
		}
	}
	for range b.rounds {
		for i := range results {
			if err := b.round(ctx, &results[i], clients[i], requests, work); err != nil {
				return nil, err
			}
		}
	}
	first := median(results[0].rates)
	for i := range results {
		r := &results[i]
		rate := median(r.rates)
		fmt.Printf("  %-24s %10.1f/s  ratio %.2f", r.target.name, rate, rate/first)
		if r.target.pid != 0 {
			fmt.Printf("  cpu %v/request", median(r.cpu).Round(100*time.Nanosecond))
		}
		fmt.Printf("  p50 %v p99 %v\n", percentile(r.latency, .5).Round(time.Microsecond), percentile(r.latency, .99).Round(time.Microsecond))
	}
	return results, nil
}

func (b *bench) round(ctx context.Context, r *result, clients []*http.Client, requests int, work func(context.Context, *http.Client, target, int) error) error {
	var mu sync.Mutex
	var firstErr error
	var wg sync.WaitGroup
	before, start := cpu(r.target.pid), time.Now()
	for w, c := range clients {
		wg.Go(func() {
			var took []time.Duration
			for i := w; i < requests; i += len(clients) {
				begin := time.Now()
				if err := work(ctx, c, r.target, i); err != nil {
					mu.Lock()
					firstErr = err
					mu.Unlock()
					return
				}
				took = append(took, time.Since(begin))
			}
			mu.Lock()
			r.latency = append(r.latency, took...)
			mu.Unlock()
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	r.rates = append(r.rates, float64(requests)/elapsed.Seconds())
	r.cpu = append(r.cpu, (cpu(r.target.pid)-before)/time.Duration(requests))
	return firstErr
}

func (b *bench) getOne(ctx context.Context, c *http.Client, t target, i int) error {
	_, err := b.get(ctx, c, t, fmt.Sprintf("/api/v1/namespaces/bench/configmaps/cm-%05d", i%1000), "")
	return err
}

func gets(ctx context.Context, b *bench) error {
	_, err := b.compare(ctx, []target{b.direct, b.proxy, b.uncached, b.cached}, 4000, b.getOne)
	return err
}

func latency(ctx context.Context, b *bench) error {
	clients := b.clients
	b.clients = 1
	defer func() { b.clients = clients }()
	results, err := b.compare(ctx, []target{b.direct, b.proxy, b.uncached, b.cached}, 1000, b.getOne)
	if err != nil {
		return err
	}
	for _, r := range results[1:] {
		fmt.Printf("  %-24s adds p50 %v, p99 %v\n", r.target.name,
			percentile(r.latency, .5)-percentile(results[0].latency, .5), percentile(r.latency, .99)-percentile(results[0].latency, .99))
	}
	return nil
}

func lists(ctx context.Context, b *bench, accept string) error {
	clients := b.clients
	b.clients = 4
	defer func() { b.clients = clients }()
	written, fsyncs := b.metric("edgehub_cache_written_bytes_total"), b.metric("edgehub_cache_fsyncs_total")
	_, err := b.compare(ctx, []target{b.direct, b.proxy, b.uncached, b.cached}, 12, func(ctx context.Context, c *http.Client, t target, _ int) error {
		_, err := b.get(ctx, c, t, "/api/v1/namespaces/bench/configmaps", accept)
		return err
	})
	now, peak := memory(b.hub.PID())
	fmt.Printf("  edge-hub: %s now, %s peak, wrote %s in %v fsyncs, not recorded %v\n", mb(now), mb(peak),
		mb(int64(b.metric("edgehub_cache_written_bytes_total")-written)), b.metric("edgehub_cache_fsyncs_total")-fsyncs, b.metric("edgehub_cache_not_recorded_total"))
	return err
}

func offline(ctx context.Context, b *bench) error {
	list := func(ctx context.Context, c *http.Client, t target, _ int) error {
		_, err := b.get(ctx, c, t, "/api/v1/namespaces/bench/configmaps", "application/json")
		return err
	}
	live, err := b.compare(ctx, []target{b.direct}, 4000, b.getOne)
	if err != nil {
		return err
	}
	clients := b.clients
	b.clients = 4
	liveList, err := b.compare(ctx, []target{b.direct}, 12, list)
	b.clients = clients
	if err != nil {
		return err
	}
	// What is read offline is in the encoding it was last cached in.
	if err := list(ctx, b.newClient(), b.cached, 0); err != nil {
		return err
	}
	if err := b.cluster.KillAPIServer(); err != nil {
		return err
	}
	defer func() { _ = b.cluster.RestartAPIServer(ctx) }()
	c := b.newClient()
	start := time.Now()
	if err := b.getOne(ctx, c, b.cached, 0); err != nil {
		return err
	}
	fmt.Printf("  connection refused to first cached answer: %v\n", time.Since(start))
	gets, err := b.compare(ctx, []target{b.cached}, 20000, b.getOne)
	if err != nil {
		return err
	}
	fmt.Printf("  GET: %.1f times the live kube-apiserver's rate\n", median(gets[0].rates)/median(live[0].rates))
	b.clients = 4
	listed, err := b.compare(ctx, []target{b.cached}, 24, list)
	b.clients = clients
	if err != nil {
		return err
	}
	fmt.Printf("  LIST: p50 is %.2f of direct\n", float64(percentile(listed[0].latency, .5))/float64(percentile(liveList[0].latency, .5)))
	now, peak := memory(b.hub.PID())
	fmt.Printf("  edge-hub: %s now, %s peak\n", mb(now), mb(peak))
	return nil
}
