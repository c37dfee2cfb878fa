package fleet

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// FieldOwner is the field manager by which the operator owns what it writes.
const FieldOwner = "edge-hub-operator"

// +kubebuilder:rbac:groups=edgehub.io,resources=edgehubnodes,verbs=get;list;watch
// +kubebuilder:rbac:groups=edgehub.io,resources=edgehubnodes/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch

const (
	// staleTime is how long a hub may take to work with a configuration, or rather
	// not with one that is over, before it is said to be behind.
	staleTime = 10 * time.Minute
	// trustTime is for how long a report shows that a hub reaches kube-apiserver
	// although its Node does not. Hubs report when something changes only.
	trustTime = 15 * time.Minute
	// checkInterval is how often a hub is looked at of which nothing is heard.
	checkInterval = 5 * time.Minute
)

// Reconciler sets the condition Connected of EdgeHubNodes: False while their Node
// is not ready or gone, True when it is ready again; and the condition ConfigCurrent
// of those that do not take the configuration in force. Everything else in them is
// the hub's.
type Reconciler struct {
	client         client.Client
	configurations *Configurations
	recorder       events.EventRecorder
	now            func() time.Time
}

// NewReconciler returns a Reconciler that reads through the cache of cached.
func NewReconciler(cached client.Client, configurations *Configurations, recorder events.EventRecorder, now func() time.Time) *Reconciler {
	return &Reconciler{client: cached, configurations: configurations, recorder: recorder, now: now}
}

// Reconcile implements reconcile.Reconciler. The request names an EdgeHubNode.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var hub v1alpha1.EdgeHubNode
	if err := r.client.Get(ctx, request.NamespacedName, &hub); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !hub.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	node := &corev1.Node{}
	if err := r.client.Get(ctx, request.NamespacedName, node); apierrors.IsNotFound(err) {
		node = nil
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("get node %s: %w", request.Name, err)
	}
	again := ctrl.Result{RequeueAfter: wait.Jitter(checkInterval, 0.5)}
	current := r.configCurrent(&hub, node)
	behind := isFalse(&hub, v1alpha1.NodeConfigCurrent)
	if current != nil {
		behind = current.Status == metav1.ConditionFalse
	}
	link := connected(&hub, node, behind, r.now())
	if link == nil && current == nil {
		return again, nil
	}
	if err := r.apply(ctx, &hub, link, current); err != nil {
		// A hub that was deleted meanwhile is no failure.
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	for _, after := range []*metav1.Condition{link, current} {
		r.announce(&hub, after)
	}
	return again, nil
}

// announce writes an event if a condition changed its status.
func (r *Reconciler) announce(hub *v1alpha1.EdgeHubNode, after *metav1.Condition) {
	if after == nil {
		return
	}
	before := meta.FindStatusCondition(hub.Status.Conditions, after.Type)
	if before != nil && before.Status == after.Status {
		return
	}
	kind := corev1.EventTypeNormal
	if after.Status == metav1.ConditionFalse {
		kind = corev1.EventTypeWarning
	}
	r.recorder.Eventf(hub, nil, kind, after.Reason, "Reconcile", "%s", after.Message)
}

// configCurrent returns the condition ConfigCurrent of hub, nil if it is as it should
// be. There is none as long as nothing was ever the matter.
func (r *Reconciler) configCurrent(hub *v1alpha1.EdgeHubNode, node *corev1.Node) *metav1.Condition {
	before := meta.FindStatusCondition(hub.Status.Conditions, v1alpha1.NodeConfigCurrent)
	since, known := r.configurations.BehindSince(hashOf(hub))
	if !known {
		// What the leader before this one found holds until this one knows better.
		return nil
	}
	ready := readySince(node)
	if since.IsZero() {
		if before == nil || before.Status == metav1.ConditionTrue || hashOf(hub) == "" {
			return nil
		}
		return &metav1.Condition{
			Type: v1alpha1.NodeConfigCurrent, Status: metav1.ConditionTrue, Reason: v1alpha1.NodeReasonTaken,
			Message: "the hub works with the configuration in force", LastTransitionTime: metav1.NewTime(r.now()),
		}
	}
	// It has that long from when it could.
	if ready.After(since) {
		since = ready
	}
	if ready.IsZero() || r.now().Sub(since) <= staleTime || before != nil && before.Status == metav1.ConditionFalse {
		return nil
	}
	return &metav1.Condition{
		Type: v1alpha1.NodeConfigCurrent, Status: metav1.ConditionFalse, Reason: v1alpha1.NodeReasonBehind,
		Message: "the hub has not taken the configuration for " + staleTime.String() + " although its Node is ready: it does not run, or can't read it or report; " +
			"if it was removed for good, kubectl delete edgehubnode " + hub.Name,
		LastTransitionTime: metav1.NewTime(r.now()),
	}
}

