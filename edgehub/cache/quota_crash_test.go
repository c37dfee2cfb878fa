package cache

import (
	"errors"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
	"github.com/edgehub-io/edge-hub/test/report"
)

// held is the version that the hub has of a view, 0 if it has none.
func (h *crashHistory) held(v *crashView) int {
	view := h.view(h.queryOf(v, "").Key)
	if view == nil {
		return 0
	}
	view.mu.Lock()
	defer view.mu.Unlock()
	view.load(h.Store)
	return int(view.last)
}

// balance checks that the ledger says what the disk holds, and that this is
// within the quota.
func (h *crashHistory) balance() {
	h.Helper()
	time.Sleep(2 * syncInterval) // what was published is in its place
	synctest.Wait()
	if !h.enforce() {
		h.Fatal("what must leave can't")
	}
	synctest.Wait()
	var total, staged int64
	holders := map[holder]int64{}
	for _, name := range h.disk.Files() {
		content, err := h.disk.Get(name)
		if err != nil {
			h.Fatal(err)
		}
		if strings.HasPrefix(path.Base(name), journal.TempPrefix) {
			staged += int64(len(content))
			continue
		}
		total += int64(len(content))
		holders[holderOfFile(name)] += int64(len(content))
	}
	l := h.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total != total || l.staged != staged {
		h.Fatalf("the disk holds %d bytes and %d staged, the ledger says %d and %d", total, staged, l.total, l.staged)
	}
	for holder, bytes := range holders {
		if s := l.holders[holder]; s == nil || s.bytes != bytes {
			h.Fatalf("%v has %d bytes, the ledger says %+v", holder, bytes, s)
		}
		if limit := l.quota.of(holder); bytes > limit {
			h.Fatalf("%v has %d bytes of %d", holder, bytes, limit)
		}
	}
	if total > l.quota.Total || staged > l.quota.Total+2*64<<10 {
		h.Fatalf("%d bytes and %d staged of %d", total, staged, l.quota.Total)
	}
}

// TestEveryCrashOfAnEvictionLeavesViewsThatOnceWere: a view that must leave for
// others is whole or gone, whenever the crash comes.
func TestEveryCrashOfAnEvictionLeavesViewsThatOnceWere(t *testing.T) {
	var evicted atomic.Int64
	refused := 0
	crashHistories(t, 30, Quota{Total: 26 << 10, PerAgent: 15 << 10}, func(h *crashHistory) {
		h.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if h.dead.Load() {
				return &journaltest.Fault{Err: errors.New("process is gone"), Unheard: true}
			}
			if op.Kind == journaltest.Remove && strings.HasSuffix(op.Name, fileSuffix) {
				evicted.Add(1)
			}
			return nil
		})
		for range 25 {
			h.step(3)
			h.live()
			if h.rng.IntN(2) == 0 {
				h.balance()
			}
			refused += h.refusals.count()[reasonQuota]
			h.refusals.retry()
			if h.rng.IntN(2) == 0 {
				h.refusals = refusals{demand: h.demand} // time has passed
			}
		}
	})
	report.Line(t, "%d files removed, %d lists not kept", evicted.Load(), refused)
	if evicted.Load() < 50 || refused < 10 {
		t.Errorf("%d files were removed and %d lists not kept: too few", evicted.Load(), refused)
	}
}

// TestEveryCrashOfAFailingDiskWithinAQuota: evictions that fail, too.
func TestEveryCrashOfAFailingDiskWithinAQuota(t *testing.T) {
	crashHistories(t, 15, Quota{Total: 24 << 10, PerAgent: 16 << 10}, func(h *crashHistory) {
		for _, v := range h.views {
			v.doubtful = true
		}
		for range 25 {
			h.faulty.Store(h.rng.IntN(3) > 0)
			h.step(2)
			h.enforce()
			h.faulty.Store(false)
			h.live()
			if h.rng.IntN(3) == 0 {
				h.recheck()
			}
		}
	})
}
