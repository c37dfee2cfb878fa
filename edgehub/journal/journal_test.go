package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
)

// fixture is a store over a disk in memory.
type fixture struct {
	*testing.T
	disk  *journaltest.FS
	store *journal.Store

	mu     sync.Mutex
	errors []error
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{T: t, disk: journaltest.New()}
	f.open()
	return f
}

func (f *fixture) open() {
	f.store = journal.Open(f.disk, journal.Options{Interval: interval, OnError: func(_ string, err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.errors = append(f.errors, err)
	}})
}

// reported returns the errors since it was called last.
func (f *fixture) reported() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.errors = nil }()
	return f.errors
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func text(s string) []byte { return []byte(`"r":"` + s + `"}`) }

// publish stages a file with some records and waits until it is durable.
func (f *fixture) publish(name string, records ...string) *journal.File {
	f.Helper()
	file, err := f.store.Stage(name)
	f.must(err)
	f.append(file, records...)
	f.must(file.Publish())
	f.settle()
	return file
}

func (f *fixture) append(file *journal.File, records ...string) (positions []journal.Position) {
	f.Helper()
	for _, r := range records {
		pos, err := file.Append(text(r))
		f.must(err)
		positions = append(positions, pos)
	}
	return positions
}

// settle lets everything become durable that was promised.
func (f *fixture) settle() {
	time.Sleep(interval)
	synctest.Wait()
}

// on reads a file on some disk: "a b c", or "-" if it is not there.
func (f *fixture) on(disk *journaltest.FS, name string) string {
	f.Helper()
	store := journal.Open(disk, journal.Options{Interval: interval})
	var found []string
	file, err := store.Open(name, func(_ journal.Position, b []byte) error {
		found = append(found, strings.TrimSuffix(strings.TrimPrefix(string(b), `"r":"`), `"}`))
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		f.must(store.Close())
		return "-"
	}
	f.must(err)
	f.must(file.Close())
	f.must(store.Close())
	return strings.Join(found, " ")
}

// survives checks what power losses at this moment leave of a file.
func (f *fixture) survives(name string, legal ...string) {
	f.Helper()
	for seed := range uint64(50) {
		got := f.on(f.disk.Crash(f.disk.Len(), rand.New(rand.NewPCG(seed, 2))), name)
		if !slices.Contains(legal, got) {
			f.Fatalf("after a crash %s is %q, want one of %q (seed %d)", name, got, legal, seed)
		}
	}
}

// in runs a test in which time passes only while everybody waits.
func in(t *testing.T, test func(f *fixture)) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		test(f)
		_ = f.store.Close()
	})
}

func TestADirtyFileIsSyncedAtMostAboutOnceASecond(t *testing.T) {
	in(t, func(f *fixture) {
		file := f.publish("a/x", "0")
		f.settle()
		before, start := f.disk.Count(journaltest.Sync), time.Now()
		for range 1000 { // records come in all the time
			f.append(file, "1")
			f.must(file.Flush())
			time.Sleep(10 * time.Millisecond)
		}
		syncs, most := f.disk.Count(journaltest.Sync)-before, int(time.Since(start)/interval)+1
		if syncs > most || syncs < most-1 {
			t.Errorf("%d syncs in %v, want about %d", syncs, time.Since(start), most)
		}

		// Nor is a file that is replaced all the time synced more often, and
		// those in between never.
		before = f.disk.Count(journaltest.Sync)
		start = time.Now()
		for range 100 {
			next, err := f.store.Stage("a/x")
			f.must(err)
			f.append(next, "1")
			f.must(next.Publish())
			f.must(file.Close())
			f.append(next, "2")
			f.must(next.Flush())
			file = next
			time.Sleep(50 * time.Millisecond)
		}
		syncs, most = f.disk.Count(journaltest.Sync)-before, 2*(int(time.Since(start)/interval)+1)
		if syncs > most {
			t.Errorf("%d syncs of a file that was replaced for %v, want at most %d", syncs, time.Since(start), most)
		}
		f.settle()
		f.settle()
		before = f.disk.Count(journaltest.Sync)
		time.Sleep(time.Hour)
		if syncs := f.disk.Count(journaltest.Sync) - before; syncs != 0 {
			t.Errorf("%d syncs of a file that does not change", syncs)
		}
		f.must(file.Close())
	})
}

