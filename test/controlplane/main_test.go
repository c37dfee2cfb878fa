package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSelectPrograms(t *testing.T) {
	all, err := selectPrograms(nil)
	if err != nil || len(all) != len(programs) {
		t.Fatalf("%v, %v", all, err)
	}
	some, err := selectPrograms([]string{"kubectl", "etcd"})
	if err != nil || len(some) != 2 || some[0].name != "etcd" || some[1].name != "kubectl" {
		t.Fatalf("not in build order: %v, %v", some, err)
	}
	if _, err := selectPrograms([]string{"kube-dns"}); err == nil {
		t.Fatal("an unknown program was accepted")
	}
}

func TestVersionFlags(t *testing.T) {
	flags := versionFlags("v1.37.2")
	for _, want := range []string{
		"-X k8s.io/component-base/version.gitVersion=v1.37.2",
		"-X k8s.io/component-base/version.gitMajor=1",
		"-X k8s.io/client-go/pkg/version.gitMinor=37",
	} {
		if !strings.Contains(flags, want) {
			t.Errorf("%q is not in %q", want, flags)
		}
	}
}

func TestFreshNeedsBinaryAndStampOfThisRecipe(t *testing.T) {
	dir, p := t.TempDir(), programs[0]
	r, err := loadRecipe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.fresh(dir, p) {
		t.Error("fresh without a binary")
	}
	write(t, filepath.Join(dir, p.name), 0o755)
	if r.fresh(dir, p) {
		t.Error("fresh without a stamp")
	}
	if err := os.WriteFile(stampFile(dir, p), []byte(r.stamp+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !r.fresh(dir, p) {
		t.Error("not fresh with binary and stamp")
	}
	r.stamp = "another"
	if r.fresh(dir, p) {
		t.Error("fresh with the stamp of another recipe")
	}
}

func TestKubebuilderAssetsAreCheckedNotBuilt(t *testing.T) {
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
	t.Setenv("KUBEBUILDER_ASSETS", dir)
	write(t, filepath.Join(dir, "etcd"), 0o755)
	write(t, filepath.Join(dir, "kube-apiserver"), 0o644)
	err := run(t.Context(), []string{"-o", out})
	if err == nil || !strings.Contains(err.Error(), "kube-apiserver, kubectl") {
		t.Fatalf("error %v", err)
	}
	for _, name := range envtestAssets {
		write(t, filepath.Join(dir, name), 0o755)
	}
	if err := run(t.Context(), append([]string{"-o", out}, envtestAssets...)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("something was built: %v", err)
	}
}

func write(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, nil, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}
