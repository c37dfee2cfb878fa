// Package attack tries to break what the hub promises, with the real edge-hub and
// a real kube-apiserver. Each test's name is a promise; docs/security.md says
// who might want to break it.
package attack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/hub"
	"github.com/edgehub-io/edge-hub/test/link"
)

// robotToken is an opaque token that kube-apiserver takes for user robot.
const robotToken = "a-static-token-that-is-no-jwt"

// stage is the control plane that all tests share.
var stage struct {
	sync.Mutex
	dir     string
	cluster *cluster.Cluster
}

func TestMain(m *testing.M) {
	code := m.Run()
	if stage.cluster != nil {
		if err := stage.cluster.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if stage.dir != "" {
		_ = os.RemoveAll(stage.dir)
	}
	hub.Cleanup()
	os.Exit(code)
}

// world is the shared control plane, and a hub of the test's own.
type world struct {
	*testing.T
	*WithT
	cluster *cluster.Cluster
	client  kubernetes.Interface
	hub     *hub.Hub
	link    *link.Link
	roots   *x509.CertPool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, WithT: NewWithT(t)}
	w.SetDefaultEventuallyTimeout(30 * time.Second)
	w.SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	stage.Lock()
	defer stage.Unlock()
	fresh := stage.cluster == nil
	if fresh {
		w.Expect(startStage(t.Context())).To(Succeed())
	}
	w.cluster = stage.cluster
	w.client = kubernetes.NewForConfigOrDie(w.cluster.RESTConfig())
	pem, err := os.ReadFile(w.cluster.CAFile())
	w.Expect(err).NotTo(HaveOccurred())
	w.roots = x509.NewCertPool()
	w.Expect(w.roots.AppendCertsFromPEM(pem)).To(BeTrue())
	if fresh {
		w.seedHubs()
	}
	return w
}

func startStage(ctx context.Context) (err error) {
	if stage.dir, err = os.MkdirTemp("", "edge-hub-attack-"); err != nil {
		return err
	}
	tokens := filepath.Join(stage.dir, "tokens.csv")
	if err := os.WriteFile(tokens, []byte(robotToken+",robot,robot-uid\n"), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	stage.cluster, err = cluster.Start(ctx, cluster.Options{ExtraAPIServerArgs: []string{"--token-auth-file=" + tokens}})
	return err
}

// seedHubs lets hubs read their configuration and the issuer's keys.
func (w *world) seedHubs() {
	w.Helper()
	hubs := rbacv1.Subject{Kind: "Group", Name: "edgehub:hubs", APIGroup: rbacv1.GroupName}
	w.grantAll("hubs", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{hubconfig.Name}, Verbs: []string{"get", "list", "watch"}}, hubs)
	_, err := w.client.RbacV1().ClusterRoleBindings().Create(w.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "hub-issuer"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:service-account-issuer-discovery"},
		Subjects:   []rbacv1.Subject{hubs},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	// kube-apiserver makes the roles that it refers to after it is ready.
	w.Eventually(func() error {
		_, err := w.client.RbacV1().ClusterRoles().Get(w.Context(), "system:service-account-issuer-discovery", metav1.GetOptions{})
		return err
	}).Should(Succeed())
}

// startHub starts a hub behind a link that can be cut, with agents to cache.
func (w *world) startHub(agents string, extra ...string) {
	w.Helper()
	w.setAgents(agents)
	w.link = link.New(w.T, w.cluster.URL())
	w.hub = hub.StartT(w.T, w.cluster, append(extra, "--server=https://"+w.link.Address())...)
	config, err := hubconfig.Parse(map[string]string{hubconfig.KeyCacheAgents: agents})
	w.Expect(err).NotTo(HaveOccurred())
	w.Eventually(w.ready).Should(ContainSubstring("[+]config " + hubconfig.Hash(config)))
	w.Eventually(w.ready).Should(ContainSubstring("[+]identity"))
}

func (w *world) ready() string { return w.admin("/readyz") }

func (w *world) admin(path string) string {
	resp, err := http.Get("http://" + w.hub.Admin + path)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// loseCloud cuts the link and waits until the hub has noticed.
func (w *world) loseCloud() {
	w.Helper()
	w.link.Cut()
	w.Eventually(w.ready).Should(ContainSubstring("[!]upstream/"))
}

// certificate is that of a user, signed by the cluster.
func (w *world) certificate(user string, groups ...string) tls.Certificate {
	w.Helper()
	config, err := w.cluster.RESTConfigFor(user, groups...)
	w.Expect(err).NotTo(HaveOccurred())
	pair, err := tls.X509KeyPair(config.CertData, config.KeyData)
	w.Expect(err).NotTo(HaveOccurred())
	return pair
}

// dial returns a client that keeps its connections, with client certificates.
func (w *world) dial(certificates ...tls.Certificate) *http.Client {
	transport := &http.Transport{
		TLSClientConfig:    w.clientTLS(certificates...),
		ForceAttemptHTTP2:  true,
		DisableCompression: true,
	}
	w.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
		Timeout: 30 * time.Second,
	}
}

// clientTLS sends a client certificate whatever authorities the server names.
func (w *world) clientTLS(certificates ...tls.Certificate) *tls.Config {
	config := &tls.Config{RootCAs: w.roots}
	if len(certificates) > 0 {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificates[0], nil }
	}
	return config
}

// send sends a request to the hub.
func (w *world) send(client *http.Client, r hub.Request) *hub.Response {
	w.Helper()
	resp, err := hub.Do(w.Context(), client, w.hub.URL(), r)
	w.Expect(err).NotTo(HaveOccurred(), "%s %s", r.Method, r.Path)
	return resp
}

// canaryForms are the forms in which a text may travel: as it is, in
// hexadecimal, and in base64 wherever it begins.
func canaryForms(text string) []string {
	forms := []string{text, hex.EncodeToString([]byte(text))}
	for shift := range 3 {
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + text))
		// The first and last characters depend on what is around the text.
		forms = append(forms, encoded[shift*2:len(encoded)-4])
	}
	return forms
}

// leaked counts the bytes of forms of a text in another one.
func leaked(in string, forms []string) int {
	n := 0
	for _, form := range forms {
		n += strings.Count(in, form) * len(form)
	}
	return n
}
