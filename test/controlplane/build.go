package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// A recipe is everything that decides what the binaries are.
type recipe struct {
	kubernetesVersion string
	ldflags           string
	// stamp identifies the recipe; it is written beside each binary built from it.
	stamp string
}

// loadRecipe reads go.mod and go.sum of the working directory, which must be
// this module's folder.
func loadRecipe(ctx context.Context) (recipe, error) {
	version, err := kubernetesVersion(ctx)
	if err != nil {
		return recipe{}, err
	}
	r := recipe{kubernetesVersion: version, ldflags: versionFlags(version)}
	hash := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(name)
		if err != nil {
			return recipe{}, fmt.Errorf("%w (run this in its module's folder)", err)
		}
		fmt.Fprintf(hash, "%s %d\n%s", name, len(data), data)
	}
	fmt.Fprintf(hash, "%s/%s %s\n", runtime.GOOS, runtime.GOARCH, r.ldflags)
	r.stamp = hex.EncodeToString(hash.Sum(nil))
	return r, nil
}

// kubernetesVersion asks go.mod, so that an upgrade is a change of one line.
func kubernetesVersion(ctx context.Context) (string, error) {
	cmd := goCommand(ctx, "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find the version of k8s.io/kubernetes in go.mod: %w\n%s", err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}

// versionFlags are linker flags that make the binaries report the release they
// are. Left alone they report v0.0.0-master, which kubectl and feature gates
// that look at versions take literally.
func versionFlags(version string) string {
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	values := []string{
		"gitVersion=" + version,
		"gitMajor=" + major,
		"gitMinor=" + minor,
		"gitCommit=unknown",
		"gitTreeState=archive",
		"buildDate=1970-01-01T00:00:00Z",
	}
	flags := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, value := range values {
			flags = append(flags, "-X", pkg+"."+value)
		}
	}
	return strings.Join(flags, " ")
}

func stampFile(dir string, p program) string {
	return filepath.Join(dir, "."+p.name+".stamp")
}

// fresh reports whether dir holds p as this recipe builds it.
func (r recipe) fresh(dir string, p program) bool {
	if _, err := os.Stat(filepath.Join(dir, p.name)); err != nil {
		return false
	}
	stamp, err := os.ReadFile(stampFile(dir, p))
	return err == nil && strings.TrimSpace(string(stamp)) == r.stamp
}

// build compiles p and moves it into place in one step. The old stamp goes
// first: an interrupted build leaves a binary without a stamp, never a stamp
// that vouches for another binary.
func (r recipe) build(ctx context.Context, dir string, p program) error {
	stage, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)

	binary := filepath.Join(stage, p.name)
	output, err := goCommand(ctx, "build", "-trimpath", "-ldflags", r.ldflags, "-o", binary, p.importPath).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", p.importPath, err, output)
	}
	if err := os.Remove(stampFile(dir, p)); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Rename(binary, filepath.Join(dir, p.name)); err != nil {
		return err
	}
	stamp := filepath.Join(stage, "stamp")
	if err := os.WriteFile(stamp, []byte(r.stamp+"\n"), 0o644); err != nil {
		return err
	}
	return os.Rename(stamp, stampFile(dir, p))
}

func goCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	// go build removes its work directory when it is interrupted, not when it is killed.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}
