package integration

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/edgehub-io/edge-hub/test/hub"
)

const (
	hubHost = "169.254.2.1"
	hubPort = 10268
)

// mediaTypes are those in which clients read.
var mediaTypes = []string{"application/json", "application/vnd.kubernetes.protobuf"}

// newNodeWorld is a world with what a node's programs read: Pods that say
// themselves where kube-apiserver is, kube-proxy's configuration, and the
// kubernetes Service's endpoints, which this kube-apiserver does not write.
func newNodeWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, "--pod-endpoint=169.254.2.1:10268")
	ctx := w.Context()
	pod := podOf("explicit")
	env := []corev1.EnvVar{{Name: "KUBERNETES_SERVICE_HOST", Value: "apiserver.example.com"}, {Name: "KUBERNETES_SERVICE_PORT", Value: "443"}, {Name: "OTHER", Value: "stays"}}
	pod.Spec.Containers[0].Env = env
	pod.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "app", Env: env}}
	for _, p := range []*corev1.Pod{pod, podOf("plain")} {
		_, err := w.client.CoreV1().Pods(namespace).Create(ctx, p, metav1.CreateOptions{})
		w.Expect(err).NotTo(HaveOccurred())
	}
	port, name, yes, protocol := int32(6443), "https", true, corev1.ProtocolTCP
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.1.2.3"}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}}},
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
	_, err := w.client.DiscoveryV1().EndpointSlices("default").Create(ctx, slice, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	w.grant("proxies", rbacv1.PolicyRule{APIGroups: []string{"", "discovery.k8s.io"}, Resources: []string{"services", "endpointslices"}, Verbs: []string{"get", "list", "watch"}},
		rbacv1.Subject{Kind: "ServiceAccount", Namespace: namespace, Name: app})
	w.proxyConfig()
	return w
}

