package oracle

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// namespaces are where namespaced objects are. "shop-eu" sorts before "shop" in
// etcd, where a namespace's name is followed by a slash.
var namespaces = []string{"shop", "shop-eu"}

// bulk is a namespace with a list large enough for kube-apiserver to compress.
const bulk = "bulk"

// cast are the objects that each resource has in each namespace, named after
// what becomes of them while programs watch.
var cast = []struct {
	name   string
	labels map[string]string
}{
	{"stays", map[string]string{"app": "web", "tier": "front"}},
	{"leaves", map[string]string{"app": "web"}}, // app becomes db
	{"enters", map[string]string{"app": "db"}},  // app becomes web
	{"gone", map[string]string{"app": "web"}},   // is deleted
	{"modified", map[string]string{"app": "web", "tier": "back"}},
	{"plain", nil},
	{"stays-2", map[string]string{"app": "web", "tier": "back"}},
	{"flap", map[string]string{"app": "web"}},   // app becomes db and web again
	{"reborn", map[string]string{"app": "web"}}, // is deleted and made again
	// "added" joins them later.
}

// shifts change fields that can be selected by, of the objects "modified" and
// "stays-2". The first part names the subresource.
var shifts = map[string][2]string{
	"configmaps":             {"", `{"data":{"key":"changed"}}`},
	"secrets":                {"", `{"data":{"tls.key":"AQ=="}}`},
	"pods":                   {"status", `{"status":{"phase":"Failed"}}`},
	"services":               {"", `{"spec":{"type":"NodePort","clusterIP":null}}`},
	"replicationcontrollers": {"status", `{"status":{"replicas":2}}`},
	"nodes":                  {"", `{"spec":{"unschedulable":true}}`},
	"replicasets":            {"status", `{"status":{"replicas":2}}`},
	"deployments":            {"status", `{"status":{"replicas":9,"readyReplicas":9}}`},
	"jobs":                   {"status", `{"status":{"succeeded":1,"startTime":"2020-01-01T00:00:00Z"}}`},
	"oxen":                   {"", `{"spec":{"colour":"red"}}`},
}

// lastChange is the annotation of the last write to a resource in a namespace.
const lastChange = "oracle/last"

// certificateRequest is a PKCS #10 request in PEM, in base64.
var certificateRequest = sync.OnceValue(func() string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "oracle"}}, key)
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
})()

// writer writes objects into the control plane.
type writer struct {
	client dynamic.Interface
}

func (w writer) in(r *resource, namespace string) dynamic.ResourceInterface {
	if r.clusterScope {
		return w.client.Resource(r.GroupVersionResource)
	}
	return w.client.Resource(r.GroupVersionResource).Namespace(namespace)
}

// create makes an object with its status.
func (w writer) create(ctx context.Context, r *resource, obj *unstructured.Unstructured) error {
	in := w.in(r, obj.GetNamespace())
	made, err := in.Create(ctx, obj, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create %s %s/%s: %w", r, obj.GetNamespace(), obj.GetName(), err)
	}
	if status, ok := obj.Object["status"]; ok {
		made.Object["status"] = status
		if _, err := in.UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("update the status of %s %s/%s: %w", r, obj.GetNamespace(), obj.GetName(), err)
		}
	}
	return nil
}

func (w writer) patch(ctx context.Context, r *resource, namespace, name, patch, subresource string) (*unstructured.Unstructured, error) {
	var subresources []string
	if subresource != "" {
		subresources = []string{subresource}
	}
	obj, err := w.in(r, namespace).Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, subresources...)
	if err != nil {
		return nil, fmt.Errorf("patch %s %s/%s with %s: %w", r, namespace, name, patch, err)
	}
	return obj, nil
}

func (w writer) relabel(ctx context.Context, r *resource, namespace, name, app string) error {
	_, err := w.patch(ctx, r, namespace, name, fmt.Sprintf(`{"metadata":{"labels":{"app":%q}}}`, app), "")
	return err
}

func (w writer) delete(ctx context.Context, r *resource, namespace, name string) error {
	immediately, background := int64(0), metav1.DeletePropagationBackground
	err := w.in(r, namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &immediately, PropagationPolicy: &background})
	if err == nil && r.Resource == "namespaces" {
		// No controller finalizes it.
		var obj *unstructured.Unstructured
		if obj, err = w.in(r, namespace).Get(ctx, name, metav1.GetOptions{}); err == nil {
			obj.Object["spec"] = map[string]any{}
			_, err = w.in(r, namespace).Update(ctx, obj, metav1.UpdateOptions{}, "finalize")
		}
	}
	if err != nil {
		return fmt.Errorf("delete %s %s/%s: %w", r, namespace, name, err)
	}
	return nil
}

