package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// failover cuts the link and asks on as a Pod does. It returns when the first answer
// came from the cache. No request may fail on the way.
func (w *world) failover(ctx context.Context, how loss) (time.Duration, error) {
	pid, err := w.anyOf("edge-app")
	if err != nil {
		return 0, err
	}
	c, err := callerIn(pid, "edge-app")
	if err != nil {
		return 0, err
	}
	if cached, err := c.ask(); err != nil || cached {
		return 0, errors.Join(errors.New("before the cut the answer is not the cloud's"), err)
	}
	begin := time.Now()
	if err := w.cut(how); err != nil {
		return 0, err
	}
	for {
		cached, err := c.ask()
		took := time.Since(begin)
		switch {
		case err != nil:
			return took, fmt.Errorf("%s after the cut: %w", seconds(took), err)
		case cached && took > 5*time.Second:
			return took, fmt.Errorf("the first answer from the cache came %s after the cut", seconds(took))
		case cached:
			return took, nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return took, err
		}
	}
}

// failOver makes a scenario of a loss and what happens then.
func failOver(how loss, happens func(*world, context.Context) (string, error)) func(context.Context, *world) (string, error) {
	return func(ctx context.Context, w *world) (string, error) {
		took, err := w.failover(ctx, how)
		if err != nil {
			return "", err
		}
		details, err := w.afterLoss(ctx, happens)
		return fmt.Sprintf("the first answer from the cache %s after the cut; %s", seconds(took), details), err
	}
}

// longOutage stays away until the cloud gives the node up, and longer.
func longOutage(ctx context.Context, w *world) (string, error) {
	const length = 95 * time.Second
	before := w.programs()
	cloudPods, err := w.cloud.pods(ctx)
	if err != nil {
		return "", err
	}
	begin := time.Now()
	if err := w.cut(silent); err != nil {
		return "", err
	}
	if err := eventually(ctx, length, func() error { return w.givenUp(ctx) }); err != nil {
		return "", err
	}
	tainted := time.Since(begin)
	if err := eventually(ctx, length, func() error { return w.connected(ctx, metav1.ConditionFalse) }); err != nil {
		return "", err
	}
	if err := pause(ctx, length-time.Since(begin)); err != nil {
		return "", err
	}
	if err := errors.Join(w.sameContainers(before), w.readyOnNode(w.pods)); err != nil {
		return "", err
	}
	back := time.Now()
	if err := w.settle(ctx); err != nil {
		return "", err
	}
	took := time.Since(back)
	if err := eventually(ctx, time.Minute, func() error { return w.connected(ctx, metav1.ConditionTrue) }); err != nil {
		return "", err
	}
	if err := w.sameContainers(before); err != nil {
		return "", fmt.Errorf("after the return: %w", err)
	}
	after, err := w.cloud.pods(ctx)
	if err != nil {
		return "", err
	}
	for name, pod := range cloudPods {
		if after[name] == nil || after[name].UID != pod.UID {
			return "", fmt.Errorf("%s is not the Pod that it was", name)
		}
	}
	return fmt.Sprintf("tainted as unreachable after %s, away for %s; no container was restarted; all is well %s after the return",
		seconds(tainted), seconds(length), seconds(took)), nil
}

// givenUp reports whether the cloud has tainted the node.
func (c *cloud) givenUp(ctx context.Context) error {
	node, err := c.client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == corev1.TaintNodeUnreachable && t.Effect == corev1.TaintEffectNoExecute
	}) {
		return fmt.Errorf("the Node has no taint %s", corev1.TaintNodeUnreachable)
	}
	return nil
}

// connected compares the EdgeHubNode's condition Connected.
func (c *cloud) connected(ctx context.Context, want metav1.ConditionStatus) error {
	hub, err := c.hubNode(ctx)
	if err != nil {
		return err
	}
	if !meta.IsStatusConditionPresentAndEqual(hub.Status.Conditions, "Connected", want) {
		return fmt.Errorf("the EdgeHubNode is not Connected=%s: %v", want, hub.Status.Conditions)
	}
	return nil
}

func (c *cloud) hubNode(ctx context.Context) (*v1alpha1.EdgeHubNode, error) {
	hub := &v1alpha1.EdgeHubNode{}
	return hub, c.reader.Get(ctx, client.ObjectKey{Name: nodeName}, hub)
}

