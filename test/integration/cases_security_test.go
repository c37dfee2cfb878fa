package integration

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/test/hub"
)

func TestCase09NoTwoLeadersWithoutTheCloud(t *testing.T) {
	s := newSite(t)
	first, second := s.elect("first"), s.elect("second")
	lead := func() int { return int(first.Load()) + int(second.Load()) }
	s.Eventually(lead).WithTimeout(time.Minute).Should(Equal(1))
	s.loseCloud()
	s.claim("whoever leads stops", func(s *site) {
		s.Eventually(lead).WithTimeout(time.Minute).Should(Equal(0))
	})
	s.claim("and nobody leads while nobody can know", func(s *site) {
		s.Consistently(lead).WithTimeout(5 * time.Second).Should(Equal(0))
	})
	s.regainCloud()
	s.claim("when it is back one leads again", func(s *site) {
		s.Eventually(lead).WithTimeout(30 * time.Second).Should(Equal(1))
		s.Consistently(lead).WithTimeout(time.Second).Should(Equal(1))
	})
}

// elect runs a candidate, again and again, and tells whether it leads.
func (s *site) elect(name string) *atomic.Int32 {
	s.Helper()
	client, err := kubernetes.NewForConfig(s.programConfig(s.token))
	s.Expect(err).NotTo(HaveOccurred())
	leads := &atomic.Int32{}
	config := leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: namespace, Name: "leader"}, Client: client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: name},
		},
		LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 200 * time.Millisecond,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { leads.Store(1) },
			OnStoppedLeading: func() { leads.Store(0) },
		},
	}
	ctx, cancel := context.WithCancel(klog.NewContext(s.Context(), klog.Logger{}))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			leaderelection.RunOrDie(ctx, config)
		}
	}()
	s.Cleanup(func() { cancel(); <-ended })
	return leads
}

// secretCanary is a Secret's content that must not be found where it doesn't
// belong, in any of the forms in which it travels.
const secretCanary = "canary-3f9a1c-of-a-secret"

func canaryForms() []string {
	return []string{secretCanary, base64.StdEncoding.EncodeToString([]byte(secretCanary))}
}

func (w *world) secret(name string) {
	w.Helper()
	_, err := w.client.CoreV1().Secrets(namespace).Create(w.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string][]byte{"key": []byte(secretCanary)},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
}

func (w *world) expectNoCanary(resp *hub.Response, what string) {
	w.Helper()
	for _, form := range canaryForms() {
		w.Expect(string(resp.Body)).NotTo(ContainSubstring(form), what)
	}
}

// TestCase11CallerWithoutCredentialIsNobody: the hub verifies client certificates
// here, as it does in each of these tests. That it lends its own credential to
// no one is shown by TestTheHubLendsItsCredentialToNoOne too, for every header.
func TestCase11CallerWithoutCredentialIsNobody(t *testing.T) {
	s := newSite(t)
	s.secret("of-the-kubelet")
	const kubelet, evil = "kubelet/v1.37.2", "kubelet/evil"
	paths := []string{secrets, secrets + "/of-the-kubelet", "/api/v1/secrets"}
	s.claim("online it is anonymous to kube-apiserver", func(s *site) {
		review := hub.Request{
			Method: http.MethodPost, Path: "/apis/authentication.k8s.io/v1/selfsubjectreviews", UserAgent: evil,
			Header: http.Header{"Content-Type": {"application/json"}}, Body: `{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}`,
		}
		resp := s.viaHub(review)
		s.Expect(resp.Code).To(Equal(http.StatusForbidden))
		s.Expect(string(resp.Body)).To(ContainSubstring("system:anonymous"))
		review.Token = s.token
		s.Expect(string(s.viaHub(review).Body)).To(ContainSubstring("system:serviceaccount:shop:edge-app"), "a caller is itself")
		for _, path := range paths {
			for _, agent := range []string{kubelet, evil, "edge-hub/v1", userAgent} {
				resp := s.viaHub(hub.Request{Path: path, UserAgent: agent})
				s.Expect(resp.Code).To(Equal(http.StatusForbidden), "%s as %s: %s", path, agent, resp.Body)
				s.Expect(string(resp.Body)).To(ContainSubstring("system:anonymous"))
			}
		}
	})
	for _, path := range paths {
		s.Expect(string(s.live(hub.Request{Path: path, UserAgent: kubelet}).Body)).To(ContainSubstring(canaryForms()[1]))
	}
	s.loseCloud()
	strangers := map[string]string{
		"no credential": "", "another ServiceAccount": s.other, "an opaque token": "kubelet",
		"a forged token": s.token[:strings.LastIndex(s.token, ".")+1] + strings.Repeat("A", 342),
	}
	for who, token := range strangers {
		s.claim(who+" reads nothing of the kubelet's offline", func(s *site) {
			for _, path := range paths {
				for _, agent := range []string{kubelet, evil, "kubelet"} {
					resp := s.viaHub(hub.Request{Path: path, UserAgent: agent, Token: token})
					s.Expect(resp.Code).To(BeElementOf(http.StatusUnauthorized, http.StatusForbidden), "%s: %s", path, resp.Body)
					s.expectNoCanary(resp, path)
				}
			}
		})
	}
	s.claim("nor does another node's certificate", func(s *site) {
		client := s.withCertificate("system:node:edge-2", "system:nodes")
		for _, path := range paths {
			resp, err := hub.Do(s.Context(), client, s.hub.URL(), hub.Request{Path: path, UserAgent: evil})
			s.Expect(err).NotTo(HaveOccurred())
			s.Expect(resp.Code).To(BeElementOf(http.StatusUnauthorized, http.StatusForbidden), "%s: %s", path, resp.Body)
			s.expectNoCanary(resp, path)
		}
	})
	s.claim("whoever was served them is served them", func(s *site) {
		for _, path := range paths {
			s.Expect(string(s.cached(hub.Request{Path: path, UserAgent: kubelet}).Body)).To(ContainSubstring(canaryForms()[1]))
		}
	})
}

