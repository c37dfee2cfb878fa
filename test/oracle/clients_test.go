package oracle

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/edgehub-io/edge-hub/test/hub"
)

// TestClientsStartOffline: the clients that people use start without the cloud
// as they do with it.
func TestClientsStartOffline(t *testing.T) {
	w := newWorld(t, []string{"kubectl", "informers", "controller"})
	w.Expect(w.writer.change(w.Context(), func(*resource, string, string) {})).To(Succeed())
	online := w.compareKubectl(w.kubectlAs(w.cluster.URL()), w.kubectlAs(w.hub.URL()))
	state := w.informerProcess()
	w.Expect(w.kubectlCalled("informers", w.hub.URL())("api-resources")).To(ContainSubstring("oxen")) // it discovers what there is
	var shown []string
	for direct := w.kubectlAs(w.cluster.URL()); len(shown) < len(informed); {
		shown = append(shown, direct(informed[len(shown)]))
	}
	w.startController()

	w.goOffline()
	t.Run("kubectl", func(t *testing.T) { w.at(t).compareKubectlOffline(online) })
	t.Run("discovery with another timeout", func(t *testing.T) {
		w := w.at(t)
		for _, path := range []string{"/api", "/apis"} {
			resp, err := hub.Do(w.Context(), w.http, w.hub.URL(), hub.Request{
				Path: path + "?timeout=7s", Token: w.token, UserAgent: "kubectl/v1",
				Accept: "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
			})
			w.Expect(err).NotTo(HaveOccurred())
			w.Expect(resp.Code).To(Equal(http.StatusOK), "%s: %s", path, resp.Body)
		}
	})
	t.Run("informers", func(t *testing.T) {
		w := w.at(t)
		w.Expect(w.informerProcess()).To(Equal(state))
	})
	t.Run("kubectl of what informers read", func(t *testing.T) { w.at(t).compareKubectlInformed("informers", shown) })
	t.Run("controller-runtime", func(t *testing.T) { w.at(t).startController() })
}

// at is the world in a subtest.
func (w *world) at(t *testing.T) *world {
	at := *w
	at.T, at.WithT = t, NewWithT(t)
	return &at
}

// informerEnv has the rest.Config, in JSON, that TestInformerProcess informs
// itself with.
const informerEnv = "ORACLE_INFORMER_CONFIG"

type informerConfig struct{ Host, Token, CAFile, Agent string }

// informerProcess runs informers of every kind in a process of their own: with
// KUBE_WATCHLIST_INCONSISTENCY_DETECTOR client-go compares what a WatchList gave
// with what a list gives, and panics if they differ. It returns what the
// informers hold, in JSON.
func (w *world) informerProcess() string {
	w.Helper()
	config, err := json.Marshal(informerConfig{w.hub.URL(), w.token, w.hub.CAFile, "informers"})
	w.Expect(err).NotTo(HaveOccurred())
	cmd := exec.CommandContext(w.within(90*time.Second), os.Args[0], "-test.run=^TestInformerProcess$", "-test.v")
	cmd.Env = append(os.Environ(), informerEnv+"="+string(config), "KUBE_WATCHLIST_INCONSISTENCY_DETECTOR=true")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	w.Expect(err).NotTo(HaveOccurred(), "%s%s", out, stderr.String())
	w.Expect(stderr.String()).To(ContainSubstring("data consistency check is enabled"))
	_, state, found := strings.Cut(string(out), informedMark)
	w.Expect(found).To(BeTrue(), "%s%s", out, stderr.String())
	state, _, _ = strings.Cut(state, "\n")
	return state
}

const informedMark = "informed: "

