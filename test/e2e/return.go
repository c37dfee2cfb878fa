package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// policyStory applies an EdgeHubPolicy and waits until the operator has restarted
// what the policy is about and the node has cached it.
func policyStory(ctx context.Context, w *world) (string, error) {
	before := w.podsOf("informer-", "agent-", "store-", "by-name-", "controller-")
	if err := w.apply(policyManifest); err != nil {
		return "", err
	}
	applied := time.Now()
	err := eventually(ctx, 2*time.Minute, func() error {
		pods, err := w.cloud.pods(ctx)
		if err != nil {
			return err
		}
		for _, name := range before {
			// A Pod of a StatefulSet keeps its name.
			if pod, ok := pods[name]; ok && pod.CreationTimestamp.Before(&metav1.Time{Time: applied.Truncate(time.Second)}) {
				return fmt.Errorf("%s was not restarted", name)
			}
		}
		return nil
	})
	took := time.Since(applied)
	if err == nil {
		err = w.kubectl("-n", "e2e", "wait", "--for=condition=Ready", "--timeout=60s", "edgehubpolicy/apps")
	} else {
		// What follows needs Pods that were started behind the cache.
		err = errors.Join(err, w.kubectl("-n", "e2e", "delete", "pods", "--selector=reads=apiserver", "--wait"))
	}
	if err := errors.Join(err, w.settle(ctx)); err != nil {
		return "", err
	}
	for _, agent := range []string{"edge-app", "controller-app"} {
		if files, err := filepath.Glob(filepath.Join(w.node.dir, "/etc/kubernetes/cache", agent, "*", "*", "*")); err != nil || len(files) == 0 {
			return "", fmt.Errorf("nothing is cached for %s", agent)
		}
	}
	return fmt.Sprintf("%d Pods were restarted within %.1f s", len(before), took.Seconds()), nil
}

// flap loses the link 50 times for a moment. No container may be restarted for it.
func flap(ctx context.Context, w *world) (string, error) {
	before := w.programs()
	for i := range 50 {
		if err := w.cut([]loss{unplugged, silent, loud}[i%3]); err != nil {
			return "", err
		}
		if err := pause(ctx, 300*time.Millisecond); err != nil {
			return "", err
		}
		if err := mend(); err != nil {
			return "", err
		}
		if err := pause(ctx, 300*time.Millisecond); err != nil {
			return "", err
		}
	}
	begin := time.Now()
	if err := w.settle(ctx); err != nil {
		return "", err
	}
	if _, err := w.changeGreeting(ctx, "after-flaps"); err != nil {
		return "", err
	}
	took := time.Since(begin)
	if err := w.sameContainers(before); err != nil {
		return "", err
	}
	_, err := w.changeGreeting(ctx, greeting)
	return fmt.Sprintf("a change arrives everywhere %.1f s later; no container was restarted", took.Seconds()), err
}

// changesArrive deletes a Pod and changes a ConfigMap while the node is away.
func changesArrive(ctx context.Context, w *world) (string, error) {
	gone := w.podsOf("informer-")[0]
	if err := w.cut(unplugged); err != nil {
		return "", err
	}
	namespace, name, _ := strings.Cut(gone, "/")
	if err := w.kubectl("-n", namespace, "delete", "pod", name, "--wait=false"); err != nil {
		return "", err
	}
	if err := w.setGreeting(ctx, "changed"); err != nil {
		return "", err
	}
	if err := pause(ctx, 5*time.Second); err != nil {
		return "", err
	}
	begin := time.Now()
	if err := mend(); err != nil {
		return "", err
	}
	remaining := slices.DeleteFunc(w.readers(), func(pod string) bool { return pod == gone })
	if err := w.printed(ctx, remaining, "greeting=changed", begin); err != nil {
		return "", err
	}
	arrived := time.Since(begin)
	if err := w.settle(ctx); err != nil {
		return "", err
	}
	if slices.Contains(w.pods, gone) {
		return "", fmt.Errorf("%s was deleted and is still there", gone)
	}
	took := time.Since(begin)
	_, err := w.changeGreeting(ctx, greeting)
	return fmt.Sprintf("a changed ConfigMap after %.1f s, a deleted Pod is replaced after %.1f s", arrived.Seconds(), took.Seconds()), err
}

// readers are the Pods that print each state of ConfigMap app-config.
func (w *world) readers() []string { return w.podsOf("informer-", "agent-", "store-", "by-name-") }