// withCertificate is a client with a certificate of the cluster.
func (w *world) withCertificate(user string, groups ...string) *http.Client {
	w.Helper()
	config, err := w.cluster.RESTConfigFor(user, groups...)
	w.Expect(err).NotTo(HaveOccurred())
	tlsConfig, err := rest.TLSConfigFor(config)
	w.Expect(err).NotTo(HaveOccurred())
	return &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true}}
}

func TestCase13UserAgentsStayInTheCacheDirectoryAndHideNothing(t *testing.T) {
	s := newSite(t)
	s.setAgents(hubconfig.AllAgents)
	s.awaitAgents(hubconfig.AllAgents)
	before := s.entries()
	agents := []string{
		"../x", "./x", "..", ".", "../../x/y", "..%2fx", "%2e%2e/x", `..\x`, "/x", "x/../../y", "...", ".hidden/1", "~root/1", "-rf/1",
		strings.Repeat("a", 128) + "/1", strings.Repeat("b", 5000),
	}
	cachedBy := map[string]bool{}
	for _, agent := range agents {
		s.live(hub.Request{Path: configMaps, UserAgent: agent})
	}
	s.live(hub.Request{Path: configMaps})
	s.Expect(s.hub.Stop()).To(Succeed()) // everything is on disk
	s.claim("nothing is written outside of the cache", func(s *site) {
		for path := range s.entries() {
			s.Expect(before[path] || strings.HasPrefix(path, "cache/") || strings.HasPrefix(path, "state/")).To(BeTrue(), path)
		}
	})
	s.claim("each agent has a directory that is seen, beside the others", func(s *site) {
		directories, err := os.ReadDir(s.hub.CacheDir())
		s.Expect(err).NotTo(HaveOccurred())
		s.Expect(len(directories)).To(BeNumerically(">", 5))
		for _, d := range directories {
			s.Expect(d.Name()).NotTo(HavePrefix("."))
			s.Expect(d.IsDir()).To(BeTrue())
		}
	})
	s.link.Cut()
	s.Expect(s.hub.Start(s.Context())).To(Succeed())
	s.claim("a restart finds all of it again", func(s *site) {
		s.Expect(s.names(s.cached(hub.Request{Path: configMaps}))).To(HaveLen(5))
		for _, agent := range agents {
			resp := s.viaHub(hub.Request{Path: configMaps, Token: s.token, UserAgent: agent})
			legal := hubconfig.ValidateAgent(hubconfig.AgentOf(agent)) == nil
			s.Expect(resp.Code == http.StatusOK).To(Equal(legal), "%q: %s", agent, resp.Body)
			cachedBy[agent] = legal
		}
		s.Expect(cachedBy).To(And(HaveKeyWithValue("../x", false), HaveKeyWithValue(".hidden/1", true)))
	})
}

