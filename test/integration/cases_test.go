package integration

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/hub"
	"github.com/edgehub-io/edge-hub/test/link"
	"github.com/edgehub-io/edge-hub/test/process"
)

// Tests whose names begin with TestCase reproduce cases that other edge hubs
// lose; docs/cases.md lists them. Their names say what holds here.

// caseAgents are the programs that are cached in these tests.
var caseAgents = []string{app, "foo-manager", "manager", "Manager", "kubectl"}

const secrets = "/api/v1/namespaces/shop/secrets"

// stage is the control plane that these tests share. None of them stops it: each
// has a hub of its own, and a link of its own that it can cut.
var stage struct {
	sync.Mutex
	cluster *cluster.Cluster
}

func closeStage() {
	stage.Lock()
	defer stage.Unlock()
	if stage.cluster != nil {
		_ = stage.cluster.Stop() // every test has passed or failed by now
	}
}

// site is an edge node's hub that reaches the shared control plane by a link.
type site struct {
	*world
	link *link.Link
}

func newSite(t *testing.T, extra ...string) *site {
	t.Helper()
	w := newStagedWorld(t)
	s := &site{world: w, link: link.New(w.T, w.cluster.URL())}
	s.startHub("https://"+s.link.Address(), extra...)
	return s
}

// startHub starts the hub in front of a server.
func (w *world) startHub(server string, extra ...string) {
	w.Helper()
	w.hub = hub.StartT(w.T, w.cluster, append(extra, "--server="+server)...)
	w.http = w.hub.Client()
	w.awaitAgents(caseAgents...)
}

// newStagedWorld is a world on the shared control plane, with its data as
// seed makes them and no hub yet.
func newStagedWorld(t *testing.T) *world {
	t.Helper()
	stage.Lock()
	defer stage.Unlock()
	w := &world{T: t, WithT: newWithT(t), cluster: stage.cluster}
	if stage.cluster == nil {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		var err error
		w.cluster, err = cluster.Start(ctx, cluster.Options{})
		w.Expect(err).NotTo(HaveOccurred())
		stage.cluster = w.cluster
		w.client = kubernetes.NewForConfigOrDie(w.cluster.RESTConfig())
		w.seed()
		w.grant("writers", rbacv1.PolicyRule{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}},
			rbacv1.Subject{Kind: "ServiceAccount", Namespace: namespace, Name: app})
		w.seedHubAccount()
	} else {
		w.client = kubernetes.NewForConfigOrDie(w.cluster.RESTConfig())
		w.clear()
		w.fill()
	}
	w.setAgents(caseAgents...)
	return w
}

// hubAccount is the ServiceAccount of a hub that has no certificate.
const hubAccount = "hub"

func (w *world) seedHubAccount() {
	w.Helper()
	_, err := w.client.CoreV1().ServiceAccounts(namespace).Create(w.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: hubAccount}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	w.grant("hub-accounts", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{hubconfig.Name}, Verbs: []string{"get", "list", "watch"}},
		rbacv1.Subject{Kind: "ServiceAccount", Namespace: namespace, Name: hubAccount})
}

// clear removes what another test left in the namespace.
func (w *world) clear() {
	ctx, now := w.Context(), int64(0)
	core := w.client.CoreV1()
	for _, deleteAll := range []func(context.Context, metav1.DeleteOptions, metav1.ListOptions) error{
		core.ConfigMaps(namespace).DeleteCollection, core.Secrets(namespace).DeleteCollection, core.Pods(namespace).DeleteCollection,
	} {
		w.Expect(deleteAll(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})).To(Succeed())
	}
}

// claim is one part of what a case's name says.
func (s *site) claim(what string, check func(s *site)) {
	s.Helper()
	s.Run(what, func(t *testing.T) {
		w := *s.world
		w.T, w.WithT = t, newWithT(t)
		check(&site{&w, s.link})
	})
}

// loseCloud cuts the link and waits until the hub has noticed.
func (s *site) loseCloud() {
	s.Helper()
	s.awaitRecordings()
	s.link.Cut()
	s.awaitCloud(false)
}

// regainCloud mends the link and waits until the hub has noticed.
func (s *site) regainCloud() {
	s.Helper()
	s.Expect(s.link.Mend()).To(Succeed())
	s.awaitCloud(true)
}

