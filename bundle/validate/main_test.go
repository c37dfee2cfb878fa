package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBundleIsValid is what make verify runs.
func TestBundleIsValid(t *testing.T) {
	problems, err := validate("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Error(problem)
	}
}

// TestProblemsAreFound shows that the validators look at the bundle at all.
func TestProblemsAreFound(t *testing.T) {
	const csv = "manifests/edge-hub-operator.clusterserviceversion.yaml"
	for _, test := range []struct{ name, file, old, new, want string }{
		{"bundle", csv, "kind: EdgeHubPolicy\n", "kind: Other\n", "owned CRD"},
		{"CSV", csv, "supported: true", "supported: false", "none of InstallModeTypes are supported"},
		{"CRD", "manifests/edgehub.io_edgehubpolicies.yaml", "plural: edgehubpolicies", "plural: policies", "spec.names.plural"},
		{"OperatorHub", csv, "mediatype: image/svg+xml", "mediatype: image/bmp", "valid mediatype"},
		{"capabilities", csv, "capabilities: Basic Install", "capabilities: Everything", "Capabilities"},
		{"categories", csv, "categories: Networking", "categories: Everything", "standard categories"},
		{"good practices", "metadata/annotations.yaml", "channels.v1: candidate", "channels.v1: newest", "naming convention"},
	} {
		t.Run(test.name, func(t *testing.T) {
			folder := t.TempDir()
			for _, part := range []string{"manifests", "metadata"} {
				if err := os.CopyFS(filepath.Join(folder, part), os.DirFS(filepath.Join("..", part))); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(folder, test.file)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.ReplaceAll(string(text), test.old, test.new)
			if changed == string(text) {
				t.Fatalf("%s has no %q", test.file, test.old)
			}
			if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
				t.Fatal(err)
			}
			problems, err := validate(folder)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(fmt.Sprint(problems), test.want) {
				t.Errorf("got %v, want one with %q", problems, test.want)
			}
		})
	}
}
