package main

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/edgehub/cache"
	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/hub"
)

func TestMain(m *testing.M) {
	code := m.Run()
	hub.Cleanup()
	os.Exit(code)
}

// node is a hub in front of a control plane, with a ServiceAccount that reads
// through it.
type node struct {
	*WithT
	t       *testing.T
	cluster *cluster.Cluster
	hub     *hub.Hub
	client  kubernetes.Interface
	token   string
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{WithT: NewWithT(t), t: t, cluster: cluster.StartT(t, cluster.Options{})}
	n.SetDefaultEventuallyTimeout(time.Minute)
	n.client = kubernetes.NewForConfigOrDie(n.cluster.RESTConfig())
	ctx := t.Context()
	_, err := n.client.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "till"}}, metav1.CreateOptions{})
	n.Expect(err).NotTo(HaveOccurred())
	_, err = n.client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "everything"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{
			{Kind: "User", APIGroup: rbacv1.GroupName, Name: hub.User},
			{Kind: "ServiceAccount", Namespace: "default", Name: "till"},
		},
	}, metav1.CreateOptions{})
	n.Expect(err).NotTo(HaveOccurred())
	for name, data := range map[string]map[string]string{"one": {"price": "1"}, "two": {"price": "2"}} {
		_, err = n.client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{})
		n.Expect(err).NotTo(HaveOccurred())
	}
	_, err = n.client.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "pin"}, Data: map[string][]byte{"pin": []byte("1234")}}, metav1.CreateOptions{})
	n.Expect(err).NotTo(HaveOccurred())
	_, err = n.client.CoreV1().ConfigMaps(hubconfig.Namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: hubconfig.Name}, Data: map[string]string{hubconfig.KeyCacheAgents: "till"},
	}, metav1.CreateOptions{})
	n.Expect(err).NotTo(HaveOccurred())
	n.token, err = n.cluster.Token(ctx, "default", "till")
	n.Expect(err).NotTo(HaveOccurred())
	n.hub = hub.StartT(t, n.cluster)
	return n
}

// read reads through the hub until what it caches is on the disk.
func (n *node) read(path, accept string) {
	n.t.Helper()
	client := n.hub.Client()
	n.Eventually(func(g Gomega) {
		response, err := hub.Do(n.t.Context(), client, n.hub.URL(), hub.Request{Path: path, Token: n.token, UserAgent: "till/1.0", Accept: accept})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(response.Code).To(Equal(http.StatusOK))
		out, _ := n.run("ls", "till", "-o", "json")
		var views []struct {
			Key struct{ Resource, Document, Identity string }
		}
		g.Expect(json.Unmarshal([]byte(out), &views)).To(Succeed())
		found := false
		for _, v := range views {
			last := path[strings.LastIndexByte(path, '/')+1:]
			found = found || (v.Key.Resource == last || strings.HasPrefix(v.Key.Document, path)) && strings.HasPrefix(v.Key.Identity, "system:serviceaccount:")
		}
		g.Expect(found).To(BeTrue(), "%s is not in %s", path, out)
	}).Should(Succeed())
}

// run runs edge-hub cache.
func (n *node) run(args ...string) (string, error) {
	var out bytes.Buffer
	cmd := command()
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(append([]string{"cache", "--cache-dir", n.hub.CacheDir(), "--state-dir", filepath.Join(n.hub.Dir, "state")}, args...))
	err := cmd.ExecuteContext(n.t.Context())
	return out.String(), err
}

func (n *node) ok(args ...string) string {
	n.t.Helper()
	out, err := n.run(args...)
	n.Expect(err).NotTo(HaveOccurred(), out)
	return out
}