// connected returns the condition Connected of hub, nil if it is as it should be. A
// hub that has just reported says itself that it is connected, and it is right also
// when its Node is not ready, as when only the kubelet was stopped. One that is behind
// and does not report is taken for one that does not run: nothing tells it from one
// that can't take the configuration and had nothing to report.
func connected(hub *v1alpha1.EdgeHubNode, node *corev1.Node, behind bool, now time.Time) *metav1.Condition {
	before := meta.FindStatusCondition(hub.Status.Conditions, v1alpha1.NodeConnected)
	ready, lostAt := false, time.Time{}
	reason, message := v1alpha1.NodeReasonNodeNotReady, "the Node is gone; what is shown is what its hub last reported"
	if node != nil {
		ready, lostAt = Readiness(node)
		message = "the Node is not ready"
		if !lostAt.IsZero() {
			message += " since " + lostAt.UTC().Format(time.RFC3339)
		}
		message += "; what is shown is what its hub last reported"
	}
	reported := reportedAt(hub)
	heard := !reported.IsZero() && reported.Before(now.Add(time.Minute)) && now.Sub(reported) < trustTime
	if ready && behind && !heard {
		ready, reason = false, v1alpha1.NodeReasonNotReporting
		message = "the Node is ready, and its hub does not take the configuration and has reported nothing for " + trustTime.String() +
			": it does not run, or had nothing to report; what is shown is what it last reported"
	}
	if !ready && heard && reported.After(lostAt) && node != nil && before != nil && before.Status == metav1.ConditionTrue {
		return nil
	}
	after := &metav1.Condition{
		Type: v1alpha1.NodeConnected, Status: metav1.ConditionFalse, Reason: reason,
		Message: message, LastTransitionTime: metav1.NewTime(now),
	}
	if ready {
		after.Status, after.Reason, after.Message = metav1.ConditionTrue, v1alpha1.NodeReasonReporting, "the Node is ready again"
	}
	switch {
	case before == nil && ready:
		return nil
	case before == nil, before.Status != after.Status:
		return after
	case ready || before.Message == after.Message && before.Reason == after.Reason:
		return nil
	}
	after.LastTransitionTime = before.LastTransitionTime
	return after
}

// apply writes the two conditions and leaves all others alone. One that is nil stays
// as it is, which has to be said: what a manager does not apply again is taken away.
func (r *Reconciler) apply(ctx context.Context, hub *v1alpha1.EdgeHubNode, link, current *metav1.Condition) error {
	var conditions []any
	for kind, condition := range map[string]*metav1.Condition{v1alpha1.NodeConnected: link, v1alpha1.NodeConfigCurrent: current} {
		if condition == nil {
			condition = meta.FindStatusCondition(hub.Status.Conditions, kind)
		}
		if condition != nil {
			conditions = append(conditions, map[string]any{
				"type": condition.Type, "status": string(condition.Status), "reason": condition.Reason, "message": condition.Message,
				"lastTransitionTime": condition.LastTransitionTime.UTC().Format(time.RFC3339),
			})
		}
	}
	object := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"name": hub.Name}, "status": map[string]any{"conditions": conditions},
	}}
	object.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("EdgeHubNode"))
	err := r.client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner(FieldOwner), client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("apply conditions of EdgeHubNode %s: %w", hub.Name, err)
	}
	return nil
}
