package cache

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
)

// viewsInMemory counts them.
func (f *fixture) viewsInMemory() int { return len(f.all()) }

// TestViewsWithoutContentLeaveMemory, and those that somebody reads, watches or may
// bring back do not.
func TestViewsWithoutContentLeaveMemory(t *testing.T) {
	f := newFixture(t)
	one := func(i int) Query { return f.query(fmt.Sprintf("%s/o%d", inA, i)) }
	for i := range 100 {
		f.record(one(i), single("a", fmt.Sprintf("o%d", i), 3))
	}
	f.recordings.Wait()
	for i := range 99 {
		f.refuse(one(i), http.StatusNotFound)
	}
	watched, up := f.openWatch(f.query(inB + follow + "10"))
	finish := f.slowList(f.query(everywhere), listOf(10))
	f.record(f.query(inA+"?limit=1"), pageOf(10, "next", object("a", "x", 3)))
	f.awaitMissing("NotWarm=1 Incomplete=2")
	f.retire()
	if n := f.viewsInMemory(); n != 103 {
		t.Errorf("%d views; nobody is idle yet", n)
	}
	f.retire()
	if n := f.viewsInMemory(); n != 4 {
		t.Errorf("%d views are left, want that with an object, the watched one, and two lists on their way", n)
	}

	// What comes back is recorded, and what was on its way is.
	f.record(one(5), single("a", "o5", 20))
	finish()
	f.record(f.query(inA+"?limit=1&continue=next"), pageOf(10, "", object("a", "y", 3)))
	f.recordingsOf(f.query(everywhere))
	f.expect(inA, "x@3 y@3 rv=10")
	for path, want := range map[string]int{inA + "/o5": 200, "/api/v1/namespaces/c/configmaps": 200} {
		if code, body := f.ask(f.query(path)); code != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	up.Close()
	<-watched
}

// TestAViewThatIsMissedMayLeaveMemory: that it is missed stays known.
func TestAViewThatIsMissedMayLeaveMemory(t *testing.T) {
	f := newState(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	f.stream(f.query(inA + follow + "10")).end()
	f.evict(eviction{file: f.query(inA).Key.file(), reason: overTotalQuota})
	for range 2 {
		f.expectMissing("TooLarge=1")
		f.retire()
	}
	if n := f.viewsInMemory(); n != 0 {
		t.Errorf("%d views", n)
	}
	if w := f.demand.get(f.query(inA).Key.file()); w.delivered.Load() != 10 || w.gap != NotWarm {
		t.Errorf("%s, delivered up to %d", w.gap, w.delivered.Load())
	}
	f.expectMissing("TooLarge=1")
	f.record(f.query(inA), listOf(12, object("a", "x", 3)))
	f.expectMissing("")
}

// TestToAskLeavesNoTraceInMemory, whatever resources a client makes up.
func TestToAskLeavesNoTraceInMemory(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	for _, path := range []string{"", "/x", "?watch=true&resourceVersion=10"} {
		q := f.query("/apis/g/v1/madeup" + path)
		if code, _ := f.ask(q); code != http.StatusServiceUnavailable || f.CanAnswer(q) {
			t.Errorf("%q: %d", path, code)
		}
	}
	if n := len(f.dirs); n != 1 {
		t.Errorf("%d directories", n)
	}
}

// recordingsOf waits for the lists of a view.
func (f *fixture) recordingsOf(q Query) { f.settle(q) }

// TestAViewThatWasRetiredIsWithdrawnAllTheSame: one has taken its place.
func TestAViewThatWasRetiredIsWithdrawnAllTheSame(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(oneInA), single("a", "x", 3))
	f.refuse(f.query(oneInA), http.StatusNotFound)
	old := f.known(f.query(oneInA).Key)
	f.retire()
	f.retire()
	if f.known(f.query(oneInA).Key) != nil {
		t.Fatal("it is still there")
	}
	f.record(f.query(oneInA), single("a", "x", 20))
	if err := old.withdraw(f.Store, 0, f.Asked()); err != nil {
		t.Fatal(err)
	}
	if code, _ := f.ask(f.query(oneInA)); code != http.StatusServiceUnavailable {
		t.Errorf("%d", code)
	}
}

// TestViewsAreCounted, however short they are.
func TestViewsAreCounted(t *testing.T) {
	for _, of := range []string{"a", "all"} {
		l := newLedger(Quota{}, testingclock.NewFakePassiveClock(time.Unix(1000, 0)))
		l.maxHolderViews, l.maxViews = 32, 1<<20
		if of == "all" {
			l.maxHolderViews, l.maxViews = 1<<20, 32+5
		}
		for i := range 5 {
			l.found(fmt.Sprintf("b/me/x/%d", i), 100, 0, time.Unix(0, 0), false)
		}
		for i := range 32 {
			l.found(fmt.Sprintf("a/me/x/%03d", i), 1, 0, time.Unix(int64(1+i), 0), false)
		}
		leave, ok := l.plan("a/me/x/031", 2)
		if !ok || len(leave) != 0 {
			t.Errorf("%s: what is there may change: %v, %v", of, leave, ok)
		}
		leave, ok = l.plan("a/me/x/new", 1)
		if !ok || len(leave) < 2 || len(leave) > 4 {
			t.Errorf("%s: %v, %v", of, leave, ok)
		}
		for i, e := range leave {
			if want := fmt.Sprintf("a/me/x/%03d", i); e.file != want {
				t.Errorf("%s: %s leaves, want %s", of, e.file, want)
			}
		}
	}
}

// TestTheQueryOfADocumentMakesNoOther, whatever it is.
func TestTheQueryOfADocumentMakesNoOther(t *testing.T) {
	f := newFixture(t)
	keys := sets.New[Key]()
	for i := range 100 {
		q := f.queryAs("app", "me", fmt.Sprintf("/openapi/v3/api/v1?hash=%d&x%d=y&timeout=32s", i, i), "application/json")
		keys.Insert(q.Key)
		f.record(q, `{"openapi":"3.0.0"}`)
	}
	if len(keys) != 1 {
		t.Errorf("%d documents", len(keys))
	}
	if code, _ := f.ask(f.queryAs("app", "me", "/openapi/v3/api/v1?hash=another", "application/json")); code != 200 {
		t.Error(code)
	}
}

// TestPagesOfATableLeaveWithTheirFirst.
func TestPagesOfATableLeaveWithTheirFirst(t *testing.T) {
	f := newFixture(t)
	page := func(options string) Query { return f.queryAs("app", "me", inA+"?limit=1"+options, asTable) }
	for round := range 20 {
		f.record(page(""), tableOfX("10"))
		for i := range 5 {
			f.record(page(fmt.Sprintf("&continue=t%d-%d", round, i)), tableOfX("10"))
		}
	}
	f.recordings.Wait()
	if n := len(f.ledger.files); n != 6 {
		t.Errorf("%d Tables are kept, want 6", n)
	}
	if code, _ := f.ask(page("&continue=t19-4")); code != 200 {
		t.Errorf("the last page: %d", code)
	}
	f.expectMissing("")
}

// TestNobodyWaitsForPagesToLeaveTheDisk.
func TestNobodyWaitsForPagesToLeaveTheDisk(t *testing.T) {
	withQuota(t, Quota{}, func(f *quotaFixture) {
		var removed atomic.Int32
		f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if op.Kind == journaltest.Remove {
				if removed.Add(1); !f.pages.mu.TryLock() {
					t.Error("others wait")
				} else {
					f.pages.mu.Unlock()
				}
			}
			return nil
		})
		for i := range maxPages + 1 {
			f.record(f.query(inA+"?limit=1"), pageOf(10, fmt.Sprint("t", i), object("a", "x", 3)))
		}
		f.record(f.query(inA+"?limit=1"), pageOf(10, "t9", object("a", "x", 3)))
		f.pages.dropOf(holderOfFile(f.query(inA).Key.file()))
		f.pages.expire(true)
		if n := removed.Load(); n != maxPages+2 {
			t.Errorf("%d are removed", n)
		}
	})
}
