package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/edgehub-io/edge-hub/test/process"
)

// cgroupName is the cgroup below which the kubelet puts its Pods, in each hierarchy.
const cgroupName = "edge-hub-e2e"

// packages are Debian's, by a program that each brings.
var packages = map[string]string{
	"containerd": "containerd",
	"runc":       "runc",
	"ip":         "iproute2",
	"iptables":   "iptables",
	"nft":        "nftables",
	"conntrack":  "conntrack",
	"nsenter":    "util-linux",
	"ethtool":    "ethtool",
	"socat":      "socat",
}

const cniPlugins = "/usr/lib/cni"

// runSandbox runs the cloud, and with it everything else, in namespaces that end
// with it, and removes what namespaces do not hold: files and cgroups.
func runSandbox(ctx context.Context, o options) (err error) {
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return err
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return err
	}
	journal, err := lock(o.dir + ".lock")
	if err != nil {
		return err
	}
	defer journal.Close()
	if err := errors.Join(removeCgroups(), os.RemoveAll(o.dir)); err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	if err := installPackages(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	if err := makeMountPoints(journal); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, removeCgroups(), removeMountPoints(journal))
		if !o.keep {
			err = errors.Join(err, os.RemoveAll(o.dir))
		}
	}()
	if err := makeCgroups(); err != nil {
		return err
	}
	return playCloud(ctx, o)
}

// playCloud starts this program as the first process of new namespaces.
func playCloud(ctx context.Context, o options) error {
	cmd := exec.Command("/proc/self/exe", append([]string{roleCloud}, os.Args[1:]...)...)
	cmd.Args = append(cmd.Args, "-dir="+o.dir, "-bin="+o.bin)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	cloud, err := process.Start(cmd)
	if err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	select {
	case <-cloud.Done():
	case <-ctx.Done():
		if err := cloud.Stop(20 * time.Second); err != nil {
			return err
		}
	}
	return cloud.Wait()
}

// lock keeps two runs from using the same folders and cgroups. The file also says which
// directories have to be removed, for a run that comes after one that was killed.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another run holds %s: %w", path, err)
	}
	return f, nil
}

func installPackages(ctx context.Context) error {
	var missing []string
	for program, name := range packages {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, name)
		}
	}
	if _, err := os.Stat(filepath.Join(cniPlugins, "bridge")); err != nil {
		missing = append(missing, "containernetworking-plugins")
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	fmt.Println("installing", strings.Join(missing, " "))
	for _, args := range [][]string{
		{"update", "-q"},
		append([]string{"install", "-qy", "--no-install-recommends"}, missing...),
	} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		// In single user mode a package's services are not started.
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, out)
		}
	}
	return nil
}

// makeMountPoints makes the directories that a node mounts its own over, and notes
// those that were not there.
func makeMountPoints(journal io.Writer) error {
	for _, path := range nodeDirectories {
		for missing := path; ; missing = filepath.Dir(missing) {
			if _, err := os.Stat(missing); err == nil {
				break
			}
			if _, err := fmt.Fprintln(journal, missing); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// removeMountPoints removes the directories that were noted, unless something is in
// them.
func removeMountPoints(journal *os.File) error {
	text, err := os.ReadFile(journal.Name())
	if err != nil {
		return err
	}
	paths := strings.Fields(string(text))
	slices.SortFunc(paths, func(a, b string) int { return len(b) - len(a) })
	for _, path := range paths {
		err := os.Remove(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
	}
	return journal.Truncate(0)
}

// cgroupRoots are the mount points of version 1's hierarchies, or the one of version 2.
func cgroupRoots() []string {
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return []string{root}
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil
	}
	var roots []string
	for _, entry := range entries {
		path := filepath.Join(root, entry.Name())
		if _, err := os.Stat(filepath.Join(path, "cgroup.procs")); err == nil && entry.IsDir() {
			roots = append(roots, path)
		}
	}
	return roots
}

func makeCgroups() error {
	for _, root := range cgroupRoots() {
		if err := os.Mkdir(filepath.Join(root, cgroupName), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// removeCgroups removes the cgroups of all Pods. The kernel takes a moment to see
// that the last process has gone.
func removeCgroups() error {
	for _, root := range cgroupRoots() {
		top := filepath.Join(root, cgroupName)
		deadline := time.Now().Add(10 * time.Second)
		for {
			err := removeTree(top)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("remove cgroups: %w", err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return nil
}

// removeTree removes directories only, as the files of a cgroup can't be removed.
func removeTree(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(path, entry.Name())); err != nil {
				return err
			}
		}
	}
	return syscall.Rmdir(path)
}
