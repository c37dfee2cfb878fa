// Command controller-app stands for a controller that runs at the edge: a
// controller-runtime manager with its defaults that reconciles a custom resource,
// Machine, and prints what it reconciles. It knows nothing of edge-hub.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// machine is the resource of test/e2e's CustomResourceDefinition.
var machine = schema.GroupVersionKind{Group: "e2e.edgehub.io", Version: "v1", Kind: "Machine"}

func main() {
	if err := run(ctrl.SetupSignalHandler()); err != nil {
		fmt.Fprintln(os.Stderr, "controller-app:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	ctrl.SetLogger(klog.Background())
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	namespace := os.Getenv("POD_NAMESPACE")
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Metrics:                server.Options{BindAddress: "0"},
		HealthProbeBindAddress: ":8080",
		Cache:                  cache.Options{DefaultNamespaces: map[string]cache.Config{namespace: {}}},
	})
	if err != nil {
		return err
	}
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(machine)
	if err := ctrl.NewControllerManagedBy(mgr).Named("machine").For(object).Complete(&reconciler{mgr.GetClient()}); err != nil {
		return err
	}
	if err := mgr.AddReadyzCheck("synced", synced(mgr.GetCache(), object)); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

// synced fails until all Machines are known. A cache that is synced need not know of any:
// it is before anything has asked it for an informer.
func synced(informers cache.Cache, object client.Object) healthz.Checker {
	return func(req *http.Request) error {
		informer, err := informers.GetInformer(req.Context(), object, cache.BlockUntilSynced(false))
		if err != nil {
			return err
		}
		if !informer.HasSynced() {
			return errors.New("not synced")
		}
		return nil
	}
}

type reconciler struct{ client client.Client }

// Reconcile prints what a Machine is to do.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(machine)
	if err := r.client.Get(ctx, req.NamespacedName, object); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	speed, _, err := unstructured.NestedInt64(object.Object, "spec", "speed")
	if err != nil {
		return ctrl.Result{}, err
	}
	fmt.Printf("reconciled: %s speed=%d\n", req, speed)
	return ctrl.Result{}, nil
}
