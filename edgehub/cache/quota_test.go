package cache

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"k8s.io/apimachinery/pkg/util/sets"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
	"github.com/edgehub-io/edge-hub/test/report"
)

// accounts fills a ledger: "agent/1/r/x" has 10 bytes and was used at second 3.
func accounts(quota Quota, entries ...string) *ledger {
	l := newLedger(quota, testingclock.NewFakePassiveClock(time.Unix(1000, 0)))
	for _, e := range entries {
		var file string
		var size, used int64
		if _, err := fmt.Sscanf(e, "%s %d %d", &file, &size, &used); err != nil {
			panic(err)
		}
		l.found(file, size, 0, time.Unix(used, 0), false)
	}
	return l
}

func TestWhoLeaves(t *testing.T) {
	for _, test := range []struct {
		name    string
		quota   Quota
		has     []string
		file    string
		size    int64
		want    string
		refused bool
	}{
		{name: "there is room", quota: Quota{Total: 30, PerAgent: 20}, has: []string{"a/me/1 10 1", "b/me/1 10 2"}, file: "a/me/2", size: 10},
		{name: "no quota", has: []string{"a/me/1 10 1"}, file: "a/me/2", size: 1 << 40},
		{name: "the agent's own least recently used", quota: Quota{PerAgent: 20}, has: []string{"a/me/1 10 5", "a/me/2 10 4", "b/me/1 20 1"}, file: "a/me/3", size: 5, want: "a/me/2"},
		{name: "as many as must", quota: Quota{PerAgent: 20}, has: []string{"a/me/1 10 5", "a/me/2 10 4"}, file: "a/me/3", size: 11, want: "a/me/2 a/me/1"},
		{name: "it replaces itself", quota: Quota{PerAgent: 20}, has: []string{"a/me/1 10 1", "a/me/2 10 2"}, file: "a/me/2", size: 10},
		{name: "it has grown", quota: Quota{PerAgent: 20}, has: []string{"a/me/1 10 9", "a/me/2 10 2"}, file: "a/me/2", size: 11, want: "a/me/1"},
		{name: "too large alone", quota: Quota{PerAgent: 20}, has: []string{"a/me/1 10 1", "b/me/1 10 1"}, file: "a/me/2", size: 21, refused: true},
		{name: "too large for the total", quota: Quota{Total: 30}, has: []string{"a/me/1 10 1", "b/me/1 10 1"}, file: "a/me/2", size: 31, refused: true},
		{name: "an agent's own quota", quota: Quota{PerAgent: 5, Of: func(a, _ string) (int64, bool) { return 40, a == "a" }}, has: []string{"a/me/1 10 1"}, file: "a/me/2", size: 30},
		{name: "a quota of its own that is none", quota: Quota{PerAgent: 5, Of: func(_, _ string) (int64, bool) { return 0, true }}, has: []string{"a/me/1 10 1"}, file: "a/me/2", size: 30},
		{name: "who has the most", quota: Quota{Total: 40}, has: []string{"a/me/1 5 1", "b/me/1 15 3", "b/me/2 15 2"}, file: "c/me/1", size: 10, want: "b/me/2"},
		{name: "the newcomer has the most", quota: Quota{Total: 40}, has: []string{"a/me/1 15 1", "c/me/1 15 2", "c/me/2 5 1"}, file: "c/me/3", size: 10, want: "c/me/2"},
		{name: "who has the most is asked again", quota: Quota{Total: 40}, has: []string{"a/me/1 15 1", "c/me/1 15 2", "c/me/2 5 1"}, file: "c/me/3", size: 15, want: "c/me/2 c/me/1"},
		{name: "it alone has more than its share", quota: Quota{Total: 40}, has: []string{"a/me/1 10 1", "b/me/1 10 1"}, file: "c/me/1", size: 25, refused: true},
		{name: "what was there has grown", quota: Quota{Total: 40, PerAgent: 30}, has: []string{"a/me/1 20 1", "a/me/2 15 2", "b/me/1 12 1"}, want: "a/me/1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := accounts(test.quota, test.has...)
			leave, ok := l.plan(test.file, test.size)
			var got []string
			for _, e := range leave {
				got = append(got, e.file)
			}
			if ok == test.refused || strings.Join(got, " ") != test.want {
				t.Errorf("leave: %v, %v; want %q", got, ok, test.want)
			}
		})
	}
}

