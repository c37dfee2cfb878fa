package rollout

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/fleet"
)

// Sight is what a policy is seen with.
type Sight struct {
	// Reader reads Pods, Nodes and workloads. What it returns stays unchanged.
	Reader client.Reader
	// Fleet is what hubs report.
	Fleet *fleet.Snapshot
	// Configurations say which of them are in force.
	Configurations *fleet.Configurations
	// Now is the time.
	Now time.Time
}

// Observation is what there is to plan with.
type Observation struct {
	// Pods are the Pods of the policy's namespace that have not finished, static
	// ones left out.
	Pods []Pod
	// Desired is how many Pods each workload wants, of those that matter to the
	// policy.
	Desired map[types.UID]int
	// Names are the workloads by UID, such as ReplicaSet/app-5d8.
	Names map[types.UID]string
}

// describe says what has a UID: "Pod app-5d8-x7k2p", or "a Pod of ReplicaSet/app-5d8"
// for one that a workload misses.
func (o Observation) describe(uid types.UID) string {
	if name := o.Names[uid]; name != "" {
		return "a Pod of " + name
	}
	for i := range o.Pods {
		if o.Pods[i].UID == uid && uid != "" {
			return "Pod " + o.Pods[i].Name
		}
	}
	return ""
}

// Cutoff returns the time until which a Pod of policy may have been created
// without the cache for any of its agents as far as the configuration goes; a hub
// may have taken it later. It is the zero time if no agent is applied.
func Cutoff(policy *v1alpha1.EdgeHubPolicy) time.Time {
	var latest time.Time
	for _, agent := range policy.Status.Agents {
		if agent.AppliedTime.After(latest) {
			latest = agent.AppliedTime.Time
		}
	}
	if latest.IsZero() {
		return latest
	}
	return latest.Add(reloadTime)
}

// Selectors returns the parsed podSelector of policy, nil if there is none, and
// its nodeSelector, which matches every node if there is none.
func Selectors(policy *v1alpha1.EdgeHubPolicy) (pods, nodes labels.Selector, err error) {
	if policy.Spec.PodSelector != nil {
		if pods, err = policy.Spec.PodSelector.AsSelector(); err != nil {
			return nil, nil, fmt.Errorf("spec.podSelector: %w", err)
		}
	}
	nodes = labels.Everything()
	if policy.Spec.NodeSelector != nil {
		if nodes, err = policy.Spec.NodeSelector.AsSelector(); err != nil {
			return nil, nil, fmt.Errorf("spec.nodeSelector: %w", err)
		}
	}
	return pods, nodes, nil
}

