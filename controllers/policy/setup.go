package policy

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/fleet"
	"github.com/edgehub-io/edge-hub/controllers/rollout"
)

const (
	// reconcileTimeout bounds one call of Reconcile.
	reconcileTimeout = time.Minute
	// Failed requests are retried after firstRetry, which doubles up to lastRetry.
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Minute
)

// CacheByObject returns the cache options of the kinds the controller reads, those
// of package fleet left out. Of all ConfigMaps only the one it writes is read; it
// keeps its managedFields.
func CacheByObject() map[client.Object]cache.ByObject {
	options := rollout.CacheByObject()
	options[&corev1.ConfigMap{}] = cache.ByObject{
		Namespaces: map[string]cache.Config{hubconfig.Namespace: {
			FieldSelector: fields.OneTermEqualSelector("metadata.name", hubconfig.Name),
		}},
	}
	options[&v1alpha1.EdgeHubPolicy{}] = cache.ByObject{Transform: trimPolicy}
	return options
}

// SetupWithManager registers the controller with manager, whose cache needs the
// options of CacheByObject and of fleet.CacheByObject. maxQuota is the largest quota
// of a policy. No other controller may use view, which follows what this one
// watches. configurations is told which is in force.
func SetupWithManager(manager ctrl.Manager, view *fleet.View, configurations *fleet.Configurations, maxQuota resource.Quantity) error {
	if maxQuota.Cmp(MinQuota) < 0 {
		return fmt.Errorf("the largest quota of a policy is %s, it must be at least %s", maxQuota.String(), MinQuota.String())
	}
	reconciler := NewReconciler(manager.GetClient(), manager.GetAPIReader(), view, configurations, manager.GetEventRecorder("edge-hub-operator"), time.Now, maxQuota)
	reconciler.follows = true
	view.Follow()
	enqueue := &enqueuer{reader: manager.GetClient(), changed: func() { reconciler.changes.Add(1) }, view: view,
		after: func(delay time.Duration, f func()) { time.AfterFunc(delay, f) }}
	return ctrl.NewControllerManagedBy(manager).
		Named("edgehubpolicy").
		Watches(&v1alpha1.EdgeHubPolicy{}, enqueue.policies()).
		Watches(&corev1.ConfigMap{}, enqueue.configMap()).
		Watches(&corev1.Pod{}, enqueue.pods()).
		Watches(&corev1.Node{}, enqueue.nodes()).
		Watches(&v1alpha1.EdgeHubNode{}, enqueue.hubs()).
		WithOptions(controller.Options{
			// The Restarter and the ConfigMap are for one at a time.
			MaxConcurrentReconciles: 1,
			ReconciliationTimeout:   reconcileTimeout,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
			EnableWarmup:            ptr.To(true),
		}).
		Complete(reconciler)
}

// listPolicies returns the policies of a namespace, of all if it is empty. They belong to
// the cache and stay unchanged.
func listPolicies(ctx context.Context, reader client.Reader, namespace string) ([]v1alpha1.EdgeHubPolicy, error) {
	var policies v1alpha1.EdgeHubPolicyList
	err := reader.List(ctx, &policies, client.InNamespace(namespace), client.UnsafeDisableDeepCopy)
	return policies.Items, err
}

// sameAgents reports whether the statuses list the same agents.
func sameAgents(a, b *v1alpha1.EdgeHubPolicy) bool {
	return slices.EqualFunc(a.Status.Agents, b.Status.Agents, func(a, b v1alpha1.AgentStatus) bool { return a.Name == b.Name })
}
