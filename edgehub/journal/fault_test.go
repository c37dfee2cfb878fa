package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
	"github.com/edgehub-io/edge-hub/test/report"
)

func TestAFailedFsyncIsNeverRetriedOnTheSamePagesButRewritten(t *testing.T) {
	in(t, func(f *fixture) {
		file := f.publish("a/x", "1")
		syncs := 0
		f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if op.Kind != journaltest.Sync {
				return nil
			}
			if syncs++; syncs > 1 {
				return nil // Linux tells of a lost page once
			}
			f.append(file, "3") // while it is being synced
			return &journaltest.Fault{Err: syscall.EIO}
		})
		f.append(file, "2")
		for range 5 {
			f.settle()
		}
		if syncs != 1 {
			t.Errorf("the file was synced %d times, again after its pages were lost", syncs)
		}
		if errs := f.reported(); len(errs) != 1 || !errors.Is(errs[0], syscall.EIO) {
			t.Errorf("reported %v", errs)
		}
		if _, err := file.Append(text("4")); !errors.Is(err, syscall.EIO) {
			t.Errorf("append to pages that are lost: %v", err)
		}
		if err := file.Publish(); !errors.Is(err, syscall.EIO) {
			t.Errorf("publish pages that are lost: %v", err)
		}
		// What was appended can be read, and written anew.
		var found []string
		anew, err := f.store.Stage("a/x")
		f.must(err)
		f.must(file.Scan(func(_ journal.Position, b []byte) error {
			found = append(found, string(b))
			_, err := anew.Append(b)
			return err
		}))
		if len(found) != 3 {
			t.Errorf("read %v", found)
		}
		f.survives("a/x", "1", "1 2", "1 2 3")
		f.must(anew.Publish())
		f.must(file.Close())
		f.settle()
		f.survives("a/x", "1 2 3")
		f.must(anew.Close())
	})
}

func TestAStagedFileWhoseFsyncFailsNeverReplacesTheOldOne(t *testing.T) {
	in(t, func(f *fixture) {
		old := f.publish("a/x", "1", "2")
		f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if op.Kind == journaltest.Sync {
				return &journaltest.Fault{Err: syscall.EIO, Evict: true}
			}
			return nil
		})
		failed := f.publish("a/x", "3")
		if errs := f.reported(); len(errs) != 1 {
			t.Errorf("reported %v", errs)
		}
		f.survives("a/x", "1 2")
		if files := f.disk.Files(); !slices.Equal(files, []string{"a/x"}) {
			t.Errorf("left behind: %v", files)
		}
		f.must(failed.Close())
		f.must(old.Close())
		f.disk.Inject(nil)
	})
}

func TestCloseSaysWhatItCouldNotMakeDurable(t *testing.T) {
	in(t, func(f *fixture) {
		file := f.publish("a/x", "1")
		f.append(file, "2")
		f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if op.Kind == journaltest.Write {
				return &journaltest.Fault{Err: syscall.ENOSPC}
			}
			return nil
		})
		if err := f.store.Close(); !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, journal.ErrUnwritten) {
			t.Errorf("close: %v", err)
		}
	})
}

func TestABlockedFsyncBlocksNeitherAppendNorFlush(t *testing.T) {
	in(t, func(f *fixture) {
		a, b := f.publish("d/a", "1"), f.publish("d/b", "1")
		f.settle()
		release := make(chan struct{})
		var blocked atomic.Bool
		f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if op.Kind == journaltest.Sync {
				blocked.Store(true)
				<-release
			}
			return nil
		})
		f.append(a, "2")
		synctest.Wait()
		if !blocked.Load() {
			t.Fatal("nothing is being synced")
		}
		start := time.Now()
		for _, file := range []*journal.File{a, b} {
			pos := f.append(file, "3")[0]
			f.must(file.Flush())
			if got, err := file.Read(pos, nil); err != nil || string(got) != string(text("3")) {
				t.Errorf("read %s, %v", got, err)
			}
			f.must(file.Scan(func(journal.Position, []byte) error { return nil }))
		}
		c, err := f.store.Stage("d/c")
		f.must(err)
		f.append(c, "1")
		f.must(c.Publish())
		again, err := f.store.Stage("d/a") // supersedes the one that is being synced
		f.must(err)
		f.must(again.Publish())
		f.must(again.Discard())
		if passed := time.Since(start); passed != 0 {
			t.Errorf("waited %v", passed)
		}
		close(release)
		f.settle()
		f.survives("d/b", "1 3")
		f.survives("d/c", "1")
		for _, file := range []*journal.File{a, b, c} {
			f.must(file.Close())
		}
	})
}