// TestNobodyLosesTheirShareToOthers: over many random caches of tenants with several
// agents, and of the node.
func TestNobodyLosesTheirShareToOthers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 7))
	dirs := []string{
		"kubelet/system:node:n1", "kubelet/token:1", "kubelet/token:2", "other/system:serviceaccount:single:sa:1",
		"app/system:serviceaccount:many:sa:1", "b/system:serviceaccount:many:sa:1", "c/system:serviceaccount:many:sa:1",
	}
	dir := func() string { return dirs[rng.IntN(len(dirs))] }
	evicted, refused := 0, 0
	for range 20000 {
		quota := Quota{Total: 50 + rng.Int64N(200)}
		if rng.IntN(2) == 0 {
			quota.PerAgent = 20 + rng.Int64N(200)
		}
		l := accounts(quota)
		for i := range rng.IntN(12) {
			file := fmt.Sprintf("%s/r/%d", dir(), i)
			size := 1 + rng.Int64N(60)
			if leave, ok := l.plan(file, size); !ok || len(leave) > 0 {
				continue
			}
			l.found(file, size, 0, time.Unix(rng.Int64N(1000), 0), false)
		}
		file := dir() + "/r/new"
		size := 1 + rng.Int64N(150)
		leave, ok := l.plan(file, size)
		if !ok {
			refused++
			if len(leave) > 0 {
				t.Fatalf("%v leave for what is not kept", leave)
			}
			continue
		}
		own, node := holderOfFile(file), tenant{node: true}
		left, of, agents := map[holder]int64{own: size}, map[tenant]int64{}, map[tenant]int64{}
		for h, s := range l.holders {
			left[h] += s.bytes
		}
		for h, bytes := range left {
			of[h.tenant()] += bytes
			agents[h.tenant()]++
		}
		tenants := sets.KeySet(of).Delete(node).Len()
		for _, e := range leave {
			h := l.files[e.file].holder
			switch tenant := h.tenant(); {
			case e.reason == overAgentQuota && h == own:
			case tenant == node && (own != h || len(of) > 1):
				t.Fatalf("the node loses %d to %v, others have %v", e.size, own, of)
			case tenant == node:
			case tenant != own.tenant() && of[tenant] <= (quota.Total-of[node])/int64(tenants):
				t.Fatalf("%v has %d bytes of %d among %d, and loses %d to %v", h, of[tenant], quota.Total, tenants, e.size, own)
			case left[h]*agents[tenant] < of[tenant]:
				t.Fatalf("%v has %d bytes of %d among %d, and loses %d", h, left[h], of[tenant], agents[tenant], e.size)
			}
			for _, a := range l.files {
				stays := !slices.ContainsFunc(leave, func(other eviction) bool { return other.file == a.file })
				if a.holder == h && stays && a.used.Before(l.files[e.file].used) {
					t.Fatalf("%s leaves, %s was used before it", e.file, a.file)
				}
			}
			left[h] -= e.size
			if of[h.tenant()] -= e.size; of[h.tenant()] == 0 {
				delete(of, h.tenant())
			}
			evicted++
		}
		sum := int64(0)
		for h, bytes := range left {
			if sum += bytes; quota.PerAgent > 0 && h == own && bytes > quota.PerAgent {
				t.Fatalf("%v has %d bytes of %d", h, bytes, quota.PerAgent)
			}
		}
		if sum > quota.Total {
			t.Fatalf("%d bytes of %d", sum, quota.Total)
		}
	}
	report.Line(t, "%d views evicted, %d lists refused", evicted, refused)
	if evicted < 1000 || refused < 1000 {
		t.Error("too few to tell")
	}
}

// quotaFixture is a store over a disk in memory that does its housekeeping.
type quotaFixture struct {
	fixture
	disk *journaltest.FS
	stop context.CancelFunc
}

func withQuota(t *testing.T, quota Quota, test func(f *quotaFixture)) {
	silence(t)
	synctest.Test(t, func(t *testing.T) {
		f := &quotaFixture{fixture: fixture{T: t}, disk: journaltest.New()}
		f.start(quota)
		test(f)
		f.end()
	})
}

