// Package certificates tells the life of a hub's certificates to the parts that
// decide it: the operator's approver under its own RBAC, kube-apiserver's
// admission, and kube-controller-manager as the signer.
package certificates

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	controllerconfig "sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	approver "github.com/edgehub-io/edge-hub/controllers/certificates"
	"github.com/edgehub-io/edge-hub/edgehub/certificates"
	"github.com/edgehub-io/edge-hub/test/cluster"
)

const nodeIP = "10.0.0.7"

// world is a control plane with the approver, and Nodes edge-1 and edge-2.
type world struct {
	*WithT
	t       *testing.T
	cluster *cluster.Cluster
	admin   kubernetes.Interface
	roots   *x509.CertPool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{WithT: NewWithT(t), t: t}
	w.SetDefaultEventuallyTimeout(30 * time.Second)
	w.SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
	w.cluster = cluster.StartT(t, cluster.Options{
		ControllerManager:  true,
		ExtraAPIServerArgs: []string{"--enable-bootstrap-token-auth"},
		// The nodes send no heartbeats.
		ExtraControllerManagerArgs: []string{"--controllers=*,-node-lifecycle-controller"},
	})
	w.admin = kubernetes.NewForConfigOrDie(w.cluster.RESTConfig())
	output, err := w.cluster.Kubectl("apply", "-k", "../../config/default").CombinedOutput()
	w.Expect(err).NotTo(HaveOccurred(), "%s", output)
	pem, err := os.ReadFile(w.cluster.CAFile())
	w.Expect(err).NotTo(HaveOccurred())
	w.roots = x509.NewCertPool()
	w.Expect(w.roots.AppendCertsFromPEM(pem)).To(BeTrue())
	w.addNode("edge-1", nodeIP)
	w.addNode("edge-2", "10.0.0.8")
	w.startApprover()
	return w
}

func (w *world) addNode(name, ip string) {
	w.t.Helper()
	_, err := w.admin.CoreV1().Nodes().Create(w.t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	status := fmt.Sprintf(`{"status":{"addresses":[{"type":"InternalIP","address":%q},{"type":"Hostname","address":%q}]}}`, ip, name)
	_, err = w.admin.CoreV1().Nodes().Patch(w.t.Context(), name, types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status")
	w.Expect(err).NotTo(HaveOccurred())
}

// startApprover runs the controller as the ServiceAccount of config/default.
func (w *world) startApprover() {
	w.t.Helper()
	token, err := w.cluster.Token(w.t.Context(), "edge-hub-system", "edge-hub-operator")
	w.Expect(err).NotTo(HaveOccurred())
	config := rest.AnonymousClientConfig(w.cluster.RESTConfig())
	config.BearerToken = token
	ctrl.SetLogger(logr.Discard())
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:  clientgoscheme.Scheme,
		Metrics: metricsserver.Options{BindAddress: "0"},
		Cache:   cache.Options{ByObject: approver.CacheByObject()},
		// Each test has one of its own in this process.
		Controller: controllerconfig.Controller{SkipNameValidation: ptr.To(true)},
	})
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(approver.SetupWithManager(mgr, "cluster.local")).To(Succeed())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

// kubeletPEM writes a kubelet's client certificate and key to one file, as the
// kubelet keeps them.
func (w *world) kubeletPEM(node string) string {
	w.t.Helper()
	config, err := w.cluster.RESTConfigFor("system:node:"+node, "system:nodes")
	w.Expect(err).NotTo(HaveOccurred())
	file := filepath.Join(w.t.TempDir(), "kubelet-client-current.pem")
	w.Expect(os.WriteFile(file, slices.Concat(config.CertData, config.KeyData), 0o600)).To(Succeed())
	return file
}

// bootstrapToken writes a kubeconfig with a bootstrap token of these groups.
func (w *world) bootstrapToken(id string, groups string) string {
	w.t.Helper()
	_, err := w.admin.CoreV1().Secrets("kube-system").Create(w.t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id},
		Type:       corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{
			"token-id": id, "token-secret": "0123456789abcdef",
			"usage-bootstrap-authentication": "true", "auth-extra-groups": groups,
		},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	kubeconfig, err := clientcmd.LoadFromFile(w.cluster.Kubeconfig())
	w.Expect(err).NotTo(HaveOccurred())
	for _, user := range kubeconfig.AuthInfos {
		user.ClientCertificateData, user.ClientKeyData = nil, nil
		user.Token = id + ".0123456789abcdef"
	}
	file := filepath.Join(w.t.TempDir(), "bootstrap-kubeconfig")
	w.Expect(clientcmd.WriteToFile(*kubeconfig, file)).To(Succeed())
	return file
}

// hub is the certificates of one hub, and how it uses them.
type hub struct {
	*certificates.Manager
	own     *rest.Config
	renewed atomic.Int32
	stop    func()
}

// start opens and runs the certificates in dir. bootstrap is a file, or empty.
func (w *world) start(dir, bootstrap string, options certificates.Options) *hub {
	w.t.Helper()
	root, err := os.OpenRoot(dir)
	w.Expect(err).NotTo(HaveOccurred())
	h := &hub{}
	options.State = root
	options.CheckInterval = 50 * time.Millisecond
	options.ClientRenewed = func() { h.renewed.Add(1) }
	if options.NodeName == "" {
		options.NodeName = "edge-1"
	}
	h.Manager, err = certificates.Open(options)
	w.Expect(err).NotTo(HaveOccurred())

	h.own = rest.AnonymousClientConfig(w.cluster.RESTConfig())
	clients := certificates.Clients{Own: w.restClient(h.own, h.ownHTTP(w.roots))}
	if bootstrap != "" {
		clients.Bootstrap = func() (rest.Interface, error) {
			config, err := certificates.BootstrapConfig(h.own, bootstrap)
			if err != nil {
				return nil, err
			}
			client, err := rest.HTTPClientFor(config)
			if err != nil {
				return nil, err
			}
			return certificates.Client(config, client)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { h.Run(ctx, clients) })
	h.stop = sync.OnceFunc(func() { cancel(); running.Wait(); root.Close() })
	w.t.Cleanup(h.stop)
	return h
}

func (w *world) restClient(config *rest.Config, client *http.Client) rest.Interface {
	w.t.Helper()
	c, err := certificates.Client(config, client)
	w.Expect(err).NotTo(HaveOccurred())
	return c
}

// ownHTTP makes a connection for each request, so that each is made with the
// current client certificate.
func (h *hub) ownHTTP(roots *x509.CertPool) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: roots, GetClientCertificate: h.GetClientCertificate},
	}}
}

