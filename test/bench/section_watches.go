package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	watchCount   = 1000
	watchClients = 10
	quiet        = 10 * time.Second
)

// watches holds 1,000 watches in which nothing happens, each of one object, as
// the kubelet watches Secrets and ConfigMaps.
func watches(ctx context.Context, b *bench) error {
	if err := b.configMaps(ctx); err != nil {
		return err
	}
	work := fmt.Sprintf("%d idle watches, %d clients", watchCount, watchClients)
	rss := b.table.add(work + ": RSS before / with")
	busy := b.table.add(work + ": CPU in 10 s")
	for _, c := range []column{plain, uncached, cached} {
		t := b.target(c)
		if err := b.fresh(ctx, t); err != nil {
			return err
		}
		before, _, err := memory(t.program.process.PID())
		if err != nil {
			return err
		}
		now, used, err := b.hold(ctx, t)
		if err != nil {
			return err
		}
		rss.set(c, "%s / %s", megabyte(float64(before)), megabyte(float64(now)))
		busy.set(c, "%s", span(used))
	}
	return nil
}

// hold opens the watches and returns the program's memory and the processor
// time that it used while nothing happened.
func (b *bench) hold(ctx context.Context, t target) (rss int64, used time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	clients := make([]*http.Client, watchClients)
	for i := range clients {
		clients[i] = b.newClient()
		defer clients[i].CloseIdleConnections()
	}
	var ended atomic.Int64
	err = parallel(ctx, watchClients, watchCount, func(_ context.Context, i int) error {
		c := clients[i%watchClients]
		path := fmt.Sprintf("%s?fieldSelector=metadata.name%%3Dcm-%05d", configMapsPath, i)
		version, err := b.listVersion(ctx, c, t, path)
		if err != nil {
			return err
		}
		resp, err := b.open(ctx, c, t, path+"&watch=true&allowWatchBookmarks=true&resourceVersion="+version, asJSON)
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer resp.Body.Close()
			_, _ = io.Copy(io.Discard, resp.Body)
			ended.Add(1)
		})
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	if err := wait(ctx, 2*settle); err != nil {
		return 0, 0, err
	}
	rss, used, err = atRest(ctx, t.program)
	if n := ended.Load(); n > 0 && err == nil {
		err = fmt.Errorf("%d of %d watches ended", n, watchCount)
	}
	return rss, used, err
}

// timesLost says if the hub took kube-apiserver for lost since its start, which
// ends all watches; under load it may.
func timesLost(ctx context.Context, t target) (text string, err error) {
	m, err := scrape(ctx, t.program.metrics)
	if n := m[losses]; n > 0 {
		text = fmt.Sprintf(", kube-apiserver lost %.0f times", n)
	}
	return text, err
}

// atRest returns the processor time that a program uses while nothing
// happens, and its memory then.
func atRest(ctx context.Context, p *program) (rss int64, used time.Duration, err error) {
	before, err := cpu(p.process.PID())
	if err != nil {
		return 0, 0, err
	}
	if err := wait(ctx, quiet); err != nil {
		return 0, 0, err
	}
	after, err := cpu(p.process.PID())
	if err != nil {
		return 0, 0, err
	}
	rss, _, err = memory(p.process.PID())
	return rss, after - before, err
}

const (
	delayNamespace = "bench-delay"
	delayPath      = "/api/v1/namespaces/" + delayNamespace + "/configmaps"
	delayObjects   = 100
	delaySize      = 1024
	eventRate      = 1000 // per second
	delayDuration  = 3 * time.Second
)

// delayResult is one target's figures over all rounds.
type delayResult struct {
	p50, p99 []time.Duration
	rates    []float64
	bytes    int64
	elapsed  time.Duration
	used     usage   // until what was recorded was durable
	fsyncs   float64 // while events came
}

