package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

	init  *process.Process
	ahead time.Duration // of the true time its clock is
}

// boot switches the node on, with or without the link to the cloud.
func (n *node) boot(link bool) error {
	cmd := exec.Command("/proc/self/exe", roleNode, "-dir="+n.dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
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
	containerd, err := exec.LookPath("containerd")
	if err != nil {
		return err
	}
	return json.NewEncoder(power).Encode(machine{Containerd: containerd, Kubelet: filepath.Join(n.bin, "controlplane", "kubelet")})
}

// powerOff ends every process of the node at once. What was mounted is gone, and
// so are its interfaces.
func (n *node) powerOff() error {
	if err := n.init.Kill(); err != nil {
		return err
	}
	// A kernel that starts has no cgroups.
	return errors.Join(unplug(), removeCgroups(cgroupName), makeCgroups(cgroupName))
}

// command prepares a command that runs in the node.
func (n *node) command(args ...string) *exec.Cmd {
	all := append([]string{"--target=" + strconv.Itoa(n.init.PID()), "--mount", "--uts", "--ipc", "--net", "--pid", "--"}, args...)
	return exec.Command("nsenter", all...)
}

func (n *node) run(args ...string) (string, error) { return output(n.command(args...)) }

// ctr asks containerd.
func (n *node) ctr(args ...string) (string, error) {
	return n.run(append([]string{"ctr", "--address=/run/containerd/containerd.sock", "--namespace=k8s.io"}, args...)...)
}

// write writes a file on the node's disk, by its path there.
func (n *node) write(path, content string) error {
	path = filepath.Join(n.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o600)
}

// pids finds the node's processes by the name of their program.
func (n *node) pids(program string) []int {
	var found []int
	for pid, name := range processes(n.init.PID()) {
		if executable, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); name == program || err == nil && filepath.Base(executable) == program {
			found = append(found, pid)
		}
	}
	slices.Sort(found)
	return found
}

// processes are all below one, with their names.
func processes(init int) map[int]string {
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
	found := map[int]string{}
	for todo := children[init]; len(todo) > 0; {
		pid := todo[0]
		todo = append(todo[1:], children[pid]...)
		found[pid] = names[pid]
	}
	return found
}

// kill ends a program of the node with SIGKILL.
func (n *node) kill(program string) error {
	pids := n.pids(program)
	if len(pids) == 0 {
		return fmt.Errorf("no process %s on the node", program)
	}
	return kill(pids...)
}

func kill(pids ...int) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

// load imports images into containerd.
func (n *node) load(ctx context.Context, images []image) error {
	if err := eventually(ctx, time.Minute, n.containerdAnswers); err != nil {
		return err
	}
	for _, image := range images {
		archive := filepath.Join(n.dir, image.name+".tar")
		if err := image.write(archive); err != nil {
			return err
		}
		if _, err := n.ctr("images", "import", archive); err != nil {
			return err
		}
		if err := os.Remove(archive); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) containerdAnswers() error {
	_, err := n.ctr("version")
	return err
}
