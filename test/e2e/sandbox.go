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

// namespaces are those of the cloud and of the node.
const namespaces = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS

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
	if err := errors.Join(removeCgroups(cgroupName), removeMountPoints(journal), os.RemoveAll(o.dir)); err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	if err := installPackages(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	defer func() {
		failed := err != nil && !errors.Is(err, context.Canceled) // by Ctrl-C
		if failed {
			printLogs(o.dir)
		}
		err = errors.Join(err, removeCgroups(cgroupName), removeMountPoints(journal), tidy(o, failed), os.Remove(journal.Name()))
	}()
	if err := makeMountPoints(journal); err != nil {
		return err
	}
	if err := makeCgroups(cgroupName); err != nil {
		return err
	}
	return playCloud(ctx, o)
}

// tidy removes the folder, after a failure all of it but the logs.
func tidy(o options, failed bool) error {
	switch {
	case o.keep:
		return nil
	case failed:
		fmt.Println("the logs are kept in", o.dir)
		var errs []error
		for _, name := range []string{"cloud/etcd", "node/var/lib", "node/etc"} {
			errs = append(errs, os.RemoveAll(filepath.Join(o.dir, name)))
		}
		return errors.Join(errs...)
	default:
		return os.RemoveAll(o.dir)
	}
}

// printLogs prints the end of every log, and of the newest of the hub's.
func printLogs(dir string) {
	const lines, width = 25, 400
	var paths []string
	for _, pattern := range []string{"operator.log", "cloud/*.log", "node/log/*.log"} {
		found, _ := filepath.Glob(filepath.Join(dir, pattern))
		paths = append(paths, found...)
	}
	hub, _ := filepath.Glob(filepath.Join(dir, "node/var/log/pods/kube-system_edge-hub-*/*/*.log"))
	if len(hub) > 0 {
		paths = append(paths, slices.MaxFunc(hub, func(a, b string) int { return modified(a).Compare(modified(b)) }))
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		fmt.Println("---- the end of", path)
		for line := range strings.Lines(process.Tail(string(text), lines)) {
			line = strings.TrimSuffix(line, "\n")
			fmt.Println(line[:min(width, len(line))])
		}
	}
}

func modified(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// playCloud starts this program as the first process of new namespaces.
func playCloud(ctx context.Context, o options) error {
	cmd := exec.Command("/proc/self/exe", append([]string{roleCloud}, os.Args[1:]...)...)
	cmd.Args = append(cmd.Args, "-dir="+o.dir, "-bin="+o.bin)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	cloud, err := process.Start(cmd)
	if err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	select {
	case <-cloud.Done():
		return cloud.Wait()
	case <-ctx.Done():
		// It says where it was, and is ended if it can't.
		return errors.Join(context.Cause(ctx), cloud.Stop(20*time.Second))
	}
}

// lock keeps two runs from using the same folders and cgroups. The file also says which
// directories have to be removed, for a run that comes after one that was killed.
func lock(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			return nil, fmt.Errorf("another run holds %s: %w", path, err)
		}
		// Who held it may have removed it in between.
		mine, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if now, err := os.Stat(path); err == nil && os.SameFile(mine, now) {
			return f, nil
		}
		f.Close()
	}
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
