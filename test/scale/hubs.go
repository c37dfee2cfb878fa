package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/hubidentity"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// jitter is the part of the interval between reports by which one may be later.
const jitter = 6

// hubsGroup is the group of the hubs' certificates.
const hubsGroup = "edgehub:nodes"

// hubs are the simulated hubs of all nodes. Each has a certificate and a connection
// of its own, follows the configuration with a watch of its own, and reports as a
// real one does. What a real one learns from the requests that pass through it,
// they are told by one watch of all Pods.
type hubs struct {
	*world
	reports atomic.Int64
	running sync.WaitGroup

	mu     sync.Mutex
	byNode map[string]*hub
	pods   map[string]map[types.UID]*corev1.Pod // by node

	parsing sync.Mutex
	version string // resourceVersion of parsed
	parsed  hubconfig.Config
}

// row is an agent in use.
type row struct{ agent, namespace string }

// hub is one of them.
type hub struct {
	fleet *hubs
	name  string
	core  corev1client.CoreV1Interface
	wake  chan struct{} // there may be something to report

	mu           sync.Mutex
	config       hubconfig.Config
	hash         string
	applied      metav1.Time
	cachingSince *metav1.Time
	since        map[row]metav1.Time
}

// startHubs starts a hub on each node; they end with ctx.
func (w *world) startHubs(ctx context.Context) (*hubs, error) {
	h := &hubs{world: w, byNode: map[string]*hub{}, pods: map[string]map[types.UID]*corev1.Pod{}}
	if err := inParallel(ctx, w.nodes, func(i int) error {
		config, err := w.cluster.RESTConfigFor(hubidentity.User(nodeName(i)), hubsGroup)
		if err != nil {
			return err
		}
		config.UserAgent = "edge-hub/scale"
		config.QPS = -1
		core, err := corev1client.NewForConfig(config)
		if err != nil {
			return err
		}
		hub := &hub{fleet: h, name: nodeName(i), core: core, wake: make(chan struct{}, 1), since: map[row]metav1.Time{}}
		h.mu.Lock()
		h.byNode[hub.name] = hub
		h.mu.Unlock()
		return nil
	}); err != nil {
		return nil, err
	}
	if err := h.followPods(ctx); err != nil {
		return nil, err
	}
	for _, hub := range h.byNode {
		h.running.Go(func() { hub.follow(ctx) })
		h.running.Go(func() { hub.run(ctx) })
	}
	return h, nil
}

// followPods tells hubs of the Pods on their nodes.
func (h *hubs) followPods(ctx context.Context) error {
	client, err := corev1client.NewForConfig(h.cluster.RESTConfig())
	if err != nil {
		return err
	}
	_, informer := toolscache.NewInformerWithOptions(toolscache.InformerOptions{
		ListerWatcher: toolscache.NewListWatchFromClient(client.RESTClient(), "pods", "", fields.Everything()),
		ObjectType:    &corev1.Pod{},
		Transform: func(object any) (any, error) {
			if pod, ok := object.(*corev1.Pod); ok {
				pod.ManagedFields, pod.Spec.Volumes, pod.Spec.Tolerations = nil, nil, nil
			}
			return object, nil
		},
		Handler: toolscache.ResourceEventHandlerFuncs{
			AddFunc:    func(object any) { h.pod(object, true) },
			UpdateFunc: func(_, object any) { h.pod(object, true) },
			DeleteFunc: func(object any) {
				if gone, ok := object.(toolscache.DeletedFinalStateUnknown); ok {
					object = gone.Obj
				}
				h.pod(object, false)
			},
		},
	})
	h.running.Go(func() { informer.Run(ctx.Done()) })
	if !toolscache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return context.Cause(ctx)
	}
	return nil
}

func (h *hubs) pod(object any, exists bool) {
	pod, ok := object.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	on := h.pods[pod.Spec.NodeName]
	if on == nil {
		on = map[types.UID]*corev1.Pod{}
		h.pods[pod.Spec.NodeName] = on
	}
	if exists {
		on[pod.UID] = pod
	} else {
		delete(on, pod.UID)
	}
	if hub := h.byNode[pod.Spec.NodeName]; hub != nil {
		hub.notify()
	}
}

