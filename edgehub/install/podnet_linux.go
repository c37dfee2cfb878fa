package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// lookAtPods looks whether the Pods that run reach the hub: what a firewall or a
// network plugin does to them does not show anywhere else.
func lookAtPods(f *findings) {
	if err := reach(Listen); err != nil {
		f.doubt("hub", "it is installed, and does not answer: %v", err)
		return
	}
	networks, cut := podNetworks(), 0
	results := make(chan error)
	for _, network := range networks {
		go func() { results <- within(network, func() error { return reach(Listen) }) }()
	}
	var last error
	for range networks {
		err := <-results
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // that Pod has just ended
			cut, last = cut+1, err
		}
	}
	if cut > 0 {
		f.doubt("pods", "%d of %d Pods with a network of their own don't reach the hub: a firewall, a network policy or the network plugin has to let them pass to %s. %v",
			cut, len(networks), Listen, last)
		return
	}
	f.add("pods", nil, fmt.Sprintf("%d with a network of their own, which reach the hub", len(networks)))
}

// podNetworks are the network namespaces of Pods, as files.
func podNetworks() (networks []string) {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return nil
	}
	seen := map[string]bool{own: true}
	files, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, file := range files {
		cgroup, err := os.ReadFile(filepath.Join(filepath.Dir(file), "../cgroup"))
		if err != nil || !bytes.Contains(cgroup, []byte("kubepods")) { // the kubelet's own name for it
			continue
		}
		if id, err := os.Readlink(file); err == nil && !seen[id] {
			seen[id] = true
			networks = append(networks, file)
		}
	}
	return networks
}

// within calls f in another network namespace. Its goroutine must end with it.
func within(network string, f func() error) error {
	runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
	file, err := os.Open(network)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	return f()
}