// proxyConfig makes kube-proxy's ConfigMap, and the Pod that lets the node read it.
func (w *world) proxyConfig() {
	w.Helper()
	_, err := w.client.CoreV1().ConfigMaps("kube-system").Create(w.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-proxy"},
		Data:       map[string]string{"kubeconfig.conf": "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    server: https://10.1.2.3:6443\n  name: default\n"},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	_, err = w.client.CoreV1().ServiceAccounts("kube-system").Create(w.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: app}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	pod := podOf("kube-proxy")
	pod.Spec.Volumes = []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-proxy"}}}}}
	_, err = w.client.CoreV1().Pods("kube-system").Create(w.Context(), pod, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
}

// kubelet is a client that proves to be the node's kubelet.
func (w *world) kubelet(mediaType string) kubernetes.Interface {
	w.Helper()
	config, err := w.cluster.RESTConfigFor("system:node:"+hub.NodeName, "system:nodes")
	w.Expect(err).NotTo(HaveOccurred())
	config.Host, config.UserAgent, config.ContentType = w.hub.URL(), "kubelet/v1.37.2 (linux/amd64) kubernetes/0", mediaType
	config.QPS = -1
	return kubernetes.NewForConfigOrDie(config)
}

// kubeProxy is a client that is a Pod's kube-proxy.
func (w *world) kubeProxy(mediaType string) kubernetes.Interface {
	w.Helper()
	config := rest.AnonymousClientConfig(w.cluster.RESTConfig())
	config.Host, config.UserAgent, config.ContentType, config.BearerToken = w.hub.URL(), "kube-proxy/v1.37.2", mediaType, w.token
	return kubernetes.NewForConfigOrDie(config)
}

// informer runs an informer with client-go's defaults until the test ends, or end
// is called.
func (w *world) informer(client kubernetes.Interface, tweak func(*metav1.ListOptions), of func(informers.SharedInformerFactory) cache.SharedIndexInformer) (i cache.SharedIndexInformer, end func()) {
	w.Helper()
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(tweak))
	i = of(factory)
	ctx, cancel := context.WithCancel(w.Context())
	end = func() { cancel(); factory.Shutdown() }
	w.Cleanup(end)
	factory.Start(ctx.Done())
	w.Eventually(i.HasSynced).WithTimeout(60 * time.Second).Should(BeTrue())
	return i, end
}

func all(*metav1.ListOptions) {}

func ofNode(o *metav1.ListOptions) { o.FieldSelector = "spec.nodeName=" + hub.NodeName }

// expectNodesView checks what the node's kubelet and kube-proxy see, by informer,
// list and get.
func (w *world) expectNodesView(mediaType string) {
	w.Helper()
	kubelet, proxy := w.kubelet(mediaType), w.kubeProxy(mediaType)
	ctx := w.Context()
	expectService := func(s *corev1.Service) {
		w.Helper()
		w.Expect(s.Spec.ClusterIP).To(Equal(hubHost))
		w.Expect(s.Spec.Ports[0].Port).To(BeEquivalentTo(hubPort))
	}
	expectPod := func(p *corev1.Pod) {
		w.Helper()
		for _, c := range append(p.Spec.Containers, p.Spec.InitContainers...) {
			w.Expect(c.Env).To(Equal([]corev1.EnvVar{{Name: "KUBERNETES_SERVICE_HOST", Value: hubHost}, {Name: "KUBERNETES_SERVICE_PORT", Value: "10268"}, {Name: "OTHER", Value: "stays"}}))
		}
		w.Expect(p.Spec.InitContainers).To(HaveLen(1))
	}
	services, endServices := w.informer(kubelet, all, func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
		return f.Core().V1().Services().Informer()
	})
	pods, endPods := w.informer(kubelet, ofNode, func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
		return f.Core().V1().Pods().Informer()
	})
	slices, endSlices := w.informer(proxy, all, func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
		return f.Discovery().V1().EndpointSlices().Informer()
	})
	defer func() { endServices(); endPods(); endSlices() }()

	object := func(i cache.SharedIndexInformer, key string) any {
		w.Helper()
		o, ok, err := i.GetStore().GetByKey(key)
		w.Expect(err).NotTo(HaveOccurred())
		w.Expect(ok).To(BeTrue(), key)
		return o
	}
	expectService(object(services, "default/kubernetes").(*corev1.Service))
	expectPod(object(pods, namespace+"/explicit").(*corev1.Pod))
	w.Expect(object(pods, namespace+"/plain").(*corev1.Pod).Spec.Containers[0].Env).To(BeEmpty())
	slice := object(slices, "default/kubernetes").(*discoveryv1.EndpointSlice)
	w.Expect(slice.Endpoints).To(HaveLen(1))
	w.Expect(slice.Endpoints[0].Addresses).To(Equal([]string{hubHost}))
	w.Expect(*slice.Ports[0].Port).To(BeEquivalentTo(hubPort))

	list, err := kubelet.CoreV1().Services("").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(list.Items).To(HaveLen(1))
	expectService(&list.Items[0])
	podList, err := kubelet.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + hub.NodeName})
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(podList.Items).To(HaveLen(3))
	pod, err := kubelet.CoreV1().Pods(namespace).Get(ctx, "explicit", metav1.GetOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	expectPod(pod)
	config, err := kubelet.CoreV1().ConfigMaps("kube-system").Get(ctx, "kube-proxy", metav1.GetOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(config.Data["kubeconfig.conf"]).To(ContainSubstring("server: https://169.254.2.1:10268\n"))

	// kube-proxy keeps the Service's own address: that is what it leads to the hub.
	service, err := proxy.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(service.Spec.ClusterIP).NotTo(Equal(hubHost))
}

// TestTheNodeSeesTheHubAsTheKubernetesService, live and from the cache, and only
// the node does.
func TestTheNodeSeesTheHubAsTheKubernetesService(t *testing.T) {
	w := newNodeWorld(t)
	w.Eventually(func() error {
		_, err := w.kubelet("application/json").CoreV1().ConfigMaps("kube-system").Get(w.Context(), "kube-proxy", metav1.GetOptions{})
		return err
	}).WithTimeout(60 * time.Second).Should(Succeed()) // the node authorizer has to hear of the Pod
	for _, mediaType := range mediaTypes {
		w.expectNodesView(mediaType)
	}

	// Others see what is.
	real, err := w.client.CoreV1().Services("default").Get(w.Context(), "kubernetes", metav1.GetOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(real.Spec.ClusterIP).NotTo(Equal(hubHost))
	for _, agent := range []string{userAgent, "kubelet/v1.37.2", "coredns/1"} {
		resp := w.viaHub(hub.Request{Path: "/api/v1/namespaces/default/services/kubernetes", Token: w.token, UserAgent: agent})
		w.Expect(resp.Code).To(Equal(http.StatusOK))
		var seen corev1.Service
		w.Expect(json.Unmarshal(resp.Body, &seen)).To(Succeed())
		w.Expect(seen.Spec).To(Equal(real.Spec), agent)
	}
	w.expectCachedAsReceived(real.Spec.ClusterIP)

	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	w.awaitCloud(false)
	for _, mediaType := range mediaTypes {
		w.expectNodesView(mediaType)
	}
	w.expectCachedAsReceived(real.Spec.ClusterIP)
}

// expectCachedAsReceived looks into the kubelet's cache, where nothing is
// rewritten.
func (w *world) expectCachedAsReceived(clusterIP string) {
	w.Helper()
	found := func() string { return w.everyFile(filepath.Join(w.hub.CacheDir(), "kubelet")) }
	w.Eventually(found).WithTimeout(30 * time.Second).Should(ContainSubstring(`"clusterIP":"` + clusterIP + `"`))
	w.Expect(found()).NotTo(ContainSubstring(hubHost))
}

// everyFile returns what the files below a directory hold.
func (w *world) everyFile(dir string) string {
	w.Helper()
	var b strings.Builder
	_ = filepath.WalkDir(dir, func(path string, _ os.DirEntry, _ error) error {
		text, _ := os.ReadFile(path)
		b.Write(text)
		return nil
	})
	w.Expect(b.Len()).NotTo(BeZero())
	return b.String()
}

// TestWhatTheKubeletWritesOfAPodIsItsStatus: none of what was rewritten for it
// reaches kube-apiserver, neither by the patch that it sends nor by an update, which
// kube-apiserver would refuse to let change a spec.
func TestWhatTheKubeletWritesOfAPodIsItsStatus(t *testing.T) {
	w := newNodeWorld(t)
	kubelet := w.kubelet("application/vnd.kubernetes.protobuf")
	ctx := w.Context()
	var seen *corev1.Pod
	w.Eventually(func() (err error) {
		seen, err = kubelet.CoreV1().Pods(namespace).Get(ctx, "explicit", metav1.GetOptions{})
		return err
	}).WithTimeout(60 * time.Second).Should(Succeed())
	// As k8s.io/kubernetes/pkg/util/pod PatchPodStatus makes it: of uid and status.
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": seen.UID},
		"status":   map[string]any{"phase": "Running", "podIP": "10.244.0.7", "podIPs": []map[string]string{{"ip": "10.244.0.7"}}},
	})
	w.Expect(err).NotTo(HaveOccurred())
	_, err = kubelet.CoreV1().Pods(namespace).Patch(ctx, "explicit", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	w.Expect(err).NotTo(HaveOccurred())
	seen.ResourceVersion = "" // whatever came in between
	seen.Status.PodIP, seen.Status.PodIPs = "10.244.0.8", []corev1.PodIP{{IP: "10.244.0.8"}}
	_, err = kubelet.CoreV1().Pods(namespace).UpdateStatus(ctx, seen, metav1.UpdateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	_, err = kubelet.CoreV1().Pods(namespace).Update(ctx, seen, metav1.UpdateOptions{})
	w.Expect(apierrors.IsForbidden(err) || apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)

	is, err := w.client.CoreV1().Pods(namespace).Get(ctx, "explicit", metav1.GetOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(is.Status.PodIP).To(Equal("10.244.0.8"))
	for _, c := range append(is.Spec.Containers, is.Spec.InitContainers...) {
		w.Expect(c.Env[0].Value).To(Equal("apiserver.example.com"))
	}
}
