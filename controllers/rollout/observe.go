package rollout

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// selection is what a policy selects.
type selection struct {
	pods  labels.Selector
	nodes labels.Selector // matches every node if the policy has no nodeSelector
}

func selectionOf(policy *v1alpha1.EdgeHubPolicy) (selection, error) {
	pods, err := policy.Spec.PodSelector.AsSelector()
	if err != nil {
		return selection{}, fmt.Errorf("spec.podSelector: %w", err)
	}
	nodes := labels.Everything()
	if policy.Spec.NodeSelector != nil {
		if nodes, err = policy.Spec.NodeSelector.AsSelector(); err != nil {
			return selection{}, fmt.Errorf("spec.nodeSelector: %w", err)
		}
	}
	return selection{pods: pods, nodes: nodes}, nil
}

// observe reads the Pods of a namespace and the workloads that matter to
// selected ones. The objects it reads belong to the cache and stay unchanged.
func observe(ctx context.Context, reader client.Reader, namespace string, selected selection) ([]Pod, map[types.UID]int, error) {
	var list corev1.PodList
	if err := reader.List(ctx, &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, nil, fmt.Errorf("list Pods: %w", err)
	}
	var (
		pods   = make([]Pod, 0, len(list.Items))
		owners = map[types.UID]bool{}
		nodes  = nodeReader{reader: reader, seen: map[string]nodeState{}, selector: selected.nodes}
	)
	for i := range list.Items {
		object := &list.Items[i]
		if finished(object) || mirror(object) {
			continue
		}
		pod, err := observePod(ctx, object, selected.pods, nodes)
		if err != nil {
			return nil, nil, err
		}
		if pod.Workload != "" && selected.pods.Matches(labels.Set(object.Labels)) {
			owners[pod.Workload] = true
		}
		pods = append(pods, pod)
	}
	desired, err := observeWorkloads(ctx, reader, namespace, selected.pods, owners)
	return pods, desired, err
}

func observePod(ctx context.Context, object *corev1.Pod, selector labels.Selector, nodes nodeReader) (Pod, error) {
	pod := Pod{
		Namespace:   object.Namespace,
		Name:        object.Name,
		UID:         object.UID,
		Labels:      object.Labels,
		Created:     object.CreationTimestamp.Time,
		Scheduled:   object.Spec.NodeName != "",
		Terminating: object.DeletionTimestamp != nil,
	}
	if owner := metav1.GetControllerOf(object); owner != nil && replaces(owner) {
		pod.Workload = owner.UID
	}
	for _, condition := range object.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			pod.ReadySince = condition.LastTransitionTime.Time
		}
	}
	if pod.Scheduled {
		node, err := nodes.get(ctx, object.Spec.NodeName)
		if err != nil {
			return Pod{}, err
		}
		pod.NodeReady = node.ready
		pod.Selected = node.selected && selector.Matches(labels.Set(object.Labels))
	}
	return pod, nil
}

// replaces reports whether owner puts a new Pod in the place of an evicted one
// and says how many Pods it wants. A Job does not: it counts an evicted Pod as
// failed.
func replaces(owner *metav1.OwnerReference) bool {
	if owner.APIVersion != appsv1.SchemeGroupVersion.String() {
		return false
	}
	switch owner.Kind {
	case "ReplicaSet", "StatefulSet", "DaemonSet":
		return true
	}
	return false
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// mirror reports whether pod shows a static Pod. Only its kubelet can restart it.
func mirror(pod *corev1.Pod) bool {
	_, found := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return found
}

// observeWorkloads returns how many Pods each workload wants, for those in
// owners and those whose template selector matches: the latter may have no Pod
// at this moment.
func observeWorkloads(ctx context.Context, reader client.Reader, namespace string, selector labels.Selector, owners map[types.UID]bool) (map[types.UID]int, error) {
	var (
		desired      = map[types.UID]int{}
		replicaSets  appsv1.ReplicaSetList
		statefulSets appsv1.StatefulSetList
		daemonSets   appsv1.DaemonSetList
	)
	for _, list := range []client.ObjectList{&replicaSets, &statefulSets, &daemonSets} {
		if err := reader.List(ctx, list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("list workloads: %w", err)
		}
	}
	add := func(uid types.UID, template *corev1.PodTemplateSpec, pods int) {
		if owners[uid] || selector.Matches(labels.Set(template.Labels)) {
			desired[uid] = pods
		}
	}
	for i := range replicaSets.Items {
		set := &replicaSets.Items[i]
		add(set.UID, &set.Spec.Template, replicas(set.Spec.Replicas))
	}
	for i := range statefulSets.Items {
		set := &statefulSets.Items[i]
		add(set.UID, &set.Spec.Template, replicas(set.Spec.Replicas))
	}
	for i := range daemonSets.Items {
		set := &daemonSets.Items[i]
		add(set.UID, &set.Spec.Template, int(set.Status.DesiredNumberScheduled))
	}
	return desired, nil
}

// replicas is the number a workload's spec.replicas stands for.
func replicas(field *int32) int {
	if field == nil {
		return 1
	}
	return int(*field)
}

// nodeState is what matters of a node.
type nodeState struct{ selected, ready bool }

// nodeReader reads each node once.
type nodeReader struct {
	reader   client.Reader
	selector labels.Selector
	seen     map[string]nodeState
}

// get returns the state of a node. One that does not exist is neither selected
// nor ready: its Pods are about to be deleted.
func (r nodeReader) get(ctx context.Context, name string) (nodeState, error) {
	if state, found := r.seen[name]; found {
		return state, nil
	}
	var (
		node  corev1.Node
		state nodeState
	)
	switch err := r.reader.Get(ctx, client.ObjectKey{Name: name}, &node); {
	case err == nil:
		state = nodeState{selected: r.selector.Matches(labels.Set(node.Labels)), ready: NodeReady(&node)}
	case !apierrors.IsNotFound(err):
		return nodeState{}, fmt.Errorf("get node %s: %w", name, err)
	}
	r.seen[name] = state
	return state, nil
}

// NodeReady reports whether the condition Ready of node is True.
func NodeReady(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
