package cache

import (
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
	"github.com/edgehub-io/edge-hub/test/report"
)

// crashFixture is a fixture over a disk in memory, and one view that holds old.
func crashFixture(t *testing.T) (*crashHistory, func(want string)) {
	silence(t)
	h := newCrashHistory(t, 1, Quota{})
	expect := func(want string) {
		t.Helper()
		h.expect(inA, want)
	}
	return h, expect
}

const oldList, newList = "x@3 y@4 z@5 rv=10", "x@3 y@14 rv=20"

// TestCase10CrashWhileTheOldListIsReplaced: a crash at any moment of a list's
// replacement leaves the old one or the new one, whole.
func TestCase10CrashWhileTheOldListIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, expect := crashFixture(t)
		defer h.stop()
		h.record(h.query(inA), listOf(10, object("a", "x", 3), object("a", "y", 4), object("a", "z", 5)))
		time.Sleep(syncInterval)
		synctest.Wait()
		before := h.disk.Len()
		h.record(h.query(inA), listOf(20, object("a", "x", 3), object("a", "y", 14)))
		synctest.Wait()
		time.Sleep(syncInterval)
		synctest.Wait()
		expect(newList)
		crashes, seen := 0, map[string]int{}
		for n := before; n <= h.disk.Len(); n++ {
			for range 40 {
				s := h.start(h.disk.Crash(n, h.rng))
				f := fixture{T: t, Store: s}
				got := f.names(inA)
				if got != newList && (got != oldList || n == h.disk.Len()) {
					t.Fatalf("after %d of %d operations: %q", n-before, h.disk.Len()-before, got)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				crashes++
				seen[got]++
			}
		}
		report.Line(t, "%d crashes: %v", crashes, seen)
		if len(seen) != 2 {
			t.Error("the crashes are all alike")
		}
	})
}

// TestCase10OneEmptyFileDoesNotFailTheWholeList: a file that a crash emptied,
// tore or filled with zeros costs at most its own view.
func TestCase10OneEmptyFileDoesNotFailTheWholeList(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"empty":       func([]byte) []byte { return nil },
		"zeros":       func(b []byte) []byte { return make([]byte, len(b)) },
		"one byte":    func(b []byte) []byte { return b[:1] },
		"no list end": func(b []byte) []byte { return b[:len(b)-10] },
		"garbage":     func(b []byte) []byte { return []byte(strings.Repeat("\xff\n", len(b))) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, expect := crashFixture(t)
				defer h.stop()
				inB := "/api/v1/namespaces/b/configmaps"
				h.record(h.query(inA), listOf(10, object("a", "x", 3)))
				h.record(h.query(inB), listOf(10, object("b", "x", 3)))
				h.record(h.query(everywhere), listOf(10, object("a", "x", 3), object("b", "x", 3)))
				if err := h.Store.Close(); err != nil {
					t.Fatal(err)
				}
				file := h.query(inA).Key.file()
				whole, err := h.disk.Get(file)
				if err != nil {
					t.Fatal(err)
				}
				h.disk.Put(file, damage(whole))
				h.disk.Put(path.Dir(file)+"/neither a view.jsonl", damage(whole))
				h.Store = h.start(h.disk)
				expect("x@3 rv=10") // by the broader view
				h.expect(inB, "x@3 rv=10")
				h.expect(everywhere, "x@3 x@3 rv=10")
				h.record(h.query(inA), listOf(12, object("a", "x", 11)))
				expect("x@11 rv=12")
				time.Sleep(syncInterval)
				synctest.Wait()
				h.Store = h.start(h.disk.Crash(h.disk.Len(), h.rng))
				expect("x@11 rv=12")
			})
		})
	}
}

// TestCase10TornMetadataDoesNotStopTheHub: whatever lies in the cache
// directory, the hub starts, serves what is whole, and caches anew.
func TestCase10TornMetadataDoesNotStopTheHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, expect := crashFixture(t)
		defer h.stop()
		h.record(h.query(inA), listOf(10, object("a", "x", 3)))
		if err := h.Store.Close(); err != nil {
			t.Fatal(err)
		}
		file := h.query(inA).Key.file()
		whole, err := h.disk.Get(file)
		if err != nil {
			t.Fatal(err)
		}
		for n := range whole { // torn at every byte
			h.disk.Put(file, whole[:n])
			s := h.start(h.disk)
			f := fixture{T: t, Store: s}
			f.expect(inA, "503")
			f.record(f.query(inA), listOf(10, object("a", "x", 3)))
			f.expect(inA, "x@3 rv=10")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		dir := path.Dir(file)
		for _, name := range []string{dir + "/" + journal.TempPrefix + "1-1", dir + "/README", "app/file", "stray", ".hidden", "%zz/me/x.v1.core/y.jsonl", "app/me/secrets.v1.core/_all.jsonl/deeper"} {
			h.disk.Put(name, whole[:20])
		}
		h.Store = h.start(h.disk)
		expect("x@3 rv=10")
		h.expect("/api/v1/secrets", "503")
		h.record(h.query(inA), listOf(30, object("a", "x", 23)))
		expect("x@23 rv=30")
	})
}

