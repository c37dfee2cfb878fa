package rollout

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/fleet"
)

// CacheByObject returns the cache options of the kinds this package reads: each
// object is cut down to the few fields that are read, because a cluster has many
// Pods. Nothing read through such a cache may be written back.
func CacheByObject() map[client.Object]cache.ByObject {
	return map[client.Object]cache.ByObject{
		// Pods that have finished matter to nobody here, and may be many.
		&corev1.Pod{}: {Transform: trimPod, Field: fields.AndSelectors(
			fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)), fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)))},
		&appsv1.ReplicaSet{}:  {Transform: trimReplicaSet},
		&appsv1.StatefulSet{}: {Transform: trimStatefulSet},
		&appsv1.DaemonSet{}:   {Transform: trimDaemonSet},
	}
}

// trimPod keeps what an observer reads. Like every transform it returns objects
// it does not know, such as tombstones, unchanged.
func trimPod(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	trimmed := &corev1.Pod{ObjectMeta: trimMeta(pod.ObjectMeta)}
	trimmed.DeletionGracePeriodSeconds = pod.DeletionGracePeriodSeconds
	if mirror(pod) {
		trimmed.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: ""}
	} else if optedOut(pod) {
		trimmed.Annotations = map[string]string{v1alpha1.RestartAnnotation: string(v1alpha1.NeverRestart)}
	}
	if owner := metav1.GetControllerOf(pod); owner != nil {
		trimmed.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	trimmed.Spec.NodeName = pod.Spec.NodeName
	for i := range pod.Spec.Tolerations {
		toleration := pod.Spec.Tolerations[i]
		// Of the two that every Pod is given none is needed.
		if fleet.KeepsAway(toleration.Key, toleration.Effect) {
			toleration.TolerationSeconds = nil
			trimmed.Spec.Tolerations = append(trimmed.Spec.Tolerations, toleration)
		}
	}
	trimmed.Status.Phase = pod.Status.Phase
	if started := startedAt(pod); !started.IsZero() {
		running := &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(started)}
		trimmed.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Running: running}}}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			trimmed.Status.Conditions = []corev1.PodCondition{{
				Type: condition.Type, Status: condition.Status, LastTransitionTime: condition.LastTransitionTime,
			}}
		}
	}
	return trimmed, nil
}

func trimReplicaSet(object any) (any, error) {
	set, ok := object.(*appsv1.ReplicaSet)
	if !ok {
		return object, nil
	}
	trimmed := &appsv1.ReplicaSet{ObjectMeta: trimMeta(set.ObjectMeta)}
	trimmed.Labels = nil
	trimmed.Spec.Replicas = set.Spec.Replicas
	if replicas(set.Spec.Replicas) > 0 {
		// Of each Deployment ten are kept that want no Pods.
		trimmed.Spec.Template.Labels = maps.Clone(set.Spec.Template.Labels)
	}
	return trimmed, nil
}

func trimStatefulSet(object any) (any, error) {
	set, ok := object.(*appsv1.StatefulSet)
	if !ok {
		return object, nil
	}
	trimmed := &appsv1.StatefulSet{ObjectMeta: trimMeta(set.ObjectMeta)}
	trimmed.Spec.Replicas = set.Spec.Replicas
	trimmed.Spec.Template.Labels = maps.Clone(set.Spec.Template.Labels)
	return trimmed, nil
}

func trimDaemonSet(object any) (any, error) {
	set, ok := object.(*appsv1.DaemonSet)
	if !ok {
		return object, nil
	}
	trimmed := &appsv1.DaemonSet{ObjectMeta: trimMeta(set.ObjectMeta)}
	trimmed.Spec.Template.Labels = maps.Clone(set.Spec.Template.Labels)
	trimmed.Status.DesiredNumberScheduled, trimmed.Status.NumberMisscheduled = set.Status.DesiredNumberScheduled, set.Status.NumberMisscheduled
	return trimmed, nil
}

// trimMeta keeps what identifies an object, when it is deleted, and its labels.
func trimMeta(meta metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:              meta.Name,
		Namespace:         meta.Namespace,
		UID:               meta.UID,
		ResourceVersion:   meta.ResourceVersion,
		CreationTimestamp: meta.CreationTimestamp,
		DeletionTimestamp: meta.DeletionTimestamp,
		Labels:            meta.Labels,
	}
}

// PodChanged reports whether an update of a Pod can change a plan.
func PodChanged(before, after *corev1.Pod) bool {
	return before.UID != after.UID ||
		!before.DeletionTimestamp.Equal(after.DeletionTimestamp) ||
		before.Spec.NodeName != after.Spec.NodeName ||
		before.Status.Phase != after.Status.Phase ||
		readyStatus(before) != readyStatus(after) ||
		optedOut(before) != optedOut(after) ||
		!startedAt(before).Equal(startedAt(after)) ||
		!maps.Equal(before.Labels, after.Labels) ||
		!slices.EqualFunc(before.Spec.Tolerations, after.Spec.Tolerations, func(a, b corev1.Toleration) bool { return a.MatchToleration(&b) }) ||
		!slices.EqualFunc(before.OwnerReferences, after.OwnerReferences, func(a, b metav1.OwnerReference) bool { return a.UID == b.UID })
}

func readyStatus(pod *corev1.Pod) corev1.ConditionStatus {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status
		}
	}
	return corev1.ConditionUnknown
}