func TestCache(t *testing.T) {
	n := newNode(t)
	n.read("/api/v1/namespaces/default/configmaps", "application/json")
	n.read("/api/v1/namespaces/default/secrets", "application/vnd.kubernetes.protobuf")
	n.read("/apis", "application/json")
	for _, running := range []bool{true, false} {
		t.Run(fmt.Sprintf("running %v", running), func(t *testing.T) {
			n.t, n.WithT = t, NewWithT(t)
			if !running {
				n.Expect(n.hub.Stop()).To(Succeed())
			}
			n.look()
		})
	}
	n.t, n.WithT = t, NewWithT(t)
	n.SetDefaultEventuallyTimeout(time.Minute)

	// A running hub is asked to remove what it holds open, and fills it again.
	n.Expect(n.hub.Start(t.Context())).To(Succeed())
	n.Expect(n.ok("rm", "till", "configmaps")).To(Equal("1 views removed\n"))
	n.Expect(n.ok("ls", "till")).NotTo(ContainSubstring("configmaps"))
	n.read("/api/v1/namespaces/default/configmaps", "application/json")
	if out, err := n.run("rm", "till", "--state-dir", t.TempDir()); err == nil || !strings.Contains(err.Error(), "is --state-dir") {
		t.Errorf("with another hub's state: %s, %v", out, err)
	}
	n.Expect(n.ok("ls", "till")).To(ContainSubstring("configmaps"))

	// A stopped hub's files are removed, and it starts with what is left.
	n.Expect(n.hub.Kill()).To(Succeed())
	torn := filepath.Join(n.hub.Dir, "state", "report", journal.TempPrefix+"torn")
	n.Expect(os.WriteFile(torn, []byte("{"), 0o600)).To(Succeed())
	n.Expect(n.ok("rm", "till", "secrets")).To(Equal("1 views removed\n"))
	n.Expect(n.ok("ls", "till")).NotTo(ContainSubstring("secrets"))
	n.Expect(n.hub.Start(t.Context())).To(Succeed())
	n.Expect(torn).NotTo(BeAnExistingFile(), "what a crash has left")
	n.Expect(n.cluster.KillAPIServer()).To(Succeed())
	n.Eventually(func(g Gomega) {
		response, err := hub.Do(t.Context(), n.hub.Client(), n.hub.URL(), hub.Request{Path: "/api/v1/namespaces/default/configmaps", Token: n.token, UserAgent: "till/1.0"})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(response.Code).To(Equal(http.StatusOK))
		g.Expect(string(response.Body)).To(ContainSubstring(`"price":"1"`))
	}).Should(Succeed())
}

// look looks at the cache in each way that changes nothing.
func (n *node) look() {
	n.t.Helper()
	out := n.ok("ls")
	n.Expect(out).To(MatchRegexp(`(?m)^till +default/till +default +configmaps +all +2 +\S+ +yes +\S+$`))
	n.Expect(out).To(MatchRegexp(`(?m)^till +default/till +default +secrets +all +1 +\S+ +yes +\S+$`))
	n.Expect(out).To(MatchRegexp(`(?m)^till +default/till +- +discovery +/apis +- +\S+ +yes +\S+$`))
	n.Expect(n.ok("ls", "other")).NotTo(ContainSubstring("till"))
	n.Expect(n.ok("ls", "-o", "wide")).To(ContainSubstring("system:serviceaccount:default:till:"))

	n.Expect(n.ok("get", "till", "configmaps", "one")).To(And(HavePrefix("apiVersion: v1\n"), ContainSubstring("price: \"1\"")))
	var list struct {
		Kind  string
		Items []struct {
			Kind     string
			Metadata metav1.ObjectMeta
		}
	}
	n.Expect(json.Unmarshal([]byte(n.ok("get", "till", "configmaps", "-o", "json", "-n", "default")), &list)).To(Succeed())
	n.Expect(list.Kind).To(Equal("List"))
	n.Expect(list.Items).To(HaveLen(2))
	n.Expect(list.Items[0].Kind).To(Equal("ConfigMap"))
	n.Expect(n.ok("get", "till", "secrets", "pin", "--identity", "default/till")).To(ContainSubstring("pin: MTIzNA=="), "protobuf that was sealed")
	n.Expect(n.ok("get", "till", "discovery", "/apis")).To(ContainSubstring("APIGroupList"))
	for _, args := range []string{"get till configmaps none", "get till pods", "get till configmaps -n kube-system", "get till discovery /none"} {
		_, err := n.run(strings.Fields(args)...)
		n.Expect(err).To(MatchError(ContainSubstring("nothing like that is cached")), args)
	}
	n.Expect(n.ok("verify")).To(MatchRegexp(`^3 views, \S+: 0 damaged, 0 sealed with a key that is not at hand\n$`))
}