// TestAFileThatIsNoViewStaysClosed: what a look at a file needs is given back.
func TestAFileThatIsNoViewStaysClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, expect := crashFixture(t)
		defer h.stop()
		dir := path.Dir(h.query(inA).Key.file())
		h.disk.Put(dir+"/empty.jsonl", nil)
		h.disk.Put(dir+"/torn.jsonl", []byte(`{"crc":"`))
		expect("503")
		synctest.Wait()
		if n := h.disk.Handles(); n != 0 {
			t.Errorf("%d files are open", n)
		}
	})
}

// TestWhatACrashLeftStagedIsRemoved: else every crash would cost room for good.
func TestWhatACrashLeftStagedIsRemoved(t *testing.T) {
	for _, use := range []string{"answered", "recorded"} {
		t.Run(use, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, _ := crashFixture(t)
				defer h.stop()
				left := path.Dir(h.query(inA).Key.file()) + "/" + journal.TempPrefix + "1-1"
				h.disk.Put(left, []byte(`{"crc":"`))
				if use == "answered" {
					h.expect(inA, "503")
				} else {
					h.record(h.query(inA), listOf(10, object("a", "x", 3)))
				}
				if slices.Contains(h.disk.Files(), left) {
					t.Error("it is still there")
				}
				h.record(h.query(inA), listOf(20, object("a", "x", 3)))
				h.expect(inA, "x@3 rv=20")
			})
		})
	}
}

// TestAnObjectThatIsNotThereCostsNoSync: a client may ask for it all the time.
func TestAnObjectThatIsNotThereCostsNoSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := crashFixture(t)
		defer h.stop()
		h.record(h.query(inA), listOf(10, object("a", "x", 3)))
		time.Sleep(time.Second)
		synctest.Wait()
		before := h.disk.Len()
		for range 100 {
			h.refuse(h.query(inA+"/y"), http.StatusNotFound)
		}
		if n := h.disk.Len() - before; n != 0 {
			t.Errorf("%d operations on the disk", n)
		}
	})
}

// TestAnEventThatCouldNotBeWrittenLeavesNoHole: once an event is lost, those
// behind it don't extend the view until a list has made it whole.
func TestAnEventThatCouldNotBeWrittenLeavesNoHole(t *testing.T) {
	for _, kind := range []journaltest.Kind{journaltest.Write, journaltest.Sync} {
		for _, evict := range []bool{false, true} {
			t.Run(fmt.Sprint(kind, evict), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h, expect := crashFixture(t)
					defer h.stop()
					h.record(h.query(inA), listOf(10, object("a", "x", 3)))
					time.Sleep(time.Second)
					var failing atomic.Bool
					h.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
						if failing.Load() && op.Kind == kind {
							return &journaltest.Fault{Err: syscall.EIO, Evict: evict, Written: 7}
						}
						return nil
					})
					s := h.stream(h.query(inA + follow + "10"))
					failing.Store(true)
					s.send(eventOf("ADDED", object("a", "y", 11)))
					synctest.Wait()
					time.Sleep(time.Second)
					failing.Store(false)
					time.Sleep(time.Second)
					s.send(eventOf("ADDED", object("a", "z", 12)))
					s.end()
					synctest.Wait()
					legal := []string{"503", "x@3 rv=10", "x@3 y@11 rv=11", "x@3 y@11 z@12 rv=12"}
					if got := h.names(inA); !slices.Contains(legal, got) {
						t.Errorf("the view is %q", got)
					}
					h.record(h.query(inA), listOf(20, object("a", "x", 3)))
					expect("x@3 rv=20")
					time.Sleep(syncInterval)
					synctest.Wait()
					h.Store = h.start(h.disk.Crash(h.disk.Len(), h.rng))
					expect("x@3 rv=20")
				})
			})
		}
	}
}

// TestATransientErrorDoesNotCostAView: a file that can't be opened or read now
// may be tomorrow, and says nothing about its content.
func TestATransientErrorDoesNotCostAView(t *testing.T) {
	for name, fault := range map[string]journaltest.Fault{
		"too many open files": {Err: syscall.EMFILE},
		"input/output error":  {Err: syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, expect := crashFixture(t)
				defer h.stop()
				h.record(h.query(inA), listOf(10, object("a", "x", 3)))
				if err := h.Store.Close(); err != nil {
					t.Fatal(err)
				}
				h.Store = h.start(h.disk)
				var failing atomic.Bool
				failing.Store(true)
				h.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
					if failing.Load() && (op.Kind == journaltest.Open || op.Kind == journaltest.Read) {
						return &fault
					}
					return nil
				})
				h.names(inA)
				s := h.stream(h.query(inA + follow + "10"))
				s.send(eventOf("ADDED", object("a", "y", 11)))
				s.end()
				failing.Store(false)
				h.Store = h.start(h.disk)
				expect("x@3 rv=10")
			})
		})
	}
}

