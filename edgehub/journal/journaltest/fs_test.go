package journaltest_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
)

// after returns what crashes behind all operations leave: names and contents.
func after(f *journaltest.FS) map[string]bool {
	seen := map[string]bool{}
	for seed := range uint64(2000) {
		crashed := f.Crash(f.Len(), rand.New(rand.NewPCG(seed, 0)))
		var state []string
		for _, name := range crashed.Files() {
			b, err := crashed.Get(name)
			if err != nil {
				panic(err)
			}
			state = append(state, fmt.Sprintf("%s=%q", name, b))
		}
		seen[strings.Join(state, " ")] = true
	}
	return seen
}

func write(t *testing.T, f *journaltest.FS, name, text string) journal.Handle {
	t.Helper()
	h, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt([]byte(text), 0); err != nil {
		t.Fatal(err)
	}
	return h
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestCrashesAreAsBadAsDisksAre: else the tests over them prove nothing.
func TestCrashesAreAsBadAsDisksAre(t *testing.T) {
	tests := map[string]struct {
		do   func(f *journaltest.FS)
		can  []string
		only bool // and nothing else
	}{
		"nothing is synced": {
			do:  func(f *journaltest.FS) { write(t, f, "x", "abc") },
			can: []string{"", `x=""`, `x="a"`, `x="ab"`, `x="abc"`, `x="\x00\x00\x00"`}, only: true,
		},
		"the file is synced": {
			do:  func(f *journaltest.FS) { must(t, write(t, f, "x", "abc").Sync()) },
			can: []string{"", `x="abc"`}, only: true,
		},
		"its directory is": {
			do: func(f *journaltest.FS) {
				write(t, f, "x", "abc")
				must(t, f.SyncDir("."))
			},
			can: []string{`x=""`, `x="a"`, `x="ab"`, `x="abc"`, `x="\x00\x00\x00"`}, only: true,
		},
		"a rename overtakes the data": {
			do: func(f *journaltest.FS) {
				must(t, write(t, f, "x", "abc").Sync(), f.SyncDir("."))
				write(t, f, "y", "de")
				must(t, f.Rename("y", "x"))
			},
			can: []string{`x="abc"`, `x=""`, `x="\x00\x00"`, `x="d"`, `x="de"`, `x="abc" y=""`, `x="abc" y="de"`},
		},
		"a rename is whole": {
			do: func(f *journaltest.FS) {
				must(t, write(t, f, "x", "abc").Sync(), write(t, f, "y", "de").Sync(), f.SyncDir("."), f.Rename("y", "x"))
			},
			can: []string{`x="abc" y="de"`, `x="de"`}, only: true,
		},
		"removals are reordered": {
			do: func(f *journaltest.FS) {
				must(t, write(t, f, "x", "a").Sync(), write(t, f, "y", "b").Sync(), f.SyncDir("."), f.Remove("x"), f.Remove("y"))
			},
			can: []string{`x="a" y="b"`, `x="a"`, `y="b"`, ""}, only: true,
		},
		"a truncation is lost and what followed is not": {
			do: func(f *journaltest.FS) {
				h := write(t, f, "x", "abcd")
				must(t, h.Sync(), f.SyncDir("."), h.Truncate(1))
				_, err := h.WriteAt([]byte("X"), 1)
				must(t, err)
			},
			can: []string{`x="abcd"`, `x="a"`, `x="aX"`, `x="aX\x00\x00"`},
		},
		"a failed sync loses pages for good": {
			do: func(f *journaltest.FS) {
				h := write(t, f, "x", "ab")
				must(t, h.Sync(), f.SyncDir("."))
				_, err := h.WriteAt([]byte("cd"), 2)
				must(t, err)
				f.Inject(func(op journaltest.Op) *journaltest.Fault {
					if op.Kind == journaltest.Sync {
						return &journaltest.Fault{Err: os.ErrInvalid}
					}
					return nil
				})
				if h.Sync() == nil {
					t.Error("sync did not fail")
				}
				f.Inject(nil)
				must(t, h.Sync()) // which proves nothing
			},
			can: []string{`x="ab\x00\x00"`, `x="abcd"`},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := journaltest.New()
			test.do(f)
			seen := after(f)
			for _, state := range test.can {
				if !seen[state] {
					t.Errorf("%s was not seen", state)
				}
			}
			for state := range seen {
				if test.only && !slices.Contains(test.can, state) {
					t.Errorf("%s can't be", state)
				}
			}
		})
	}
}