func TestVerifyFindsDamage(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "till", "me", "configmaps.v1.core", "default.jsonl")
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("{\"crc\":\"00000000\",\"t\":\"VIEW\"}\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := command()
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"cache", "--cache-dir", dir, "--state-dir", dir, "verify"})
	if err := cmd.ExecuteContext(t.Context()); !errors.Is(err, errDamaged) {
		t.Errorf("the error is %v", err)
	}
	if !strings.Contains(out.String(), "default.jsonl: damaged at byte 0") || !strings.Contains(out.String(), "1 damaged") {
		t.Errorf("it says %s", out.String())
	}
}

// put puts a view of a ConfigMap-like object into a cache directory.
func put(t *testing.T, dir, agent, group, namespace, kind, version string) {
	t.Helper()
	key := cache.Key{Agent: agent, Identity: "me", Group: group, Version: "v1", Resource: "services", Namespace: namespace}
	text, err := json.Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, agent, "me", "services.v1."+cmp.Or(group, "core"), url.PathEscape(namespace)+".jsonl"),
		fmt.Sprintf(`"t":"VIEW","v":1,"key":%s}`, text),
		fmt.Sprintf(`"t":"OBJECT","k":"shop/web","rv":%q,"o":{"metadata":{"namespace":"shop","name":"web","resourceVersion":%q}}}`, version, version),
		fmt.Sprintf(`"t":"END","rv":%q,"n":1,"kind":%q,"apiVersion":"v1"}`, version, kind))
}