func TestADirectoryIsDurableOnlyWithThoseAboveIt(t *testing.T) {
	for _, failing := range []string{"a/b/c", "a/b", "a", "."} {
		t.Run(failing, func(t *testing.T) {
			in(t, func(f *fixture) {
				failed := false
				f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
					if op.Kind == journaltest.SyncDir && op.Name == failing && !failed {
						failed = true
						return &journaltest.Fault{Err: syscall.EIO}
					}
					return nil
				})
				first := f.publish("a/b/c/x", "1")
				if errs := f.reported(); len(errs) != 1 {
					t.Errorf("reported %v", errs)
				}
				second := f.publish("a/b/c/x", "2")
				if errs := f.reported(); len(errs) != 0 {
					t.Errorf("reported %v", errs)
				}
				f.survives("a/b/c/x", "2")
				f.must(first.Close())
				f.must(second.Close())
			})
		})
	}
}

func TestRecordsThatCannotBeWrittenWait(t *testing.T) {
	for _, written := range []int{0, 1, 30, 1 << 20} {
		t.Run(fmt.Sprint(written), func(t *testing.T) {
			in(t, func(f *fixture) {
				file := f.publish("a/x", "1")
				var full atomic.Bool
				full.Store(true)
				f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
					if op.Kind == journaltest.Write && full.Load() {
						return &journaltest.Fault{Err: syscall.ENOSPC, Written: min(written, int(op.Size)-1)}
					}
					return nil
				})
				positions := f.append(file, "2", "3")
				if err := file.Flush(); !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("flush: %v", err)
				}
				syncs := f.disk.Count(journaltest.Sync)
				for range 10 {
					f.settle()
				}
				if errs := f.reported(); len(errs) != 1 || !errors.Is(errs[0], journal.ErrUnwritten) {
					t.Errorf("reported %v, want it told once", errs)
				}
				if n := f.disk.Count(journaltest.Sync) - syncs; n > 1 {
					t.Errorf("%d syncs of a file that can't be written", n)
				}
				// They are there for whoever reads, and no record gets lost
				// from between others.
				for i, want := range []string{"2", "3"} {
					if got, err := file.Read(positions[i], nil); err != nil || string(got) != string(text(want)) {
						t.Errorf("read %s, %v", got, err)
					}
				}
				n := 0
				f.must(file.Scan(func(journal.Position, []byte) error { n++; return nil }))
				if n != 3 {
					t.Errorf("scan finds %d records", n)
				}
				large := strings.Repeat("x", 100<<10)
				if _, err := file.Append(text(large)); !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("append of a record for which there is no room: %v", err)
				}
				f.survives("a/x", "1", "1 2")
				full.Store(false)
				f.append(file, "4")
				f.append(file, large)
				f.settle()
				f.survives("a/x", "1 2 3 4 "+large)
				if errs := f.reported(); len(errs) != 0 {
					t.Errorf("reported %v", errs)
				}
				f.must(file.Close())
			})
		})
	}
}

func TestALargeRecordThatDoesNotFitIsTakenBack(t *testing.T) {
	in(t, func(f *fixture) {
		file := f.publish("a/x", "1")
		f.disk.Capacity = f.disk.Used() + 90<<10
		f.append(file, "2")
		if _, err := file.Append([]byte(`"r":"`), bytes.Repeat([]byte("y"), 200<<10), []byte(`"}`)); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("append: %v", err)
		}
		f.append(file, "3")
		f.settle()
		f.survives("a/x", "1 2 3")
		f.must(file.Close())
	})
}

func TestDamageAnywhereLeavesAPrefix(t *testing.T) {
	in(t, func(f *fixture) {
		large := strings.Repeat("z", 70<<10)
		records := []string{"1", "", "333", large, "5"}
		file := f.publish("a/x", records...)
		f.must(file.Close())
		f.must(f.store.Close())
		whole, err := f.disk.Get("a/x")
		f.must(err)
		ends, at := []int{}, 0
		for line := range bytes.Lines(whole) {
			at += len(line)
			ends = append(ends, at)
		}
		tried := 0
		for i := 0; i < len(whole); i++ {
			if i > 300 && i < len(whole)-300 && i%1009 != 0 {
				continue
			}
			for _, flip := range []byte{1, 0x80, whole[i], whole[i] ^ '\n'} {
				damaged := bytes.Clone(whole)
				if damaged[i] ^= flip; damaged[i] == whole[i] {
					continue
				}
				good, _ := slices.BinarySearch(ends, i+1)
				disk := journaltest.New()
				disk.Put("a/x", damaged)
				if got, want := f.on(disk, "a/x"), strings.Join(records[:good], " "); got != want {
					t.Fatalf("byte %d damaged: %d bytes read, want %d", i, len(got), len(want))
				}
				// What follows the damage is gone for good.
				start := 0
				if good > 0 {
					start = ends[good-1]
				}
				if left, err := disk.Get("a/x"); err != nil || !bytes.Equal(left, whole[:start]) {
					t.Fatalf("byte %d damaged: %d bytes left, want %d", i, len(left), start)
				}
				tried++
			}
		}
		report.Line(t, "%d damages", tried)
	})
}