func (h *hub) problems() error {
	for _, s := range h.Status() {
		if s.Problem != nil {
			return fmt.Errorf("%s: %w", s.Name, s.Problem)
		}
		if s.NotAfter.IsZero() {
			return fmt.Errorf("%s: there is none yet", s.Name)
		}
	}
	return nil
}

// requesters returns who asked for which signer, according to kube-apiserver.
func (w *world) requesters() []string {
	w.t.Helper()
	list, err := w.admin.CertificatesV1().CertificateSigningRequests().List(w.t.Context(), metav1.ListOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	var all []string
	for _, csr := range list.Items {
		all = append(all, csr.Spec.Username+" "+csr.Spec.SignerName)
	}
	slices.Sort(all)
	return all
}

// endpoint serves with the hub's certificate: a response is the lines that are
// sent to lines, without an end.
func (w *world) endpoint(h *hub) (address string, lines chan string) {
	w.t.Helper()
	lines = make(chan string)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	w.Expect(err).NotTo(HaveOccurred())
	server := &http.Server{
		TLSConfig: &tls.Config{GetCertificate: h.GetCertificate, MinVersion: tls.VersionTLS12},
		ErrorLog:  log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			for {
				rw.(http.Flusher).Flush()
				select {
				case line := <-lines:
					fmt.Fprintln(rw, line)
				case <-r.Context().Done():
					return
				}
			}
		}),
	}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	w.t.Cleanup(func() { server.Close() })
	return listener.Addr().String(), lines
}

// served returns the certificate that a new connection is shown, verified for a
// name as a Pod verifies it: by the cluster's authority.
func (w *world) served(address, name string) (*x509.Certificate, error) {
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: w.roots, ServerName: name})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