func (f *quotaFixture) start(quota Quota) {
	f.Helper()
	f.Store = Open(Options{FS: f.disk, Quota: quota, Key: sealKey})
	f.setAgents("app", "other")
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Store.Run(ctx)
	}()
	f.stop = func() { stop(); <-done }
	synctest.Wait()
}

func (f *quotaFixture) end() {
	f.Helper()
	f.stop()
	if err := f.Store.Close(); err != nil {
		f.Error(err)
	}
}

// sized is a list of one object that takes about so many bytes.
func sized(namespace string, version, bytes int) string {
	return listOf(version, object(namespace, "x", version, "padding", strings.Repeat("x", bytes)))
}

// keep records a list of a namespace, a second after what came before.
func (f *quotaFixture) keep(agent, namespace string, version, bytes int) {
	f.Helper()
	time.Sleep(time.Second)
	f.record(f.queryAs(agent, "me", "/api/v1/namespaces/"+namespace+"/configmaps", ""), sized(namespace, version, bytes))
	synctest.Wait()
}

// kept says which namespaces' lists an agent is answered.
func (f *quotaFixture) kept(agent string, namespaces string) string {
	f.Helper()
	var kept []string
	for _, n := range strings.Fields(namespaces) {
		view := f.view(f.queryAs(agent, "me", "/api/v1/namespaces/"+n+"/configmaps", "").Key)
		if f.ledger.knows(view.file) { // asking would be a use
			kept = append(kept, n)
		}
	}
	return strings.Join(kept, " ")
}

func (f *quotaFixture) expectKept(agent, namespaces, want string) {
	f.Helper()
	if got := f.kept(agent, namespaces); got != want {
		f.Errorf("%s has kept %q, want %q", agent, got, want)
	}
}

func TestTheLeastRecentlyUsedViewLeaves(t *testing.T) {
	withQuota(t, Quota{PerAgent: 10000}, func(f *quotaFixture) {
		for i, n := range []string{"a", "b", "c"} {
			f.keep("app", n, 10+i, 2500)
		}
		f.keep("other", "a", 10, 2500)
		time.Sleep(time.Second)
		f.expect(inA, "x@10 rv=10") // a use
		f.keep("app", "d", 20, 2500)
		f.expectKept("app", "a b c d", "a c d")
		// A watch that goes on is a use; and so is a list that has not changed.
		s := f.stream(f.query("/api/v1/namespaces/c/configmaps" + follow + "12"))
		time.Sleep(time.Second)
		s.send(eventOf("ADDED", object("c", "y", 30)))
		synctest.Wait()
		f.keep("app", "a", 10, 2500)
		f.keep("app", "e", 40, 2500)
		f.expectKept("app", "a b c d e", "a c e")
		// One in use by a live watch leaves as well, and is not extended.
		f.keep("app", "f", 50, 2500)
		f.keep("app", "a", 51, 2500)
		f.keep("app", "g", 52, 2500)
		f.expectKept("app", "a c e f g", "a f g")
		s.send(eventOf("ADDED", object("c", "z", 53)))
		s.end()
		f.expect("/api/v1/namespaces/c/configmaps", "503")
		f.expectKept("other", "a", "a")
	})
}

func TestTheOrderOfUseOutlastsARestart(t *testing.T) {
	quota := Quota{PerAgent: 10000}
	withQuota(t, quota, func(f *quotaFixture) {
		for i, n := range []string{"a", "b", "c"} {
			f.keep("app", n, 10+i, 2500)
		}
		time.Sleep(5 * time.Minute)
		f.expect(inA, "x@10 rv=10")
		touched := f.disk.Count(journaltest.Chtimes)
		for range 600 {
			f.expect(inA, "x@10 rv=10")
			time.Sleep(100 * time.Millisecond)
		}
		if n := f.disk.Count(journaltest.Chtimes) - touched; n > 2 {
			t.Errorf("a view that is in use for a minute was touched %d times", n)
		}
		for _, crash := range []bool{true, false} {
			asOf := f.view(f.query(inA).Key).asOf
			f.end()
			if crash {
				f.disk = f.disk.Crash(f.disk.Len(), rand.New(rand.NewPCG(1, 1)))
			}
			f.start(quota)
			if _, err := f.view(f.query(inA).Key).snapshot(f.Store); err != nil {
				t.Fatal(err)
			}
			if got := f.view(f.query(inA).Key).asOf; !got.Equal(asOf) {
				t.Errorf("data of %v is said to be of %v after a restart", asOf, got)
			}
		}
		f.keep("app", "d", 20, 2500)
		f.expectKept("app", "a b c d", "a c d")
	})
}