func (w *world) setGreeting(ctx context.Context, greeting string) error {
	patch := fmt.Sprintf(`{"data":{"greeting":%q}}`, greeting)
	_, err := w.client.CoreV1().ConfigMaps("e2e").Patch(ctx, "app-config", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

// changeGreeting changes ConfigMap app-config and waits until every Pod that watches
// it has seen that.
func (w *world) changeGreeting(ctx context.Context, greeting string) (time.Duration, error) {
	begin := time.Now()
	if err := w.setGreeting(ctx, greeting); err != nil {
		return 0, err
	}
	err := w.printed(ctx, w.readers(), "greeting="+greeting, begin)
	return time.Since(begin), err
}

// printed waits until every one of the Pods has printed text after a time.
func (w *world) printed(ctx context.Context, pods []string, text string, since time.Time) error {
	return eventually(ctx, time.Minute, func() error {
		for _, pod := range pods {
			if ok, err := w.printedSince(pod, text, since); err != nil {
				return err
			} else if !ok {
				return fmt.Errorf("%s has not printed %q", pod, text)
			}
		}
		return nil
	})
}

// returnIsBounded counts what reaches kube-apiserver in the first minute after an
// outage in which the node has rebooted.
func returnIsBounded(ctx context.Context, w *world) (string, error) {
	if err := w.cut(silent); err != nil {
		return "", err
	}
	if _, err := reboot(true)(w, ctx); err != nil {
		return "", err
	}
	before, err := w.upstreamRequests()
	if err != nil {
		return "", err
	}
	if err := mend(); err != nil {
		return "", err
	}
	if err := pause(ctx, time.Minute); err != nil {
		return "", err
	}
	after, err := w.upstreamRequests()
	if err != nil {
		return "", err
	}
	if err := w.settle(ctx); err != nil {
		return "", err
	}
	// Ten Pods with their kubelet: lists and watches anew, and what a minute takes.
	const bound = 400
	if n := after - before; n > bound {
		return "", fmt.Errorf("%.0f requests in the first minute, more than %d", n, bound)
	}
	return fmt.Sprintf("%.0f requests reached kube-apiserver in the first minute", after-before), nil
}

// upstreamRequests is how many requests the hub has answered from the cloud.
func (n *node) upstreamRequests() (float64, error) {
	return n.metric(`edgehub_requests_total{`, `source="cloud"`)
}

// metric sums the samples of a metric that have a label.
func (n *node) metric(name, label string) (sum float64, err error) {
	out, err := n.run("curl", "--silent", "--show-error", "--max-time", "5", "http://127.0.0.1:10267/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, name) || !strings.Contains(line, label) {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(strings.TrimSpace(line), ' '):]), 64)
		if err != nil {
			return 0, err
		}
		sum += value
	}
	return sum, nil
}

// twoServers lets the first of two apiservers refuse, then both, then the first again.
func twoServers(ctx context.Context, w *world) (string, error) {
	before := w.programs()
	var times []string
	for _, step := range []struct {
		refused []string
		up      float64
		what    string
	}{
		{[]string{w.port()}, 1, "one is left"},
		{[]string{w.port(), secondPort}, 0, "none is left"},
		{[]string{secondPort}, 1, "the other is back"},
	} {
		if err := refuse(step.refused...); err != nil {
			return "", err
		}
		begin := time.Now()
		if err := eventually(ctx, 30*time.Second, func() error {
			if up, err := w.metric("edgehub_upstream_up", ""); err != nil || up != step.up {
				return errors.Join(fmt.Errorf("%s: edgehub_upstream_up is %v", step.what, up), err)
			}
			return nil
		}); err != nil {
			return "", err
		}
		if step.up == 0 {
			times = append(times, fmt.Sprintf("%s: %.1f s", step.what, time.Since(begin).Seconds()))
			continue
		}
		if _, err := w.changeGreeting(ctx, fmt.Sprintf("step-%d", len(times))); err != nil {
			return "", fmt.Errorf("%s: %w", step.what, err)
		}
		times = append(times, fmt.Sprintf("%s: a change arrives after %.1f s", step.what, time.Since(begin).Seconds()))
	}
	if err := w.settle(ctx); err != nil {
		return "", err
	}
	if err := w.sameContainers(before); err != nil {
		return "", err
	}
	_, err := w.changeGreeting(ctx, greeting)
	return strings.Join(times, ", "), err
}

// coldCache takes the cloud from a hub that has cached nothing: what runs goes on, what
// is asked for gets a clear answer, and the return mends all.
func coldCache(ctx context.Context, w *world) (string, error) {
	if err := w.cut(unplugged); err != nil {
		return "", err
	}
	before := w.programs()
	delete(before, "edge-hub")
	if err := os.RemoveAll(filepath.Join(w.node.dir, "/etc/kubernetes/cache")); err != nil {
		return "", err
	}
	begin := time.Now()
	if err := w.kill("edge-hub"); err != nil {
		return "", err
	}
	if err := eventually(ctx, time.Minute, w.hubReady); err != nil {
		return "", err
	}
	if err := w.kill("kubelet"); err != nil {
		return "", err
	}
	if err := eventually(ctx, time.Minute, func() error {
		if ok, err := w.node.printedSince("kube-system/edge-hub-"+nodeName, "kubelet watch nodes", begin); err != nil || !ok {
			return errors.Join(errors.New("the kubelet has not asked for its Node"), err)
		}
		return nil
	}); err != nil {
		return "", err
	}
	answered, err := w.node.printedSince("kube-system/edge-hub-"+nodeName, "with status code 503", begin)
	if err != nil || !answered {
		return "", errors.Join(errors.New("nothing was answered with 503"), err)
	}
	if err := w.settle(ctx); err != nil {
		return "", err
	}
	after := w.programs()
	delete(after, "edge-hub")
	if err := same(before, after); err != nil {
		return "", err
	}
	took, err := w.changeGreeting(ctx, greeting+"-warm")
	if err != nil {
		return "", err
	}
	_, err = w.changeGreeting(ctx, greeting)
	return fmt.Sprintf("no container was restarted; a change arrives %.1f s after the return", took.Seconds()), err
}