func TestAFileThatWasNotSyncedLatelyIsSyncedAtOnce(t *testing.T) {
	in(t, func(f *fixture) {
		file := f.publish("a/x", "1")
		f.settle()
		f.append(file, "2")
		synctest.Wait()
		f.survives("a/x", "1 2")
		f.append(file, "3")
		f.must(file.Flush())
		synctest.Wait()
		f.survives("a/x", "1 2", "1 2 3")
		f.settle()
		f.survives("a/x", "1 2 3")
		f.must(file.Close())
	})
}

// TestManyFilesOfASlowDiskAreSyncedInTime, because they are synced side by side.
func TestManyFilesOfASlowDiskAreSyncedInTime(t *testing.T) {
	in(t, func(f *fixture) {
		const files, sync = 100, 20 * time.Millisecond
		var all []*journal.File
		for i := range files {
			all = append(all, f.publish(fmt.Sprintf("a/%d", i), "1"))
		}
		f.settle()
		f.settle()
		var busy, most atomic.Int32
		f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if op.Kind == journaltest.Sync {
				n := busy.Add(1)
				most.Store(max(most.Load(), n))
				time.Sleep(sync)
				busy.Add(-1)
			}
			return nil
		})
		for _, file := range all {
			f.append(file, "2")
			f.must(file.Flush())
		}
		time.Sleep(interval + files*sync/8)
		f.disk.Inject(nil)
		for i := range files {
			f.survives(fmt.Sprintf("a/%d", i), "1 2")
		}
		if n := most.Load(); n < 8 || n > 32 {
			t.Errorf("%d were synced at once", n)
		}
		for _, file := range all {
			f.must(file.Close())
		}
	})
}

func TestGracefulCloseLosesNothing(t *testing.T) {
	in(t, func(f *fixture) {
		a, old := f.publish("d/a"), f.publish("d/b")
		f.append(a, "1")
		f.append(old, "0")
		synctest.Wait()  // both were just synced: what follows is left to Close
		f.append(a, "2") // not flushed
		b, err := f.store.Stage("d/b")
		f.must(err)
		f.append(b, "1")
		f.must(b.Publish())
		f.append(b, "2")
		var late atomic.Bool // files are synced side by side
		f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if op.Kind == journaltest.Sync && late.CompareAndSwap(false, true) {
				f.append(a, "3") // the store is closing already
				f.append(b, "3")
			}
			return nil
		})
		f.must(f.store.Close())
		f.must(a.Close())
		f.must(old.Close())
		f.survives("d/a", "1 2 3")
		f.survives("d/b", "1 2 3")
		if err := b.Publish(); !errors.Is(err, journal.ErrClosed) {
			t.Errorf("publish after close: %v", err)
		}
	})
}

func TestRecordsThatComeBetweenSyncAndRenameAreDurable(t *testing.T) {
	for _, when := range []journaltest.Kind{journaltest.Sync, journaltest.Rename} {
		for _, flush := range []bool{false, true} {
			t.Run(fmt.Sprint(when, flush), func(t *testing.T) {
				in(t, func(f *fixture) {
					file, err := f.store.Stage("a/x")
					f.must(err)
					f.append(file, "1")
					var once atomic.Bool
					f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
						if op.Kind == when && once.CompareAndSwap(false, true) {
							f.append(file, "2")
						}
						return nil
					})
					f.must(file.Publish())
					synctest.Wait()
					if flush { // when the file has its name already
						f.must(file.Flush())
					}
					f.settle()
					f.survives("a/x", "1 2")
					f.must(file.Close())
				})
			})
		}
	}
}