func TestAListThatDoesNotFitIsNotKeptAndNothingLeavesForIt(t *testing.T) {
	withQuota(t, Quota{Total: 20000, PerAgent: 10000}, func(f *quotaFixture) {
		f.keep("app", "a", 10, 2500)
		f.keep("app", "b", 10, 2500)
		f.keep("app", "b", 20, 30000) // passes whole, as record checks
		f.expectKept("app", "a b", "a b")
		f.expect("/api/v1/namespaces/b/configmaps", "x@10 rv=10")
		if got := f.Status().NotKept[reasonQuota]; got != 1 {
			t.Errorf("%d views are not kept, want 1", got)
		}
		if f.ledger.staged != 0 {
			t.Errorf("%d bytes are staged", f.ledger.staged)
		}
		// It costs the disk little while it stays too large.
		before := f.journal.Stats().Written
		for i := range 1000 {
			f.keep("app", "b", 30+i, 30000)
		}
		if n := (f.journal.Stats().Written - before) / 30000; n > 10 {
			t.Errorf("it was written %d times in 1000", n)
		}
		time.Sleep(maxRefusal)
		f.keep("app", "b", 2000, 2500)
		f.expect("/api/v1/namespaces/b/configmaps", "x@2000 rv=2000")
		if got := f.Status().NotKept; len(got) != 0 {
			t.Errorf("not kept: %v", got)
		}
	})
}

func TestListsThatAreBeingRecordedCountAsWell(t *testing.T) {
	withQuota(t, Quota{Total: 1 << 20, PerAgent: 300 << 10}, func(f *quotaFixture) {
		big := strings.Repeat("x", 70<<10)
		for i := range 20 { // twenty clients that never come for their next page
			f.record(f.queryAs("app", "me", fmt.Sprintf("/api/v1/namespaces/n%d/configmaps?limit=1", i), ""), pageOf(10, "more", object("a", "x", 3, "p", big)))
		}
		synctest.Wait()
		if used := f.disk.Used(); used > 300<<10 {
			t.Errorf("%d bytes are staged", used)
		}
		time.Sleep(2 * pageAge)
		synctest.Wait()
		if used := f.disk.Used(); used != 0 || f.ledger.staged != 0 {
			t.Errorf("%d bytes stay on the disk, %d in the ledger", used, f.ledger.staged)
		}
	})
}

func TestAViewThatGrowsMakesOthersLeaveThenIsCompactedThenLeaves(t *testing.T) {
	withQuota(t, Quota{PerAgent: 100000}, func(f *quotaFixture) {
		f.keep("app", "b", 5, 2500)
		f.keep("app", "a", 10, 2500)
		s := f.stream(f.query(inA + follow + "10"))
		version := 10
		grow := func(name func(i int) string, n int) {
			for i := range n {
				version++
				s.send(eventOf("MODIFIED", object("a", name(i), version, "p", strings.Repeat("x", 2500))))
				time.Sleep(time.Millisecond)
			}
			synctest.Wait()
		}
		same := func(int) string { return "x" }
		grow(same, 50)
		f.expectKept("app", "a b", "a")
		f.expect(inA, fmt.Sprintf("x@%d rv=%d", version, version))
		if s := f.ledger.holders[holder{agent: "app", identity: "me"}]; s.bytes > 100000 {
			t.Errorf("%d bytes", s.bytes)
		}
		grow(func(i int) string { return fmt.Sprint("y", i) }, 50)
		f.expect(inA, "503")
		if got := f.Status().NotKept[reasonQuota]; got != 1 {
			t.Errorf("%d views are not kept, want 1", got)
		}
		s.end()
	})
}

