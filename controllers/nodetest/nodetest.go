// Package nodetest stands in for the nodes of a control plane that has none: it
// schedules Pods, makes them ready and removes them when they are deleted; hubs.go
// reports what their hubs would.
package nodetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// interval is how often the nodes look at their Pods.
const interval = 20 * time.Millisecond

// Nodes are the nodes of a cluster.
type Nodes struct {
	clientset kubernetes.Interface
	names     []string

	mu    sync.Mutex
	holds func(*corev1.Pod) bool
}

// Start creates nodes with the label node=NAME that are ready, and runs them
// until the test ends.
func Start(t testing.TB, config *rest.Config, names ...string) *Nodes {
	t.Helper()
	n := &Nodes{clientset: kubernetes.NewForConfigOrDie(config), names: names}
	for _, name := range names {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"node": name}}}
		if _, err := n.clientset.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		// kube-apiserver adds a taint to every new node, which the node lifecycle
		// controller would remove.
		if _, err := n.clientset.CoreV1().Nodes().Patch(t.Context(), name, types.MergePatchType, []byte(`{"spec":{"taints":null}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		n.SetReady(t, name, true)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { n.run(ctx, t) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return n
}

// Hold keeps every Pod for which hold is true from becoming ready. Nil holds none.
func (n *Nodes) Hold(hold func(*corev1.Pod) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.holds = hold
}

// SetReady sets the condition Ready of a node. Use Hold for its Pods.
func (n *Nodes) SetReady(t testing.TB, name string, ready bool) {
	t.Helper()
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":%q,"reason":"Test","lastTransitionTime":%q}]}}`,
		status, time.Now().UTC().Format(time.RFC3339))
	if _, err := n.clientset.CoreV1().Nodes().Patch(t.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
}

func (n *Nodes) run(ctx context.Context, t testing.TB) {
	for next := 0; ctx.Err() == nil; {
		pods, err := n.clientset.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		if err == nil {
			for i := range pods.Items {
				err = n.move(ctx, &pods.Items[i], &next)
				if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
					t.Logf("nodes: %v", err)
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(interval):
		}
	}
}

// move brings a Pod one step forward.
func (n *Nodes) move(ctx context.Context, pod *corev1.Pod, next *int) error {
	pods := n.clientset.CoreV1().Pods(pod.Namespace)
	n.mu.Lock()
	held := n.holds != nil && n.holds(pod)
	n.mu.Unlock()
	switch {
	case pod.DeletionTimestamp != nil && pod.Spec.NodeName != "":
		now := int64(0)
		return pods.Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID},
		})
	case pod.Spec.NodeName == "":
		*next++
		return pods.Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name},
			Target:     corev1.ObjectReference{Kind: "Node", Name: n.nodeFor(pod, *next)},
		}, metav1.CreateOptions{})
	case Ready(pod) == held:
		return n.setPodReady(ctx, pod, !held)
	}
	return nil
}

// nodeFor returns the node a DaemonSet wants pod on, or else the next in turn.
func (n *Nodes) nodeFor(pod *corev1.Pod, turn int) string {
	if affinity := pod.Spec.Affinity; affinity != nil && affinity.NodeAffinity != nil {
		for _, term := range affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			for _, field := range term.MatchFields {
				return field.Values[0]
			}
		}
	}
	return n.names[turn%len(n.names)]
}

func (n *Nodes) setPodReady(ctx context.Context, pod *corev1.Pod, ready bool) error {
	pod.Status.Phase = corev1.PodRunning
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Now()}}
	if len(pod.Status.ContainerStatuses) == 0 {
		// It is started once, whether or not it is ready.
		running := &corev1.ContainerStateRunning{StartedAt: metav1.Now()}
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: pod.Spec.Containers[0].Name, State: corev1.ContainerState{Running: running}}}
	}
	_, err := n.clientset.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}

// Ready reports whether pod is ready and not being deleted.
func Ready(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			return pod.DeletionTimestamp == nil
		}
	}
	return false
}

// FewestReady follows the Pods that selector selects, event by event. The
// function it returns says how many of them were ready at the worst moment since
// FewestReady was called.
func FewestReady(t testing.TB, config *rest.Config, namespace, selector string) func() int {
	t.Helper()
	clientset := kubernetes.NewForConfigOrDie(config)
	list, err := clientset.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		t.Fatal(err)
	}
	ready := map[string]bool{}
	for i := range list.Items {
		if Ready(&list.Items[i]) {
			ready[list.Items[i].Name] = true
		}
	}
	watch, err := clientset.CoreV1().Pods(namespace).Watch(t.Context(), metav1.ListOptions{
		LabelSelector: selector, ResourceVersion: list.ResourceVersion,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(watch.Stop)
	var (
		mu     sync.Mutex
		fewest = len(ready)
	)
	go func() {
		for event := range watch.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			delete(ready, pod.Name)
			if event.Type != "DELETED" && Ready(pod) {
				ready[pod.Name] = true
			}
			mu.Lock()
			fewest = min(fewest, len(ready))
			mu.Unlock()
		}
	}()
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return fewest
	}
}