// write writes a view of these records.
func write(t *testing.T, file string, records ...string) {
	t.Helper()
	var content []byte
	for _, body := range records {
		content = fmt.Appendf(content, `{"crc":"%08x",%s`+"\n", crc32.Checksum([]byte(body), crc32.MakeTable(crc32.Castagnoli)), body)
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, content, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func runOver(t *testing.T, dir string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := command()
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(append([]string{"cache", "--cache-dir", dir, "--state-dir", dir}, args...))
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// TestGroupsHideNoObjects: a Service of Knative is called like the one that it makes.
func TestGroupsHideNoObjects(t *testing.T) {
	g, dir := NewWithT(t), t.TempDir()
	put(t, dir, "till", "", "shop", "Service", "7")
	put(t, dir, "till", "serving.knative.dev", "shop", "KnativeService", "9")
	for args, kinds := range map[string][]string{
		"get till services": {"Service", "KnativeService"}, "get till services web": {"Service", "KnativeService"},
		"get till services.core web": {"Service"}, "get till services.serving.knative.dev": {"KnativeService"},
	} {
		out, err := runOver(t, dir, strings.Fields(args)...)
		g.Expect(err).NotTo(HaveOccurred())
		for _, kind := range []string{"Service", "KnativeService"} {
			g.Expect(strings.Contains(out, "kind: "+kind+"\n")).To(Equal(slices.Contains(kinds, kind)), "%s of %s: %s", kind, args, out)
		}
	}
}

// TestADocumentIsOfOneIdentity: what one was served is never another's.
func TestADocumentIsOfOneIdentity(t *testing.T) {
	g, dir := NewWithT(t), t.TempDir()
	for _, identity := range []string{"me", "you"} {
		write(t, filepath.Join(dir, "till", identity, "discovery", "%2Fapis.jsonl"),
			`"t":"VIEW","v":1,"key":{"agent":"till","identity":"`+identity+`","document":"/apis"}}`,
			`"t":"CHUNK","b":"`+base64.StdEncoding.EncodeToString([]byte(`{"for":"`+identity+`"}`))+`"}`,
			`"t":"END","rv":"","n":0,"contentType":"application/json"}`)
	}
	_, err := runOver(t, dir, "get", "till", "discovery", "/apis")
	g.Expect(err).To(MatchError(ContainSubstring("name one with --identity: me, you")))
	for _, identity := range []string{"me", "you"} {
		g.Expect(runOver(t, dir, "get", "till", "discovery", "/apis", "--identity", identity)).To(Equal(`{"for":"` + identity + `"}` + "\n"))
	}
}

// TestWhatIsEvictedMeanwhileIsLeftOut: a running hub does so at any time.
func TestWhatIsEvictedMeanwhileIsLeftOut(t *testing.T) {
	g, dir := NewWithT(t), t.TempDir()
	put(t, dir, "till", "", "shop", "Service", "7")
	put(t, dir, "till", "serving.knative.dev", "shop", "KnativeService", "9")
	directory, err := os.OpenRoot(dir)
	g.Expect(err).NotTo(HaveOccurred())
	defer directory.Close()
	inspector := cache.NewInspector(directory, nil)
	views, err := collect(t.Context(), inspector, cache.Selection{Agent: "till"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(views).To(HaveLen(2))
	g.Expect(os.RemoveAll(filepath.Join(dir, "till", "me", "services.v1.core"))).To(Succeed())
	found, err := find(inspector, views, wanted{}, io.Discard)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(found).To(HaveLen(1))
	g.Expect(found[0].ResourceVersion).To(BeEquivalentTo(9))
}

// TestACommandThatDoesNotExistFails: verify that is spelled wrong has verified nothing.
func TestACommandThatDoesNotExistFails(t *testing.T) {
	g, dir := NewWithT(t), t.TempDir()
	_, err := runOver(t, dir, "verfy")
	g.Expect(err).To(MatchError(ContainSubstring(`unknown command "verfy"`)))
	out, err := runOver(t, dir)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(out).To(ContainSubstring("Available Commands"))
}

// TestAnEmptyNameRemovesNothing: it is what a script has whose variable is not set.
func TestAnEmptyNameRemovesNothing(t *testing.T) {
	g, dir := NewWithT(t), t.TempDir()
	put(t, dir, "till", "", "shop", "Service", "7")
	for _, args := range [][]string{{"rm", ""}, {"rm", "till", ""}, {"rm", "till", "-n", ""}, {"rm", "till", "--identity="}} {
		_, err := runOver(t, dir, args...)
		g.Expect(err).To(MatchError(ContainSubstring("empty")), "%q", args)
	}
	g.Expect(runOver(t, dir, "ls", "-n", "")).To(ContainSubstring("till"))
}

// TestWhatIsShownDoesNothingToATerminal: kube-apiserver answers a list of a namespace
// that can't exist.
func TestWhatIsShownDoesNothingToATerminal(t *testing.T) {
	g, dir := NewWithT(t), t.TempDir()
	put(t, dir, "till", "", "a\x1bc\nb", "Service", "7")
	for _, args := range []string{"ls", "ls -o wide", "get till services"} {
		out, err := runOver(t, dir, strings.Fields(args)...)
		g.Expect(err).NotTo(HaveOccurred(), out)
		g.Expect(strings.ReplaceAll(out, "\n", "")).NotTo(MatchRegexp(`[[:cntrl:]]`), args)
		if args != "get till services" {
			g.Expect(strings.Count(out, "\n")).To(Equal(2), out)
		}
	}
}

// TestWhatAStoppedHubLostIsMissing, or its EdgeHubNode would go on to say that its
// Pods start without the cloud.
func TestWhatAStoppedHubLostIsMissing(t *testing.T) {
	g, dir := NewWithT(t), t.TempDir()
	stateDir := t.TempDir()
	put(t, dir, "till", "", "shop", "Service", "7")
	put(t, dir, "other", "", "shop", "Service", "7")
	g.Expect(os.Mkdir(filepath.Join(stateDir, "cache"), 0o700)).To(Succeed())
	objects := filepath.Join(stateDir, "cache", "objects.json")
	g.Expect(os.WriteFile(objects, []byte(`{"other/me/services.v1.core/shop.jsonl":1}`), 0o600)).To(Succeed())
	out, err := runOver(t, dir, "rm", "till", "--state-dir", stateDir)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(out).To(Equal("1 views removed\n"))
	g.Expect(os.ReadFile(objects)).To(ContainSubstring("other"))

	directory, err := os.OpenRoot(dir)
	g.Expect(err).NotTo(HaveOccurred())
	defer directory.Close()
	state, err := os.OpenRoot(stateDir)
	g.Expect(err).NotTo(HaveOccurred())
	defer state.Close()
	store := cache.Open(cache.Options{FS: journal.OS(directory), State: state})
	usages := store.Usages()
	g.Expect(store.Close()).To(Succeed())
	g.Expect(usages).To(HaveLen(1))
	g.Expect(usages[0].Agent).To(Equal("till"))
	g.Expect(usages[0].Missing).To(Equal(map[cache.Missing]int{cache.Incomplete: 1}))
}