// entries are the files and directories below the hub's directory's parent.
func (s *site) entries() map[string]bool {
	s.Helper()
	all := map[string]bool{}
	s.Expect(filepath.WalkDir(filepath.Dir(s.hub.Dir), func(path string, _ fs.DirEntry, err error) error {
		relative, _ := filepath.Rel(s.hub.Dir, path)
		all[relative] = true
		return err
	})).To(Succeed())
	return all
}

func TestCase15StoppedKubeletIsNoLossOfTheCloud(t *testing.T) {
	// A kubelet that was stopped with SIGSTOP: its ports take connections and
	// never answer.
	var asked atomic.Int32
	for _, address := range []string{"127.0.0.1:10250", "127.0.0.1:10248", "127.0.0.1:10255"} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Skipf("a kubelet's port is taken on this machine: %v", err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				asked.Add(1)
				defer conn.Close()
			}
		}()
	}
	s := newSite(t)
	s.live(hub.Request{Path: configMaps})
	s.Consistently(func() string {
		s.live(hub.Request{Path: configMaps})
		return s.ready()
	}).WithTimeout(4 * time.Second).WithPolling(200 * time.Millisecond).Should(And(ContainSubstring("[+]upstream/"), Not(ContainSubstring("[!]upstream/"))))
	s.Expect(s.metric("edgehub_upstream_losses_total")).To(BeZero())
	s.Expect(asked.Load()).To(BeZero(), "the hub never asks the kubelet")
}

