package fleet

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

const (
	// workers mark EdgeHubNodes at the same time: a link that is lost takes many
	// nodes along.
	workers = 4
	// reconcileTimeout bounds one call of Reconcile.
	reconcileTimeout = 30 * time.Second
	// Failed requests are retried after firstRetry, which doubles up to lastRetry.
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Minute
)

// SetupWithManager registers the controller with manager, whose cache needs the
// options of CacheByObject. configurations are those that have been in force.
func SetupWithManager(manager ctrl.Manager, configurations *Configurations) error {
	return ctrl.NewControllerManagedBy(manager).
		Named("edgehubnode").
		For(&v1alpha1.EdgeHubNode{}, builder.WithPredicates(predicate.Funcs{
			DeleteFunc: func(event.DeleteEvent) bool { return false },
		})).
		// The hub of a Node has its name.
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, node client.Object) []reconcile.Request {
			return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: node.GetName()}}}
		}), builder.WithPredicates(predicate.Funcs{
			UpdateFunc: func(update event.UpdateEvent) bool {
				before, ok := update.ObjectOld.(*corev1.Node)
				after, ok2 := update.ObjectNew.(*corev1.Node)
				return !ok || !ok2 || NodeChanged(before, after)
			},
		})).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			ReconciliationTimeout:   reconcileTimeout,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
			EnableWarmup:            ptr.To(true),
		}).
		Complete(NewReconciler(manager.GetClient(), configurations, manager.GetEventRecorder("edge-hub-operator"), time.Now))
}