func (h *hub) notify() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// parse parses a ConfigMap once for all hubs.
func (h *hubs) parse(configMap *corev1.ConfigMap) (hubconfig.Config, error) {
	h.parsing.Lock()
	defer h.parsing.Unlock()
	if h.version == configMap.ResourceVersion {
		return h.parsed, nil
	}
	config, err := hubconfig.Parse(configMap.Data)
	if err == nil {
		h.version, h.parsed = configMap.ResourceVersion, config
	}
	return config, err
}

// follow follows the configuration.
func (h *hub) follow(ctx context.Context) {
	selector := fields.OneTermEqualSelector("metadata.name", hubconfig.Name).String()
	for ctx.Err() == nil {
		list, err := h.core.ConfigMaps(hubconfig.Namespace).List(ctx, metav1.ListOptions{FieldSelector: selector, ResourceVersion: "0"})
		if err == nil {
			for i := range list.Items {
				h.take(&list.Items[i])
			}
			err = h.watch(ctx, metav1.ListOptions{FieldSelector: selector, ResourceVersion: list.ResourceVersion, AllowWatchBookmarks: true})
		}
		if err != nil && ctx.Err() == nil {
			h.fleet.log("  %s: %v", h.name, err)
		}
		sleep(ctx, time.Second+rand.N(4*time.Second))
	}
}

func (h *hub) watch(ctx context.Context, options metav1.ListOptions) error {
	w, err := h.core.ConfigMaps(hubconfig.Namespace).Watch(ctx, options)
	if err != nil {
		return err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if configMap, ok := e.Object.(*corev1.ConfigMap); ok && (e.Type == "ADDED" || e.Type == "MODIFIED") {
			h.take(configMap)
		}
	}
	return nil
}

// take makes a ConfigMap the configuration. A time that is told in whole seconds is
// the end of its second: what starts later has started after it.
func (h *hub) take(configMap *corev1.ConfigMap) {
	config, err := h.fleet.parse(configMap)
	if err != nil {
		h.fleet.log("  %s: %v", h.name, err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	hash := hubconfig.Hash(config)
	if h.hash == hash {
		return
	}
	now := metav1.NewTime(time.Now().Truncate(time.Second).Add(time.Second))
	h.config, h.hash, h.applied = config, hash, now
	if h.cachingSince == nil {
		h.cachingSince = &now
	}
	rows := map[row]metav1.Time{}
	for agent, rule := range config.Rules {
		for namespace := range rule.Namespaces {
			r := row{agent, namespace}
			rows[r] = now
			if since, known := h.since[r]; known {
				rows[r] = since
			}
		}
	}
	h.since = rows
	h.notify()
}

// run reports until ctx ends: not at once, only what is new, and not too often.
func (h *hub) run(ctx context.Context) {
	var last string
	var reported time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		}
		interval := h.fleet.reportInterval
		sleep(ctx, time.Until(reported.Add(interval))+rand.N(interval/jitter+1))
		status := h.status()
		text, err := json.Marshal(status)
		if err != nil || string(text) == last || ctx.Err() != nil {
			continue
		}
		status.ReportTime = new(metav1.Now())
		reported = time.Now()
		if err := h.report(ctx, status); err != nil {
			if ctx.Err() == nil {
				h.fleet.log("  %s: report: %v", h.name, err)
			}
			h.notify()
			continue
		}
		last = string(text)
		h.fleet.reports.Add(1)
	}
}

