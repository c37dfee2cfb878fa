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

// Reconciler sets the condition Connected of EdgeHubNodes: False while their Node
// is not ready or gone, True when it is ready again. Everything else in them is the
// hub's.
type Reconciler struct {
	client   client.Client
	recorder events.EventRecorder
	now      func() time.Time
}

// NewReconciler returns a Reconciler that reads through the cache of cached.
func NewReconciler(cached client.Client, recorder events.EventRecorder, now func() time.Time) *Reconciler {
	return &Reconciler{client: cached, recorder: recorder, now: now}
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
	before := meta.FindStatusCondition(hub.Status.Conditions, v1alpha1.NodeConnected)
	after := connected(before, node, r.now())
	if after == nil {
		return ctrl.Result{}, nil
	}
	if err := r.apply(ctx, hub.Name, after); err != nil {
		// A hub that was deleted meanwhile is no failure.
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	kind := corev1.EventTypeNormal
	if after.Status == metav1.ConditionFalse {
		kind = corev1.EventTypeWarning
	}
	if before == nil || before.Status != after.Status {
		r.recorder.Eventf(&hub, nil, kind, after.Reason, "Reconcile", "%s", after.Message)
	}
	return ctrl.Result{}, nil
}

// connected returns the condition Connected of the hub of node, nil if before says
// so already. A hub that has just reported says itself that it is connected.
func connected(before *metav1.Condition, node *corev1.Node, now time.Time) *metav1.Condition {
	ready, lostAt := false, time.Time{}
	message := "the Node is gone; what is shown is what its hub last reported"
	if node != nil {
		ready, lostAt = Readiness(node)
		message = "the Node is not ready"
		if !lostAt.IsZero() {
			message += " since " + lostAt.UTC().Format(time.RFC3339)
		}
		message += "; what is shown is what its hub last reported"
	}
	after := &metav1.Condition{
		Type: v1alpha1.NodeConnected, Status: metav1.ConditionFalse, Reason: v1alpha1.NodeReasonNodeNotReady,
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

// apply writes one condition and leaves all others alone.
func (r *Reconciler) apply(ctx context.Context, name string, condition *metav1.Condition) error {
	object := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"name": name},
		"status": map[string]any{"conditions": []any{map[string]any{
			"type": condition.Type, "status": string(condition.Status), "reason": condition.Reason, "message": condition.Message,
			"lastTransitionTime": condition.LastTransitionTime.UTC().Format(time.RFC3339),
		}}},
	}}
	object.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("EdgeHubNode"))
	err := r.client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner(FieldOwner), client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("apply condition %s of EdgeHubNode %s: %w", condition.Type, name, err)
	}
	return nil
}