// gateway stands in front of kube-apiserver and, while it has a code, answers
// with it in its place.
type gateway struct {
	code      atomic.Int32
	onlyReads atomic.Bool // not for /readyz, which it goes on passing
	proxy     http.Handler
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	code := int(g.code.Load())
	if code == 0 || g.onlyReads.Load() && r.URL.Path == "/readyz" {
		g.proxy.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(code)
	fmt.Fprintf(w, "<html><body><h1>%d %s</h1></body></html>", code, http.StatusText(code))
}

// startGateway serves a gateway with a certificate of the cluster.
func startGateway(w *world) (*gateway, string) {
	w.Helper()
	target, err := url.Parse(w.cluster.URL())
	w.Expect(err).NotTo(HaveOccurred())
	roots, err := rest.TLSConfigFor(rest.AnonymousClientConfig(w.cluster.RESTConfig()))
	w.Expect(err).NotTo(HaveOccurred())
	g := &gateway{proxy: &httputil.ReverseProxy{
		Transport:     &http.Transport{TLSClientConfig: roots},
		FlushInterval: -1,
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
	}}
	certFile, keyFile, err := w.cluster.IssueServingCert(w.TempDir(), "127.0.0.1")
	w.Expect(err).NotTo(HaveOccurred())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	w.Expect(err).NotTo(HaveOccurred())
	server := &http.Server{Handler: g, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	go func() { _ = server.ServeTLS(listener, certFile, keyFile) }()
	w.Cleanup(func() { _ = server.Close() })
	return g, "https://" + listener.Addr().String()
}

// tokenKubeconfig writes a kubeconfig with a token.
func (w *world) tokenKubeconfig(token string) string {
	w.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["cluster"] = &clientcmdapi.Cluster{Server: w.cluster.URL(), CertificateAuthority: w.cluster.CAFile()}
	config.AuthInfos["hub"] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["context"] = &clientcmdapi.Context{Cluster: "cluster", AuthInfo: "hub"}
	config.CurrentContext = "context"
	path := filepath.Join(w.TempDir(), "kubeconfig")
	w.Expect(clientcmd.WriteToFile(*config, path)).To(Succeed())
	return path
}

func TestCase15GatewaysErrorsFallBackToTheCache(t *testing.T) {
	w := newStagedWorld(t)
	g, address := startGateway(w)
	// A gateway ends TLS, so the hub can't show kube-apiserver a certificate.
	token, err := w.cluster.Token(t.Context(), namespace, hubAccount)
	w.Expect(err).NotTo(HaveOccurred())
	w.startHub(address, "--kubeconfig="+w.tokenKubeconfig(token))
	s := &site{world: w}
	for _, code := range []int{http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout} {
		for what, onlyReads := range map[string]bool{"to every request": false, "to all but health checks": true} {
			s.claim(fmt.Sprintf("%d %s", code, what), func(s *site) {
				s.awaitCloud(true)
				want := s.live(hub.Request{Path: configMaps})
				g.onlyReads.Store(onlyReads)
				g.code.Store(int32(code))
				defer g.code.Store(0)
				for range 20 { // from the first request on
					s.Expect(string(s.cached(hub.Request{Path: configMaps}).Body)).To(Equal(string(want.Body)))
				}
				s.Expect(s.names(s.cached(hub.Request{Path: configMaps + "?labelSelector=tier%3Dback"}))).To(Equal([]string{"cm-1", "cm-3"}))
				p := s.program(s.fresh, true)
				s.Eventually(p.configMaps.HasSynced).WithTimeout(time.Minute).Should(BeTrue())
				p.end()
				g.code.Store(0)
				s.awaitCloud(true)
				s.live(hub.Request{Path: configMaps})
			})
		}
	}
}

func TestCase16NoTokenSecretOrUserAgentReachesLogsAndMetrics(t *testing.T) {
	s := newSite(t, "-v=10")
	s.secret("s")
	requests := []hub.Request{
		{Path: secrets}, {Path: secrets + "/s"}, {Path: secrets, Accept: protobuf},
		{Path: secrets + "?labelSelector=x%21%3Dy"}, {Path: secrets, Accept: "application/yaml"},
	}
	for _, r := range requests {
		s.live(r)
	}
	version := s.configMapList(s.live(hub.Request{Path: secrets})).ResourceVersion
	events := s.stream(s.hub.URL(), hub.Request{Path: secrets + "?watch=true&resourceVersion=" + version, Token: s.token, UserAgent: userAgent})
	s.secret("s2")
	s.take(events, 1)
	issued := s.issueToken()
	tokens := []string{s.token, s.fresh, s.other, issued, "opaque-token-of-somebody", s.token + "x"}
	for _, token := range tokens {
		s.viaHub(hub.Request{Path: secrets, Token: token})
	}
	const agents = "agent-that-nobody-listed-"
	for i := range 20 {
		s.viaHub(hub.Request{Path: configMaps, Token: s.token, UserAgent: fmt.Sprint(agents, i, "/1.0 (made up)")})
	}
	s.loseCloud()
	for _, r := range requests {
		s.cached(r)
	}
	for _, token := range tokens {
		s.viaHub(hub.Request{Path: secrets, Token: token})
	}
	s.Expect(s.hub.SettledLogT(s.T)).To(ContainSubstring(secrets), "the log is that of these requests")
	metrics := s.metrics()
	s.Expect(metrics).To(ContainSubstring(`edgehub_requests_total{agent="edge-app"`))
	s.claim("no token", func(s *site) {
		for _, token := range tokens {
			parts := strings.Split(token, ".")
			s.Expect(s.hub.SettledLogT(s.T)).NotTo(ContainSubstring(parts[len(parts)-1]), "a signature or an opaque token")
			s.Expect(metrics).NotTo(ContainSubstring(parts[len(parts)-1]))
			s.Expect(s.filesWith(parts[len(parts)-1])).To(BeEmpty(), "on disk")
			if len(parts) == 3 {
				s.Expect(s.hub.SettledLogT(s.T)).NotTo(ContainSubstring(parts[1]))
			}
		}
	})
	s.claim("no Secret", func(s *site) {
		for _, form := range canaryForms() {
			s.Expect(s.hub.SettledLogT(s.T)).NotTo(ContainSubstring(form))
			s.Expect(metrics).NotTo(ContainSubstring(form))
		}
	})
	s.claim("no User-Agent in a metric, only listed agents", func(s *site) {
		s.Expect(metrics).NotTo(ContainSubstring(agents))
		s.Expect(metrics).NotTo(ContainSubstring(userAgent))
		s.Expect(metrics).To(ContainSubstring(`agent="other"`))
	})
}

// issueToken lets the program ask for a token through the hub.
func (s *site) issueToken() string {
	s.Helper()
	resp := s.viaHub(hub.Request{
		Method: http.MethodPost, Path: "/api/v1/namespaces/shop/serviceaccounts/edge-app/token", Token: s.token,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: `{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","spec":{"audiences":["elsewhere"]}}`,
	})
	s.Expect(resp.Code).To(Equal(http.StatusCreated), "%s", resp.Body)
	var answer struct{ Status struct{ Token string } }
	s.Expect(json.Unmarshal(resp.Body, &answer)).To(Succeed())
	s.Expect(answer.Status.Token).NotTo(BeEmpty())
	return answer.Status.Token
}
