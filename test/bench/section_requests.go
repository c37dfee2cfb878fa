package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	configMapsPath = "/api/v1/namespaces/" + namespace + "/configmaps"
	// read is how many different ConfigMaps GETs ask for.
	read = 1000
	// listClients is how many clients list at once.
	listClients = 4
)

func configMapPath(i int) string { return fmt.Sprintf("%s/cm-%05d", configMapsPath, i%read) }

// settle is the time in which what was recorded becomes durable: twice the
// journal's interval.
const settle = time.Second

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// residentSet adds a row of what the proxies hold.
func (b *bench) residentSet(work string, bound float64) error {
	row := b.table.add(work + ": RSS now / peak")
	for c, p := range map[column]*program{plain: b.plain, cached: b.hub} {
		now, peak, err := memory(p.process.PID())
		if err != nil {
			return err
		}
		row.set(c, "%s / %s", megabyte(float64(now)), megabyte(float64(peak)))
		if c == cached {
			row.want(c, float64(now), "<=", bound, megabyte)
		}
	}
	return nil
}

// idle measures proxies that have had nothing to do yet.
func idle(ctx context.Context, b *bench) error {
	if err := wait(ctx, 2*time.Second); err != nil {
		return err
	}
	return b.residentSet("idle", 25e6)
}

// gets reads single objects.
func gets(ctx context.Context, b *bench) error {
	if err := b.configMaps(ctx); err != nil {
		return err
	}
	before, err := usageOf(ctx, b.hub)
	if err != nil {
		return err
	}
	results, err := b.compare(ctx, load{
		targets: b.all(), clients: b.clients, requests: 4000, rounds: b.rounds, path: configMapPath, accept: asJSON,
	})
	if err != nil {
		return err
	}
	if err := wait(ctx, settle); err != nil {
		return err
	}
	after, err := usageOf(ctx, b.hub)
	if err != nil {
		return err
	}
	work := fmt.Sprintf("GET 1.5 KB, %d clients", b.clients)
	b.rates(work, results, map[column]float64{uncached: .85, cached: .80})
	b.costs(work, results)
	b.latencies(work, results)
	// Each object is recorded when it is read first, and not again.
	used, r := after.since(before), results[cached]
	b.writes("GET 1.5 KB, the first time", used, float64(r.bytes)/float64(r.requests)*read)
	b.table.add("GET 1.5 KB, the first time: fsyncs per object").set(cached, "%.2f", used.metrics[fsyncs]/read)
	return nil
}

// latency measures what a proxy adds to the time that one request takes alone.
func latency(ctx context.Context, b *bench) error {
	if err := b.configMaps(ctx); err != nil {
		return err
	}
	// Short rounds: what else the machine does then hits all targets alike.
	results, err := b.compare(ctx, load{
		targets: b.all(), clients: 1, requests: 250, rounds: 4 * b.rounds, path: configMapPath, accept: asJSON,
	})
	if err != nil {
		return err
	}
	b.latencies("GET 1.5 KB, 1 client", results)
	for p, bound := range map[float64]time.Duration{.5: 100 * time.Microsecond, .99: 500 * time.Microsecond} {
		row := b.table.add(fmt.Sprintf("GET 1.5 KB, 1 client: added p%.0f", p*100))
		for _, r := range results[1:] {
			added := r.percentile(p) - results[0].percentile(p)
			row.set(r.target.column, "%s", span(added))
			if r.target.column == uncached {
				row.want(uncached, added.Seconds(), "<=", bound.Seconds(), seconds)
			}
		}
	}
	return nil
}

// lists reads 5,000 objects at once: first the same list again and again, which
// a cache has to record once only, then one that is another each time.
func lists(ctx context.Context, b *bench) error {
	if err := b.configMaps(ctx); err != nil {
		return err
	}
	for _, accept := range []string{asJSON, asProtobuf} {
		if err := b.list(ctx, "LIST 5,000, "+formats[accept], accept); err != nil {
			return err
		}
	}
	// kube-apiserver's newest resourceVersion is that of any write.
	const prefix = "changing-"
	if err := b.once(ctx, "a ConfigMap that changes", func(ctx context.Context) error {
		return b.seedConfigMaps(ctx, metav1.NamespaceDefault, prefix, 1, 16)
	}); err != nil {
		return err
	}
	for _, accept := range []string{asJSON, asProtobuf} {
		stop := b.churn(ctx, metav1.NamespaceDefault, prefix, 1, 16, 50)
		err := b.recordedList(ctx, "LIST 5,000 anew, "+formats[accept], accept)
		if _, _, e := stop(); err == nil {
			err = e
		}
		if err != nil {
			return err
		}
	}
	return b.residentSet("after the lists", 60e6)
}

var formats = map[string]string{asJSON: "JSON", asProtobuf: "protobuf"}

