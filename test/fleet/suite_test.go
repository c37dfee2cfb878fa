// Package fleet tells what the cloud sees of hubs, with real hubs, kube-apiserver,
// config/default and kubectl.
package fleet

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/hubidentity"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/hub"
)

const (
	app        = "edge-app"
	namespace  = "shop"
	configMaps = "/api/v1/namespaces/" + namespace + "/configmaps"
)

func TestMain(m *testing.M) {
	code := m.Run()
	hub.Cleanup()
	os.Exit(code)
}

// world is a control plane with config/default, the Node of a hub and that hub, and
// a namespace with a program's data.
type world struct {
	*testing.T
	*WithT
	cluster *cluster.Cluster
	hub     *hub.Hub
	client  kubernetes.Interface
	http    *http.Client
	token   string // of edge-app in Pod edge-app-1
	pod     *corev1.Pod
}

// newWorld starts a world. data is the ConfigMap of the hubs, flags are the hub's.
func newWorld(t *testing.T, data map[string]string, flags ...string) *world {
	t.Helper()
	w := &world{T: t, WithT: NewWithT(t)}
	w.SetDefaultEventuallyTimeout(60 * time.Second)
	w.SetDefaultEventuallyPollingInterval(100 * time.Millisecond)
	w.cluster = cluster.StartT(t, cluster.Options{})
	w.client = kubernetes.NewForConfigOrDie(w.cluster.RESTConfig())
	output, err := w.cluster.Kubectl("apply", "-k", "../../config/default").CombinedOutput()
	w.Expect(err).NotTo(HaveOccurred(), "%s", output)
	w.Eventually(func() error {
		_, err := w.cluster.Kubectl("get", "ehn").CombinedOutput()
		return err
	}).Should(Succeed())
	for _, name := range []string{hub.NodeName, "edge-2"} {
		_, err = w.client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		w.Expect(err).NotTo(HaveOccurred())
	}
	w.seed()
	w.configure(data)
	kubeconfig, err := w.cluster.KubeconfigFor(hubidentity.User(hub.NodeName), hubidentity.Group)
	w.Expect(err).NotTo(HaveOccurred())
	w.hub = hub.StartT(t, w.cluster, append([]string{"--kubeconfig=" + kubeconfig, "--report-period=1s"}, flags...)...)
	w.http = w.hub.Client()
	w.awaitConfiguration(data)
	return w
}

func (w *world) seed() {
	w.Helper()
	ctx := w.Context()
	_, err := w.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	_, err = w.client.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: app}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	_, err = w.client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: app}},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	for i := range 3 {
		w.configMap(fmt.Sprintf("cm-%d", i), "value")
	}
	w.pod, err = w.client.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: app + "-1"},
		Spec: corev1.PodSpec{
			NodeName: hub.NodeName, ServiceAccountName: app,
			Containers: []corev1.Container{{Name: app, Image: "none"}},
		},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	w.token, err = w.cluster.Token(ctx, namespace, app, cluster.WithBoundPod(w.pod.Name, w.pod.UID))
	w.Expect(err).NotTo(HaveOccurred())
}

func (w *world) configMap(name, value string) {
	w.Helper()
	_, err := w.client.CoreV1().ConfigMaps(namespace).Create(w.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"key": value},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
}

func (w *world) configure(data map[string]string) {
	w.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: hubconfig.Namespace, Name: hubconfig.Name}, Data: data}
	_, err := w.client.CoreV1().ConfigMaps(hubconfig.Namespace).Update(w.Context(), cm, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = w.client.CoreV1().ConfigMaps(hubconfig.Namespace).Create(w.Context(), cm, metav1.CreateOptions{})
	}
	w.Expect(err).NotTo(HaveOccurred())
}

func hashOf(data map[string]string) string {
	config, err := hubconfig.Parse(data)
	if err != nil {
		panic(err) // a test's own
	}
	return hubconfig.Hash(config)
}

func (w *world) awaitConfiguration(data map[string]string) {
	w.Helper()
	w.Eventually(w.readyz).Should(ContainSubstring("[+]config " + hashOf(data)))
}

func (w *world) readyz() string { return w.adminPage("/readyz") }

func (w *world) adminPage(path string) string {
	resp, err := http.Get("http://" + w.hub.Admin + path)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	var b strings.Builder
	_ = resp.Write(&b)
	return b.String()
}

// get reads through the hub, as edge-app.
func (w *world) get(path string) int {
	w.Helper()
	return w.send(hub.Request{Path: path, Token: w.token, UserAgent: app + "/1.0"}).Code
}

func (w *world) send(r hub.Request) *hub.Response {
	w.Helper()
	resp, err := hub.Do(w.Context(), w.http, w.hub.URL(), r)
	w.Expect(err).NotTo(HaveOccurred())
	return resp
}

// node is what was reported.
func (w *world) node() (node v1alpha1.EdgeHubNode) {
	w.Helper()
	output, err := w.cluster.Kubectl("get", "ehn", hub.NodeName, "-o", "json").Output()
	if err == nil {
		w.Expect(json.Unmarshal(output, &node)).To(Succeed(), "%s", output)
	}
	return node
}

// row is what was reported of edge-app: "true", or the reason, or "" if there is
// nothing.
func (w *world) row() string {
	agent := w.agent()
	switch {
	case agent == nil:
		return ""
	case agent.OfflineReady:
		return "true"
	}
	return agent.Reason
}

func (w *world) agent() *v1alpha1.NodeAgent {
	w.Helper()
	for _, agent := range w.node().Status.Agents {
		if agent.Name == app && agent.Namespace == namespace {
			return &agent
		}
	}
	return nil
}

// program is edge-app as most are: client-go's informer with its defaults.
type program struct {
	store cache.Store
	end   func()
}

func (w *world) program(server string) *program {
	w.Helper()
	config := &rest.Config{
		Host: server, BearerToken: w.token, UserAgent: app + "/1.0",
		TLSClientConfig: rest.TLSClientConfig{CAFile: w.cluster.CAFile()},
	}
	client, err := kubernetes.NewForConfig(config)
	w.Expect(err).NotTo(HaveOccurred())
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	informer := factory.Core().V1().ConfigMaps().Informer()
	stop := make(chan struct{})
	factory.Start(stop)
	p := &program{store: informer.GetStore()}
	ended := false
	p.end = func() {
		if !ended {
			ended = true
			close(stop)
			factory.Shutdown()
		}
	}
	w.Cleanup(p.end)
	w.Eventually(informer.HasSynced).Should(BeTrue())
	return p
}

func (p *program) has(name string) func() bool {
	return func() bool {
		_, ok, _ := p.store.GetByKey(namespace + "/" + name)
		return ok
	}
}
