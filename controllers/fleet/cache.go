package fleet

import (
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// CacheByObject returns the cache options of the kinds this package reads, each
// cut down to the fields that the operator reads. Nothing read through such a
// cache may be written back.
func CacheByObject() map[client.Object]cache.ByObject {
	return map[client.Object]cache.ByObject{
		&v1alpha1.EdgeHubNode{}: {Transform: trimHub},
		&corev1.Node{}:          {Transform: trimNode},
	}
}

// trimHub keeps what a Snapshot needs. Like every transform it returns objects it
// does not know, such as tombstones, unchanged.
func trimHub(object any) (any, error) {
	hub, ok := object.(*v1alpha1.EdgeHubNode)
	if !ok {
		return object, nil
	}
	trimmed := &v1alpha1.EdgeHubNode{ObjectMeta: trimMeta(hub.ObjectMeta)}
	trimmed.Status.CachingSince = hub.Status.CachingSince
	if hub.Status.Configuration != nil {
		trimmed.Status.Configuration = &v1alpha1.NodeConfiguration{Hash: hub.Status.Configuration.Hash}
	}
	for _, condition := range hub.Status.Conditions {
		switch condition.Type {
		case v1alpha1.NodeConnected, v1alpha1.NodeOfflineReady, v1alpha1.NodeConfigCurrent, v1alpha1.NodeCacheWritable:
			trimmed.Status.Conditions = append(trimmed.Status.Conditions, condition)
		}
	}
	if reported := reportedAt(hub); !reported.IsZero() {
		trimmed.ManagedFields = []metav1.ManagedFieldsEntry{{Subresource: "status", Time: &metav1.Time{Time: reported}}}
	}
	for _, agent := range hub.Status.Agents {
		row := v1alpha1.NodeAgent{
			Name: agent.Name, Namespace: agent.Namespace, Since: agent.Since,
			OfflineReady: agent.OfflineReady, Reason: agent.Reason, Message: agent.Message,
		}
		for _, pod := range agent.Pods {
			row.Pods = append(row.Pods, v1alpha1.NodePod{UID: pod.UID})
		}
		trimmed.Status.Agents = append(trimmed.Status.Agents, row)
	}
	return trimmed, nil
}

func trimNode(object any) (any, error) {
	node, ok := object.(*corev1.Node)
	if !ok {
		return object, nil
	}
	trimmed := &corev1.Node{ObjectMeta: trimMeta(node.ObjectMeta)}
	trimmed.Labels, trimmed.Spec.Unschedulable, trimmed.Spec.Taints = node.Labels, node.Spec.Unschedulable, taints(node)
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			trimmed.Status.Conditions = []corev1.NodeCondition{{
				Type: condition.Type, Status: condition.Status, LastTransitionTime: condition.LastTransitionTime,
			}}
		}
	}
	return trimmed, nil
}

func trimMeta(meta metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: meta.Name, UID: meta.UID, ResourceVersion: meta.ResourceVersion, CreationTimestamp: meta.CreationTimestamp}
}

// NodeChanged reports whether an update of a Node changes the fleet.
func NodeChanged(before, after *corev1.Node) bool {
	readyBefore, lostBefore := Readiness(before)
	readyAfter, lostAfter := Readiness(after)
	return readyBefore != readyAfter || !lostBefore.Equal(lostAfter) ||
		before.Spec.Unschedulable != after.Spec.Unschedulable || !maps.Equal(before.Labels, after.Labels) ||
		!slices.Equal(taints(before), taints(after))
}

// HubChanged reports whether an update of an EdgeHubNode matters to every policy.
func HubChanged(before, after *v1alpha1.EdgeHubNode) bool {
	return hashOf(before) != hashOf(after) || !before.Status.CachingSince.Equal(after.Status.CachingSince) ||
		isFalse(before, v1alpha1.NodeConfigCurrent) != isFalse(after, v1alpha1.NodeConfigCurrent) ||
		isFalse(before, v1alpha1.NodeCacheWritable) != isFalse(after, v1alpha1.NodeCacheWritable)
}

func isFalse(hub *v1alpha1.EdgeHubNode, condition string) bool {
	return meta.IsStatusConditionFalse(hub.Status.Conditions, condition)
}

// reportedAt returns when somebody other than the operator last wrote the status of
// hub, by the clock of kube-apiserver, zero if that is not known.
func reportedAt(hub *v1alpha1.EdgeHubNode) (latest time.Time) {
	for _, entry := range hub.ManagedFields {
		if entry.Subresource == "status" && entry.Manager != FieldOwner && entry.Time != nil && entry.Time.After(latest) {
			latest = entry.Time.Time
		}
	}
	return latest
}

// ChangedUses returns what a hub reports differently of.
func ChangedUses(before, after *v1alpha1.EdgeHubNode) []Use {
	var uses []Use
	rows := make(map[Use]*v1alpha1.NodeAgent, len(before.Status.Agents))
	for i := range before.Status.Agents {
		row := &before.Status.Agents[i]
		rows[Use{row.Name, row.Namespace}] = row
	}
	for i := range after.Status.Agents {
		row := &after.Status.Agents[i]
		use := Use{row.Name, row.Namespace}
		if old := rows[use]; old == nil || !sameRow(old, row) {
			uses = append(uses, use)
		}
		delete(rows, use)
	}
	for use := range rows {
		uses = append(uses, use)
	}
	return uses
}

// sameRow compares what a Snapshot keeps of a row.
func sameRow(a, b *v1alpha1.NodeAgent) bool {
	return a.Since.Equal(&b.Since) && a.OfflineReady == b.OfflineReady && a.Reason == b.Reason && a.Message == b.Message &&
		slices.EqualFunc(a.Pods, b.Pods, func(a, b v1alpha1.NodePod) bool { return a.UID == b.UID })
}

func hashOf(hub *v1alpha1.EdgeHubNode) string {
	if hub.Status.Configuration == nil {
		return ""
	}
	return hub.Status.Configuration.Hash
}
