package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// nodeDirectories are on the node's disk: a node mounts its own over them. All else
// is the machine's.
var nodeDirectories = []string{
	"/etc/cni/net.d",
	"/etc/kubernetes",
	"/etc/systemd/system",
	"/var/lib",
	"/var/log/containers",
	"/var/log/pods",
}

// kernelSettings are what a kubelet sets for the whole machine. The node has files
// in their place.
var kernelSettings = []string{
	"vm/overcommit_memory",
	"vm/panic_on_oom",
	"kernel/panic",
	"kernel/panic_on_oops",
	"kernel/keys/root_maxkeys",
	"kernel/keys/root_maxbytes",
}

// A service is a program that the node's init keeps running.
type service struct {
	name string
	args []string
}

// A machine is what the node's init is told about the programs that it runs.
type machine struct {
	Containerd string
	Kubelet    string
}

func (m machine) services() []service {
	return []service{
		{"containerd", []string{m.Containerd, "--config=/etc/kubernetes/containerd.toml"}},
		{"kubelet", []string{
			m.Kubelet,
			"--config=/var/lib/kubelet/config.yaml",
			"--kubeconfig=/etc/kubernetes/kubelet.conf",
			"--hostname-override=" + nodeName,
			"--node-ip=" + nodeAddress,
			"-v=2",
		}},
	}
}

// runNode is the node's init: it mounts, starts the services, starts them again when
// they end, and waits for every orphan. It starts when it is told to on its standard
// input. The node is off when it is killed.
func runNode(dir string) error {
	var m machine
	if err := json.NewDecoder(os.Stdin).Decode(&m); err != nil {
		return fmt.Errorf("the node was not switched on: %w", err)
	}
	if err := mountNode(dir); err != nil {
		return err
	}
	s := &supervisor{dir: filepath.Join(dir, "log"), running: map[int]service{}}
	for _, service := range m.services() {
		if err := s.start(service); err != nil {
			return err
		}
	}
	return s.wait()
}

func mountNode(dir string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for _, path := range nodeDirectories {
		source := filepath.Join(dir, path)
		if err := os.MkdirAll(source, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(source, path, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", path, err)
		}
	}
	// Containers see what the kubelet mounts for them after they were started.
	if err := os.MkdirAll("/var/lib/kubelet", 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("/var/lib/kubelet", "/var/lib/kubelet", "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount /var/lib/kubelet: %w", err)
	}
	if err := syscall.Mount("", "/var/lib/kubelet", "", syscall.MS_REC|syscall.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share /var/lib/kubelet: %w", err)
	}
	for _, name := range kernelSettings {
		if err := hideKernelSetting(dir, name); err != nil {
			return err
		}
	}
	if err := syscall.Sethostname([]byte(nodeName)); err != nil {
		return err
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
}

func hideKernelSetting(dir, name string) error {
	path := filepath.Join("/proc/sys", name)
	value, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "sysctl", name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file, value, 0o644); err != nil {
		return err
	}
	if err := syscall.Mount(file, path, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", path, err)
	}
	return nil
}

// A supervisor keeps services running.
type supervisor struct {
	dir string // for logs

	mu      sync.Mutex
	running map[int]service
}

func (s *supervisor) start(service service) error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(s.dir, service.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	before, err := startPre(service.name)
	if err != nil {
		return err
	}
	// They share the log, and init must not wait for the one in place of wait.
	args := []string{"/bin/sh", "-c", before + `exec "$@"`, service.name}
	s.mu.Lock() // wait finds what it reaps
	defer s.mu.Unlock()
	pid, err := syscall.ForkExec(args[0], append(args, service.args...), &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TZ=UTC"},
		Files: []uintptr{log.Fd(), log.Fd(), log.Fd()},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", service.name, err)
	}
	s.running[pid] = service
	return nil
}

// startPre is what drop-ins of systemd tell to run before a service, as lines of a
// shell. This init knows nothing else of systemd.
func startPre(service string) (string, error) {
	files, err := filepath.Glob("/etc/systemd/system/" + service + ".service.d/*.conf")
	if err != nil {
		return "", err
	}
	var lines strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(text)) {
			// "-" says that it may fail, "+" that it has all privileges.
			if command, ok := strings.CutPrefix(line, "ExecStartPre=-+"); ok {
				lines.WriteString(command)
			}
		}
	}
	return lines.String(), nil
}

// wait reaps everything that ends in the node, as the first process has to.
func (s *supervisor) wait() error {
	for {
		pid, err := syscall.Wait4(-1, nil, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if errors.Is(err, syscall.ECHILD) {
			time.Sleep(100 * time.Millisecond) // a service is about to be started again
			continue
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		service, ok := s.running[pid]
		delete(s.running, pid)
		s.mu.Unlock()
		if !ok {
			continue
		}
		time.AfterFunc(time.Second, func() {
			if err := s.start(service); err != nil {
				fmt.Fprintln(os.Stderr, "node:", err)
			}
		})
	}
}