func TestLifeOfCertificates(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	var ahead atomic.Int64
	options := certificates.Options{
		NodeIPs:           func() []netip.Addr { return []netip.Addr{netip.MustParseAddr(nodeIP)} },
		KubernetesService: true,
		Now:               func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	}
	h := w.start(dir, w.kubeletPEM("edge-1"), options)
	w.Eventually(h.problems).Should(Succeed())
	w.Expect(w.requesters()).To(Equal([]string{
		"edgehub:node:edge-1 kubernetes.io/kubelet-serving",
		"system:node:edge-1 kubernetes.io/kube-apiserver-client",
	}), "the kubelet's certificate is used for the first request only")

	// The identity may do what config/rbac/edge-hub says and nothing else.
	own, err := kubernetes.NewForConfigAndClient(h.own, h.ownHTTP(w.roots))
	w.Expect(err).NotTo(HaveOccurred())
	_, err = own.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "edge-hub-cfg", metav1.GetOptions{})
	w.Expect(apierrors.IsNotFound(err)).To(BeTrue(), "%v", err)
	_, err = own.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
	w.Expect(err).To(MatchError(ContainSubstring(`User "edgehub:node:edge-1" cannot list resource "secrets"`)))

	// Pods reach the hub by every name that they know kube-apiserver by.
	address, lines := w.endpoint(h)
	for _, name := range []string{"169.254.2.1", "127.0.0.1", nodeIP, "10.96.0.1", "kubernetes", "kubernetes.default",
		"kubernetes.default.svc", "kubernetes.default.svc.cluster.local"} {
		_, err := w.served(address, name)
		w.Expect(err).NotTo(HaveOccurred(), name)
	}
	_, err = w.served(address, "edge-1")
	w.Expect(err).To(HaveOccurred())

	// The serving certificate has a kubelet's subject, and proves it to nobody.
	serving, err := h.GetCertificate(nil)
	w.Expect(err).NotTo(HaveOccurred())
	imposter := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.roots, Certificates: []tls.Certificate{*serving}}}}
	response, err := imposter.Get(w.cluster.URL() + "/api/v1/nodes/edge-1")
	w.Expect(err).NotTo(HaveOccurred())
	response.Body.Close()
	w.Expect(response.StatusCode).To(Equal(http.StatusUnauthorized))

	// Renewal: a connection that is open goes on, a new one is shown the new
	// certificate.
	before, err := w.served(address, "127.0.0.1")
	w.Expect(err).NotTo(HaveOccurred())
	stream := w.stream(address)
	lines <- "before"
	w.Expect(stream.ReadString('\n')).To(Equal("before\n"))
	ahead.Store(int64(time.Until(before.NotAfter) * 9 / 10))
	var after *x509.Certificate
	w.Eventually(func(g Gomega) {
		var err error
		after, err = w.served(address, "127.0.0.1")
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(after.SerialNumber).NotTo(Equal(before.SerialNumber))
		g.Expect(h.renewed.Load()).To(BeNumerically(">=", 2))
	}).Should(Succeed())
	ahead.Store(0)
	w.Expect(after.PublicKey).NotTo(Equal(before.PublicKey), "a new key")
	lines <- "after"
	w.Expect(stream.ReadString('\n')).To(Equal("after\n"))
	w.Expect(w.requesters()).To(ContainElement("edgehub:node:edge-1 kubernetes.io/kube-apiserver-client"), "the hub renews as itself")

	// A start without the cloud, and without the bootstrap credential.
	h.stop()
	latest, err := h.GetCertificate(nil)
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	offline := w.start(dir, "", options)
	w.Expect(offline.problems()).To(Succeed())
	address, _ = w.endpoint(offline)
	shown, err := w.served(address, "169.254.2.1")
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(shown.Raw).To(Equal(latest.Leaf.Raw))
}

// stream opens a response and returns what comes.
func (w *world) stream(address string) *bufio.Reader {
	w.t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.roots}}}
	response, err := client.Get("https://" + address)
	w.Expect(err).NotTo(HaveOccurred())
	w.t.Cleanup(func() { response.Body.Close() })
	return bufio.NewReader(response.Body)
}

func TestWhoMayBootstrap(t *testing.T) {
	w := newWorld(t)
	for name, test := range map[string]struct {
		bootstrap string
		options   certificates.Options
		denied    string // part of the problem; empty if it succeeds
	}{
		"a bootstrap token for hubs":     {bootstrap: w.bootstrapToken("aaaaaa", "system:bootstrappers:edge-hub")},
		"the kubelet of another Node":    {bootstrap: w.kubeletPEM("edge-2"), denied: "denied: WrongRequester: system:node:edge-2 asked for the identity of the hub on Node edge-1"},
		"a bootstrap token for kubelets": {bootstrap: w.bootstrapToken("bbbbbb", "system:bootstrappers:kubeadm"), denied: "forbidden"},
		"an address of another Node": {bootstrap: w.kubeletPEM("edge-1"), denied: "denied: WrongNames: 10.0.0.8 is neither",
			options: certificates.Options{NodeIPs: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("10.0.0.8")} }}},
		"no credential": {denied: "neither a valid client certificate nor a bootstrap credential"},
	} {
		t.Run(name, func(t *testing.T) {
			h := w.start(t.TempDir(), test.bootstrap, test.options)
			g := NewWithT(t)
			want := Succeed()
			if test.denied != "" {
				want = MatchError(ContainSubstring(test.denied))
			}
			g.Eventually(h.problems, 30*time.Second, 20*time.Millisecond).Should(want)
			h.stop()
		})
	}
	output, err := w.cluster.Kubectl("get", "events", "-o", "jsonpath={range .items[*]}{.reason} {.message}{\"\\n\"}{end}").Output()
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(string(output)).To(And(ContainSubstring("Approved EdgeHub:"), ContainSubstring("Denied WrongRequester:")))
}