// hoursLater is an outage that takes longer than the hour that Pods' tokens are said to
// be good for. For the kubelet, the hub and the Pods two hours have passed.
func hoursLater(ctx context.Context, w *world) (string, error) {
	const ahead = 2 * time.Hour
	if err := w.cut(unplugged); err != nil {
		return "", err
	}
	right, err := w.setClocks(ctx, ahead)
	if errors.Is(err, errNoClock) {
		return "NOT RUN: " + err.Error(), w.settle(ctx)
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = right() }() // of whichever node is on
	before, err := w.replayed()
	if err != nil {
		return "", err
	}
	// The kubelet holds each token for expired, and asks for another.
	if err := eventually(ctx, 2*time.Minute, func() error {
		if now, err := w.replayed(); err != nil || now < before+len(w.pods)/2 {
			return errors.Join(fmt.Errorf("the kubelet has asked for %d tokens only", now-before), err)
		}
		return nil
	}); err != nil {
		return "", err
	}
	crashed, err := w.crashContainers(ctx)
	if err != nil {
		return "", err
	}
	if err := errors.Join(right(), w.powerOff()); err != nil {
		return "", err
	}
	begin := w.now()
	if err := w.boot(false); err != nil {
		return "", err
	}
	if right, err = w.setClocks(ctx, ahead); err != nil {
		return "", err
	}
	booted, err := w.rebooted(ctx, begin, published)
	if err != nil {
		return "", err
	}
	replayed, err := w.replayed()
	// A kubelet whose clock went back would wait until its containers' times have come.
	if err := errors.Join(err, right(), w.kill("kubelet")); err != nil {
		return "", err
	}
	settled := time.Now()
	if err := w.settle(ctx); err != nil {
		return "", fmt.Errorf("after the return: %w", err)
	}
	return fmt.Sprintf("%s; rebooted, %s, with %d tokens of more than an hour ago; all is well %s after the return",
		crashed, booted, replayed, seconds(time.Since(settled))), nil
}

// replayed is how many TokenRequests the hub has answered with a token that it has kept.
func (n *node) replayed() (int, error) {
	count, err := n.metric("edgehub_token_requests_offline_total", `"replayed"`)
	return int(count), err
}

// flap loses the link 50 times, for moments that the hub does not see and for seconds.
// Half way a container crashes. No other may be restarted for it.
func flap(ctx context.Context, w *world) (string, error) {
	before := w.programs()
	losses, err := w.metric("edgehub_upstream_losses_total", "")
	if err != nil {
		return "", err
	}
	victim, err := w.anyOf("edge-app")
	if err != nil {
		return "", err
	}
	const flaps = 50
	for i := range flaps {
		down, up := 300*time.Millisecond, 300*time.Millisecond
		if i%5 == 4 { // as long as it takes to lose the cloud and to find it again
			down, up = time.Duration(1500+i*30)*time.Millisecond, 2500*time.Millisecond
		}
		if err := w.cut([]loss{unplugged, silent, loud}[i%3]); err != nil {
			return "", err
		}
		if i == flaps/2 {
			if err := kill(victim); err != nil {
				return "", err
			}
		}
		if err := errors.Join(pause(ctx, down), mend(), pause(ctx, up)); err != nil {
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
	after := w.programs()
	survivors := slices.DeleteFunc(slices.Clone(before["edge-app"]), func(pid int) bool { return pid == victim })
	if len(after["edge-app"]) != len(before["edge-app"]) || slices.ContainsFunc(survivors, func(pid int) bool { return !slices.Contains(after["edge-app"], pid) }) {
		return "", fmt.Errorf("not only process %d was restarted: %v became %v", victim, before["edge-app"], after["edge-app"])
	}
	delete(before, "edge-app")
	delete(after, "edge-app")
	if err := same(before, after); err != nil {
		return "", err
	}
	now, err := w.metric("edgehub_upstream_losses_total", "")
	if err != nil {
		return "", err
	}
	if lost := now - losses; lost < 5 {
		return "", fmt.Errorf("the hub has lost the cloud %.0f times only", lost)
	}
	_, err = w.changeGreeting(ctx, greeting)
	return fmt.Sprintf("the hub lost the cloud %.0f times; a change arrives everywhere %s after the last; one container crashed and came back, no other was restarted",
		now-losses, seconds(took)), err
}
