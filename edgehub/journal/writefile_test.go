package journal_test

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
	"github.com/edgehub-io/edge-hub/test/report"
)

func TestWriteFileIsOldOrNewAfterEveryCrash(t *testing.T) {
	old, young := strings.Repeat("old", 3000), strings.Repeat("new", 2000)
	for _, name := range []string{"x", "a/b/x"} {
		disk := journaltest.New()
		crashes := 0
		check := func(legal ...string) {
			t.Helper()
			for n := range disk.Len() + 1 {
				for seed := range uint64(20) {
					crashes++
					crashed := disk.Crash(n, rand.New(rand.NewPCG(seed, 4)))
					b, err := crashed.Get(name)
					got := string(b)
					if err != nil {
						got = "-"
					}
					ok := false
					for i, l := range legal {
						// At the end only the last is legal.
						ok = ok || got == l && (n < disk.Len() || i == len(legal)-1)
					}
					if !ok {
						t.Fatalf("%s after %d operations: %d bytes", name, n, len(got))
					}
				}
			}
		}
		if err := journal.WriteFileTo(disk, name, []byte(old)); err != nil {
			t.Fatal(err)
		}
		check("-", old)
		if err := journal.WriteFileTo(disk, name, []byte(young)); err != nil {
			t.Fatal(err)
		}
		check("-", old, young)
		report.Line(t, "%s: %d crashes", name, crashes)
	}
}

func TestWriteFileThatFailsLeavesTheOldContent(t *testing.T) {
	for _, kind := range []journaltest.Kind{journaltest.Create, journaltest.Write, journaltest.Sync, journaltest.Rename, journaltest.SyncDir} {
		t.Run(kind.String(), func(t *testing.T) {
			disk := journaltest.New()
			if err := journal.WriteFileTo(disk, "x", []byte("old")); err != nil {
				t.Fatal(err)
			}
			disk.Inject(func(op journaltest.Op) *journaltest.Fault {
				if op.Kind == kind {
					return &journaltest.Fault{Err: syscall.EIO, Written: 1}
				}
				return nil
			})
			if err := journal.WriteFileTo(disk, "x", []byte("new")); !errors.Is(err, syscall.EIO) {
				t.Errorf("write: %v", err)
			}
			if b, err := disk.Get("x"); err != nil || string(b) != "old" && kind != journaltest.SyncDir {
				t.Errorf("%q, %v", b, err)
			}
			if files := disk.Files(); len(files) != 1 || disk.Handles() != 0 {
				t.Errorf("left behind: %v, %d open", files, disk.Handles())
			}
		})
	}
}

// TestWhatACrashLeftOfWritesIsRemoved: each power loss would leave a file for good.
func TestWhatACrashLeftOfWritesIsRemoved(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, name := range []string{"x", "a/x"} {
		if err := journal.WriteFile(root, name, []byte("kept")); err != nil {
			t.Fatal(err)
		}
		torn := filepath.Join(dir, filepath.Dir(name), journal.TempPrefix+"ABC")
		if err := os.WriteFile(torn, []byte("torn"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := journal.RemoveTemporary(root); err != nil {
		t.Fatal(err)
	}
	var left []string
	if err := fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if !e.IsDir() {
			left = append(left, name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(left, []string{"a/x", "x"}) {
		t.Errorf("left are %v", left)
	}
}
