package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// offline takes kube-apiserver away.
func offline(ctx context.Context, b *bench) (err error) {
	if err := b.configMaps(ctx); err != nil {
		return err
	}
	get := load{clients: b.clients, rounds: b.rounds, path: configMapPath, accept: asJSON}
	list := load{clients: listClients, rounds: b.rounds, path: func(int) string { return configMapsPath }, accept: asJSON}
	liveGet, err := b.live(ctx, get, 4000, read)
	if err != nil {
		return err
	}
	liveList, err := b.live(ctx, list, 12, 1)
	if err != nil {
		return err
	}
	if err := wait(ctx, settle); err != nil {
		return err
	}
	if err := b.losses(ctx); err != nil {
		return err
	}
	if err := b.cluster.KillAPIServer(); err != nil {
		return err
	}
	defer func() {
		if e := b.returnCloud(ctx); err == nil {
			err = e
		}
	}()
	gets, err := b.gone(ctx, get, 20_000)
	if err != nil {
		return err
	}
	work := fmt.Sprintf("offline GET 1.5 KB, %d clients", b.clients)
	faster := gets.rate() / liveGet.rate()
	b.table.add(work+": rate (ratio to direct, live)").set(direct, "%s", perSecond(liveGet.rate())).
		set(cached, "%s (%s)", perSecond(gets.rate()), times(faster)).want(cached, faster, ">=", 5, times)
	b.costs(work, []*result{liveGet, gets})
	b.latencies(work, []*result{liveGet, gets})
	listed, err := b.gone(ctx, list, 24)
	if err != nil {
		return err
	}
	work = "offline LIST 5,000, JSON"
	share := listed.percentile(.5).Seconds() / liveList.percentile(.5).Seconds()
	b.table.add(work+": p50 (ratio to direct, live)").set(direct, "%s", span(liveList.percentile(.5))).
		set(cached, "%s (%s)", span(listed.percentile(.5)), ratio(share)).want(cached, share, "<", .5, ratio)
	b.costs(work, []*result{liveList, listed})
	now, peak, err := memory(b.hub.process.PID())
	b.table.add("after the offline reads: RSS now / peak").set(cached, "%s / %s", megabyte(float64(now)), megabyte(float64(peak)))
	return err
}

// live measures directly what is going to be read offline, and has as many
// reads as it takes recorded.
func (b *bench) live(ctx context.Context, l load, requests, recorded int) (*result, error) {
	l.targets, l.requests = []target{b.target(direct)}, requests
	results, err := b.compare(ctx, l)
	if err != nil {
		return nil, err
	}
	l.targets, l.requests, l.rounds = []target{b.target(cached)}, recorded, 1
	_, err = b.compare(ctx, l)
	return results[0], err
}

// gone measures reads while kube-apiserver is gone.
func (b *bench) gone(ctx context.Context, l load, requests int) (*result, error) {
	l.targets, l.requests = []target{b.target(cached)}, requests
	results, err := b.compare(ctx, l)
	if err != nil {
		return nil, err
	}
	if r := results[0]; r.failed > 0 {
		return nil, fmt.Errorf("%d of %d reads failed offline", r.failed, r.requests)
	}
	return results[0], nil
}

// losses measures how long a request waits for the cache when kube-apiserver has
// just gone.
func (b *bench) losses(ctx context.Context) error {
	var refused, silent []time.Duration
	for range min(b.rounds, 3) {
		took, err := b.firstAnswer(ctx, b.cluster.KillAPIServer)
		if err != nil {
			return err
		}
		refused = append(refused, took)
		if err := b.returnCloud(ctx); err != nil {
			return err
		}
		if took, err = b.firstAnswer(ctx, b.cluster.FreezeAPIServer); err != nil {
			return err
		}
		silent = append(silent, took)
		if err := b.cluster.ThawAPIServer(); err != nil {
			return err
		}
		if err := b.awaitCloud(ctx); err != nil {
			return err
		}
	}
	b.table.add("connection refused to first cached answer").set(cached, "%s", span(median(refused))).
		want(cached, median(refused).Seconds(), "<=", .1, seconds)
	b.table.add("kube-apiserver frozen to first cached answer").set(cached, "%s", span(median(silent))).
		want(cached, median(silent).Seconds(), "<=", 2, seconds)
	return nil
}