func (b *bench) list(ctx context.Context, work, accept string) error {
	results, err := b.compare(ctx, load{
		targets: b.all(), clients: listClients, requests: 12, rounds: b.rounds, accept: accept,
		path: func(int) string { return configMapsPath },
	})
	if err != nil {
		return err
	}
	b.rates(work, results, map[column]float64{uncached: .95, cached: .90})
	b.costs(work, results)
	return nil
}

// recordedList is list, with an account of what the cache wrote.
func (b *bench) recordedList(ctx context.Context, work, accept string) error {
	before, err := usageOf(ctx, b.hub)
	if err != nil {
		return err
	}
	results, err := b.compare(ctx, load{
		targets: b.all(), clients: listClients, requests: 12, rounds: b.rounds, accept: accept,
		path: func(int) string { return configMapsPath },
	})
	if err != nil {
		return err
	}
	if err := wait(ctx, settle); err != nil {
		return err
	}
	after, err := usageOf(ctx, b.hub)
	if err != nil {
		return err
	}
	b.rates(work, results, map[column]float64{uncached: .95, cached: .90})
	b.costs(work, results)
	used := after.since(before)
	r := results[cached]
	lists := float64(r.requests)
	left := used.metrics[notRecorded]
	outdated := used.metrics[notRecorded+`{reason="outdated"}`]
	b.table.add(work+": lists not recorded").set(cached, "%.0f of %.0f, and %.0f superseded by a newer one", left-outdated, lists, outdated)
	b.writes(work, used, float64(r.bytes)*(lists-left+outdated)/lists)
	b.table.add(work+": fsyncs per list").set(cached, "%.2f", used.metrics[fsyncs]/lists)
	return nil
}

// writes adds a row of bytes written per byte of what was recorded, to files
// and to the disk.
func (b *bench) writes(work string, used usage, logical float64) {
	files := used.metrics[written] / logical
	b.table.add(work+": bytes written per byte cached (of which to the disk)").
		set(cached, "%s (%s)", ratio(files), ratio(used.disk/logical)).want(cached, files, "<=", 1.5, ratio)
}

// podLists is how many clients list all Pods at once.
const podLists = 10

// pods lists 40 MB of Pods, ten times at once.
func pods(ctx context.Context, b *bench) error {
	if err := b.pods(ctx); err != nil {
		return err
	}
	path := func(int) string { return "/api/v1/namespaces/" + podNamespace + "/pods" }
	for _, accept := range []string{asJSON, asProtobuf} {
		results, err := b.compare(ctx, load{
			targets: b.all(), clients: podLists, requests: podLists, rounds: min(b.rounds, 3), path: path, accept: accept,
		})
		if err != nil {
			return err
		}
		work := fmt.Sprintf("LIST 10,000 Pods of %s %s, %d at once", bytesOf(float64(results[0].bytes)/float64(results[0].requests)/podCount), formats[accept], podLists)
		b.rates(work, results, nil)
		b.costs(work, results)
		if err := b.listMemory(ctx, work, path(0), accept); err != nil {
			return err
		}
	}
	return nil
}

// listMemory lists through programs that have done nothing else and adds rows
// of what that did to their memory.
func (b *bench) listMemory(ctx context.Context, work, path, accept string) error {
	rss := b.table.add(work + ": RSS before / peak")
	perList := b.table.add(work + ": heap added per list, garbage included")
	for _, c := range []column{plain, uncached, cached} {
		t := b.target(c)
		if err := b.fresh(ctx, t); err != nil {
			return err
		}
		var clients []*http.Client
		for range podLists {
			client := b.newClient()
			defer client.CloseIdleConnections()
			if _, err := b.get(ctx, client, t, warmPath, accept); err != nil {
				return err
			}
			clients = append(clients, client)
		}
		if err := resetPeak(t.program.process.PID()); err != nil {
			return err
		}
		before, _, err := memory(t.program.process.PID())
		if err != nil {
			return err
		}
		added, err := b.heapAdded(ctx, t.program, func() error {
			return parallel(ctx, podLists, podLists, func(ctx context.Context, i int) error {
				_, err := b.get(ctx, clients[i], t, path, accept)
				return err
			})
		})
		if err != nil {
			return err
		}
		_, peak, err := memory(t.program.process.PID())
		if err != nil {
			return err
		}
		rss.set(c, "%s / %s", megabyte(float64(before)), megabyte(float64(peak)))
		perList.set(c, "%s", mebibyte(added/podLists))
		if c != plain {
			perList.want(c, added/podLists, "<=", 1<<20, mebibyte)
		}
	}
	return nil
}

// heapAdded samples how far a program's heap grows while do runs, in bytes.
func (b *bench) heapAdded(ctx context.Context, p *program, do func() error) (float64, error) {
	first, err := scrape(ctx, p.metrics)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	highest := first[heap]
	var wg sync.WaitGroup
	wg.Go(func() {
		for wait(ctx, 50*time.Millisecond) == nil {
			if m, err := scrape(ctx, p.metrics); err == nil {
				highest = max(highest, m[heap])
			}
		}
	})
	err = do()
	cancel()
	wg.Wait()
	return highest - first[heap], err
}
