package integration

import (
	"net/http"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/hub"
)

// TestOnlyThisNodesKubeletIsForwardedAsTheNode asks kube-apiserver itself whom it
// takes callers of the hub for.
func TestOnlyThisNodesKubeletIsForwardedAsTheNode(t *testing.T) {
	c := cluster.StartT(t, cluster.Options{})
	h := hub.StartT(t, c)
	g := NewWithT(t)
	_, err := kubernetes.NewForConfigOrDie(c.RESTConfig()).CoreV1().ServiceAccounts("default").Create(t.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: app}}, metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	token, err := c.Token(t.Context(), "default", app)
	g.Expect(err).NotTo(HaveOccurred())

	with := func(user string, groups ...string) *rest.Config {
		config, err := c.RESTConfigFor(user, groups...)
		g.Expect(err).NotTo(HaveOccurred())
		config.Host = h.URL()
		return config
	}
	tokenBesides := with("system:node:"+hub.NodeName, "system:nodes")
	tokenBesides.BearerToken = token
	impersonating := with("system:node:"+hub.NodeName, "system:nodes")
	impersonating.Impersonate.UserName = "system:admin"
	anonymous := rest.AnonymousClientConfig(with("nobody"))
	claimsKubelet := rest.CopyConfig(anonymous)
	claimsKubelet.UserAgent = "kubelet/v1.37.2"
	const nobody = "" // refused: without a credential of its own a caller may not even ask
	for name, tc := range map[string]struct {
		config *rest.Config
		want   string
	}{
		"the kubelet":              {with("system:node:"+hub.NodeName, "system:nodes"), "system:node:" + hub.NodeName},
		"another node's kubelet":   {with("system:node:edge-2", "system:nodes"), nobody},
		"its name, not its group":  {with("system:node:"+hub.NodeName, "system:masters"), nobody},
		"an administrator":         {with("admin", "system:masters"), nobody},
		"the kubelet with a token": {tokenBesides, "system:serviceaccount:default:" + app},
		"the kubelet as an admin":  {impersonating, nobody},
		"nobody":                   {anonymous, nobody},
		"nobody, called kubelet":   {claimsKubelet, nobody},
	} {
		client := kubernetes.NewForConfigOrDie(tc.config)
		review, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		got := nobody
		if err == nil {
			got = review.Status.UserInfo.Username
		}
		if got != tc.want {
			t.Errorf("%s is taken for %q (%v), want %q", name, got, err, tc.want)
		}
	}
}

// TestTheKubeletReadsItsCacheWithItsCertificate, and nobody else does.
func TestTheKubeletReadsItsCacheWithItsCertificate(t *testing.T) {
	c := cluster.StartT(t, cluster.Options{})
	h := hub.StartT(t, c)
	g := NewWithT(t)
	list := func(user, agent string, groups ...string) (int, error) {
		config, err := c.RESTConfigFor(user, groups...)
		g.Expect(err).NotTo(HaveOccurred())
		config.Host, config.UserAgent = h.URL(), agent
		config.Timeout = 10 * time.Second
		services, err := kubernetes.NewForConfigOrDie(config).CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return 0, err
		}
		return len(services.Items), nil
	}
	kubelet := func() (int, error) { return list("system:node:"+hub.NodeName, "kubelet/v1.37.2", "system:nodes") }
	g.Eventually(kubelet).WithTimeout(20 * time.Second).Should(Equal(1)) // RBAC is there a moment after kube-apiserver
	g.Expect(c.KillAPIServer()).To(Succeed())
	g.Eventually(kubelet).WithTimeout(time.Minute).Should(Equal(1))
	for _, who := range [][]string{{"system:node:edge-2", "system:nodes"}, {"system:admin", "system:masters"}, {"system:node:" + hub.NodeName}} {
		if n, err := list(who[0], "kubelet/v1.37.2", who[1:]...); err == nil {
			t.Errorf("%v reads %d of the kubelet's Services", who, n)
		}
	}
}

// TestTheTokenOfADeletedPodIsRefused: what the kubelet was told last decides,
// since kube-apiserver can't be asked.
func TestTheTokenOfADeletedPodIsRefused(t *testing.T) {
	for _, mediaType := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		t.Run(mediaType, func(t *testing.T) {
			testTokenOfADeletedPod(t, mediaType)
		})
	}
}

func testTokenOfADeletedPod(t *testing.T, mediaType string) {
	g := NewWithT(t)
	w := newWorld(t)
	pods := w.client.CoreV1().Pods(namespace)
	tokens := map[string]string{}
	for _, name := range []string{"stays", "goes", "is-replaced"} {
		pod, err := pods.Create(t.Context(), podOf(name), metav1.CreateOptions{})
		g.Expect(err).NotTo(HaveOccurred())
		tokens[name], err = w.cluster.Token(t.Context(), namespace, app, cluster.WithBoundPod(name, pod.UID))
		g.Expect(err).NotTo(HaveOccurred())
		resp := w.viaHub(hub.Request{Path: "/api/v1/namespaces/" + namespace + "/configmaps/cm-0", Token: tokens[name]})
		g.Expect(resp.Code).To(Equal(http.StatusOK))
	}
	for _, name := range []string{"goes", "is-replaced"} {
		g.Expect(pods.Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})).To(Succeed())
	}
	_, err := pods.Create(t.Context(), podOf("is-replaced"), metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	config, err := w.cluster.RESTConfigFor("system:node:"+hub.NodeName, "system:nodes")
	g.Expect(err).NotTo(HaveOccurred())
	config.Host, config.UserAgent, config.ContentType = w.hub.URL(), "kubelet/v1.37.2", mediaType
	kubelet := kubernetes.NewForConfigOrDie(config)
	list, err := kubelet.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + hub.NodeName})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(list.Items).To(HaveLen(2))

	g.Expect(w.cluster.KillAPIServer()).To(Succeed())
	w.awaitCloud(false)
	for name, want := range map[string]int{"stays": http.StatusOK, "goes": http.StatusUnauthorized, "is-replaced": http.StatusUnauthorized} {
		resp := w.viaHub(hub.Request{Path: "/api/v1/namespaces/" + namespace + "/configmaps/cm-0", Token: tokens[name]})
		if resp.Code != want {
			t.Errorf("the Pod that %s reads with %d: %s", name, resp.Code, resp.Body)
		}
	}
}

func podOf(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			NodeName: hub.NodeName, ServiceAccountName: app,
			Containers: []corev1.Container{{Name: "app", Image: "app"}},
		},
	}
}
