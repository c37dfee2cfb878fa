package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// run prints until ctx ends, or with once until everything was printed once.
func run(ctx context.Context, o options) error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	if o.server != "" {
		config.Host = o.server
	}
	namespace, err := os.ReadFile(namespaceFile)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	a := &app{client: client, namespace: strings.TrimSpace(string(namespace)), out: os.Stdout}

	start := ctx
	if o.timeout > 0 {
		var cancel context.CancelFunc
		start, cancel = context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("not synced within %s", o.timeout))
		defer cancel()
	}
	if o.config != "" {
		if err := a.printConfig(start, o.config); err != nil {
			return err
		}
	}
	return a.watch(ctx, start, o)
}

// An app prints the ConfigMaps and Services of one namespace.
type app struct {
	client    kubernetes.Interface
	namespace string

	mu  sync.Mutex // informers call from goroutines of their own
	out io.Writer
}

func (a *app) printf(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fmt.Fprintf(a.out, format+"\n", args...)
}

func (a *app) printConfig(ctx context.Context, name string) error {
	cm, err := a.client.CoreV1().ConfigMaps(a.namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	a.printf("get %s", describe(cm))
	return nil
}

// watch prints each change until ctx ends. The first reading must be done
// before start ends; with o.once, watch returns after it.
func (a *app) watch(ctx, start context.Context, o options) error {
	ctx, cancel := context.WithCancel(ctx)
	factory := informers.NewSharedInformerFactoryWithOptions(a.client, 0, informers.WithNamespace(a.namespace))
	defer factory.Shutdown()
	defer cancel()

	configMaps := factory.Core().V1().ConfigMaps().Informer()
	services := factory.Core().V1().Services().Informer()
	var handled []cache.InformerSynced
	for _, informer := range []cache.SharedIndexInformer{configMaps, services} {
		registration, err := informer.AddEventHandler(a)
		if err != nil {
			return err
		}
		handled = append(handled, registration.HasSynced)
	}
	begin := time.Now()
	factory.Start(ctx.Done())
	// A registration has synced when the handler has been given the whole first list.
	if !cache.WaitForCacheSync(start.Done(), handled...) {
		return context.Cause(start)
	}
	a.printf("synced: %d configmaps, %d services in %s", len(configMaps.GetStore().ListKeys()),
		len(services.GetStore().ListKeys()), time.Since(begin).Round(time.Millisecond))
	if o.once {
		return nil
	}
	if o.readyz != "" {
		return serveReadyz(ctx, o.readyz)
	}
	<-ctx.Done()
	return ctx.Err()
}

// serveReadyz answers readiness probes until ctx ends.
func serveReadyz(ctx context.Context, address string) error {
	server := &http.Server{Addr: address, ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	return ctx.Err()
}

// OnAdd prints a new object.
func (a *app) OnAdd(object any, _ bool) { a.print(object, "added") }

// OnUpdate prints the new state of an object, if it is new: after a lost watch
// an informer reports objects that have not changed too.
func (a *app) OnUpdate(before, after any) {
	if before.(metav1.Object).GetResourceVersion() != after.(metav1.Object).GetResourceVersion() {
		a.print(after, "updated")
	}
}

// OnDelete prints an object's last known state.
func (a *app) OnDelete(object any) {
	if missed, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = missed.Obj
	}
	a.print(object, "deleted")
}

func (a *app) print(object any, what string) {
	if o, ok := object.(runtime.Object); ok {
		a.printf("%s (%s)", describe(o), what)
	}
}

// describe is one line: kind, namespace/name and content.
func describe(object runtime.Object) string {
	switch o := object.(type) {
	case *corev1.ConfigMap:
		words := []string{"configmap", o.Namespace + "/" + o.Name}
		for _, key := range slices.Sorted(maps.Keys(o.Data)) {
			words = append(words, key+"="+short(o.Data[key]))
		}
		return strings.Join(words, " ")
	case *corev1.Service:
		words := []string{"service", o.Namespace + "/" + o.Name, o.Spec.ClusterIP}
		for _, port := range o.Spec.Ports {
			words = append(words, fmt.Sprintf("%s:%d", port.Name, port.Port))
		}
		return strings.Join(words, " ")
	}
	return fmt.Sprintf("%T", object)
}

// short keeps a value on one line; certificates and files are ConfigMaps too.
func short(value string) string {
	line, _, more := strings.Cut(value, "\n")
	if runes := []rune(line); len(runes) > 60 {
		line, more = string(runes[:60]), true
	}
	if more {
		line += "..."
	}
	return line
}
