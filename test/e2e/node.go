package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/edgehub-io/edge-hub/test/process"
)

const nodeName = "edge-1"

// A node is an edge host: a network, mount and process namespace with containerd,
// a kubelet, and a disk that survives a reboot.
type node struct {
	dir string // its disk, and its logs
	bin string

	init *process.Process
}

// boot switches the node on, with or without the link to the cloud. As the node's own
// network configuration should do, it sets the hub's address, unless address is false.
func (n *node) boot(link, address bool) error {
	cmd := exec.Command("/proc/self/exe", roleNode, "-dir="+n.dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	power, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if n.init, err = process.Start(cmd); err != nil {
		return fmt.Errorf("make the node's namespaces: %w", err)
	}
	if err := plugIn(n.init.PID(), link); err != nil {
		return err
	}
	if address {
		inside := fmt.Sprintf("nsenter --net=/proc/%d/ns/net ", n.init.PID())
		if err := command(inside + "ip address add " + hubAddress + "/32 dev lo"); err != nil {
			return err
		}
	}
	_, err = io.WriteString(power, n.bin+"\n")
	return err
}

// powerOff ends every process of the node at once. What was mounted is gone, and
// so are its interfaces.
func (n *node) powerOff() error {
	if err := n.init.Kill(); err != nil {
		return err
	}
	// Sockets that nobody closed keep the network namespace for minutes.
	if err := command("ip link delete " + cloudDevice); err != nil {
		return err
	}
	// A kernel that starts has no cgroups.
	return errors.Join(removeCgroups(), makeCgroups())
}

// command prepares a command that runs in the node.
func (n *node) command(args ...string) *exec.Cmd {
	all := append([]string{"--target=" + strconv.Itoa(n.init.PID()), "--mount", "--uts", "--ipc", "--net", "--pid", "--"}, args...)
	return exec.Command("nsenter", all...)
}

func (n *node) run(args ...string) (string, error) {
	out, err := n.command(args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// write writes a file on the node's disk, by its path there.
func (n *node) write(path, content string) error {
	path = filepath.Join(n.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o600)
}

// logFile is the path of a service's log.
func (n *node) logFile(service string) string { return filepath.Join(n.dir, "log", service+".log") }

// pids finds the node's processes by the name of their program.
func (n *node) pids(program string) []int {
	children, names := map[int][]int{}, map[int]string{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		stat := string(data)
		open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
		var pid, parent int
		var state string
		if _, err := fmt.Sscan(stat[:open], &pid); err != nil {
			continue
		}
		if _, err := fmt.Sscan(stat[end+1:], &state, &parent); err != nil {
			continue
		}
		names[pid] = stat[open+1 : end]
		children[parent] = append(children[parent], pid)
	}
	var found []int
	for todo := []int{n.init.PID()}; len(todo) > 0; {
		pid := todo[0]
		todo = append(todo[1:], children[pid]...)
		if executable, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); names[pid] == program || err == nil && filepath.Base(executable) == program {
			found = append(found, pid)
		}
	}
	slices.Sort(found)
	return found
}

// kill ends a program of the node with SIGKILL.
func (n *node) kill(program string) error {
	pids := n.pids(program)
	if len(pids) == 0 {
		return fmt.Errorf("no process %s on the node", program)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return err
		}
	}
	return nil
}

// load imports images into containerd.
func (n *node) load(ctx context.Context, images []image) error {
	if err := eventually(ctx, time.Minute, func() error {
		_, err := n.run("ctr", "--address=/run/containerd/containerd.sock", "version")
		return err
	}); err != nil {
		return err
	}
	for _, image := range images {
		archive := filepath.Join(n.dir, image.name+".tar")
		if err := image.write(archive); err != nil {
			return err
		}
		if _, err := n.run("ctr", "--address=/run/containerd/containerd.sock", "--namespace=k8s.io", "images", "import", archive); err != nil {
			return err
		}
		if err := os.Remove(archive); err != nil {
			return err
		}
	}
	return nil
}

// eventually calls f until it returns nil, and returns its last error after limit.
func eventually(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", limit, err)
		}
	}
}