// TestAReadOnlyRemountServesWhatIsThere also takes nothing for cached that is not.
func TestAReadOnlyRemountServesWhatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, expect := crashFixture(t)
		defer h.stop()
		h.record(h.query(inA), listOf(10, object("a", "x", 3)))
		if err := h.Store.Close(); err != nil {
			t.Fatal(err)
		}
		h.disk.Inject(journaltest.ReadOnly)
		h.Store = h.start(h.disk)
		expect("x@3 rv=10")
		s := h.stream(h.query(inA + follow + "10"))
		s.send(eventOf("ADDED", object("a", "y", 11)), eventOf("ADDED", object("a", "z", 12)))
		s.end()
		expect("x@3 rv=10")
		h.record(h.query(inA), listOf(20, object("a", "q", 13)))
		expect("x@3 rv=10")
	})
}

// TestADiskThatHangsNeverHoldsUpTheLivePath: whatever operation does not come
// back, bytes go through, of this view and of others.
func TestADiskThatHangsNeverHoldsUpTheLivePath(t *testing.T) {
	for _, kind := range []journaltest.Kind{journaltest.Create, journaltest.Write, journaltest.Sync, journaltest.Rename, journaltest.Remove, journaltest.SyncDir, journaltest.Open, journaltest.Read, journaltest.ReadDir} {
		t.Run(kind.String(), func(t *testing.T) {
			h, _ := crashFixture(t)
			h.record(h.query(inA), listOf(10, object("a", "x", 3)))
			if err := h.Store.Close(); err != nil {
				t.Fatal(err)
			}
			h.Store = h.start(h.disk)
			release := make(chan struct{})
			h.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
				if op.Kind == kind {
					<-release
				}
				return nil
			})
			var others sync.WaitGroup
			others.Go(func() { h.names(inA) }) // an offline question
			done := make(chan struct{})
			go func() {
				defer close(done)
				for version := range 3 {
					for _, p := range []string{inA, everywhere, inA + "/x"} {
						for _, agent := range h.agents {
							h.pass(h.queryAs(agent, "me", p, ""), http.StatusOK, listOf(20+version, object("a", "x", 13)))
						}
					}
					h.pass(h.query(inA), http.StatusForbidden, "{}")
					others.Go(func() { _ = h.SetAgents(sets.New("other").Has) }) // its configuration changed
					time.Sleep(20 * time.Millisecond)
				}
			}()
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				t.Error("the live path waits for the disk")
			}
			close(release)
			<-done
			others.Wait()
			h.stop()
		})
	}
}

// pass lets a client read an answer, recorded or not.
func (h *crashHistory) pass(q Query, code int, body string) {
	rc := h.Record(q, answerOf(code, strings.NewReader(body)))
	if got, err := io.ReadAll(rc); err != nil || string(got) != body {
		h.Errorf("client got %q, %v", got, err)
	}
	rc.Close()
}

// TestAFileThatCouldNotBeRemovedIsRemovedByTheNextTry: what the cloud has
// withdrawn does not come back with a restart because the disk failed once.
func TestAFileThatCouldNotBeRemovedIsRemovedByTheNextTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, expect := crashFixture(t)
		defer h.stop()
		h.record(h.query(inA), listOf(10, object("a", "x", 3)))
		time.Sleep(syncInterval)
		synctest.Wait()
		var fails atomic.Bool
		fails.Store(true)
		h.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if op.Kind == journaltest.Remove && fails.CompareAndSwap(true, false) {
				return &journaltest.Fault{Err: syscall.EIO}
			}
			return nil
		})
		h.refuse(h.query(inA), http.StatusForbidden)
		expect("503")
		if _, err := h.disk.Get(h.query(inA).Key.file()); err != nil || fails.Load() {
			t.Fatalf("it was removed: %v", err)
		}
		h.refuse(h.query(inA), http.StatusForbidden)
		if _, err := h.disk.Get(h.query(inA).Key.file()); err == nil {
			t.Error("it is left")
		}
		h.Store = h.start(h.disk.Crash(h.disk.Len(), h.rng))
		expect("503")
	})
}

// TestAFileWhoseRemovalWasNotSyncedDoesNotComeBack once it was refused again, by a
// hub that knows nothing of it.
func TestAFileWhoseRemovalWasNotSyncedDoesNotComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, expect := crashFixture(t)
		defer h.stop()
		h.record(h.query(inA), listOf(10, object("a", "x", 3)))
		time.Sleep(syncInterval)
		synctest.Wait()
		var fails atomic.Bool
		fails.Store(true)
		h.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if op.Kind == journaltest.SyncDir && fails.Load() {
				return &journaltest.Fault{Err: syscall.EIO}
			}
			return nil
		})
		h.refuse(h.query(inA), http.StatusForbidden)
		if err := h.Close(); err != nil {
			t.Log(err)
		}
		fails.Store(false)
		h.Store = h.start(h.disk)
		h.refuse(h.query(inA), http.StatusForbidden)
		disk := h.disk
		for range 50 {
			h.Store = h.start(disk.Crash(disk.Len(), h.rng))
			expect("503")
		}
	})
}