// delay measures how much later an event arrives than through a direct watch.
// In the first column that is another direct watch: what the method itself
// costs.
func delay(ctx context.Context, b *bench) error {
	if err := b.once(ctx, "100 ConfigMaps that change", func(ctx context.Context) error {
		if err := b.seedNamespace(ctx, delayNamespace); err != nil {
			return err
		}
		return b.seedConfigMaps(ctx, delayNamespace, "d-", delayObjects, delaySize)
	}); err != nil {
		return err
	}
	var results [columns]delayResult
	for range min(b.rounds, 3) {
		for _, t := range b.all() {
			if err := b.delayRound(ctx, t, &results[t.column]); err != nil {
				return err
			}
		}
	}
	work := fmt.Sprintf("watch, %d events/s asked for", eventRate)
	events := b.table.add(work + ": events per second")
	p50 := b.table.add(work + ": delay behind direct, p50")
	p99 := b.table.add(work + ": delay behind direct, p99")
	for c := direct; c < columns; c++ {
		r := &results[c]
		events.set(c, "%s", perSecond(median(r.rates)))
		p50.set(c, "%s", span(median(r.p50)))
		p99.set(c, "%s", span(median(r.p99)))
		if c == uncached || c == cached {
			p99.want(c, median(r.p99).Seconds(), "<=", .002, seconds)
		}
	}
	r := &results[cached]
	b.writes(work, r.used, float64(r.bytes))
	// "About once a second": a round also has the syncs of a compaction.
	rate := r.fsyncs / r.elapsed.Seconds()
	b.table.add(work+": fsyncs of the one dirty file").set(cached, "%s", perSecond(rate)).want(cached, rate, "<=", 1.2, perSecond)
	return nil
}

// delayRound watches directly and through a target at once while objects are
// written to.
func (b *bench) delayRound(ctx context.Context, t target, r *delayResult) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var followed [2]arrivals
	var errs [2]error
	var last atomic.Uint64
	var wg sync.WaitGroup
	for i, t := range []target{b.target(direct), t} {
		c := b.newClient()
		defer c.CloseIdleConnections()
		version, err := b.listVersion(ctx, c, t, delayPath)
		if err != nil {
			return err
		}
		resp, err := b.open(ctx, c, t, delayPath+"?watch=true&resourceVersion="+version, asJSON)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		wg.Go(func() { followed[i], errs[i] = follow(resp.Body, last.Load) })
	}
	before, err := usageOf(ctx, t.program)
	if err != nil {
		return err
	}
	start := time.Now()
	stop := b.churn(ctx, delayNamespace, "d-", delayObjects, delaySize, eventRate)
	err = wait(ctx, delayDuration)
	version, updates, churned := stop()
	elapsed := time.Since(start)
	if err = errors.Join(err, churned); err != nil {
		return err
	}
	during, err := usageOf(ctx, t.program)
	if err != nil {
		return err
	}
	// The event of one more write tells the watches that they have seen all.
	last.Store(version)
	if _, err := b.client.CoreV1().ConfigMaps(delayNamespace).Update(ctx, configMap("d-00000", delaySize), metav1.UpdateOptions{}); err != nil {
		return err
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	if err := wait(ctx, settle); err != nil {
		return err
	}
	after, err := usageOf(ctx, t.program)
	if err != nil {
		return err
	}
	r.used = r.used.plus(after.since(before))
	r.fsyncs += during.since(before).metrics[fsyncs]
	r.bytes += followed[1].bytes
	r.elapsed += elapsed
	r.rates = append(r.rates, float64(updates)/elapsed.Seconds())
	return r.join(followed[0].at, followed[1].at)
}

// join compares when the same events came.
func (r *delayResult) join(direct, through map[uint64]time.Time) error {
	var delays []time.Duration
	missing := 0
	for version, at := range direct {
		if other, ok := through[version]; ok {
			delays = append(delays, other.Sub(at))
		} else {
			missing++
		}
	}
	if missing > 0 {
		return fmt.Errorf("%d of %d events did not come", missing, len(direct))
	}
	r.p50 = append(r.p50, percentile(delays, .5))
	r.p99 = append(r.p99, percentile(delays, .99))
	return nil
}
