package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// repository is the root folder, seen from this one.
const repository = "../.."

// real are the project's own programs for this platform, packed once for all tests.
var real release

func TestMain(m *testing.M) {
	os.Exit(func() int {
		folder, err := os.MkdirTemp("", "release")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(folder)
		real = newRelease(folder)
		out, err := exec.Command("make", "-C", repository, "programs", "BIN="+folder,
			"VERSION="+real.version, "PLATFORMS="+runtime.GOOS+"/"+runtime.GOARCH).CombinedOutput()
		if err != nil {
			panic(string(out))
		}
		os.Setenv("SOURCE_DATE_EPOCH", "1700000000")
		if err := real.run([]string{"images", "sbom"}); err != nil {
			panic(err)
		}
		return m.Run()
	}())
}

func newRelease(bin string) release {
	return release{
		bin: bin, registry: "registry.example/edge", version: "v1.2.3", revision: "0123abc",
		created: time.Unix(1700000000, 0).UTC(),
	}
}

// buildTiny writes a program of one line to bin/programs/linux_ARCH/, under the
// name of each of the release's, as go build does with these settings.
func buildTiny(t *testing.T, bin, arch string, env []string, flags ...string) {
	t.Helper()
	module := t.TempDir()
	write(t, filepath.Join(module, "go.mod"), "module example.com/tiny\n\ngo 1.26\n")
	write(t, filepath.Join(module, "main.go"), "package main\n\nfunc main() { println() }\n")
	folder, err := filepath.Abs(filepath.Join(bin, "programs", "linux_"+arch))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		build := exec.Command("go", append(append([]string{"build", "-o", filepath.Join(folder, p.name)}, flags...), ".")...)
		build.Dir = module
		build.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off", "GOOS=linux", "GOARCH="+arch), env...)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// sums are the SHA-256 of all files in a folder, by path.
func sums(t *testing.T, folder string) map[string][32]byte {
	t.Helper()
	all := map[string][32]byte{}
	err := fs.WalkDir(os.DirFS(folder), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(folder, path))
		all[path] = sha256.Sum256(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestSameProgramsSameBytes(t *testing.T) {
	first, second := newRelease(t.TempDir()), newRelease(t.TempDir())
	for _, arch := range []string{"amd64", "arm64"} {
		buildTiny(t, first.bin, arch, nil, "-trimpath")
	}
	if err := os.CopyFS(second.bin, os.DirFS(first.bin)); err != nil {
		t.Fatal(err)
	}
	age := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	for path := range sums(t, second.bin) {
		if err := os.Chtimes(filepath.Join(second.bin, path), age, age); err != nil {
			t.Fatal(err)
		}
	}
	// What an earlier build left must not stay.
	write(t, filepath.Join(second.bin, "images", "edge-hub", "blobs", "sha256", "stale"), "stale")
	for _, r := range []*release{&first, &second} {
		if err := r.run([]string{"images", "sbom"}); err != nil {
			t.Fatal(err)
		}
	}
	got := sums(t, first.bin)
	if !maps.Equal(got, sums(t, second.bin)) {
		t.Errorf("two releases of the same programs differ:\n%v\n%v", got, sums(t, second.bin))
	}
	for _, want := range []string{
		"images/edge-hub/index.json", "images/edge-hub-operator/index.json",
		"sbom/edge-hub_linux_amd64.spdx.json", "sbom/edge-hub-operator_linux_arm64.spdx.json",
	} {
		if _, ok := got[want]; !ok {
			t.Errorf("%s was not written", want)
		}
	}
}

func TestRefusesWhatNobodyElseCanBuild(t *testing.T) {
	for _, test := range []struct {
		name, arch, env string
		flags           []string
		want            string
	}{
		{"paths of this machine", "amd64", "", nil, `-trimpath=""`},
		{"cgo", "amd64", "CGO_ENABLED=1", []string{"-trimpath"}, `CGO_ENABLED="1"`},
		{"another platform", "amd64", "GOARCH=arm64", []string{"-trimpath"}, `GOARCH="arm64"`},
		{"shared libraries", "amd64", "", []string{"-trimpath", "-buildmode=pie"}, "not static"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRelease(t.TempDir())
			buildTiny(t, r.bin, test.arch, []string{test.env}, test.flags...)
			err := r.run([]string{"sbom"})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestNeedsADateThatIsNotNow(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	r := newRelease(real.bin)
	if err := r.run([]string{"sbom"}); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
		t.Errorf("got error %v", err)
	}
}

// TestProgramsAreBuiltByThePinnedGo also holds that they have a build ID that
// depends on nothing: none.
func TestProgramsAreBuiltByThePinnedGo(t *testing.T) {
	for _, p := range programs {
		path := programPath(p)
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if want := "go" + goVersion(t); info.GoVersion != want {
			t.Errorf("%s was built by %s, not %s", p.name, info.GoVersion, want)
		}
		id, err := exec.Command("go", "tool", "buildid", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(string(id)); got != "" {
			t.Errorf("%s has build ID %q", p.name, got)
		}
	}
}

// programPath is where the real program was built.
func programPath(p program) string {
	return filepath.Join(real.bin, "programs", runtime.GOOS+"_"+runtime.GOARCH, p.name)
}