// status is what there is to report, less the time.
func (h *hub) status() *v1alpha1.EdgeHubNodeStatus {
	h.fleet.mu.Lock()
	pods := make([]*corev1.Pod, 0, len(h.fleet.pods[h.name]))
	for _, pod := range h.fleet.pods[h.name] {
		pods = append(pods, pod)
	}
	h.fleet.mu.Unlock()
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return strings.Compare(string(a.UID), string(b.UID)) })
	h.mu.Lock()
	defer h.mu.Unlock()
	status := &v1alpha1.EdgeHubNodeStatus{Version: "scale", CachingSince: h.cachingSince}
	if h.hash != "" {
		applied := h.applied
		status.Configuration = &v1alpha1.NodeConfiguration{Hash: h.hash, AppliedTime: &applied}
	}
	byRow := map[row]*v1alpha1.NodeAgent{}
	for _, pod := range pods {
		r := row{pod.Labels["app"], pod.Namespace}
		since, cached := h.since[r]
		started := startedAt(pod)
		if !cached || started.IsZero() {
			continue
		}
		agent := byRow[r]
		if agent == nil {
			agent = &v1alpha1.NodeAgent{Name: r.agent, Namespace: r.namespace, Since: since, OfflineReady: true, Views: 4, Objects: 20, Bytes: 64 << 10}
			byRow[r] = agent
		}
		agent.Pods = append(agent.Pods, v1alpha1.NodePod{Name: pod.Name, UID: pod.UID})
		if !started.After(since.Time) {
			agent.OfflineReady, agent.Reason, agent.Message, agent.Incomplete = false, v1alpha1.NodeAgentNotWarm, "configmaps was listed before it was cached", 1
		}
	}
	for _, agent := range byRow {
		status.Agents = append(status.Agents, *agent)
		status.Objects += agent.Objects
		status.Bytes += agent.Bytes
	}
	slices.SortFunc(status.Agents, func(a, b v1alpha1.NodeAgent) int {
		return strings.Compare(a.Name+" "+a.Namespace, b.Name+" "+b.Namespace)
	})
	h.sumUp(status)
	return status
}

// sumUp fills in what follows from the agents.
func (h *hub) sumUp(status *v1alpha1.EdgeHubNodeStatus) {
	ready := 0
	for _, agent := range status.Agents {
		if agent.OfflineReady {
			ready++
		}
	}
	status.AgentsReady = fmt.Sprintf("%d/%d", ready, len(status.Agents))
	status.Size = fmt.Sprintf("%dKi", status.Bytes>>10)
	offline := metav1.Condition{Type: v1alpha1.NodeOfflineReady, Status: metav1.ConditionTrue, Reason: v1alpha1.NodeReasonComplete}
	if ready < len(status.Agents) {
		offline.Status, offline.Reason = metav1.ConditionFalse, v1alpha1.NodeReasonAgentsNotReady
	}
	status.Conditions = []metav1.Condition{
		{Type: v1alpha1.NodeConnected, Status: metav1.ConditionTrue, Reason: v1alpha1.NodeReasonReporting},
		offline,
		{Type: v1alpha1.NodeConfigValid, Status: metav1.ConditionTrue, Reason: v1alpha1.NodeReasonValid},
	}
	for i := range status.Conditions {
		// A real hub remembers when a condition changed; the API asks for a time.
		status.Conditions[i].LastTransitionTime = h.applied
		if h.applied.IsZero() {
			status.Conditions[i].LastTransitionTime = metav1.NewTime(time.Unix(0, 0))
		}
	}
}

const nodesPath = "/apis/edgehub.io/v1alpha1/edgehubnodes/"

// report writes the status, and the object before if there is none.
func (h *hub) report(ctx context.Context, status *v1alpha1.EdgeHubNodeStatus) error {
	object := func(metadata, status any) map[string]any {
		o := map[string]any{"apiVersion": "edgehub.io/v1alpha1", "kind": "EdgeHubNode", "metadata": metadata}
		if status != nil {
			o["status"] = status
		}
		return o
	}
	named := map[string]any{"name": h.name}
	err := h.apply(ctx, nodesPath+h.name+"/status", object(named, status))
	if !apierrors.IsNotFound(err) {
		return err
	}
	node, err := h.core.Nodes().Get(ctx, h.name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	named["ownerReferences"] = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: h.name, UID: node.UID}}
	if err := h.apply(ctx, nodesPath+h.name, object(named, nil)); err != nil {
		return err
	}
	return h.apply(ctx, nodesPath+h.name+"/status", object(map[string]any{"name": h.name}, status))
}

func (h *hub) apply(ctx context.Context, path string, object any) error {
	body, err := json.Marshal(object)
	if err != nil {
		return err
	}
	return h.core.RESTClient().Patch(types.ApplyPatchType).AbsPath(path).
		Param("fieldManager", "edge-hub").Param("force", "true").
		Body(body).Do(ctx).Error()
}

// startedAt is when the oldest container of a Pod was started, zero if none runs.
func startedAt(pod *corev1.Pod) (oldest time.Time) {
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Running != nil && (oldest.IsZero() || c.State.Running.StartedAt.Time.Before(oldest)) {
			oldest = c.State.Running.StartedAt.Time
		}
	}
	return oldest
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
