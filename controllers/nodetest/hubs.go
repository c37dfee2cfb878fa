package nodetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// Hub is a hub that does nothing but report. A Pod sends the User-Agent that its
// label app has, once when it starts.
type Hub struct {
	client client.Client
	node   string
	status v1alpha1.EdgeHubNodeStatus
	since  map[[2]string]metav1.Time // by agent and namespace
	warm   map[[2]string]bool

	mu     sync.Mutex
	frozen bool
	large  bool
}

// Freeze keeps a hub from taking configurations, or lets it again.
func (h *Hub) Freeze(frozen bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.frozen = frozen
}

// TooLarge makes a hub report that what agents ask for does not fit.
func (h *Hub) TooLarge(large bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.large = large
}

// RunHubs runs a hub on each node until the test ends. They follow the ConfigMap
// kube-system/edge-hub-cfg.
func RunHubs(t testing.TB, config *rest.Config, nodes ...string) map[string]*Hub {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	hubs := map[string]*Hub{}
	for _, node := range nodes {
		hubs[node] = &Hub{client: c, node: node, since: map[[2]string]metav1.Time{}, warm: map[[2]string]bool{}}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			for _, hub := range hubs {
				if err := hub.report(ctx); err != nil && ctx.Err() == nil {
					t.Logf("hub of %s: %v", hub.node, err)
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(5 * interval):
			}
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return hubs
}

// report writes what changed since the last report.
func (h *Hub) report(ctx context.Context) error {
	var node corev1.Node
	if err := h.client.Get(ctx, client.ObjectKey{Name: h.node}, &node); err != nil {
		return client.IgnoreNotFound(err)
	}
	if !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}) {
		return nil // out of reach
	}
	status, err := h.look(ctx)
	if err != nil || equality.Semantic.DeepEqual(status, h.status) {
		return err
	}
	object := &v1alpha1.EdgeHubNode{}
	if err := h.client.Get(ctx, client.ObjectKey{Name: h.node}, object); apierrors.IsNotFound(err) {
		object.ObjectMeta = metav1.ObjectMeta{Name: h.node, OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}}
		err = h.client.Create(ctx, object)
		if err != nil {
			return fmt.Errorf("create: %w", err)
		}
	} else if err != nil {
		return err
	}
	object.Status = *status.DeepCopy()
	if err := h.client.Status().Update(ctx, object); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	h.status = status
	return nil
}

// look returns what there is to report.
func (h *Hub) look(ctx context.Context) (v1alpha1.EdgeHubNodeStatus, error) {
	h.mu.Lock()
	frozen, large := h.frozen, h.large
	h.mu.Unlock()
	var object corev1.ConfigMap
	if err := h.client.Get(ctx, client.ObjectKey{Namespace: hubconfig.Namespace, Name: hubconfig.Name}, &object); client.IgnoreNotFound(err) != nil {
		return h.status, err
	}
	config, err := hubconfig.Parse(object.Data)
	if err != nil || frozen {
		return h.status, nil
	}
	status := v1alpha1.EdgeHubNodeStatus{Version: "test", CachingSince: h.status.CachingSince, Configuration: h.status.Configuration}
	now := metav1.Now().Rfc3339Copy()
	if status.CachingSince == nil {
		status.CachingSince = &now
	}
	if hash := hubconfig.Hash(config); status.Configuration == nil || status.Configuration.Hash != hash {
		status.Configuration = &v1alpha1.NodeConfiguration{Hash: hash, AppliedTime: &now}
	}
	var pods corev1.PodList
	if err := h.client.List(ctx, &pods); err != nil {
		return h.status, err
	}
	rows := map[[2]string]*v1alpha1.NodeAgent{}
	for i := range pods.Items {
		h.add(rows, config, &pods.Items[i], now, large)
	}
	for _, key := range slices.SortedFunc(maps.Keys(rows), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		status.Agents = append(status.Agents, *rows[key])
	}
	ready := metav1.ConditionTrue
	if slices.ContainsFunc(status.Agents, func(a v1alpha1.NodeAgent) bool { return !a.OfflineReady }) {
		ready = metav1.ConditionFalse
	}
	status.Conditions = append(status.Conditions, h.status.Conditions...)
	meta.SetStatusCondition(&status.Conditions, metav1.Condition{Type: v1alpha1.NodeConnected, Status: metav1.ConditionTrue, Reason: v1alpha1.NodeReasonReporting})
	meta.SetStatusCondition(&status.Conditions, metav1.Condition{Type: v1alpha1.NodeOfflineReady, Status: ready, Reason: v1alpha1.NodeReasonComplete})
	return status, nil
}

// add adds what pod means to rows.
func (h *Hub) add(rows map[[2]string]*v1alpha1.NodeAgent, config hubconfig.Config, pod *corev1.Pod, now metav1.Time, large bool) {
	agent := pod.Labels["app"]
	if pod.Spec.NodeName != h.node || pod.DeletionTimestamp != nil || len(pod.Status.ContainerStatuses) == 0 || !config.Admits(agent, pod.Namespace) {
		return
	}
	key := [2]string{agent, pod.Namespace}
	if _, found := h.since[key]; !found {
		h.since[key] = now
	}
	h.warm[key] = h.warm[key] || config.Relists(agent, pod.Namespace)
	row := rows[key]
	if row == nil {
		row = &v1alpha1.NodeAgent{Name: agent, Namespace: pod.Namespace, Since: h.since[key], OfflineReady: true}
		rows[key] = row
	}
	row.Pods = append(row.Pods, v1alpha1.NodePod{Name: pod.Name, UID: pod.UID})
	running := pod.Status.ContainerStatuses[0].State.Running
	switch {
	case large:
		row.OfflineReady, row.Reason, row.Message = false, v1alpha1.NodeAgentTooLarge, "pods needs 200Mi of 100Mi"
	case !running.StartedAt.After(row.Since.Time) && !h.warm[key]:
		row.OfflineReady, row.Reason = false, v1alpha1.NodeAgentNotWarm
	}
}
