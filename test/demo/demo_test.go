package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSeenIgnoresOrderAndTiming(t *testing.T) {
	got := seen("service a/b 10.0.0.1 (added)\nget configmap a/c x=y\nsynced: 1 configmaps, 1 services in 3ms\nconfigmap a/c x=z (updated)\n")
	if want := []string{"get configmap a/c x=y", "service a/b 10.0.0.1 (added)"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestForgeKeepsClaimsAndChangesSignature(t *testing.T) {
	if got, err := forge("h.claims.s1", "h.other.s2"); err != nil || got != "h.claims.s2" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := forge("opaque", "h.other.s2"); err == nil {
		t.Error("a token of one part was accepted")
	}
}

func TestSameObject(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{`{"a":1,"b":2}`, `{"b":2, "a":1}` + "\n", true},
		{`{"a":1}`, `{"a":1,"b":null}`, false},
		{`{"a":1}`, `{"a":2}`, false},
	} {
		if got, err := sameObject([]byte(tc.a), []byte(tc.b)); err != nil || got != tc.want {
			t.Errorf("%s and %s: %v, %v", tc.a, tc.b, got, err)
		}
	}
	if _, err := sameObject([]byte(`{`), []byte(`{}`)); err == nil {
		t.Error("torn JSON was accepted")
	}
}

func TestCachedFilesNeedsEachWord(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "someone", "services.v1.core", "default.jsonl")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := cachedFiles(dir, "services"); err != nil || !slices.Equal(got, []string{path}) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := cachedFiles(dir, "services", "configmaps"); err == nil {
		t.Error("a missing file was not noticed")
	}
	if _, err := cachedFiles(filepath.Join(dir, "nobody")); err == nil {
		t.Error("a missing directory was not noticed")
	}
}

func TestNarratorIsPlainOffATerminal(t *testing.T) {
	var out bytes.Buffer
	n := &narrator{out: &out, shorten: strings.NewReplacer("/tmp/demo", "$DIR")}
	n.step(1, "Title")
	n.command("kubectl", "get", quote("jsonpath={.data}"), quote("/tmp/demo/x"), quote("it's"))
	n.output("one\n/tmp/demo/two\n")
	n.ok("done in %d s", 1)
	want := "\n 1. Title\n    $ kubectl get 'jsonpath={.data}' $DIR/x 'it'\\''s'\n      one\n      $DIR/two\n    ok done in 1 s\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	if got := cut("héllo", 2); got != "hé..." {
		t.Errorf("cut: %q", got)
	}
}

func TestMissingProgramsAreNamed(t *testing.T) {
	if _, err := newDemo(t.TempDir(), ""); err == nil || !strings.Contains(err.Error(), "edge-hub-operator") {
		t.Errorf("error %v", err)
	}
}
