package policy

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/rollout"
)

const (
	// reconcileTimeout bounds one call of Reconcile.
	reconcileTimeout = time.Minute
	// Failed requests are retried after firstRetry, which doubles up to lastRetry.
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Minute
)

// CacheByObject returns the cache options of the kinds the controller reads. Of
// all ConfigMaps only the one it writes is read; it keeps its managedFields.
func CacheByObject() map[client.Object]cache.ByObject {
	options := rollout.CacheByObject()
	options[&corev1.ConfigMap{}] = cache.ByObject{
		Namespaces: map[string]cache.Config{hubconfig.Namespace: {
			FieldSelector: fields.OneTermEqualSelector("metadata.name", hubconfig.Name),
		}},
	}
	options[&v1alpha1.EdgeHubPolicy{}] = cache.ByObject{Transform: cache.TransformStripManagedFields()}
	return options
}

// SetupWithManager registers the controller with manager, whose cache needs the
// options of CacheByObject. maxQuota is the largest quota of a policy.
func SetupWithManager(manager ctrl.Manager, maxQuota resource.Quantity) error {
	if maxQuota.Cmp(MinQuota) < 0 {
		return fmt.Errorf("the largest quota of a policy is %s, it must be at least %s", maxQuota.String(), MinQuota.String())
	}
	reconciler := NewReconciler(manager.GetClient(), manager.GetAPIReader(), manager.GetEventRecorder("edge-hub-operator"), time.Now, maxQuota)
	enqueue := enqueuer{reader: manager.GetClient()}
	return ctrl.NewControllerManagedBy(manager).
		Named("edgehubpolicy").
		For(&v1alpha1.EdgeHubPolicy{}).
		Watches(&v1alpha1.EdgeHubPolicy{}, handler.EnqueueRequestsFromMapFunc(enqueue.rivals), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&corev1.ConfigMap{}, handler.EnqueueRequestsFromMapFunc(enqueue.everyPolicy)).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(enqueue.policiesOfPod), onChange(rollout.PodChanged)).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(enqueue.policiesWithPods), onChange(rollout.NodeChanged)).
		WithOptions(controller.Options{
			// The Restarter and the ConfigMap are for one at a time.
			MaxConcurrentReconciles: 1,
			ReconciliationTimeout:   reconcileTimeout,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
			EnableWarmup:            ptr.To(true),
		}).
		Complete(reconciler)
}

// onChange lets creations and deletions pass, and updates for which changed is
// true.
func onChange[T client.Object](changed func(before, after T) bool) builder.WatchesOption {
	return builder.WithPredicates(predicate.Funcs{
		UpdateFunc: func(update event.UpdateEvent) bool {
			before, ok := update.ObjectOld.(T)
			after, ok2 := update.ObjectNew.(T)
			return !ok || !ok2 || changed(before, after)
		},
	})
}

// enqueuer finds the policies an object matters to.
type enqueuer struct{ reader client.Reader }

// everyPolicy also returns a request that names the ConfigMap: the agents of the
// last policy have to leave when there is no policy any more.
func (e enqueuer) everyPolicy(ctx context.Context, _ client.Object) []reconcile.Request {
	requests := e.requests(ctx, func(*v1alpha1.EdgeHubPolicy) bool { return true })
	return append(requests, reconcile.Request{NamespacedName: configMapKey})
}

// rivals returns the policies of the same namespace that name an agent of one:
// they may differ now, or no longer, though the ConfigMap stays as it is.
func (e enqueuer) rivals(ctx context.Context, object client.Object) []reconcile.Request {
	changed, ok := object.(*v1alpha1.EdgeHubPolicy)
	if !ok {
		return nil
	}
	return e.requests(ctx, func(policy *v1alpha1.EdgeHubPolicy) bool {
		return slices.ContainsFunc(policy.Spec.CacheAgents, func(agent string) bool { return slices.Contains(changed.Spec.CacheAgents, agent) })
	}, client.InNamespace(changed.Namespace))
}

func (e enqueuer) policiesOfPod(ctx context.Context, pod client.Object) []reconcile.Request {
	return e.requests(ctx, func(policy *v1alpha1.EdgeHubPolicy) bool {
		selector, err := policy.Spec.PodSelector.AsSelector()
		return err == nil && selector.Matches(labels.Set(pod.GetLabels()))
	}, client.InNamespace(pod.GetNamespace()))
}

func (e enqueuer) policiesWithPods(ctx context.Context, _ client.Object) []reconcile.Request {
	return e.requests(ctx, func(policy *v1alpha1.EdgeHubPolicy) bool { return policy.Spec.PodSelector != nil })
}

func (e enqueuer) requests(ctx context.Context, wanted func(*v1alpha1.EdgeHubPolicy) bool, options ...client.ListOption) []reconcile.Request {
	var policies v1alpha1.EdgeHubPolicyList
	if err := e.reader.List(ctx, &policies, append(options, client.UnsafeDisableDeepCopy)...); err != nil {
		log.FromContext(ctx).Error(err, "List EdgeHubPolicies")
		return nil
	}
	var requests []reconcile.Request
	for i := range policies.Items {
		if policy := &policies.Items[i]; wanted(policy) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(policy)})
		}
	}
	return requests
}
