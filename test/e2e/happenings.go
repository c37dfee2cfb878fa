package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// crashContainers kills the programs of all Pods but the hub's.
func (w *world) crashContainers(ctx context.Context) (string, error) {
	begin := time.Now()
	var crashed []string
	for program, pods := range map[string][]string{
		"edge-app": w.podsOf("informer-", "agent-", "store-", "by-name-"), "controller-app": w.podsOf("controller-"),
		"volume-app": w.podsOf("volumes-"), "kube-proxy": w.podsOf("kube-proxy-"),
	} {
		if err := w.kill(program); err != nil {
			return "", err
		}
		crashed = append(crashed, pods...)
	}
	took, err := w.restarted(ctx, time.Minute, crashed, begin)
	return fmt.Sprintf("%d Pods are ready again after %.1f s", len(crashed), took.Seconds()), err
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

// restartService kills a service of the node, waits until it is back, and checks that
// no container was restarted for it.
func restartService(name string) func(*world, context.Context) (string, error) {
	return func(w *world, ctx context.Context) (string, error) {
		before := w.programs()
		begin := time.Now()
		if err := w.kill(name); err != nil {
			return "", err
		}
		if err := eventually(ctx, time.Minute, w.kubeletHealthy); err != nil {
			return "", err
		}
		took := time.Since(begin)
		// What the kubelet would restart, it restarts in its first rounds.
		if err := pause(ctx, 15*time.Second); err != nil {
			return "", err
		}
		if err := w.sameContainers(before); err != nil {
			return "", err
		}
		return fmt.Sprintf("the kubelet is healthy after %.1f s; no container was restarted", took.Seconds()), nil
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

func (n *node) kubeletHealthy() error {
	_, err := n.run("curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "2", "http://127.0.0.1:10248/healthz")
	return err
}

// killHub kills the hub; whoever was connected to it goes on with the next one.
func (w *world) killHub(ctx context.Context) (string, error) {
	begin := time.Now()
	if err := w.kill("edge-hub"); err != nil {
		return "", err
	}
	if err := eventually(ctx, time.Minute, w.hubReady); err != nil {
		return "", err
	}
	hub := time.Since(begin)
	details, err := w.crashContainers(ctx)
	return fmt.Sprintf("the hub is ready after %.1f s; %s", hub.Seconds(), details), err
}

// reboot switches the node off and on. What is published for another hub is 49.9 s until
// the last of 10 Pods is ready.
func reboot(address bool) func(*world, context.Context) (string, error) {
	return func(w *world, ctx context.Context) (string, error) {
		if err := w.powerOff(); err != nil {
			return "", err
		}
		begin := time.Now()
		if err := w.boot(w.lost != unplugged, address); err != nil {
			return "", err
		}
		// Who goes to the Service by its name may come before kube-proxy has its rules,
		// and waits half a minute for that connection, on any node.
		byName := w.podsOf("by-name-")
		others := slices.DeleteFunc(slices.Clone(w.pods), func(pod string) bool { return slices.Contains(byName, pod) })
		took, err := w.restarted(ctx, 2*time.Minute, others, begin)
		if err != nil {
			return "", err
		}
		last, err := w.restarted(ctx, time.Minute, byName, begin)
		return fmt.Sprintf("the last of %d Pods is ready %.1f s after the start, and one that uses the ClusterIP after %.1f s",
			len(others), took.Seconds(), last.Seconds()), err
	}
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// crashSandboxes kills the first process of every Pod that has a network namespace
// of its own: the kubelet has to make new sandboxes.
func (w *world) crashSandboxes(ctx context.Context) (string, error) {
	begin := time.Now()
	if err := w.kill("pause"); err != nil {
		return "", err
	}
	crashed := w.podsOf("informer-", "agent-", "store-", "by-name-", "controller-", "volumes-")
	took, err := w.restarted(ctx, 2*time.Minute, crashed, begin)
	return fmt.Sprintf("%d Pods are ready again after %.1f s", len(crashed), took.Seconds()), err
}
