package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// greeting is what ConfigMap app-config says.
const greeting = "hello"

var apps = []app{
	{"kube-system", "edge-hub-", 1, ""},
	{"kube-system", "kube-proxy-", 1, ""},
	{"e2e", "informer-", 3, "get configmap e2e/app-config greeting=$(GREETING)"},
	{"e2e", "controller-", 1, "reconciled: e2e/press speed=7"},
	{"e2e", "agent-", 1, "get configmap e2e/app-config greeting=$(GREETING)"},
	{"e2e", "store-", 2, "get configmap e2e/app-config greeting=$(GREETING)"},
	{"e2e", "by-name-", 1, "get configmap e2e/app-config greeting=$(GREETING)"},
	{"e2e", "volumes-", 1, "/config/greeting=$(GREETING) /secret/password=swordfish"},
}

// podsReady reports, from the cloud's view, what is missing.
func (c *cloud) podsReady(ctx context.Context) error {
	list, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
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
		if ready != app.pods {
			missing = append(missing, fmt.Errorf("%d of %d Pods %s/%s* are ready", ready, app.pods, app.namespace, app.name))
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
	pods := map[string]*corev1.Pod{}
	for i := range list.Items {
		pods[list.Items[i].Namespace+"/"+list.Items[i].Name] = &list.Items[i]
	}
	return pods, nil
}

// readySince finds out on the node, without the cloud, when each Pod became ready
// after a time: the kubelet's log says so.
func (n *node) readySince(since time.Time) (map[string]time.Time, error) {
	ready := map[string]time.Time{}
	err := scan(n.logFile("kubelet"), func(line string) {
		if !strings.Contains(line, `"SyncLoop (probe)" probe="readiness"`) {
			return
		}
		at, ok := klogTime(line)
		if !ok || at.Before(since) {
			return
		}
		_, rest, _ := strings.Cut(line, ` pod="`)
		pod, _, _ := strings.Cut(rest, `"`)
		if strings.Contains(line, `status="ready"`) {
			ready[pod] = at
		} else {
			delete(ready, pod)
		}
	})
	return ready, err
}

// klogTime reads the time at the beginning of a line of klog's, such as
// "I0130 15:04:05.123456", which is local and has no year.
func klogTime(line string) (time.Time, bool) {
	const layout = "0102 15:04:05.000000"
	if len(line) < 1+len(layout) {
		return time.Time{}, false
	}
	at, err := time.ParseInLocation(layout, line[1:1+len(layout)], time.Local)
	return at.AddDate(time.Now().Year(), 0, 0), err == nil
}

// printedSince reports whether a Pod has printed text after a time.
func (n *node) printedSince(pod, text string, since time.Time) (bool, error) {
	namespace, name, _ := strings.Cut(pod, "/")
	logs, err := filepath.Glob(filepath.Join(n.dir, "/var/log/pods", namespace+"_"+name+"_*", "*", "*.log"))
	if err != nil {
		return false, err
	}
	found := false
	for _, log := range logs {
		if err := scan(log, func(line string) {
			at, rest, _ := strings.Cut(line, " ") // the format of CRI's logs
			if t, err := time.Parse(time.RFC3339Nano, at); err == nil && t.After(since) && strings.Contains(rest, text) {
				found = true
			}
		}); err != nil {
			return false, err
		}
	}
	return found, nil
}

func scan(path string, line func(string)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line(s.Text())
	}
	return s.Err()
}

// restarted waits until the Pods, which all had to start anew after a time, are ready
// and have read their configuration. It returns how long the last one took.
func (n *node) restarted(ctx context.Context, limit time.Duration, pods []string, since time.Time) (time.Duration, error) {
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
	return last.Sub(since), err
}

// hasRead reports whether a Pod has printed its configuration after a time.
func (n *node) hasRead(pod string, since time.Time) (bool, error) {
	namespace, name, _ := strings.Cut(pod, "/")
	for _, app := range apps {
		if app.is(namespace, name) && app.prints != "" {
			return n.printedSince(pod, fill(app.prints, "GREETING", greeting), since)
		}
	}
	return true, nil
}