func TestWhatAnEarlierRunLeftIsWithinTheQuotaToo(t *testing.T) {
	withQuota(t, Quota{}, func(f *quotaFixture) {
		for i, n := range []string{"a", "b", "c", "d"} {
			f.keep("app", n, 10+i, 2500)
		}
		f.end()
		f.disk.Put("app/me/configmaps.v1.core/"+journal.TempPrefix+"left", make([]byte, 9999))
		f.start(Quota{Total: 6000})
		f.expectKept("app", "a b c d", "c d")
		if names := f.disk.Files(); len(names) != 2 {
			t.Errorf("on the disk are %v", names)
		}
	})
}

func TestAFullDiskMakesTheLeastRecentlyUsedLeave(t *testing.T) {
	withQuota(t, Quota{}, func(f *quotaFixture) {
		f.keep("other", "a", 10, 10000)
		for i, n := range []string{"a", "b", "c"} {
			f.keep("app", n, 10+i, 10000)
		}
		time.Sleep(time.Second)
		f.disk.Capacity = f.disk.Used() + 3000
		f.keep("app", "d", 20, 10000)
		f.expectKept("app", "a b c d", "b c d")
		f.expectKept("other", "a", "a")
		if got := f.Status(); got.Disk == nil || got.Disk.Err != syscall.ENOSPC || len(got.NotKept) != 0 {
			t.Errorf("status is %+v", got)
		}
	})
}

func TestAListThatTheDiskCanNotHoldDisplacesLittle(t *testing.T) {
	withQuota(t, Quota{}, func(f *quotaFixture) {
		for i := range 10 {
			f.keep("app", fmt.Sprint("n", i), 10+i, 400<<10)
		}
		f.disk.Capacity = f.disk.Used() + 200<<10
		var items []string
		for i := range 200 {
			items = append(items, object("huge", fmt.Sprint("x", i), 3, "p", strings.Repeat("x", 40<<10)))
		}
		for i := range 20 {
			rc := f.Record(f.query("/api/v1/namespaces/huge/configmaps"), answerOf(http.StatusOK, strings.NewReader(listOf(100+i, items...))))
			if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, rc, make([]byte, 32<<10)); err != nil {
				t.Fatal(err)
			}
			rc.Close()
			f.recordings.Wait()
			time.Sleep(10 * time.Second)
		}
		// Three times 400 KiB are the first that are no less than minRelief.
		f.expectKept("app", "n0 n1 n2 n3 n4 n5 n6 n7 n8 n9 huge", "n3 n4 n5 n6 n7 n8 n9")
		if got := f.Status(); got.NotKept[reasonNoSpace] != 1 {
			t.Errorf("status is %+v", got)
		}
		f.disk.Capacity = 0
	})
}

// failing makes operations fail while the returned switch is on.
func (f *quotaFixture) failing(err error, kinds ...journaltest.Kind) (on *atomic.Bool, count *atomic.Int64) {
	on, count = &atomic.Bool{}, &atomic.Int64{}
	f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
		if on.Load() && slices.Contains(kinds, op.Kind) {
			count.Add(1)
			return &journaltest.Fault{Err: err}
		}
		return nil
	})
	return on, count
}

func TestADiskThatFailsIsSeenIsNotHammeredAndRecovers(t *testing.T) {
	for _, err := range []syscall.Errno{syscall.ENOSPC, syscall.EIO, syscall.EROFS} {
		for _, kinds := range [][]journaltest.Kind{{journaltest.Write}, {journaltest.Create}, {journaltest.Sync}, {journaltest.Create, journaltest.Write, journaltest.Rename, journaltest.Remove, journaltest.Sync, journaltest.SyncDir, journaltest.Mkdir}} {
			t.Run(fmt.Sprintf("%v %v", err, kinds), func(t *testing.T) {
				withQuota(t, Quota{}, func(f *quotaFixture) {
					f.keep("app", "a", 10, 100)
					time.Sleep(time.Second)
					on, count := f.failing(err, kinds...)
					on.Store(true)
					begun := time.Now()
					for i := range 600 { // ten minutes
						f.keep("app", "a", 20+i, 100)
						f.keep("app", "b", 20+i, 100)
					}
					if n := count.Load(); n < 5 || n > 200 {
						t.Errorf("%d operations failed in 20 minutes", n)
					}
					status := f.Status()
					if status.Disk == nil || status.Disk.Err != err || status.Disk.Since.Sub(begun) > 5*time.Second || len(status.NotKept) == 0 {
						t.Fatalf("status is %+v, %v", status, status.Disk)
					}
					on.Store(false)
					time.Sleep(maxProbe + time.Second)
					synctest.Wait()
					if status := f.Status(); status.Disk != nil {
						t.Fatalf("the disk works again, and is said to fail: %v", status.Disk)
					}
					f.keep("app", "a", 1000, 100)
					f.keep("app", "b", 1001, 100)
					f.expect(inA, "x@1000 rv=1000")
					if status := f.Status(); len(status.NotKept) != 0 {
						t.Errorf("not kept: %v", status.NotKept)
					}
					time.Sleep(time.Second)
					f.end()
					f.disk = f.disk.Crash(f.disk.Len(), rand.New(rand.NewPCG(1, 1)))
					f.start(Quota{})
					f.expect(inA, "x@1000 rv=1000")
					f.expect("/api/v1/namespaces/b/configmaps", "x@1001 rv=1001")
				})
			})
		}
	}
}