// Observe reads what MakePlan needs to know about policy.
func Observe(ctx context.Context, sight Sight, policy *v1alpha1.EdgeHubPolicy) (Observation, error) {
	pods, nodes, err := Selectors(policy)
	if err != nil {
		return Observation{}, err
	}
	o := observer{Sight: sight, policy: policy, pods: pods, nodes: nodes, cutoff: Cutoff(policy), others: map[string]*corev1.Node{}}
	var list corev1.PodList
	if err := sight.Reader.List(ctx, &list, client.InNamespace(policy.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return Observation{}, fmt.Errorf("list Pods: %w", err)
	}
	observed := Observation{Pods: make([]Pod, 0, len(list.Items))}
	owners := map[types.UID]bool{}
	for i := range list.Items {
		object := &list.Items[i]
		if finished(object) || mirror(object) {
			continue
		}
		pod, err := o.observe(ctx, object)
		if err != nil {
			return Observation{}, err
		}
		if pod.Workload != "" && (pod.Selected || o.selects(object)) {
			owners[pod.Workload] = true
		}
		observed.Pods = append(observed.Pods, pod)
	}
	observed.Desired, observed.Names, err = o.workloads(ctx, owners)
	return observed, err
}

// observer observes for one policy.
type observer struct {
	Sight
	policy      *v1alpha1.EdgeHubPolicy
	pods, nodes labels.Selector
	cutoff      time.Time
	others      map[string]*corev1.Node // nodes without a hub
}

// selects reports whether podSelector matches object.
func (o *observer) selects(object client.Object) bool {
	return o.pods != nil && o.pods.Matches(labels.Set(object.GetLabels()))
}

func (o *observer) observe(ctx context.Context, object *corev1.Pod) (Pod, error) {
	pod := Pod{
		Namespace:   object.Namespace,
		Name:        object.Name,
		UID:         object.UID,
		Labels:      object.Labels,
		Created:     object.CreationTimestamp.Time,
		OptedOut:    optedOut(object),
		Scheduled:   object.Spec.NodeName != "",
		Node:        object.Spec.NodeName,
		Terminating: object.DeletionTimestamp != nil,
	}
	if pod.Terminating {
		pod.DeletedAt = deletedAt(object)
	}
	if owner := metav1.GetControllerOf(object); owner != nil && replaces(owner) {
		pod.Workload, pod.Kind = owner.UID, owner.Kind
	}
	for _, condition := range object.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			pod.ReadySince = condition.LastTransitionTime.Time
		}
	}
	if !pod.Scheduled {
		return pod, nil
	}
	node := o.Fleet.Node(pod.Node)
	if node == nil {
		return pod, o.observeOther(ctx, &pod)
	}
	pod.Edge, pod.NodeReady, pod.NodeLostAt = true, node.Ready, node.LostAt
	pod.HubCurrent = o.Configurations.Current(node.Hash, o.policy.Namespace) &&
		!slices.ContainsFunc(o.policy.Status.Agents, func(agent v1alpha1.AgentStatus) bool { return !o.heard(node, agent) })
	switch {
	case node.Cordoned && pod.Kind != "DaemonSet":
		pod.Hindrance = "its node is cordoned"
	case !toleratesAll(object, node.Taints):
		pod.Hindrance = "its node has a taint that it does not tolerate"
	case node.CacheFails:
		pod.Hindrance = "its cache can't be written"
	case node.Stale && !pod.HubCurrent:
		pod.Hindrance = "its hub has not taken the configuration for long"
	}
	if node.Exists && o.nodes.Matches(node.Labels) {
		o.judge(&pod, object, node)
	}
	return pod, nil
}

// toleratesAll reports whether pod could be scheduled to a node with taints.
func toleratesAll(pod *corev1.Pod, taints []corev1.Taint) bool {
	for i := range taints {
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool { return t.ToleratesTaint(logr.Discard(), &taints[i], true) }) {
			return false
		}
	}
	return true
}

// heard reports whether what the hub of node said last counts for an agent of the policy.
func (o *observer) heard(node *fleet.Node, agent v1alpha1.AgentStatus) bool {
	return o.Configurations.Heard(node, fleet.Use{Agent: agent.Name, Namespace: o.policy.Namespace}, agent.AppliedTime.Time, o.Now)
}

// judge says whether the policy is about pod, and whether it has to be restarted.
func (o *observer) judge(pod *Pod, object *corev1.Pod, node *fleet.Node) {
	pod.Selected = o.selects(object)
	until, started := o.cutoff, startedAt(object)
	for _, agent := range o.policy.Status.Agents {
		row := node.Agent(fleet.Use{Agent: agent.Name, Namespace: object.Namespace})
		if row != nil && !o.heard(node, agent) {
			row = nil
		}
		if o.pods == nil {
			// Only the agents that the Pod was seen to send matter to it.
			if !fleet.Sends(row, object.UID) {
				continue
			}
			pod.Selected = true
		}
		if row != nil && row.Reason == v1alpha1.NodeAgentDisk {
			pod.Hindrance = "its disk fails or is full"
		}
		c := caching{applied: agent.AppliedTime.Time, nodeSince: node.CachingSince}
		if row != nil {
			c.inUse, c.since = true, row.Since.Time
		}
		affected, cutoff := c.affects(pod.Created, started, o.Now)
		if affected {
			pod.Affected = true
		}
		if cutoff.After(until) {
			until = cutoff
		}
	}
	if pod.Affected {
		pod.NotBefore = until.Add(time.Second) // creationTimestamp has whole seconds
	}
}

