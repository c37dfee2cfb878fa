// Package integration tells the promises of the hub as tests, each with the real
// edge-hub, kube-apiserver and etcd.
package integration

import (
	"context"
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
	"k8s.io/client-go/kubernetes"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/hub"
)

const (
	app       = "edge-app"
	userAgent = "edge-app/1.0"
	namespace = "shop"
)

func TestMain(m *testing.M) {
	code := m.Run()
	closeStage()
	hub.Cleanup()
	os.Exit(code)
}

// world is a control plane with a hub in front of it, a namespace with data, and
// two ServiceAccounts that may read it.
type world struct {
	*testing.T
	*WithT
	cluster *cluster.Cluster
	hub     *hub.Hub
	client  kubernetes.Interface
	http    *http.Client
	token   string // of ServiceAccount edge-app
	fresh   string // another one of edge-app, which the hub has not seen
	other   string // of ServiceAccount other
}

// newWithT waits for longer than gomega does, since machines that run tests are busy.
func newWithT(t *testing.T) *WithT {
	g := NewWithT(t)
	g.SetDefaultEventuallyTimeout(time.Minute)
	return g
}

func newWorld(t *testing.T, extra ...string) *world {
	t.Helper()
	return newWorldOf(t, cluster.Options{}, extra...)
}

// newWorldOf is newWorld with a control plane of a kind.
func newWorldOf(t *testing.T, o cluster.Options, extra ...string) *world {
	t.Helper()
	w := &world{T: t, WithT: newWithT(t)}
	w.cluster = cluster.StartT(t, o)
	w.client = kubernetes.NewForConfigOrDie(w.cluster.RESTConfig())
	w.seed()
	w.setAgents(app)
	w.hub = hub.StartT(t, w.cluster, extra...)
	w.http = w.hub.Client()
	w.awaitAgents(app)
	return w
}

// seed grants what the ServiceAccounts and the hub need, and makes the objects
// that tests read.
func (w *world) seed() {
	ctx := w.Context()
	_, err := w.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	for _, name := range []string{app, "other"} {
		_, err := w.client.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		w.Expect(err).NotTo(HaveOccurred())
	}
	w.grant("readers", rbacv1.PolicyRule{APIGroups: []string{"", "apps"}, Resources: []string{"*"}, Verbs: []string{"get", "list", "watch"}},
		rbacv1.Subject{Kind: "ServiceAccount", Namespace: namespace, Name: app}, rbacv1.Subject{Kind: "ServiceAccount", Namespace: namespace, Name: "other"})
	w.grant("hubs", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{hubconfig.Name}, Verbs: []string{"get", "list", "watch"}},
		rbacv1.Subject{Kind: "Group", Name: "edgehub:hubs", APIGroup: rbacv1.GroupName})
	_, err = w.client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "hub-issuer"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:service-account-issuer-discovery"},
		Subjects:   []rbacv1.Subject{{Kind: "Group", Name: "edgehub:hubs", APIGroup: rbacv1.GroupName}},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	w.fill()
}

// fill makes the objects that tests read, and takes tokens to read them with.
func (w *world) fill() {
	w.Helper()
	for i := range 5 {
		w.configMap(fmt.Sprintf("cm-%d", i), map[string]string{"tier": []string{"front", "back"}[i%2]}, "value-0")
	}
	var err error
	ctx := w.Context()
	w.token, err = w.cluster.Token(ctx, namespace, app)
	w.Expect(err).NotTo(HaveOccurred())
	w.fresh, err = w.cluster.Token(ctx, namespace, app, cluster.WithExpiration(2*time.Hour))
	w.Expect(err).NotTo(HaveOccurred())
	w.other, err = w.cluster.Token(ctx, namespace, "other")
	w.Expect(err).NotTo(HaveOccurred())
}

func (w *world) grant(name string, rule rbacv1.PolicyRule, subjects ...rbacv1.Subject) {
	w.Helper()
	_, err := w.client.RbacV1().ClusterRoles().Create(w.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	_, err = w.client.RbacV1().ClusterRoleBindings().Create(w.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   subjects,
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
}

func (w *world) configMap(name string, labels map[string]string, value string) *corev1.ConfigMap {
	w.Helper()
	cm, err := w.client.CoreV1().ConfigMaps(namespace).Create(w.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Data:       map[string]string{"key": value, "html": "<a href=\"x\">&amp;</a>\u2028 üñï"},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	return cm
}

func (w *world) setAgents(agents ...string) {
	w.Helper()
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: hubconfig.Namespace, Name: hubconfig.Name},
		Data:       map[string]string{hubconfig.KeyCacheAgents: strings.Join(agents, ",")},
	}
	_, err := w.client.CoreV1().ConfigMaps(hubconfig.Namespace).Update(w.Context(), cm, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = w.client.CoreV1().ConfigMaps(hubconfig.Namespace).Create(w.Context(), cm, metav1.CreateOptions{})
	}
	w.Expect(err).NotTo(HaveOccurred())
}

// awaitAgents waits until the hub has taken the agents from the ConfigMap.
func (w *world) awaitAgents(agents ...string) {
	w.Helper()
	config, err := hubconfig.Parse(map[string]string{hubconfig.KeyCacheAgents: strings.Join(agents, ",")})
	w.Expect(err).NotTo(HaveOccurred())
	w.Eventually(w.ready).WithTimeout(time.Minute).Should(ContainSubstring("[+]config " + hubconfig.Hash(config)))
}

func (w *world) ready() string {
	resp, err := http.Get("http://" + w.hub.Admin + "/readyz")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	var b strings.Builder
	_ = resp.Write(&b)
	return b.String()
}

// awaitCloud waits until the hub has noticed that the cloud is up or down.
func (w *world) awaitCloud(up bool) {
	w.Helper()
	mark := "[+]upstream/"
	if !up {
		mark = "[!]upstream/"
	}
	w.Eventually(w.ready).WithTimeout(20 * time.Second).Should(ContainSubstring(mark))
}

func (w *world) viaHub(r hub.Request) *hub.Response { return w.send(w.hub.URL(), r) }
func (w *world) direct(r hub.Request) *hub.Response { return w.send(w.cluster.URL(), r) }

func (w *world) send(server string, r hub.Request) *hub.Response {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 20*time.Second)
	defer cancel()
	if r.UserAgent == "" {
		r.UserAgent = userAgent
	}
	resp, err := hub.Do(ctx, w.http, server, r)
	w.Expect(err).NotTo(HaveOccurred())
	return resp
}

// normalize decodes a list in JSON and forgets its resourceVersion, which is
// that of the moment it was asked for.
func normalize(w *world, body []byte) map[string]any {
	w.Helper()
	var list map[string]any
	w.Expect(json.Unmarshal(body, &list)).To(Succeed(), "%s", body)
	if meta, ok := list["metadata"].(map[string]any); ok {
		delete(meta, "resourceVersion")
	}
	return list
}