// TestMetricsFollowPrometheusConventions, and name listed agents only.
func TestMetricsFollowPrometheusConventions(t *testing.T) {
	silence(t)
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewPedanticRegistry()
		f := &fixture{T: t}
		f.Store = Open(Options{FS: journaltest.New(), Registry: registry, Quota: Quota{Total: 5000, PerAgent: 2000}, Listed: sets.New("app").Has})
		f.setAgents("app", "other-1", "other-2")
		for _, agent := range []string{"app", "other-1", "other-2"} {
			f.record(f.queryAs(agent, "me", inA, ""), listOf(10, object("a", "x", 3), object("a", "y", 4)))
		}
		f.record(f.queryAs("app", "me", everywhere, ""), sized("a", 10, 5000))
		s := f.stream(f.query(inA + follow + "10"))
		s.send(eventOf("ADDED", object("a", "z", 11)), eventOf("DELETED", object("a", "x", 12)), eventOf("ADDED", object("a", "w", 13)))
		s.end()
		f.disk.observe(journal.OpWrite, time.Second, syscall.EIO)
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		problems, err := promlint.NewWithMetricFamilies(families).Lint()
		if err != nil || len(problems) > 0 {
			t.Errorf("%v, %v", problems, err)
		}
		got := map[string]float64{}
		for _, family := range families {
			for _, m := range family.Metric {
				name := strings.TrimPrefix(family.GetName(), "edgehub_cache_")
				for _, l := range m.Label {
					name += " " + l.GetValue()
				}
				got[name] = cmp.Or(m.GetGauge().GetValue(), m.GetCounter().GetValue(), float64(m.GetHistogram().GetSampleCount()))
			}
		}
		for name, want := range map[string]float64{
			"objects app": 3, "objects other": 4, "views app": 1, "views other": 2, "incomplete_views quota": 1,
			"quota_bytes total": 5000, "quota_bytes agent": 2000, "degraded": 1, "disk_errors_total write io_error": 1,
			"not_recorded_total quota": 1, "evictions_total agent_quota": 0, "bytes app": float64(f.ledger.holders[holder{agent: "app", identity: "me"}].bytes),
		} {
			if value, ok := got[name]; !ok || value != want {
				t.Errorf("%s is %v, want %v", name, value, want)
			}
		}
		if got["write_duration_seconds"] == 0 {
			t.Error("no write was timed")
		}
		if err := f.Store.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestWhatIsRemovedDuringAStartIsNotAccountedFor.
func TestWhatIsRemovedDuringAStartIsNotAccountedFor(t *testing.T) {
	withQuota(t, Quota{}, func(f *quotaFixture) {
		q := f.query(secretsInA)
		f.record(q, secretsOf(10, secretOf("x", 3)))
		f.end()
		opened := 0
		f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if op.Kind == journaltest.Open && op.Name == q.Key.file() {
				if opened++; opened == 2 { // for its size is known
					f.setAgents("other")
				}
			}
			return nil
		})
		f.start(Quota{})
		if opened < 2 || f.ledger.knows(q.Key.file()) {
			t.Errorf("it was opened %d times, and is accounted for", opened)
		}
		f.setAgents("app")
		f.record(q, secretsOf(10, secretOf("x", 3)))
		if !f.ledger.knows(q.Key.file()) {
			t.Error("what comes back is not accounted for")
		}
	})
}