// observeOther looks at the node of pod, which has no hub. One that does not exist
// is not ready: its Pods are about to be deleted.
func (o *observer) observeOther(ctx context.Context, pod *Pod) error {
	node, seen := o.others[pod.Node]
	if !seen {
		node = &corev1.Node{}
		if err := o.Reader.Get(ctx, client.ObjectKey{Name: pod.Node}, node); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("get node %s: %w", pod.Node, err)
		} else if apierrors.IsNotFound(err) {
			node = &corev1.Node{}
		}
		o.others[pod.Node] = node
	}
	pod.NodeReady, pod.NodeLostAt = fleet.Readiness(node)
	return nil
}

// workloads returns how many Pods each workload wants, for those in owners and
// those whose template podSelector matches: the latter may have no Pod at this
// moment. Without a podSelector nobody knows of a Pod that was just created whether
// it will send the agents, so all workloads of the namespace count.
func (o *observer) workloads(ctx context.Context, owners map[types.UID]bool) (map[types.UID]int, map[types.UID]string, error) {
	var (
		desired      = map[types.UID]int{}
		names        = map[types.UID]string{}
		replicaSets  appsv1.ReplicaSetList
		statefulSets appsv1.StatefulSetList
		daemonSets   appsv1.DaemonSetList
	)
	for _, list := range []client.ObjectList{&replicaSets, &statefulSets, &daemonSets} {
		if err := o.Reader.List(ctx, list, client.InNamespace(o.policy.Namespace), client.UnsafeDisableDeepCopy); err != nil {
			return nil, nil, fmt.Errorf("list workloads: %w", err)
		}
	}
	add := func(kind string, meta metav1.ObjectMeta, template *corev1.PodTemplateSpec, pods int) {
		if meta.DeletionTimestamp != nil {
			// It makes no Pods any more, and may wait for the end of those it has.
			return
		}
		if o.pods == nil || owners[meta.UID] || o.pods.Matches(labels.Set(template.Labels)) {
			desired[meta.UID], names[meta.UID] = pods, kind+"/"+meta.Name
		}
	}
	for i := range replicaSets.Items {
		set := &replicaSets.Items[i]
		add("ReplicaSet", set.ObjectMeta, &set.Spec.Template, replicas(set.Spec.Replicas))
	}
	for i := range statefulSets.Items {
		set := &statefulSets.Items[i]
		add("StatefulSet", set.ObjectMeta, &set.Spec.Template, replicas(set.Spec.Replicas))
	}
	for i := range daemonSets.Items {
		set := &daemonSets.Items[i]
		// Where a taint that came later keeps it away it wants no Pod, and leaves the one
		// that is there, which must not make up for another one.
		add("DaemonSet", set.ObjectMeta, &set.Spec.Template, int(set.Status.DesiredNumberScheduled+set.Status.NumberMisscheduled))
	}
	return desired, names, nil
}

// startedAt returns when the oldest of the containers of pod that run now was
// started, zero if none runs. It is the node's word.
func startedAt(pod *corev1.Pod) time.Time {
	var oldest time.Time
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			running := statuses[i].State.Running
			if running != nil && (oldest.IsZero() || running.StartedAt.Time.Before(oldest)) {
				oldest = running.StartedAt.Time
			}
		}
	}
	return oldest
}

// deletedAt returns when the deletion of pod was asked for: deletionTimestamp is
// when its grace period ends.
func deletedAt(pod *corev1.Pod) time.Time {
	return pod.DeletionTimestamp.Add(-time.Duration(ptr.Deref(pod.DeletionGracePeriodSeconds, 0)) * time.Second)
}

// optedOut reports whether pod says that it must not be restarted.
func optedOut(pod *corev1.Pod) bool {
	return pod.Annotations[v1alpha1.RestartAnnotation] == string(v1alpha1.NeverRestart)
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

// replicas is the number a workload's spec.replicas stands for.
func replicas(field *int32) int {
	if field == nil {
		return 1
	}
	return int(*field)
}
