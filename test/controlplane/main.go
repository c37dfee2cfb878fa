// Command controlplane builds a Kubernetes control plane, the programs of a node and
// kubectl from their Go modules, at the versions this module's go.mod names. Tests and
// the demo run them; nothing prebuilt is downloaded.
//
// Run it in this folder:
//
//	go run . -o ../../bin/controlplane            # all of them
//	go run . -o ../../bin/controlplane etcd kubectl
//
// A binary that is already there and was built from the same go.mod, go.sum and
// linker flags is kept. The folder can serve as KUBEBUILDER_ASSETS. When
// KUBEBUILDER_ASSETS is set, its binaries are used instead, and only those are
// built that it lacks; it must have etcd, kube-apiserver and kubectl.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A program is a command of another module, built into the output folder.
type program struct {
	name       string
	importPath string
}

// programs is in the order of building: what the smallest control plane needs
// comes first, so that it can be used while the rest is compiled.
var programs = []program{
	{"etcd", "go.etcd.io/etcd/server/v3"},
	{"kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"},
	{"kubectl", "k8s.io/kubernetes/cmd/kubectl"},
	{"kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"},
	{"kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"},
	{"kubelet", "k8s.io/kubernetes/cmd/kubelet"},
	{"kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"},
}

// envtestAssets are the binaries KUBEBUILDER_ASSETS must hold.
var envtestAssets = []string{"etcd", "kube-apiserver", "kubectl"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "controlplane:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("controlplane", flag.ContinueOnError)
	out := flags.String("o", filepath.Join("..", "..", "bin", "controlplane"), "folder to build into")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	wanted, err := selectPrograms(flags.Args())
	if err != nil {
		return err
	}
	if assets := os.Getenv("KUBEBUILDER_ASSETS"); assets != "" {
		fmt.Fprintf(os.Stderr, "using KUBEBUILDER_ASSETS=%s\n", assets)
		if err := checkAssets(assets); err != nil {
			return err
		}
		wanted = slices.DeleteFunc(slices.Clone(wanted), func(p program) bool { return executable(assets, p.name) })
		if len(wanted) == 0 {
			return nil
		}
	}
	dir, err := filepath.Abs(*out)
	if err != nil {
		return err
	}
	return buildAll(ctx, dir, wanted)
}

// selectPrograms returns the programs named, or all of them, in build order.
func selectPrograms(names []string) ([]program, error) {
	if len(names) == 0 {
		return programs, nil
	}
	for _, name := range names {
		if !slices.ContainsFunc(programs, func(p program) bool { return p.name == name }) {
			return nil, fmt.Errorf("no program named %q", name)
		}
	}
	var wanted []program
	for _, p := range programs {
		if slices.Contains(names, p.name) {
			wanted = append(wanted, p)
		}
	}
	return wanted, nil
}

func checkAssets(dir string) error {
	var missing []string
	for _, name := range envtestAssets {
		if !executable(dir, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("KUBEBUILDER_ASSETS=%s has no executable %s; unset it to build a control plane from source",
			dir, strings.Join(missing, ", "))
	}
	return nil
}

func executable(dir, name string) bool {
	info, err := os.Stat(filepath.Join(dir, name))
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// buildAll builds what is missing or out of date. One process at a time does so
// in a folder; a second one waits and then finds the work done.
func buildAll(ctx context.Context, dir string, wanted []program) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	unlock, err := lock(filepath.Join(dir, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()

	recipe, err := loadRecipe(ctx)
	if err != nil {
		return err
	}
	stale := slices.DeleteFunc(slices.Clone(wanted), func(p program) bool {
		return recipe.fresh(dir, p)
	})
	if len(stale) == 0 {
		return nil
	}
	fmt.Fprintf(os.Stderr, "building %d programs of Kubernetes %s from source into %s, once; all of them take several minutes\n",
		len(stale), recipe.kubernetesVersion, dir)
	start := time.Now()
	for i, p := range stale {
		done := progress(fmt.Sprintf("[%d/%d] %s ...", i+1, len(stale), p.name))
		err := recipe.build(ctx, dir, p)
		done(err)
		if err != nil {
			return err
		}
	}
	fmt.Fprintf(os.Stderr, "built in %s\n", time.Since(start).Round(time.Second))
	return nil
}

// lock takes an exclusive lock that the kernel drops when this process ends.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// progress prints a line that a terminal shows counting and a log shows once,
// and returns the function that ends it.
func progress(line string) (done func(error)) {
	start := time.Now()
	seconds := func() int { return int(time.Since(start).Round(time.Second).Seconds()) }
	info, err := os.Stderr.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	fmt.Fprint(os.Stderr, line)

	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if terminal {
					fmt.Fprintf(os.Stderr, "\r%s %ds", line, seconds())
				}
			case <-stop:
				return
			}
		}
	}()
	return func(err error) {
		close(stop)
		<-stopped
		if terminal {
			fmt.Fprintf(os.Stderr, "\r%s", line)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, " failed")
			return
		}
		fmt.Fprintf(os.Stderr, " %ds\n", seconds())
	}
}