// restartHub stops the hub as its node's shutdown would, and starts it again.
func (s *site) restartHub() {
	s.Helper()
	s.Expect(s.hub.Stop()).To(Succeed())
	s.Expect(s.hub.Start(s.Context())).To(Succeed())
}

// restartOnline kills the hub and starts it with the cloud, which takes less time
// than waiting until it has seen the cloud return.
func (s *site) restartOnline() {
	s.Helper()
	s.Expect(s.hub.Kill()).To(Succeed())
	s.Expect(s.link.Mend()).To(Succeed())
	s.Expect(s.hub.Start(s.Context())).To(Succeed())
}

// read is a GET by the business program.
func (w *world) read(path string) *hub.Response {
	w.Helper()
	return w.viaHub(hub.Request{Path: path, Token: w.token})
}

// cached is a read that the cache answers with 200.
func (w *world) cached(r hub.Request) *hub.Response {
	w.Helper()
	if r.Token == "" {
		r.Token = w.token
	}
	resp := w.viaHub(r)
	w.Expect(resp.Code).To(Equal(200), "%s: %s", r.Path, resp.Body)
	w.Expect(resp.Header.Get("Cache-Status")).NotTo(BeEmpty(), "%s was not answered from the cache", r.Path)
	return resp
}

// live is a read that kube-apiserver answers with 200.
func (w *world) live(r hub.Request) *hub.Response {
	w.Helper()
	if r.Token == "" {
		r.Token = w.token
	}
	resp := w.viaHub(r)
	w.Expect(resp.Code).To(Equal(200), "%s: %s", r.Path, resp.Body)
	w.Expect(resp.Header.Get("Cache-Status")).To(BeEmpty(), "%s was not answered by kube-apiserver", r.Path)
	return resp
}

// awaitRecordings waits until what was read is in the cache, or will not be.
func (w *world) awaitRecordings() {
	w.Helper()
	w.Eventually(func() float64 { return w.metric("edgehub_cache_recordings") }).WithTimeout(time.Minute).Should(BeZero())
}

// names are those of a list's items, sorted.
func (w *world) names(list *hub.Response) []string {
	w.Helper()
	var l metav1.PartialObjectMetadataList
	w.Expect(json.Unmarshal(list.Body, &l)).To(Succeed(), "%s", list.Body)
	names := []string{}
	for _, item := range l.Items {
		names = append(names, item.Name)
	}
	slices.Sort(names)
	return names
}

// cleanupContext outlives the test.
func (w *world) cleanupContext() context.Context { return context.WithoutCancel(w.Context()) }

// start runs a program until the test ends, and returns what it has printed.
func (w *world) start(cmd *exec.Cmd) (printed func() string) {
	w.Helper()
	var out process.Output
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := process.Start(cmd)
	w.Expect(err).NotTo(HaveOccurred())
	w.Cleanup(func() { _ = p.Kill() })
	return out.String
}

// filesWith returns the files of the hub that hold a text, as paths below its
// directory.
func (w *world) filesWith(text string) []string {
	w.Helper()
	found := []string{}
	w.Expect(filepath.WalkDir(w.hub.Dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil || !d.Type().IsRegular() {
			return err // a socket holds nothing
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if strings.Contains(string(content), text) {
			relative, _ := filepath.Rel(w.hub.Dir, path)
			found = append(found, relative)
		}
		return err
	})).To(Succeed())
	return found
}

// metric sums up a metric of the hub.
func (w *world) metric(name string) (sum float64) {
	w.Helper()
	for line := range strings.Lines(w.metrics()) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if series == name || strings.HasPrefix(series, name+"{") {
			v, err := strconv.ParseFloat(value, 64)
			w.Expect(err).NotTo(HaveOccurred(), line)
			sum += v
		}
	}
	return sum
}

func (w *world) metrics() string {
	w.Helper()
	resp, err := http.Get("http://" + w.hub.Admin + "/metrics")
	w.Expect(err).NotTo(HaveOccurred())
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	w.Expect(err).NotTo(HaveOccurred())
	return string(text)
}

// programConfig is that of a client of the hub.
func (w *world) programConfig(token string) *rest.Config {
	return &rest.Config{
		Host: w.hub.URL(), BearerToken: token, UserAgent: userAgent,
		TLSClientConfig: rest.TLSClientConfig{CAFile: w.hub.CAFile},
	}
}
