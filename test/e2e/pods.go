package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// An app is a kind of Pod on the node, and what it prints when it has read its
// configuration.
type app struct {
	namespace, name string // name is the beginning of the Pods' names
	pods            int
	prints          string // "" if it prints nothing to look for
}

const (
	hubPods  = "edge-hub-"
	greeting = "hello" // is what ConfigMap app-config says
	speed    = 7       // is that of Machine press
)

var apps = []app{
	{"kube-system", hubPods, 1, ""},
	{"kube-system", "kube-proxy-", 1, ""},
	{"e2e", "informer-", 3, "get configmap e2e/app-config greeting=$(GREETING)"},
	{"e2e", "controller-", 1, "reconciled: e2e/press speed=7"},
	{"e2e", "agent-", 1, "get configmap e2e/app-config greeting=$(GREETING)"},
	{"e2e", "store-", 2, "get configmap e2e/app-config greeting=$(GREETING)"},
	{"e2e", "by-name-", 1, "get configmap e2e/app-config greeting=$(GREETING)"},
	{"e2e", "volumes-", 1, "/config/greeting=$(GREETING) /secret/password=swordfish"},
}

// podsReady reports, from the cloud's view, what is missing. There is a Pod of the hub's
// if it is installed, and else there must be none.
func (w *world) podsReady(ctx context.Context) error {
	list, err := w.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var missing []error
	for _, app := range apps {
		ready := 0
		for _, pod := range list.Items {
			if app.is(pod.Namespace, pod.Name) && pod.DeletionTimestamp == nil && isReady(&pod) {
				ready++
			}
		}
		want := app.pods
		if app.name == hubPods && !w.installed {
			want = 0
		}
		if ready != want {
			missing = append(missing, fmt.Errorf("%d Pods %s/%s* are ready, and not %d", ready, app.namespace, app.name, want))
		}
	}
	return errors.Join(missing...)
}

func (a app) is(namespace, name string) bool {
	return namespace == a.namespace && strings.HasPrefix(name, a.name)
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// pods lists the node's Pods as the cloud knows them, by namespace/name.
func (c *cloud) pods(ctx context.Context) (map[string]*corev1.Pod, error) {
	list, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + nodeName})
	if err != nil {
		return nil, err
	}
	return byName(list), nil
}

// restarted waits until the Pods, which all had to start anew after a time, are ready
// and have read their configuration. It returns how long the last one took.
func (n *node) restarted(ctx context.Context, limit time.Duration, pods []string, since moment) (time.Duration, error) {
	var last time.Time
	err := eventually(ctx, limit, func() error {
		ready, err := n.readySince(since)
		if err != nil {
			return err
		}
		var missing []string
		for _, pod := range pods {
			at, ok := ready[pod]
			if !ok {
				missing = append(missing, pod+" is not ready")
				continue
			}
			if at.After(last) {
				last = at
			}
			if ok, err := n.hasRead(pod, since); err != nil {
				return err
			} else if !ok {
				missing = append(missing, pod+" has not read its configuration")
			}
		}
		if len(missing) > 0 {
			return errors.New(strings.Join(missing, ", "))
		}
		return nil
	})
	return last.Sub(since.Time), err
}

// hasRead reports whether a Pod has printed its configuration after a time.
func (n *node) hasRead(pod string, since moment) (bool, error) {
	namespace, name, _ := strings.Cut(pod, "/")
	for _, app := range apps {
		if app.is(namespace, name) && app.prints != "" {
			return n.printedSince(pod, fill(app.prints, "GREETING", greeting), since)
		}
	}
	return true, nil
}