// TestWhatIsCutOffNeverComesBack: a record that takes the place of a damaged one
// must not bring back those behind it, even if it is just as long.
func TestWhatIsCutOffNeverComesBack(t *testing.T) {
	in(t, func(f *fixture) {
		first := f.publish("a/x", "1")
		pad := 4096 - first.Size() - (first.Size() - 1)
		f.append(first, strings.Repeat("b", int(pad)), "c")
		f.must(first.Close())
		f.must(f.store.Close())
		content, err := f.disk.Get("a/x")
		f.must(err)
		if content[4095] != '\n' {
			t.Fatal("the damaged record does not end with a page")
		}
		content[1000] ^= 1
		f.disk = journaltest.New()
		f.disk.Put("a/x", content)
		f.open()
		file, err := f.store.Open("a/x", func(journal.Position, []byte) error { return nil })
		f.must(err)
		anew := strings.Repeat("n", int(pad))
		f.append(file, anew)
		f.must(file.Flush())
		for n := range f.disk.Len() + 1 {
			for seed := range uint64(500) {
				got := f.on(f.disk.Crash(n, rand.New(rand.NewPCG(seed, 2))), "a/x")
				if got != "1" && got != "1 "+anew {
					t.Fatalf("after %d operations: %q", n, got)
				}
			}
		}
		f.must(file.Close())
	})
}

func TestAReadOnlyFileSystemIsRead(t *testing.T) {
	in(t, func(f *fixture) {
		f.must(f.publish("a/x", "1", "2").Close())
		content, err := f.disk.Get("a/x")
		f.must(err)
		f.disk.Put("a/torn", content[:len(content)-1])
		f.disk.Inject(journaltest.ReadOnly)
		for name, want := range map[string]int{"a/x": 2, "a/torn": 1} {
			n := 0
			file, err := f.store.Open(name, func(journal.Position, []byte) error { n++; return nil })
			f.must(err)
			m := 0
			f.must(file.Scan(func(journal.Position, []byte) error { m++; return nil }))
			if n != want || m != want {
				t.Errorf("%s: read %d and %d records, want %d", name, n, m, want)
			}
			if _, err := file.Append(text("3")); !errors.Is(err, syscall.EROFS) {
				t.Errorf("append: %v", err)
			}
			f.must(file.Close())
		}
		if _, err := f.store.Stage("a/x"); !errors.Is(err, syscall.EROFS) {
			t.Errorf("stage: %v", err)
		}
		f.settle()
		if errs := f.reported(); len(errs) != 0 {
			t.Errorf("reported %v", errs)
		}
	})
}

func TestAFileSystemThatTurnsReadOnlyKeepsWhatItHas(t *testing.T) {
	in(t, func(f *fixture) {
		file := f.publish("a/x", "1")
		var readOnly atomic.Bool
		readOnly.Store(true)
		f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if readOnly.Load() {
				return journaltest.ReadOnly(op)
			}
			return nil
		})
		f.append(file, "2")
		for range 3 {
			f.settle()
		}
		n := 0
		f.must(file.Scan(func(journal.Position, []byte) error { n++; return nil }))
		if n != 2 {
			t.Errorf("%d records are read", n)
		}
		readOnly.Store(false)
		f.settle()
		f.survives("a/x", "1 2")
		f.must(file.Close())
	})
}

// TestADirectoryThatIsRemovedWhileItIsSyncedIsSyncedAnew once it is made again.
func TestADirectoryThatIsRemovedWhileItIsSyncedIsSyncedAnew(t *testing.T) {
	in(t, func(f *fixture) {
		f.must(f.publish("a/b/x", "1").Release())
		f.must(f.store.Close())
		f.open() // which knows of nothing that is durable
		removed := make(chan error, 1)
		f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if op.Kind == journaltest.SyncDir && op.Name == "a" {
				f.disk.Inject(nil)
				go func() { removed <- f.store.RemoveAll("a") }()
				for range 10000 { // as far as it gets
					runtime.Gosched()
				}
			}
			return nil
		})
		f.must(f.store.SyncAbsent("a/b"))
		f.must(<-removed)
		f.must(f.publish("a/b/x", "2").Release())
		f.survives("a/b/x", "2")
	})
}
