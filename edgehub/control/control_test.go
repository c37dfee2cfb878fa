package control

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edgehub-io/edge-hub/edgehub/cache"
)

func TestTheHubIsAskedToRemove(t *testing.T) {
	// A path that is longer than the address of a socket may be.
	state := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	want := cache.Selection{Agent: "app", Identity: "shop/till", Resource: "pods", Namespace: "shop"}
	var got cache.Selection
	var fails error
	stop, err := Serve(state, func(s cache.Selection) (int, error) {
		got = s
		return 3, fails
	})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := Remove(t.Context(), state, want); n != 3 || err != nil || got != want {
		t.Errorf("%d views are removed, %v; the hub was asked for %+v", n, err, got)
	}
	fails = errors.New("the disk is read-only")
	if n, err := Remove(t.Context(), state, want); n != 3 || err == nil || err.Error() != fails.Error() {
		t.Errorf("%d views are removed, %v", n, err)
	}
	for path, mode := range map[string]fs.FileMode{directory: 0o700, filepath.Join(directory, socket): 0o600} {
		if info, err := os.Stat(filepath.Join(state, path)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s has %v, %v", path, info.Mode(), err)
		}
	}
	stop()
	if _, err := Remove(t.Context(), state, want); err == nil {
		t.Error("a hub that has ended answers")
	}
}

func TestACrashedHubsSocketIsReplaced(t *testing.T) {
	state := t.TempDir()
	if err := os.Mkdir(filepath.Join(state, directory), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(state, directory, socket), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var refused *net.OpError
	if _, err := Remove(t.Context(), state, cache.Selection{}); !errors.As(err, &refused) {
		t.Errorf("nobody answers: %v", err)
	}
	stop, err := Serve(state, func(cache.Selection) (int, error) { return 0, nil })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if _, err := Remove(t.Context(), state, cache.Selection{}); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(state, directory)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory has %v, %v", info.Mode(), err)
	}
}