// firstAnswer takes kube-apiserver away and measures the time from then until
// a read is answered, over a connection that was in use.
func (b *bench) firstAnswer(ctx context.Context, lose func() error) (time.Duration, error) {
	c, t := b.newClient(), b.target(cached)
	defer c.CloseIdleConnections()
	if _, err := b.get(ctx, c, t, configMapPath(0), asJSON); err != nil {
		return 0, err
	}
	if err := lose(); err != nil {
		return 0, err
	}
	return b.untilAnswered(ctx, c, t, configMapPath(0))
}

// untilAnswered asks until there is an answer and returns how long it took.
func (b *bench) untilAnswered(ctx context.Context, c *http.Client, t target, path string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	start := time.Now()
	for {
		_, err := b.get(ctx, c, t, path, asJSON)
		if err == nil {
			return time.Since(start), nil
		}
		if wait(ctx, time.Millisecond) != nil {
			return 0, fmt.Errorf("no answer: %w", err)
		}
	}
}

// boot starts the hub without a cloud, over a cache of 50,000 objects.
func boot(ctx context.Context, b *bench) (err error) {
	if err := b.manyConfigMaps(ctx); err != nil {
		return err
	}
	if err := b.freshHub(ctx); err != nil {
		return err
	}
	path := "/api/v1/namespaces/" + manyNamespace + "/configmaps"
	c := b.newClient()
	defer c.CloseIdleConnections()
	if _, err := b.get(ctx, c, b.target(cached), path, asJSON); err != nil {
		return err
	}
	if err := b.hub.process.Stop(10 * time.Second); err != nil {
		return err
	}
	if n, err := b.viewFiles(); err != nil {
		return err
	} else if n != 1 {
		return fmt.Errorf("%d views on disk, want 1", n)
	}
	if err := b.cluster.KillAPIServer(); err != nil {
		return err
	}
	defer func() {
		if e := b.returnCloud(ctx); err == nil {
			err = e
		}
	}()
	var starts started
	for range min(b.rounds, 3) {
		if err := starts.measure(ctx, b, c, path); err != nil {
			return err
		}
	}
	work := "start without a cloud, 50,000 objects in one view"
	b.table.add(work+": to the first GET answered").set(cached, "%s", span(median(starts.first)))
	b.table.add(work+": CPU until then").set(cached, "%s", span(median(starts.cpu)))
	b.table.add(work+": LIST of all").set(cached, "%s", span(median(starts.list)))
	b.table.add(work+": RSS then").set(cached, "%s", megabyte(median(starts.rss)))
	return nil
}

// started is what starts of the hub cost.
type started struct {
	first []time.Duration // from the start to the first answer
	cpu   []time.Duration // until then
	list  []time.Duration
	rss   []float64 // after the list, bytes
}

// measure starts the hub, reads, and kills it.
func (s *started) measure(ctx context.Context, b *bench, c *http.Client, path string) error {
	start := time.Now()
	if err := b.launch(b.hub); err != nil {
		return err
	}
	t := b.target(cached)
	if _, err := b.untilAnswered(ctx, c, t, fmt.Sprintf("%s/m-%05d", path, manyCount-1)); err != nil {
		return err
	}
	s.first = append(s.first, time.Since(start))
	used, err := cpu(b.hub.process.PID())
	if err != nil {
		return err
	}
	s.cpu = append(s.cpu, used)
	start = time.Now()
	if _, err := b.get(ctx, c, t, path, asJSON); err != nil {
		return err
	}
	s.list = append(s.list, time.Since(start))
	now, _, err := memory(b.hub.process.PID())
	s.rss = append(s.rss, float64(now))
	return errors.Join(err, b.hub.process.Kill())
}