// scopes are the namespaces that a resource has objects in.
func (r *resource) scopes() []string {
	if r.clusterScope {
		return []string{""}
	}
	return namespaces
}

// each does something for every resource that has objects of its own, at once.
func each(do func(r *resource) error) error {
	errs := make(chan error, len(resources))
	n := 0
	for _, r := range resources {
		if r.fill != nil {
			n++
			go func() { errs <- do(r) }()
		}
	}
	var first error
	for range n {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// seed makes the objects that are there before any program reads.
func (w writer) seed(ctx context.Context) error {
	for _, name := range append([]string{bulk}, namespaces...) {
		ns := resourceNamed("namespaces")
		if err := w.create(ctx, ns, ns.object("", name, nil, 0)); err != nil {
			return err
		}
		accounts := resourceNamed("serviceaccounts") // Pods need one
		if err := w.create(ctx, accounts, accounts.object(name, "default", nil, 1)); err != nil {
			return err
		}
	}
	for i := range 3 {
		cm := resourceNamed("configmaps").object(bulk, fmt.Sprintf("big-%d", i), map[string]string{"size": "big"}, i)
		cm.Object["data"] = map[string]any{"text": strings.Repeat("All work and no play. ", 60<<10/22)}
		if err := w.create(ctx, resourceNamed("configmaps"), cm); err != nil {
			return err
		}
	}
	return each(func(r *resource) error {
		for _, namespace := range r.scopes() {
			for i, c := range cast {
				if err := w.create(ctx, r, r.object(namespace, c.name, c.labels, i)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// change does to the objects what their names say. middle is told, for each
// resource, a resourceVersion between its changes, and last the one of its last.
func (w writer) change(ctx context.Context, done func(r *resource, middle, last string)) error {
	return each(func(r *resource) error {
		var middle, last string
		for _, namespace := range r.scopes() {
			m, l, err := w.changeIn(ctx, r, namespace)
			if err != nil {
				return err
			}
			if middle == "" {
				middle = m
			}
			last = l
		}
		done(r, middle, last)
		return nil
	})
}

func (w writer) changeIn(ctx context.Context, r *resource, namespace string) (middle, last string, err error) {
	web := map[string]string{"app": "web"}
	steps := []func() error{
		func() error { return w.create(ctx, r, r.object(namespace, "added", web, len(cast))) },
		func() error { return w.relabel(ctx, r, namespace, "leaves", "db") },
		func() error { return w.relabel(ctx, r, namespace, "enters", "web") },
		func() error { return w.shift(ctx, r, namespace, "modified") },
		func() error { return w.relabel(ctx, r, namespace, "flap", "db") },
		func() error {
			obj, err := w.patch(ctx, r, namespace, "plain", `{"metadata":{"annotations":{"oracle/middle":"true"}}}`, "")
			if err == nil {
				middle = obj.GetResourceVersion()
			}
			return err
		},
		func() error { return w.delete(ctx, r, namespace, "gone") },
		func() error { return w.relabel(ctx, r, namespace, "flap", "web") },
		func() error { return w.shift(ctx, r, namespace, "stays-2") },
		func() error { return w.delete(ctx, r, namespace, "reborn") },
		func() error { return w.create(ctx, r, r.object(namespace, "reborn", web, 2)) },
		func() error {
			obj, err := w.patch(ctx, r, namespace, "stays", `{"metadata":{"annotations":{"`+lastChange+`":"true"}}}`, "")
			if err == nil {
				last = obj.GetResourceVersion()
			}
			return err
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return "", "", err
		}
	}
	return middle, last, nil
}

func (w writer) shift(ctx context.Context, r *resource, namespace, name string) error {
	s, ok := shifts[r.Resource]
	if !ok {
		s = [2]string{"", `{"metadata":{"annotations":{"oracle/shifted":"true"}}}`}
	}
	if r.Resource == "services" && name == "stays-2" {
		s[1] = `{"spec":{"type":"ExternalName","externalName":"example.com","clusterIP":null,"clusterIPs":null,"ports":null}}`
		if namespace == "shop" {
			s[1] = `{"metadata":{"annotations":{"oracle/shifted":"true"}}}`
		}
	}
	_, err := w.patch(ctx, r, namespace, name, s[1], s[0])
	return err
}

// define makes the custom resource's definition.
func (w writer) define(ctx context.Context) error {
	if _, err := w.client.Resource(definitions).Create(ctx, oxen(), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("define oxen: %w", err)
	}
	return nil
}

// established reports whether the custom resource is served.
func (w writer) established(ctx context.Context) error {
	for _, version := range []string{"v1", "v1beta1"} {
		gvr := resourceNamed("oxen").GroupVersionResource
		gvr.Version = version
		if _, err := w.client.Resource(gvr).List(ctx, metav1.ListOptions{}); err != nil {
			return err
		}
	}
	return nil
}

func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}