func TestWhatAKilledProcessWroteIsSyncedByTheNext(t *testing.T) {
	in(t, func(f *fixture) {
		file := f.publish("a/x", "1")
		dead := true
		f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if dead && (op.Kind == journaltest.Sync || op.Kind == journaltest.SyncDir) {
				return &journaltest.Fault{Err: syscall.EIO, Unheard: true}
			}
			return nil
		})
		f.append(file, "2")
		f.must(file.Flush())
		next, err := f.store.Stage("a/b/y")
		f.must(err)
		f.append(next, "1")
		f.must(next.Publish())
		f.must(f.disk.Rename("a/b/"+f.staged("a/b"), "a/b/y"))
		_ = f.store.Close()
		dead = false

		f.open()
		for _, name := range []string{"a/x", "a/b/y"} {
			file, err := f.store.Open(name, func(journal.Position, []byte) error { return nil })
			f.must(err)
			defer file.Close()
		}
		f.settle()
		f.survives("a/x", "1 2")
		f.survives("a/b/y", "1")
	})
}

// staged is the name of the file that is staged in a directory.
func (f *fixture) staged(dir string) string {
	f.Helper()
	entries, err := f.disk.ReadDir(dir)
	f.must(err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), journal.TempPrefix) {
			return e.Name()
		}
	}
	f.Fatal("nothing is staged")
	return ""
}

func TestWhatAProcessLeftStagedDoesNotStopTheNext(t *testing.T) {
	in(t, func(f *fixture) {
		for range 3 {
			for range 2 {
				file, err := f.store.Stage("a/x")
				f.must(err)
				defer file.Close() // neither published nor discarded: killed
			}
			f.must(f.store.Close())
			f.open()
		}
		mine, err := f.store.Stage("a/x")
		f.must(err)
		f.must(f.store.RemoveStaged("a"))
		if n := len(f.disk.Files()); n != 1 {
			t.Errorf("%d files left, want the one that is being staged", n)
		}
		if entries, err := f.store.ReadDir("a"); err != nil || len(entries) != 0 {
			t.Errorf("staged files are listed: %v, %v", entries, err)
		}
		f.append(mine, "1")
		f.must(mine.Publish())
		f.settle()
		f.survives("a/x", "1")
		f.must(mine.Close())
	})
}

func TestRemoveAllIsDurable(t *testing.T) {
	in(t, func(f *fixture) {
		for _, name := range []string{"a/b/x", "a/b/y", "a/z", "ab"} {
			f.must(f.publish(name, "1").Close())
		}
		pending, err := f.store.Stage("a/b/w")
		f.must(err)
		f.append(pending, "1")
		f.must(pending.Publish())
		f.must(f.store.RemoveAll("a/b/x"))
		f.survives("a/b/x", "-")
		f.survives("a/b/y", "1")
		f.must(f.store.RemoveAll("a"))
		for _, name := range []string{"a/b/x", "a/b/y", "a/b/w", "a/z"} {
			f.survives(name, "-")
		}
		f.survives("ab", "1")
		if _, err := pending.Append(text("2")); err != nil && !errors.Is(err, journal.ErrReplaced) {
			t.Error(err)
		}
		f.must(pending.Close())
		f.settle()

		// It may come back, and is durable with its directories.
		again := f.publish("a/b/x", "2")
		f.survives("a/b/x", "2")
		f.must(again.Close())

		// A removal that was not synced is not done by the next one, even if
		// there is nothing left to see.
		f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if op.Kind == journaltest.SyncDir {
				return &journaltest.Fault{Err: syscall.EIO}
			}
			return nil
		})
		if err := f.store.RemoveAll("a"); !errors.Is(err, syscall.EIO) {
			t.Errorf("remove: %v", err)
		}
		f.survives("a/b/x", "2", "-")
		f.disk.Inject(nil)
		f.must(f.store.RemoveAll("a/b/x"))
		f.survives("a/b/x", "-")
		f.must(f.store.RemoveAll("nothing/there"))
	})
}

// TestARemovalThatWasNotSyncedCanBeMadeDurable without knowing what it was.
func TestARemovalThatWasNotSyncedCanBeMadeDurable(t *testing.T) {
	in(t, func(f *fixture) {
		f.must(f.publish("a/b/x", "1").Close())
		f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if op.Kind == journaltest.SyncDir {
				return &journaltest.Fault{Err: syscall.EIO}
			}
			return nil
		})
		for range 2 {
			if err := f.store.RemoveAll("a"); !errors.Is(err, syscall.EIO) {
				t.Errorf("remove: %v", err)
			}
			if err := f.store.SyncRemoved(); !errors.Is(err, syscall.EIO) {
				t.Errorf("sync: %v", err)
			}
		}
		f.survives("a/b/x", "1", "-")
		f.disk.Inject(nil)
		f.must(f.store.SyncRemoved())
		f.survives("a/b/x", "-")
	})
}

