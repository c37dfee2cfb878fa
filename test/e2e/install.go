package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// hub runs a subcommand of edge-hub on the node, as an administrator does.
func (n *node) hub(args ...string) (string, error) {
	return outputWithin(hubLimit, n.command(append([]string{filepath.Join(n.bin, "edge-hub")}, args...)...))
}

// hubLimit is for a command that waits for the kubelet, which takes two minutes to end a
// Pod that it was just about to start.
const hubLimit = 4 * time.Minute

// hubKilled runs a subcommand and kills it -9 once it has printed so many lines. It
// reports whether it was killed: one with no more to say ends by itself.
func (n *node) hubKilled(lines int, args ...string) (killed bool, err error) {
	cmd := n.command(append([]string{filepath.Join(n.bin, "edge-hub")}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	end := func() bool { // nsenter ends with its child
		pids := below(cmd.Process.Pid)
		err = kill(pids...)
		return len(pids) > 0
	}
	late := time.AfterFunc(hubLimit, func() { end() })
	defer late.Stop()
	scanner := bufio.NewScanner(out)
	for i := 0; i < lines && scanner.Scan(); i++ {
	}
	killed = end()
	for scanner.Scan() { // so that Wait may close it
	}
	_ = cmd.Wait() // what it says is known
	return killed, err
}

func (w *world) installArgs() []string {
	return []string{"install", "--image=" + reference("edge-hub"), "--server=" + w.serverURL(), "--server=" + w.secondURL()}
}

// install does what an administrator does to a node that has joined, with a hand that
// slips: each run but the last is killed, one line later than the run before.
func (w *world) install(ctx context.Context) (string, error) {
	if out, err := w.hub("preflight", "--manifests=/nowhere"); err == nil || !strings.Contains(out, "[!]manifests") {
		return "", fmt.Errorf("preflight finds nothing wrong with a directory that is not there: %s, %w", out, err)
	}
	out, err := w.hub("preflight", "--server="+w.serverURL(), "--server="+w.secondURL())
	if err != nil {
		return "", err
	}
	findings := strings.Count(out, "[+]")
	kills, err := w.killedAtEachLine(w.installArgs()...)
	if err == nil && kills < 5 {
		err = fmt.Errorf("install was killed %d times only", kills)
	}
	if err != nil {
		return "", err
	}
	if _, err := w.hub(w.installArgs()...); err != nil {
		return "", err
	}
	if err := w.kill("kubelet"); err != nil {
		return "", err
	}
	w.installed = true
	if err := w.settle(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("preflight finds %d things good; install was killed %d times and converges; the node is ready behind the hub", findings, kills), nil
}

// killedAtEachLine runs a subcommand until it ends by itself.
func (n *node) killedAtEachLine(args ...string) (kills int, err error) {
	for line := 1; line < 30; line++ {
		killed, err := n.hubKilled(line, args...)
		if err != nil {
			return kills, err
		}
		if !killed {
			return kills, nil
		}
		kills++
	}
	return kills, fmt.Errorf("edge-hub %s does not end", args[0])
}

// uninstall takes the hub away again, and looks for what is left.
func uninstall(ctx context.Context, w *world) (string, error) {
	if _, err := w.killedAtEachLine("uninstall"); err != nil {
		return "", err
	}
	if out, err := w.hub("uninstall"); err == nil || !strings.Contains(out, "restart the kubelet") {
		return "", fmt.Errorf("uninstall does not ask for a restart of the kubelet: %s, %w", out, err)
	}
	if err := errors.Join(w.kill("kubelet"), w.settle(ctx)); err != nil {
		return "", err
	}
	// Once the manifest is gone it waits for half a minute each time.
	kills := 0
	for _, lines := range []int{1, 3, 6} {
		killed, err := w.hubKilled(lines, "uninstall", "--kubelet-restarted")
		if err != nil {
			return "", err
		}
		if killed { // it may have come to its end first
			kills++
		}
	}
	if _, err := w.hub("uninstall", "--kubelet-restarted"); err != nil {
		return "", err
	}
	w.installed = false
	begin := time.Now()
	left, err := w.files()
	if err != nil {
		return "", err
	}
	if !slices.Equal(left, w.before) {
		return "", fmt.Errorf("there were %v, and now there are %v", w.before, left)
	}
	if pids := w.pids("edge-hub"); len(pids) > 0 {
		return "", fmt.Errorf("processes of edge-hub are left: %v", pids)
	}
	for _, args := range [][]string{{"ip", "address", "show", "to", hubAddress}, {"ip", "link", "show", "type", "veth"}} {
		if out, err := w.run(args...); err != nil || strings.Contains(out, hubAddress) || strings.Contains(out, "edge-hub") {
			return "", fmt.Errorf("its address or device is left: %s, %w", out, err)
		}
	}
	return w.withoutHub(ctx, begin, kills)
}

// withoutHub checks that the node is one without a hub: the kubelet reaches the cloud,
// its mirror Pod is gone, and new Pods find kube-apiserver where it publishes itself.
func (w *world) withoutHub(ctx context.Context, begin time.Time, kills int) (string, error) {
	if err := publish(); err != nil {
		return "", err
	}
	// Who comes before kube-proxy waits half a minute.
	for _, args := range [][]string{
		{"-n", "kube-system", "delete", "pods", "--all"},
		{"-n", "kube-system", "rollout", "status", "daemonset/kube-proxy", "--timeout=50s"},
		{"-n", "e2e", "delete", "pods", "--all", "--wait=false"},
	} {
		if err := w.kubectl(args...); err != nil {
			return "", err
		}
	}
	if err := eventually(ctx, 2*time.Minute, func() error {
		pods, err := w.cloud.pods(ctx)
		if err != nil {
			return err
		}
		if pods["kube-system/"+hubPods+nodeName] != nil {
			return errors.New("the mirror Pod is still there")
		}
		for name, pod := range pods {
			if pod.CreationTimestamp.Before(&metav1.Time{Time: begin.Truncate(time.Second)}) {
				return fmt.Errorf("%s is still there", name)
			}
		}
		return errors.Join(w.nodeReady(ctx), w.leaseRenewedSince(ctx, begin), w.podsReady(ctx))
	}); err != nil {
		return "", err
	}
	for _, pid := range w.pids("volume-app") {
		environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			return "", err
		}
		if !strings.Contains(string(environment), "KUBERNETES_SERVICE_HOST=10.96.0.1\x00") {
			return "", fmt.Errorf("a new container has %q", environment)
		}
	}
	return fmt.Sprintf("it was killed %d times; nothing is left, and all Pods, made anew, are ready without it after %s", kills, seconds(time.Since(begin))), nil
}

// files are those of the node that an installation could have touched.
func (n *node) files() ([]string, error) {
	found := map[string]bool{}
	for _, dir := range []string{"/etc/kubernetes", "/etc/systemd/system", "/var/lib/edge-hub"} {
		err := filepath.WalkDir(filepath.Join(n.dir, dir), func(path string, _ fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			found[strings.TrimPrefix(path, n.dir)] = err == nil
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}
