package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
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
	agents := []string{"edge-app", "controller-app"}
	for _, agent := range agents {
		if files, err := filepath.Glob(filepath.Join(w.node.dir, "/etc/kubernetes/cache", agent, "*", "*", "*")); err != nil || len(files) == 0 {
			return "", fmt.Errorf("nothing is cached for %s", agent)
		}
	}
	if err := eventually(ctx, 90*time.Second, func() error { return w.offlineReady(ctx, agents) }); err != nil {
		return "", err
	}
	reported := time.Since(applied)
	table, err := output(w.Kubectl("get", "edgehubnodes"))
	if err != nil {
		return "", err
	}
	fmt.Print(table)
	return fmt.Sprintf("%d Pods were restarted within %s; the node reports that all would start offline after %s",
		len(before), seconds(took), seconds(reported)), nil
}

// offlineReady reports which agents of the Pods the node would not start offline.
func (c *cloud) offlineReady(ctx context.Context, names []string) error {
	hub, err := c.hubNode(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		i := slices.IndexFunc(hub.Status.Agents, func(a v1alpha1.NodeAgent) bool { return a.Name == name && a.Namespace == "e2e" })
		if i < 0 {
			return fmt.Errorf("the EdgeHubNode does not list %s", name)
		}
		if a := hub.Status.Agents[i]; !a.OfflineReady {
			return fmt.Errorf("%s is not ready for offline: %s %s", name, a.Reason, a.Message)
		}
	}
	if !meta.IsStatusConditionTrue(hub.Status.Conditions, "OfflineReady") {
		return fmt.Errorf("the EdgeHubNode is not OfflineReady: %v", hub.Status.Conditions)
	}
	return nil
}

// changesArrive deletes a Pod and changes a ConfigMap and a custom resource while the
// node is away.
func changesArrive(ctx context.Context, w *world) (string, error) {
	informers := w.podsOf("informer-")
	if len(informers) == 0 {
		return "", errors.New("no Pod to delete")
	}
	gone := informers[0]
	if err := w.cut(unplugged); err != nil {
		return "", err
	}
	namespace, name, _ := strings.Cut(gone, "/")
	if err := w.kubectl("-n", namespace, "delete", "pod", name, "--wait=false"); err != nil {
		return "", err
	}
	if err := errors.Join(w.setGreeting(ctx, "changed"), w.setSpeed(8), pause(ctx, 5*time.Second)); err != nil {
		return "", err
	}
	begin := w.now()
	if err := mend(); err != nil {
		return "", err
	}
	remaining := slices.DeleteFunc(w.readers(), func(pod string) bool { return pod == gone })
	if err := w.printed(ctx, remaining, "greeting=changed", begin); err != nil {
		return "", err
	}
	arrived := time.Since(begin.Time)
	if err := w.printed(ctx, w.podsOf("controller-"), "reconciled: e2e/press speed=8", begin); err != nil {
		return "", err
	}
	reconciled := time.Since(begin.Time)
	if err := w.settle(ctx); err != nil {
		return "", err
	}
	if slices.Contains(w.pods, gone) {
		return "", fmt.Errorf("%s was deleted and is still there", gone)
	}
	replaced := time.Since(begin.Time)
	if err := w.printed(ctx, w.podsOf("volumes-"), "/config/greeting=changed", begin); err != nil {
		return "", err
	}
	mounted := time.Since(begin.Time)
	back := w.now()
	if err := errors.Join(w.setSpeed(speed), w.setGreeting(ctx, greeting)); err != nil {
		return "", err
	}
	if err := errors.Join(w.printed(ctx, w.readers(), "greeting="+greeting, back), w.printed(ctx, w.podsOf("volumes-"), "/config/greeting="+greeting, back)); err != nil {
		return "", err
	}
	return fmt.Sprintf("after the return: a changed ConfigMap at all informers after %s, a custom resource at its controller after %s, a deleted Pod is replaced after %s, the mounted ConfigMap has changed after %s",
		seconds(arrived), seconds(reconciled), seconds(replaced), seconds(mounted)), nil
}

// setSpeed changes what controller-app reconciles.
func (w *world) setSpeed(speed int) error {
	return w.kubectl("-n", "e2e", "patch", "machine", "press", "--type=merge", "--patch", fmt.Sprintf(`{"spec":{"speed":%d}}`, speed))
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
	begin := w.now()
	if err := w.setGreeting(ctx, greeting); err != nil {
		return 0, err
	}
	err := w.printed(ctx, w.readers(), "greeting="+greeting, begin)
	return time.Since(begin.Time), err
}

// printed waits until every one of the Pods has printed text after a moment.
func (w *world) printed(ctx context.Context, pods []string, text string, since moment) error {
	return eventually(ctx, 90*time.Second, func() error {
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
	details, err := reboot(true)(w, ctx)
	if err != nil {
		return "", err
	}
	since, err := w.count()
	if err != nil {
		return "", err
	}
	if err := errors.Join(mend(), pause(ctx, time.Minute)); err != nil {
		return "", err
	}
	r, err := since.all()
	if err != nil {
		return "", err
	}
	if err := w.settle(ctx); err != nil {
		return "", err
	}
	// Ten Pods with their kubelet: lists and watches anew, and what a minute takes. The
	// hub asks each of two kube-apiservers for its health every second.
	const watches, others, probes = 150, 200, 2 * 75
	if r.watches > watches || r.others > others || r.probes > probes {
		return "", fmt.Errorf("%d watches, %d other requests, and %d for the health in the first minute, more than %d, %d and %d: %s",
			r.watches, r.others, r.probes, watches, others, probes, r.most(10))
	}
	return fmt.Sprintf("%s; in the first minute after the return %d requests, %d of them watches, and %d probes: %s",
		details, r.total(), r.watches, r.probes, r.most(4)), nil
}
