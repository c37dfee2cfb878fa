package integration

import (
	"context"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/edgehub-io/edge-hub/test/hub"
)

// program is a business program: client-go's defaults, nothing else.
type program struct {
	configMaps cache.SharedIndexInformer
	factory    informers.SharedInformerFactory
	stop       context.CancelFunc
}

func (w *world) program(token string, jsonOnly bool) *program {
	w.Helper()
	config := w.programConfig(token)
	if jsonOnly {
		config.ContentType = "application/json"
	}
	client, err := kubernetes.NewForConfig(config)
	w.Expect(err).NotTo(HaveOccurred())
	p := &program{factory: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))}
	p.configMaps = p.factory.Core().V1().ConfigMaps().Informer()
	var ctx context.Context
	ctx, p.stop = context.WithCancel(w.Context())
	w.Cleanup(p.end)
	p.factory.Start(ctx.Done())
	return p
}

// end stops the program and waits until it has.
func (p *program) end() {
	p.stop()
	p.factory.Shutdown()
}

func (p *program) value(name string) string {
	obj, ok, err := p.configMaps.GetStore().GetByKey(namespace + "/" + name)
	if err != nil || !ok {
		return ""
	}
	return obj.(*corev1.ConfigMap).Data["key"]
}

func (w *world) setValue(name, value string) {
	w.Helper()
	cm, err := w.client.CoreV1().ConfigMaps(namespace).Get(w.Context(), name, metav1.GetOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	cm.Data["key"] = value
	_, err = w.client.CoreV1().ConfigMaps(namespace).Update(w.Context(), cm, metav1.UpdateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
}

// TestInformerStartsOfflineAndFollowsLiveAgain: client-go's informer with its
// defaults (WatchList, protobuf), and with JSON.
func TestInformerStartsOfflineAndFollowsLiveAgain(t *testing.T) {
	for name, jsonOnly := range map[string]bool{"protobuf": false, "json": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			first := w.program(w.token, jsonOnly)
			w.Eventually(first.configMaps.HasSynced).WithTimeout(time.Minute).Should(BeTrue())
			w.setValue("cm-1", "changed")
			w.Expect(w.client.CoreV1().ConfigMaps(namespace).Delete(w.Context(), "cm-4", metav1.DeleteOptions{})).To(Succeed())
			w.configMap("cm-5", nil, "new")
			w.Eventually(func() string { return first.value("cm-5") }).WithTimeout(time.Minute).Should(Equal("new"))

			w.Expect(w.cluster.KillAPIServer()).To(Succeed())
			first.end()

			// The restarted Pod has a new token of the same ServiceAccount.
			second := w.program(w.fresh, jsonOnly)
			w.Eventually(second.configMaps.HasSynced).WithTimeout(time.Minute).Should(BeTrue())
			w.Expect(second.configMaps.GetStore().ListKeys()).To(ConsistOf("shop/cm-0", "shop/cm-1", "shop/cm-2", "shop/cm-3", "shop/cm-5"))
			w.Expect(second.value("cm-1")).To(Equal("changed"))

			w.Expect(w.cluster.RestartAPIServer(w.Context())).To(Succeed())
			w.setValue("cm-2", "live again")
			w.Eventually(func() string { return second.value("cm-2") }).WithTimeout(30 * time.Second).Should(Equal("live again"))

			// What came after the return is cached as well.
			w.Expect(w.cluster.KillAPIServer()).To(Succeed())
			second.end()
			third := w.program(w.token, jsonOnly)
			w.Eventually(third.configMaps.HasSynced).WithTimeout(time.Minute).Should(BeTrue())
			w.Expect(third.value("cm-2")).To(Equal("live again"))
			w.Expect(third.value("cm-5")).To(Equal("new"))
		})
	}
}

// TestInformerStartsOfflineAfterTheHubWasKilled: the node restarts without the
// cloud, hub included.
func TestInformerStartsOfflineAfterTheHubWasKilled(t *testing.T) {
	w := newWorld(t)
	first := w.program(w.token, false)
	w.Eventually(first.configMaps.HasSynced).WithTimeout(time.Minute).Should(BeTrue())
	w.setValue("cm-1", "changed")
	w.Eventually(func() string { return first.value("cm-1") }).WithTimeout(time.Minute).Should(Equal("changed"))
	time.Sleep(time.Second) // what was delivered longer ago must survive
	w.Expect(w.hub.Kill()).To(Succeed())
	first.end()
	w.Expect(w.cluster.Kill()).To(Succeed())

	w.Expect(w.hub.Start(w.Context())).To(Succeed())
	second := w.program(w.fresh, false)
	w.Eventually(second.configMaps.HasSynced).WithTimeout(time.Minute).Should(BeTrue())
	w.Expect(second.value("cm-1")).To(Equal("changed"))
	w.Expect(second.configMaps.GetStore().List()).To(HaveLen(5))

	// No other identity gets in by the same door.
	stranger := w.viaHub(hub.Request{Path: "/api/v1/namespaces/shop/configmaps", Token: w.other})
	w.Expect(stranger.Code).To(Equal(403), "%s", stranger.Body)
}

// TestSelectorsAreEvaluatedOnABroaderView: what a list with a selector would
// answer is found in the list without one.
func TestSelectorsAreEvaluatedOnABroaderView(t *testing.T) {
	w := newWorld(t)
	all := w.viaHub(hub.Request{Path: "/api/v1/configmaps", Token: w.token})
	w.Expect(all.Code).To(Equal(200))
	selections := []string{
		"/api/v1/namespaces/shop/configmaps?labelSelector=tier%3Dfront",
		"/api/v1/namespaces/shop/configmaps?labelSelector=tier+in+%28front%2Cback%29%2C%21other",
		"/api/v1/namespaces/shop/configmaps?fieldSelector=metadata.name%21%3Dcm-2",
		"/api/v1/configmaps?fieldSelector=metadata.namespace%3Dshop%2Cmetadata.name%3Dcm-3",
		"/api/v1/namespaces/shop/configmaps?labelSelector=nobody%3Dhere",
	}
	online := map[string]string{}
	for _, path := range selections {
		online[path] = string(w.direct(hub.Request{Path: path, Token: w.token}).Body)
	}
	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	for _, path := range selections {
		offline := w.viaHub(hub.Request{Path: path, Token: w.token})
		w.Expect(offline.Code).To(Equal(200), "%s: %s", path, offline.Body)
		w.Expect(normalize(w, offline.Body)).To(Equal(normalize(w, []byte(online[path]))), path)
	}
	missing := w.viaHub(hub.Request{Path: "/api/v1/namespaces/shop/configmaps/none", Token: w.token})
	w.Expect(missing.Code).To(Equal(404), "a complete list proves absence")
	found := w.viaHub(hub.Request{Path: "/api/v1/namespaces/shop/configmaps/cm-1", Token: w.token})
	w.Expect(found.Code).To(Equal(200), "an object that was never fetched alone is in the list")
	unknown := w.viaHub(hub.Request{Path: "/api/v1/namespaces/shop/secrets", Token: w.token})
	w.Expect(unknown.Code).To(Equal(503))
	w.Expect(unknown.Header.Get("Retry-After")).NotTo(BeEmpty())
	w.Expect(string(unknown.Body)).To(ContainSubstring("not cached"))
}
