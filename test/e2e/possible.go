package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/edgehub-io/edge-hub/test/process"
)

// errImpossible says that a machine can't run a node.
var errImpossible = errors.New("a node can't run here")

// possible tries what a node needs of the machine.
func possible(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: user %d is not root", errImpossible, os.Geteuid())
	}
	if len(cgroupRoots()) == 0 {
		return fmt.Errorf("%w: no cgroups are mounted at /sys/fs/cgroup", errImpossible)
	}
	const trial = cgroupName + "-trial" // another run may have the other
	if err := errors.Join(makeCgroups(trial), removeCgroups(trial)); err != nil {
		return fmt.Errorf("%w: cgroups: %w", errImpossible, err)
	}
	if err := installPackages(ctx); err != nil {
		return fmt.Errorf("%w: %w", errImpossible, err)
	}
	var out process.Output
	cmd := exec.Command("/proc/self/exe", roleTrial)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	p, err := process.Start(cmd)
	if err != nil {
		return fmt.Errorf("%w: namespaces: %w", errImpossible, err)
	}
	if err := p.Wait(); err != nil {
		return fmt.Errorf("%w: %w\n%s", errImpossible, err, out.String())
	}
	return nil
}

// runTrial does in new namespaces what the cloud and the node do.
func runTrial() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := setUpCloudNetwork(); err != nil {
		return err
	}
	return command(
		"ip link add "+cloudDevice+" type veth peer name "+nodeDevice,
		"ip link add cni0 type bridge",
		"iptables -t nat -A PREROUTING -p tcp -j RETURN",
		"nft add rule inet e2e link meta l4proto tcp reject with tcp reset",
	)
}
