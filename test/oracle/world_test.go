package oracle

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/hub"
)

// account is the ServiceAccount that every program runs as.
const account = "oracle"

// unlimited lets all that is asked for be asked for at once.
var unlimited = []string{
	"--max-requests=0", "--max-requests-per-caller=0", "--max-watches=0", "--max-watches-per-caller=0",
	"--max-connections=0", "--max-connections-per-address=0",
}

// world is a control plane full of objects with a hub in front of it.
type world struct {
	*testing.T
	*WithT
	cluster *cluster.Cluster
	hub     *hub.Hub
	client  kubernetes.Interface
	writer  writer
	http    *http.Client
	token   string
}

func newWorld(t *testing.T, agents []string) *world {
	t.Helper()
	w := &world{T: t, WithT: NewWithT(t)}
	w.cluster = cluster.StartT(t, cluster.Options{
		DisablePriorityAndFairness: true,
		ExtraAPIServerArgs:         []string{"--feature-gates=CBORServingAndStorage=true"},
	})
	config := w.cluster.RESTConfig()
	config.WarningHandler = rest.NoWarnings{} // of Secrets that hold no certificate
	w.client = kubernetes.NewForConfigOrDie(config)
	w.writer = writer{dynamic.NewForConfigOrDie(config)}
	ctx := t.Context()

	w.Expect(w.writer.define(ctx)).To(Succeed())
	w.Eventually(func() error { return w.writer.established(ctx) }).WithTimeout(20 * time.Second).Should(Succeed())
	w.Expect(w.writer.seed(ctx)).To(Succeed())
	w.grant()
	_, err := w.client.CoreV1().ConfigMaps(hubconfig.Namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: hubconfig.Name},
		Data:       map[string]string{hubconfig.KeyCacheAgents: strings.Join(agents, ",")},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	// A new kube-apiserver knows no change from before it started, just as
	// the programs that are to read don't.
	w.Expect(w.cluster.RestartAPIServer(ctx)).To(Succeed())
	w.Eventually(func() error { return w.writer.established(ctx) }).WithTimeout(20 * time.Second).Should(Succeed())
	w.token, err = w.cluster.Token(ctx, metav1.NamespaceDefault, account)
	w.Expect(err).NotTo(HaveOccurred())

	w.hub = hub.StartT(t, w.cluster, unlimited...)
	w.http = w.newHTTP()
	parsed, err := hubconfig.Parse(map[string]string{hubconfig.KeyCacheAgents: strings.Join(agents, ",")})
	w.Expect(err).NotTo(HaveOccurred())
	w.Eventually(w.ready).WithTimeout(15 * time.Second).Should(And(ContainSubstring("[+]config "+hubconfig.Hash(parsed)), ContainSubstring("[+]upstream/")))
	return w
}

// newHTTP makes a client that keeps connections and compresses nothing unasked.
func (w *world) newHTTP() *http.Client {
	pem, err := os.ReadFile(w.hub.CAFile)
	w.Expect(err).NotTo(HaveOccurred())
	pool := x509.NewCertPool()
	w.Expect(pool.AppendCertsFromPEM(pem)).To(BeTrue())
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true,
		DisableCompression: true, MaxIdleConnsPerHost: 16,
	}
	w.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (w *world) grant() {
	ctx := w.Context()
	_, err := w.client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	_, err = w.client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "hubs"},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{hubconfig.Name}, Verbs: []string{"get", "list", "watch"}},
			{NonResourceURLs: []string{"/.well-known/openid-configuration", "/openid/v1/jwks"}, Verbs: []string{"get"}},
		},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	for role, subject := range map[string]rbacv1.Subject{
		"hubs":          {Kind: "Group", Name: "edgehub:hubs", APIGroup: rbacv1.GroupName},
		"cluster-admin": {Kind: "ServiceAccount", Namespace: metav1.NamespaceDefault, Name: account},
	} {
		_, err = w.client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "oracle-" + role},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{subject},
		}, metav1.CreateOptions{})
		w.Expect(err).NotTo(HaveOccurred())
	}
}

func (w *world) ready() string {
	resp, err := http.Get("http://" + w.hub.Admin + "/readyz")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	var b strings.Builder
	_ = resp.Write(&b) // what is missing will be missed
	return b.String()
}

// viaHub sends requests through the hub as an agent, direct to kube-apiserver.
func (w *world) viaHub(agent string) caller { return caller{w.hub.URL(), w.http, w.token, agent} }
func (w *world) direct() caller             { return caller{w.cluster.URL(), w.http, w.token, "direct"} }

// config is that of a client of the hub with an agent's name.
func (w *world) config(agent string) *rest.Config {
	return &rest.Config{
		Host: w.hub.URL(), BearerToken: w.token, UserAgent: agent + "/1.0", QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAFile: w.hub.CAFile},
	}
}

// versionOf is the resourceVersion that a list has.
func (w *world) versionOf(c caller, q request) (string, bool) {
	a, err := c.page(w.Context(), q, versions{})
	w.Expect(err).NotTo(HaveOccurred())
	if a.code != http.StatusOK {
		return "", false
	}
	var list metav1.PartialObjectMetadataList
	w.Expect(json.Unmarshal(a.body, &list)).To(Succeed(), "%s: %.200s", q, a.body)
	return list.ResourceVersion, true
}

// goOffline ends kube-apiserver and waits until the hub has noticed.
func (w *world) goOffline() {
	w.Helper()
	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	w.Eventually(w.ready).WithTimeout(20 * time.Second).Should(ContainSubstring("[!]upstream/"))
}

// within bounds everything that a test waits for.
func (w *world) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(w.Context(), d)
	w.Cleanup(cancel)
	return ctx
}