// TestInformerProcess is the process that informerProcess starts.
func TestInformerProcess(t *testing.T) {
	text := os.Getenv(informerEnv)
	if text == "" {
		t.Skip("started by TestClientsStartOffline")
	}
	var c informerConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	config := &rest.Config{
		Host: c.Host, BearerToken: c.Token, UserAgent: c.Agent + "/1.0", QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAFile: c.CAFile},
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	typed := informers.NewSharedInformerFactory(kubernetes.NewForConfigOrDie(config), 0)
	custom := dynamicinformer.NewDynamicSharedInformerFactory(dynamic.NewForConfigOrDie(config), 0)
	partial := metadatainformer.NewSharedInformerFactory(metadata.NewForConfigOrDie(config), 0)
	all := map[string]cache.SharedIndexInformer{}
	for _, r := range resources {
		if !r.custom {
			i, err := typed.ForResource(r.GroupVersionResource)
			if err != nil {
				t.Fatal(err)
			}
			all["typed "+r.Resource] = i.Informer()
		} else {
			all["dynamic "+r.Resource+"."+r.Version] = custom.ForResource(r.GroupVersionResource).Informer()
		}
		if r.custom || r.Resource == "pods" || r.Resource == "nodes" {
			all["metadata "+r.Resource+"."+r.Version] = partial.ForResource(r.GroupVersionResource).Informer()
		}
	}
	typed.Start(ctx.Done())
	custom.Start(ctx.Done())
	partial.Start(ctx.Done())
	state := map[string][]string{}
	for name, i := range all {
		if !cache.WaitForCacheSync(ctx.Done(), i.HasSynced) {
			t.Fatalf("%s does not sync", name)
		}
		for _, obj := range i.GetStore().List() {
			m, err := meta.Accessor(obj)
			if err != nil {
				t.Fatal(err)
			}
			state[name] = append(state[name], m.GetNamespace()+"/"+m.GetName()+"@"+m.GetResourceVersion())
		}
		slices.Sort(state[name])
	}
	cancel()
	typed.Shutdown()
	custom.Shutdown()
	partial.Shutdown()
	fmt.Println(informedMark + jsonText(state))
}

// startController starts what a program built with controller-runtime starts:
// a RESTMapper, a client and a cache, over built-in kinds and a custom one.
func (w *world) startController() {
	w.Helper()
	ctrllog.SetLogger(logr.Discard())
	config := w.config("controller")
	httpClient, err := rest.HTTPClientFor(config)
	w.Expect(err).NotTo(HaveOccurred())
	mapper, err := apiutil.NewDynamicRESTMapper(config, httpClient)
	w.Expect(err).NotTo(HaveOccurred())
	ox := schema.GroupVersionKind{Group: "farm.example.com", Version: "v1", Kind: "Ox"}
	mapping, err := mapper.RESTMapping(ox.GroupKind(), ox.Version)
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(mapping.Resource.Resource).To(Equal("oxen"))
	w.Expect(mapping.Scope.Name()).To(Equal(meta.RESTScopeNameNamespace))

	objects, err := ctrlcache.New(config, ctrlcache.Options{HTTPClient: httpClient, Mapper: mapper})
	w.Expect(err).NotTo(HaveOccurred())
	c, err := client.New(config, client.Options{HTTPClient: httpClient, Mapper: mapper, Cache: &client.CacheOptions{Reader: objects, Unstructured: true}})
	w.Expect(err).NotTo(HaveOccurred())
	ctx, cancel := context.WithTimeout(w.Context(), 30*time.Second)
	ended := make(chan error, 1)
	go func() { ended <- objects.Start(ctx) }()
	w.Expect(objects.WaitForCacheSync(ctx)).To(BeTrue())
	defer func() {
		cancel()
		w.Expect(<-ended).To(Succeed())
	}()

	bull := &unstructured.Unstructured{}
	bull.SetGroupVersionKind(ox)
	w.Expect(c.Get(ctx, client.ObjectKey{Namespace: "shop", Name: "stays"}, bull)).To(Succeed())
	w.Expect(bull.GetAnnotations()).To(HaveKey(lastChange))
	herd := &unstructured.UnstructuredList{}
	herd.SetGroupVersionKind(ox)
	w.Expect(c.List(ctx, herd, client.MatchingLabels{"app": "db"})).To(Succeed())
	w.Expect(herd.Items).To(HaveLen(len(namespaces)))
	var deployments appsv1.DeploymentList
	w.Expect(c.List(ctx, &deployments, client.InNamespace("shop-eu"))).To(Succeed())
	w.Expect(deployments.Items).To(HaveLen(len(cast))) // one gone, one added
	w.Expect(apierrors.IsNotFound(c.Get(ctx, client.ObjectKey{Namespace: "shop", Name: "gone"}, &corev1.ConfigMap{}))).To(BeTrue())
}
