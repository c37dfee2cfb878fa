package journal_test

import (
	"errors"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
)

func TestObserveTellsOfEveryOperationAndItsEnd(t *testing.T) {
	disk := journaltest.New()
	var seen, failed []string
	fsys := journal.Observe(disk, func(op string, took time.Duration, err error) {
		if took < 0 {
			t.Errorf("%s took %v", op, took)
		}
		if err != nil {
			failed = append(failed, op)
			return
		}
		seen = append(seen, op)
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(fsys.MkdirAll("d", 0o700))
	h, err := fsys.OpenFile("d/x", os.O_RDWR|os.O_CREATE, 0o600)
	must(err)
	_, err = h.WriteAt([]byte("abc"), 0)
	must(err)
	_, err = h.ReadAt(make([]byte, 3), 0)
	must(err)
	must(h.Truncate(2))
	must(h.Sync())
	must(h.Close())
	must(fsys.SyncDir("d"))
	must(fsys.Rename("d/x", "d/y"))
	must(fsys.Chtimes("d/y", time.Unix(5, 0), time.Unix(4, 0)))
	entries, err := fsys.ReadDir("d")
	must(err)
	info, err := entries[0].Info()
	must(err)
	if got := journal.Accessed(info); !got.Equal(time.Unix(5, 0)) || !info.ModTime().Equal(time.Unix(4, 0)) {
		t.Errorf("accessed %v, modified %v", got, info.ModTime())
	}
	must(fsys.Remove("d/y"))
	must(fsys.RemoveAll("d"))
	want := []string{"mkdir", "create", "write", "truncate", "sync", "sync", "rename", "touch", "readdir", "remove", "remove"}
	if !slices.Equal(seen, want) || len(failed) > 0 {
		t.Errorf("told of %v and failing %v, want %v", seen, failed, want)
	}
	disk.Inject(func(journaltest.Op) *journaltest.Fault { return &journaltest.Fault{Err: syscall.EIO} })
	if _, err := fsys.OpenFile("x", os.O_RDWR, 0); !errors.Is(err, syscall.EIO) || !slices.Equal(failed, []string{"open"}) {
		t.Errorf("open: %v, told of %v", err, failed)
	}
}

// TestStagedBytesAreCountedUntilThereIsNoStagedFile: published, discarded, or cut
// short by a full disk.
func TestStagedBytesAreCountedUntilThereIsNoStagedFile(t *testing.T) {
	disk := journaltest.New()
	staged := map[string]int64{}
	store := journal.Open(disk, journal.Options{OnStaged: func(name string, bytes int64) { staged[name] += bytes }})
	stage := func(name string, size int) *journal.File {
		f, err := store.Stage(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Append([]byte(`"p":"`), make([]byte, size), []byte(`"}`)); err != nil {
			t.Fatal(err)
		}
		if err := f.Flush(); err != nil {
			t.Fatal(err)
		}
		return f
	}
	a, b, c := stage("a", 100), stage("b", 100<<10), stage("c", 10)
	if staged["a"] != a.Size() || staged["b"] != b.Size() || staged["c"] != c.Size() {
		t.Errorf("staged are %v", staged)
	}
	disk.Capacity = disk.Used() + 70<<10
	if _, err := c.Append([]byte(`"p":"`), make([]byte, 100<<10), []byte(`"}`)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("append: %v", err)
	}
	if staged["c"] != c.Size() {
		t.Errorf("%d bytes of a record that was taken back are counted", staged["c"]-c.Size())
	}
	if err := a.Publish(); err != nil {
		t.Error(err)
	}
	if err := b.Discard(); err != nil {
		t.Error(err)
	}
	if err := c.Discard(); err != nil {
		t.Error(err)
	}
	for name, bytes := range staged {
		if bytes != 0 {
			t.Errorf("%d bytes of %s are still counted", bytes, name)
		}
	}
	if _, err := a.Append([]byte(`"p":1}`)); err != nil || a.Flush() != nil || staged["a"] != 0 {
		t.Errorf("a published file is counted: %d, %v", staged["a"], err)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}
