package certificates

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const (
	// reconcileTimeout bounds one call of Reconcile.
	reconcileTimeout = 30 * time.Second
	// Failed requests are retried after firstRetry, which doubles up to lastRetry.
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Minute
	// concurrency lets a fleet that starts at once be served in time.
	concurrency = 4
)

// CacheByObject returns the cache options of the kind the controller reads.
func CacheByObject() map[client.Object]cache.ByObject {
	return map[client.Object]cache.ByObject{
		&certificatesv1.CertificateSigningRequest{}: {Transform: cache.TransformStripManagedFields()},
	}
}

// SetupWithManager registers the controller with manager, whose cache needs the
// options of CacheByObject. clusterDomain is that of the cluster's DNS.
func SetupWithManager(manager ctrl.Manager, clusterDomain string) error {
	reconciler := NewReconciler(manager.GetClient(), manager.GetAPIReader(), manager.GetEventRecorder("edge-hub-operator"), clusterDomain, time.Now)
	return ctrl.NewControllerManagedBy(manager).
		Named("certificatesigningrequest").
		For(&certificatesv1.CertificateSigningRequest{}, builder.WithPredicates(predicate.NewPredicateFuncs(func(object client.Object) bool {
			csr, ok := object.(*certificatesv1.CertificateSigningRequest)
			return ok && !decided(csr)
		}))).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: concurrency,
			ReconciliationTimeout:   reconcileTimeout,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
			EnableWarmup:            ptr.To(true),
		}).
		Complete(reconciler)
}