func TestReadersOutliveAReplacement(t *testing.T) {
	in(t, func(f *fixture) {
		first, err := f.store.Stage("a/x")
		f.must(err)
		f.must(first.Publish())
		pos := f.append(first, "1")[0] // not flushed
		if !first.Acquire() {
			t.Fatal("closed")
		}
		second := f.publish("a/x", "2")
		f.must(first.Close())
		if got, err := first.Read(pos, nil); err != nil || string(got) != string(text("1")) {
			t.Errorf("read %s, %v", got, err)
		}
		f.must(first.Release())
		if first.Acquire() {
			t.Error("acquired a closed file")
		}
		f.must(second.Close())
		if n := f.disk.Handles(); n != 0 {
			t.Errorf("%d files are open", n)
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	disk := journaltest.New()
	var failing atomic.Bool
	disk.Inject(func(op journaltest.Op) *journaltest.Fault {
		if op.Kind == journaltest.Sync && failing.CompareAndSwap(true, false) {
			return &journaltest.Fault{Err: syscall.EIO}
		}
		return nil
	})
	store := journal.Open(disk, journal.Options{Interval: time.Millisecond})
	var wg sync.WaitGroup
	for w := range 8 {
		name := names[w%len(names)]
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 3))
			for range 60 {
				file, err := store.Stage(name)
				if err != nil {
					continue // its directory was just removed
				}
				pos, _ := file.Append(body(w, 0, 100))
				if file.Publish() != nil {
					_ = file.Discard()
					continue
				}
				var readers sync.WaitGroup
				for range 2 {
					readers.Go(func() {
						for i := range 10 {
							_, _ = file.Append(body(w, i, 100))
							_ = file.Flush()
							if b, err := file.Read(pos, nil); err != nil || !bytes.Equal(b, body(w, 0, 100)) {
								t.Errorf("read %s, %v", b, err)
							}
							_ = file.Scan(func(journal.Position, []byte) error { return nil })
							_, _, _ = file.Size(), file.ModTime(), store.Stats()
						}
					})
				}
				readers.Wait()
				switch rng.IntN(20) {
				case 0:
					_ = store.RemoveAll(name)
				case 1:
					_ = store.RemoveAll("app")
				case 2:
					failing.Store(true)
				case 3:
					_ = store.RemoveStaged("app/me/pods")
				}
				if err := file.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	failing.Store(false)
	if err := store.Close(); err != nil {
		t.Error(err)
	}
	if n := disk.Handles(); n != 0 {
		t.Errorf("%d files are open", n)
	}
}

// A thousand lists may be staged at once, each for a client that has stopped reading
// in the middle.
func TestWhatAllFilesGatherIsBounded(t *testing.T) {
	f := newFixture(t)
	defer f.store.Close()
	record := bytes.Repeat([]byte("x"), journal.WriteSize/3)
	var files []*journal.File
	var last journal.Position
	buffered := 0
	for i := range 5 * journal.WriteRoom / journal.WriteSize {
		file, err := f.store.Stage(fmt.Sprintf("a/%d", i))
		f.must(err)
		files = append(files, file)
		for range 2 {
			last, err = file.Append(record)
			f.must(err)
		}
		buffered += file.Buffered()
	}
	if buffered > journal.WriteRoom+journal.WriteSize || int64(buffered) != f.store.Room() {
		t.Errorf("%d files keep %d bytes, counted as %d", len(files), buffered, f.store.Room())
	}
	if body, err := files[len(files)-1].Read(last, nil); err != nil || !bytes.Equal(body, record) {
		t.Errorf("what was written at once reads as %d bytes, %v", len(body), err)
	}
	for _, file := range files {
		f.must(file.Discard())
	}
	if room := f.store.Room(); room != 0 {
		t.Errorf("%d bytes are still counted", room)
	}
}
