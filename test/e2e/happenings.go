package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// What happens to a node. Each waits, on the node alone, until all is well again.

// crashContainers kills the programs of all Pods but the hub's.
func (w *world) crashContainers(ctx context.Context) (string, error) {
	begin := w.now()
	var crashed []string
	for program, pods := range map[string][]string{
		"edge-app": w.readers(), "controller-app": w.podsOf("controller-"),
		"volume-app": w.podsOf("volumes-"), "kube-proxy": w.podsOf("kube-proxy-"),
	} {
		if err := w.kill(program); err != nil {
			return "", err
		}
		crashed = append(crashed, pods...)
	}
	took, err := w.restarted(ctx, time.Minute, crashed, begin)
	return fmt.Sprintf("%d crashed Pods are ready after %s", len(crashed), seconds(took)), err
}

// crashSandboxes kills the first process of every Pod, the hub's and kube-proxy's too:
// the kubelet has to make new sandboxes.
func (w *world) crashSandboxes(ctx context.Context) (string, error) {
	begin := w.now()
	if err := w.kill("pause"); err != nil {
		return "", err
	}
	took, err := w.restarted(ctx, 2*time.Minute, w.pods, begin)
	return fmt.Sprintf("%d Pods, the hub among them, are ready after %s", len(w.pods), seconds(took)), err
}

func (w *world) podsOf(names ...string) []string {
	var found []string
	for _, pod := range w.pods {
		for _, app := range apps {
			if slices.Contains(names, app.name) && len(pod) > len(app.namespace) && app.is(pod[:len(app.namespace)], pod[len(app.namespace)+1:]) {
				found = append(found, pod)
			}
		}
	}
	return found
}

// restartService kills a service of the node, waits until it answers again and the
// kubelet holds every Pod for ready, checks that no container was restarted for it,
// and that those which crash afterwards come back.
func restartService(name string) func(*world, context.Context) (string, error) {
	return func(w *world, ctx context.Context) (string, error) {
		answers := map[string]func() error{"kubelet": w.kubeletHealthy, "containerd": w.containerdAnswers}[name]
		before, old := w.programs(), w.pids(name)
		begin := time.Now()
		if err := w.kill(name); err != nil {
			return "", err
		}
		if err := eventually(ctx, time.Minute, func() error {
			if pids := w.pids(name); len(pids) == 0 || slices.Equal(pids, old) {
				return fmt.Errorf("%s has not been started again", name)
			}
			return answers()
		}); err != nil {
			return "", err
		}
		back := time.Since(begin)
		if err := eventually(ctx, time.Minute, func() error {
			return errors.Join(w.kubeletHealthy(), w.readyOnNode(w.pods))
		}); err != nil {
			return "", err
		}
		ready := time.Since(begin)
		// What the kubelet would restart, it restarts in its first rounds.
		if err := pause(ctx, 15*time.Second); err != nil {
			return "", err
		}
		if err := errors.Join(w.sameContainers(before), w.readyOnNode(w.pods)); err != nil {
			return "", err
		}
		details, err := w.crashContainers(ctx)
		return fmt.Sprintf("it answers after %s, every Pod is ready after %s, no container was restarted; %s",
			seconds(back), seconds(ready), details), err
	}
}

func (w *world) sameContainers(before map[string][]int) error { return same(before, w.programs()) }

func same(before, after map[string][]int) error {
	if !maps.EqualFunc(before, after, slices.Equal) {
		return fmt.Errorf("containers were restarted: %v became %v", before, after)
	}
	return nil
}

// programs are the processes of the Pods.
func (w *world) programs() map[string][]int {
	found := map[string][]int{}
	for _, program := range []string{"edge-hub", "kube-proxy", "edge-app", "controller-app", "volume-app"} {
		found[program] = w.pids(program)
	}
	return found
}

// killHub kills the hub; whoever was connected to it goes on with the next one.
func (w *world) killHub(ctx context.Context) (string, error) {
	before := w.programs()
	begin := time.Now()
	if err := w.kill("edge-hub"); err != nil {
		return "", err
	}
	if err := eventually(ctx, time.Minute, func() error {
		if pids := w.pids("edge-hub"); len(pids) == 0 || slices.Equal(pids, before["edge-hub"]) {
			return errors.New("edge-hub has not been started again")
		}
		return w.hubReady()
	}); err != nil {
		return "", err
	}
	hub := time.Since(begin)
	after := w.programs()
	delete(before, "edge-hub")
	delete(after, "edge-hub")
	if err := same(before, after); err != nil {
		return "", err
	}
	details, err := w.crashContainers(ctx)
	return fmt.Sprintf("the hub is ready after %s; %s", seconds(hub), details), err
}

const (
	// published is what another hub needs from a reboot until the last of 10 Pods
	// is ready offline.
	published = 49900 * time.Millisecond
	// addressDropIn has the hub's address on the node before the kubelet starts.
	addressDropIn = "/etc/systemd/system/kubelet.service.d/20-edge-hub.conf"
)

// reboot switches the node off and on. Without the address, nothing has set it when
// the kubelet starts.
func reboot(address bool) func(*world, context.Context) (string, error) {
	return func(w *world, ctx context.Context) (details string, err error) {
		if err := w.powerOff(); err != nil {
			return "", err
		}
		limit := published
		if !address {
			limit = 2 * time.Minute
			dropIn := filepath.Join(w.node.dir, addressDropIn)
			if err := os.Rename(dropIn, dropIn+".off"); err != nil {
				return "", err
			}
			defer func() { err = errors.Join(err, os.Rename(dropIn+".off", dropIn)) }()
		}
		begin := w.now()
		if err := w.boot(w.lost != unplugged); err != nil {
			return "", err
		}
		return w.rebooted(ctx, begin, limit)
	}
}

// rebooted waits for the Pods of a node that was booted.
func (w *world) rebooted(ctx context.Context, begin moment, limit time.Duration) (string, error) {
	// Who goes to the Service by its name may come before kube-proxy has its rules,
	// and waits half a minute for that connection, on any node.
	byName := w.podsOf("by-name-")
	others := slices.DeleteFunc(slices.Clone(w.pods), func(pod string) bool { return slices.Contains(byName, pod) })
	took, err := w.restarted(ctx, 2*time.Minute, others, begin)
	if err == nil && took > limit {
		err = fmt.Errorf("the last Pod is ready after %s, and not within %s", seconds(took), limit)
	}
	if err != nil {
		return "", err
	}
	last, err := w.restarted(ctx, time.Minute, byName, begin)
	if err != nil {
		return "", err
	}
	if missing, err := w.metric("edgehub_token_requests_offline_total", `"missing"`); err != nil || missing > 0 {
		return "", errors.Join(fmt.Errorf("%.0f tokens were missing", missing), err)
	}
	return fmt.Sprintf("the last of %d Pods is ready %s after the start, one that uses the ClusterIP after %s",
		len(others), seconds(took), seconds(last)), nil
}
