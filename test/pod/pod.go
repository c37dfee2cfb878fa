// Package pod runs a program the way the kubelet runs a container of a Pod, as
// far as InClusterConfig can tell: with the address of the apiserver in its
// environment and a ServiceAccount mounted at /var/run/secrets. It needs no
// root, only a kernel that lets users make namespaces.
package pod

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// MountPath is where a container finds its ServiceAccount.
const MountPath = "/var/run/secrets/kubernetes.io/serviceaccount"

// A Pod is what the kubelet would give to a container.
type Pod struct {
	// APIServer is the host:port that KUBERNETES_SERVICE_HOST and
	// KUBERNETES_SERVICE_PORT name.
	APIServer string

	// ServiceAccountDir is a folder on this machine, not under /run, that is
	// seen at MountPath. See [WriteServiceAccount].
	ServiceAccountDir string
}

// WriteServiceAccount fills dir with the files token, ca.crt and namespace.
// Each is replaced in one step, so that it also serves to renew the token of a
// running Pod.
func WriteServiceAccount(dir, token, caFile, namespace string) error {
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, data := range map[string][]byte{"token": []byte(token), "ca.crt": ca, "namespace": []byte(namespace)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path+".new", data, 0o600); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	return nil
}

// enter runs in the new namespaces: $1 is the machine's /var/run with symbolic
// links resolved, $2 the ServiceAccount's folder, the rest is the program. The
// tmpfs hides the machine's /run from the program, and is what makes it
// possible to create MountPath without being allowed to write to /var/run.
const enter = `set -e
run=$1 account=$2; shift 2
mount --make-rprivate /
mount -t tmpfs -o mode=0755 tmpfs "$run"
mkdir -p ` + MountPath + `
mount --bind "$account" ` + MountPath + `
exec "$@"`

// Command prepares a program to run in the Pod. It gets no environment but a
// container's, and shares everything else with the machine: files, network and
// processes. Start it with the process package.
func (p Pod) Command(program string, args ...string) (*exec.Cmd, error) {
	host, port, err := net.SplitHostPort(p.APIServer)
	if err != nil {
		return nil, fmt.Errorf("address of the apiserver: %w", err)
	}
	run, err := filepath.EvalSymlinks("/var/run")
	if err != nil {
		return nil, err
	}
	paths := []string{p.ServiceAccountDir, program}
	for i, path := range paths {
		if paths[i], err = visible(path, run); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", enter, "pod", run}, append(paths, args...)...)...)
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/",
		"KUBERNETES_SERVICE_HOST=" + host,
		"KUBERNETES_SERVICE_PORT=" + port,
	}
	// Being root in a user namespace of its own is what lets the child mount; to
	// the machine's files it is the user who started it.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	return cmd, nil
}

// visible returns the absolute path of what exists outside the hidden run.
func visible(path, run string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(resolved+"/", run+"/") {
		return "", fmt.Errorf("%s is under %s, which the Pod does not see", path, run)
	}
	return path, nil
}

// Supported reports why Pods cannot run on this machine, or nil. Some
// distributions and container runtimes forbid user namespaces.
func Supported() error {
	dir, err := os.MkdirTemp("", "edge-hub-pod-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cmd, err := Pod{APIServer: "127.0.0.1:1", ServiceAccountDir: dir}.Command("/bin/true")
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot make a user and a mount namespace (see the sysctls kernel.unprivileged_userns_clone, "+
			"kernel.apparmor_restrict_unprivileged_userns and user.max_user_namespaces): %w\n%s", err, out)
	}
	return nil
}
