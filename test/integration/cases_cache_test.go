package integration

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/hub"
)

func TestCase01InformerWithDefaultsSyncsOfflineAndWatchListPrunes(t *testing.T) {
	s := newSite(t)
	first := s.program(s.token, false)
	s.Eventually(first.configMaps.HasSynced).WithTimeout(time.Minute).Should(BeTrue())
	s.Expect(first.configMaps.GetStore().ListKeys()).To(HaveLen(5))
	first.end()
	for _, name := range []string{"cm-1", "cm-3"} { // while the client is away
		s.Expect(s.client.CoreV1().ConfigMaps(namespace).Delete(s.Context(), name, metav1.DeleteOptions{})).To(Succeed())
	}
	second := s.program(s.token, false)
	s.Eventually(second.configMaps.HasSynced).WithTimeout(time.Minute).Should(BeTrue())
	second.end()

	s.loseCloud()
	s.claim("a new process with client-go's defaults syncs offline", func(s *site) {
		third := s.program(s.fresh, false)
		s.Eventually(third.configMaps.HasSynced).WithTimeout(time.Minute).Should(BeTrue())
		s.Expect(third.configMaps.GetStore().ListKeys()).To(ConsistOf("shop/cm-0", "shop/cm-2", "shop/cm-4"))
	})
	s.claim("a WatchList leaves nothing of what was deleted meanwhile", func(s *site) {
		s.Expect(s.names(s.cached(hub.Request{Path: configMaps}))).To(Equal([]string{"cm-0", "cm-2", "cm-4"}))
	})
	s.claim("all three asked by WatchList", func(s *site) {
		s.Expect(strings.Count(s.hub.SettledLogT(s.T), "sendInitialEvents=true with status code 200") +
			strings.Count(s.hub.SettledLogT(s.T), "sendInitialEvents=true&")).To(BeNumerically(">=", 3))
		s.Expect(strings.Count(s.hub.SettledLogT(s.T), app+" list configmaps")).To(Equal(1), "the list above")
	})
}

func TestCase02DiscoveryIsAnsweredOfflineAndHealthIsNotPretended(t *testing.T) {
	s := newSite(t)
	online := map[string]*hub.Response{}
	for _, path := range []string{
		"/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1", "/version",
		"/openapi/v2", "/openapi/v3", "/openapi/v3/apis/apps/v1",
	} {
		// A document that a busy machine was too slow to record is read again.
		s.Eventually(func() float64 {
			online[path] = s.live(hub.Request{Path: path})
			s.awaitRecordings()
			return s.metric("edgehub_cache_incomplete_views")
		}).WithTimeout(time.Minute).Should(BeZero(), path)
	}
	groups, resources := s.discovered()
	for _, path := range health {
		s.Expect(s.live(hub.Request{Path: path}).Body).To(HavePrefix("ok"))
	}
	s.loseCloud()
	for path, want := range online {
		s.claim(path, func(s *site) {
			got := s.cached(hub.Request{Path: path})
			s.Expect(string(got.Body)).To(Equal(string(want.Body)))
			s.Expect(got.Header.Get("Content-Type")).To(Equal(want.Header.Get("Content-Type")))
		})
	}
	s.claim("a client that starts offline discovers the same", func(s *site) {
		offlineGroups, offlineResources := s.discovered()
		s.Expect(offlineGroups).To(Equal(groups))
		s.Expect(offlineResources).To(Equal(resources))
	})
	// Whoever asks whether kube-apiserver is healthy gets no old "ok".
	for _, path := range health {
		s.claim(path, func(s *site) {
			resp := s.read(path)
			s.Expect(resp.Code).To(Equal(http.StatusServiceUnavailable), "%s", resp.Body)
			var status metav1.Status
			s.Expect(json.Unmarshal(resp.Body, &status)).To(Succeed())
			s.Expect(status.Reason).To(Equal(metav1.StatusReasonServiceUnavailable))
			s.Expect(status.Message).To(ContainSubstring("unreachable"))
			s.Expect(resp.Header.Get("Retry-After")).To(BeEmpty(), "client-go would ask ten times before it gives up")
		})
	}
}

var health = []string{"/livez", "/readyz", "/healthz"}

// discovered is all that a new client discovers, resources by their group and
// version.
func (w *world) discovered() ([]*metav1.APIGroup, map[string]*metav1.APIResourceList) {
	w.Helper()
	groups, resources, err := w.discovery().ServerGroupsAndResources()
	w.Expect(err).NotTo(HaveOccurred())
	byVersion := map[string]*metav1.APIResourceList{}
	for _, list := range resources {
		byVersion[list.GroupVersion] = list
	}
	return groups, byVersion
}

func (w *world) discovery() discovery.DiscoveryInterface {
	w.Helper()
	client, err := discovery.NewDiscoveryClientForConfig(w.programConfig(w.token))
	w.Expect(err).NotTo(HaveOccurred())
	return client
}

func TestCase03WatchOfTablesNeitherStallsTheClientNorHarmsTheCache(t *testing.T) {
	s := newSite(t)
	informed := s.program(s.token, false)
	s.Eventually(informed.configMaps.HasSynced).WithTimeout(time.Minute).Should(BeTrue())
	version := s.list("")
	tables := s.stream(s.hub.URL(), hub.Request{
		Path: configMaps + "?watch=true&resourceVersion=" + version, Token: s.token, UserAgent: userAgent,
		Accept: "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
	})
	kubectl := s.kubectlWatch()
	names := []string{"cm-0", "cm-1", "cm-2", "cm-3", "cm-4"}
	for _, name := range names {
		s.setValue(name, "changed")
	}
	s.claim("a program gets all five events", func(s *site) {
		for i, event := range s.take(tables, 5) {
			s.Expect(event).To(And(ContainSubstring(`"type":"MODIFIED"`), ContainSubstring(`"kind":"Table"`), ContainSubstring(names[i])))
		}
	})
	s.claim("kubectl get --watch prints all five", func(s *site) {
		s.Eventually(func() int { return strings.Count(kubectl(), "MODIFIED") }).WithTimeout(time.Minute).Should(Equal(5), kubectl)
	})
	s.Eventually(func() string { return informed.value("cm-4") }).WithTimeout(time.Minute).Should(Equal("changed"))
	s.loseCloud()
	s.claim("the objects that were cached beside it are whole and current", func(s *site) {
		s.Expect(s.servedValues()).To(HaveLen(5))
		for _, name := range names {
			s.Expect(s.servedValues()).To(HaveKeyWithValue(name, "changed"))
		}
	})
}

// kubectlWatch runs `kubectl get --watch` through the hub, and returns what it has
// printed so far once it has printed what is there.
func (s *site) kubectlWatch() (printed func() string) {
	s.Helper()
	binary, err := cluster.Binary("kubectl")
	s.Expect(err).NotTo(HaveOccurred())
	cmd := exec.CommandContext(s.Context(), binary, "get", "configmaps", "-n", namespace, "--watch", "--output-watch-events",
		"--server="+s.hub.URL(), "--certificate-authority="+s.hub.CAFile, "--token="+s.token)
	cmd.Env = []string{"HOME=" + s.TempDir()}
	printed = s.start(cmd)
	s.Eventually(func() int { return strings.Count(printed(), "ADDED") }).WithTimeout(30*time.Second).Should(Equal(5), printed)
	return printed
}

func TestCase04EmptyListByNameLeavesTheNamespacesCache(t *testing.T) {
	s := newSite(t)
	s.live(hub.Request{Path: configMaps})
	s.live(hub.Request{Path: "/api/v1/configmaps"})
	byName := []string{
		configMaps + "?fieldSelector=metadata.name%3Dnone",
		configMaps + "?fieldSelector=metadata.name%3Dnone&limit=500&resourceVersion=0",
		"/api/v1/configmaps?fieldSelector=metadata.name%3Dnone%2Cmetadata.namespace%3Dshop",
	}
	for _, path := range byName {
		s.Expect(s.names(s.live(hub.Request{Path: path}))).To(BeEmpty())
	}
	s.loseCloud()
	check := func(s *site) {
		s.Expect(s.names(s.cached(hub.Request{Path: configMaps}))).To(Equal([]string{"cm-0", "cm-1", "cm-2", "cm-3", "cm-4"}))
		s.Expect(s.names(s.cached(hub.Request{Path: "/api/v1/configmaps"}))).To(ContainElements("cm-0", "cm-4", "edge-hub-cfg"))
		s.cached(hub.Request{Path: configMaps + "/cm-3"})
		for _, path := range byName {
			s.Expect(s.names(s.cached(hub.Request{Path: path}))).To(BeEmpty())
		}
	}
	s.claim("the namespace is served whole", check)
	s.restartHub()
	s.claim("also after an offline restart", check)
}

func TestCase05PaginatedListBecomesOneView(t *testing.T) {
	s := newSite(t)
	query, pages := "?limit=2", 0
	for next := ""; ; pages++ {
		l := s.configMapList(s.live(hub.Request{Path: configMaps + query + next}))
		if l.Continue == "" {
			break
		}
		next = "&continue=" + l.Continue
	}
	s.Expect(pages).To(BeNumerically(">=", 2))
	s.loseCloud()
	s.claim("all pages are one list", func(s *site) {
		s.Expect(s.configMapList(s.cached(hub.Request{Path: configMaps})).Items).To(HaveLen(5))
	})
	s.claim("which is given in pages again", func(s *site) {
		l := s.configMapList(s.cached(hub.Request{Path: configMaps + "?limit=2"}))
		s.Expect(l.Items).To(HaveLen(2))
		s.Expect(*l.RemainingItemCount).To(BeNumerically("==", 3))
		l = s.configMapList(s.cached(hub.Request{Path: configMaps + "?limit=5&continue=" + l.Continue}))
		s.Expect(l.Items).To(HaveLen(3))
		s.Expect(l.Items[0].Name).To(Equal("cm-2"))
	})
}

func (w *world) configMapList(resp *hub.Response) (l corev1.ConfigMapList) {
	w.Helper()
	w.Expect(json.Unmarshal(resp.Body, &l)).To(Succeed())
	return l
}

func TestCase06EachSelectorKeepsItsOwnObjects(t *testing.T) {
	s := newSite(t)
	front, back := configMaps+"?labelSelector=tier%3Dfront", configMaps+"?labelSelector=tier%3Dback"
	one := configMaps + "?fieldSelector=metadata.name%3Dcm-3"
	want := map[string][]string{front: {"cm-0", "cm-2", "cm-4"}, back: {"cm-1", "cm-3"}, one: {"cm-3"}}
	s.claim("a second and a third selector are not refused", func(s *site) {
		for _, path := range []string{front, back, one} {
			s.Expect(s.names(s.live(hub.Request{Path: path}))).To(Equal(want[path]))
		}
	})
	s.loseCloud()
	for what, order := range map[string][]string{"in one order": {front, back, one}, "in another": {one, back, front}} {
		s.restartHub()
		s.claim("after an offline restart each gets its own, "+what, func(s *site) {
			for _, path := range order {
				s.Expect(s.names(s.cached(hub.Request{Path: path}))).To(Equal(want[path]), path)
			}
		})
	}
	s.claim("none of them stands in for what was never listed", func(s *site) {
		for _, path := range []string{configMaps, configMaps + "?labelSelector=tier"} {
			resp := s.read(path)
			s.Expect(resp.Code).To(Equal(http.StatusServiceUnavailable), "%s: %s", path, resp.Body)
		}
	})
}

func TestCase07AgentsAndNamespacesAreComparedWhole(t *testing.T) {
	s := newSite(t)
	in := func(ns string) string { return "/api/v1/namespaces/" + ns + "/configmaps" }
	for _, ns := range []string{"prod", "prod-eu"} {
		_, err := s.client.CoreV1().Namespaces().Create(s.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
		s.Expect(err).To(Or(BeNil(), WithTransform(apierrors.IsAlreadyExists, BeTrue())))
		_, err = s.client.CoreV1().ConfigMaps(ns).Create(s.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "of-" + ns}}, metav1.CreateOptions{})
		s.Expect(err).To(Or(BeNil(), WithTransform(apierrors.IsAlreadyExists, BeTrue())))
	}
	type read struct{ agent, namespace string }
	reads := []read{
		{"foo-manager", "prod"}, {"foo-manager", "prod-eu"},
		{"manager", "prod-eu"}, {"manager", namespace}, {"Manager", "prod"}, {"Manager", namespace},
	}
	online := map[read][]string{}
	for _, r := range reads {
		online[r] = s.names(s.live(hub.Request{Path: in(r.namespace), UserAgent: r.agent + "/1"}))
		s.Expect(online[r]).NotTo(BeEmpty())
	}
	s.loseCloud()
	s.restartHub()
	for _, r := range reads {
		s.claim(r.agent+" in "+r.namespace, func(s *site) {
			s.Expect(s.names(s.cached(hub.Request{Path: in(r.namespace), UserAgent: r.agent + "/1"}))).To(Equal(online[r]))
		})
	}
	s.claim("nothing is shared by names that contain each other", func(s *site) {
		for _, r := range []read{{"manager", "prod"}, {"Manager", "prod-eu"}, {"MANAGER", "prod"}, {"manage", "prod-eu"}} {
			resp := s.viaHub(hub.Request{Path: in(r.namespace), UserAgent: r.agent + "/1", Token: s.token})
			s.Expect(resp.Code).To(Equal(http.StatusServiceUnavailable), "%s in %s: %s", r.agent, r.namespace, resp.Body)
		}
	})
	s.regainCloud()
	s.claim("an agent leaves without those whose names it contains", func(s *site) {
		s.setAgents(app, "manager", "Manager")
		s.awaitAgents(app, "manager", "Manager")
		s.Eventually(filepath.Join(s.hub.CacheDir(), "foo-manager")).ShouldNot(BeADirectory())
		s.loseCloud()
		for _, r := range reads[2:] {
			s.cached(hub.Request{Path: in(r.namespace), UserAgent: r.agent + "/1"})
		}
	})
}

func TestCase08CustomResourcesWithIrregularPluralsAreFound(t *testing.T) {
	s := newSite(t)
	admin, err := dynamic.NewForConfig(s.cluster.RESTConfig())
	s.Expect(err).NotTo(HaveOccurred())
	plurals := map[string]string{"Ox": "oxen", "Goose": "geese", "Sheep": "sheep", "Index": "indices"}
	for kind, plural := range plurals {
		s.defineFarm(admin, kind, plural)
	}
	for kind := range plurals {
		s.Expect(s.farm(kind).List(s.Context(), metav1.ListOptions{})).To(HaveField("Items", HaveLen(2)), kind)
	}
	s.loseCloud()
	s.restartHub()
	for kind := range plurals {
		s.claim(kind, func(s *site) {
			animals := s.farm(kind) // a client that starts offline
			s.Expect(animals.List(s.Context(), metav1.ListOptions{})).To(HaveField("Items", HaveLen(2)))
			one, err := animals.Get(s.Context(), "second", metav1.GetOptions{})
			s.Expect(err).NotTo(HaveOccurred())
			s.Expect(one.GetKind()).To(Equal(kind))
			_, err = animals.Get(s.Context(), "third", metav1.GetOptions{})
			s.Expect(apierrors.IsNotFound(err)).To(BeTrue(), "%v", err)
		})
	}
}

const farm = "farm.example.com"

// defineFarm defines a custom resource, until the test's end, and makes two
// objects of it.
func (s *site) defineFarm(admin dynamic.Interface, kind, plural string) {
	s.Helper()
	crds := admin.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	name := plural + "." + farm
	definition := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": name},
		"spec": map[string]any{
			"group": farm, "scope": "Namespaced",
			"names": map[string]any{"kind": kind, "plural": plural, "singular": strings.ToLower(kind)},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object"}},
			}},
		},
	}}
	s.Eventually(func() error { // an earlier run's may be on its way out
		_, err := crds.Create(s.Context(), definition, metav1.CreateOptions{})
		return err
	}).WithTimeout(time.Minute).Should(Succeed())
	s.Cleanup(func() { _ = crds.Delete(s.cleanupContext(), name, metav1.DeleteOptions{}) })
	objects := admin.Resource(schema.GroupVersionResource{Group: farm, Version: "v1", Resource: plural}).Namespace(namespace)
	for _, object := range []string{"first", "second"} {
		s.Eventually(func() error {
			_, err := objects.Create(s.Context(), &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": farm + "/v1", "kind": kind, "metadata": map[string]any{"name": object},
			}}, metav1.CreateOptions{})
			return err
		}).WithTimeout(time.Minute).Should(Succeed())
	}
}

// farm finds a kind's resource through discovery, as kubectl and
// controller-runtime do.
func (s *site) farm(kind string) dynamic.ResourceInterface {
	s.Helper()
	var mapping *meta.RESTMapping
	s.Eventually(func() (err error) { // kube-apiserver publishes a new resource in its own time
		mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(s.discovery()))
		mapping, err = mapper.RESTMapping(schema.GroupKind{Group: farm, Kind: kind})
		return err
	}).WithTimeout(time.Minute).Should(Succeed())
	client, err := dynamic.NewForConfig(s.programConfig(s.token))
	s.Expect(err).NotTo(HaveOccurred())
	return client.Resource(mapping.Resource).Namespace(namespace)
}

func TestCase09WritesAreNeverPretended(t *testing.T) {
	s := newSite(t)
	s.list("")
	before := s.live(hub.Request{Path: configMaps + "/cm-0"})
	s.loseCloud()
	for what, r := range map[string]hub.Request{
		"create":                  {Method: http.MethodPost, Path: configMaps, Body: `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"}}`},
		"update":                  {Method: http.MethodPut, Path: configMaps + "/cm-0", Body: `{}`},
		"patch":                   {Method: http.MethodPatch, Path: configMaps + "/cm-0", Body: `{}`},
		"delete":                  {Method: http.MethodDelete, Path: configMaps + "/cm-0"},
		"delete of all":           {Method: http.MethodDelete, Path: configMaps},
		"eviction":                {Method: http.MethodPost, Path: "/api/v1/namespaces/shop/pods/p/eviction", Body: `{"kind":"Eviction","apiVersion":"policy/v1","metadata":{"name":"p"}}`},
		"TokenRequest":            {Method: http.MethodPost, Path: "/api/v1/namespaces/shop/serviceaccounts/edge-app/token", Body: `{}`},
		"TokenReview":             {Method: http.MethodPost, Path: "/apis/authentication.k8s.io/v1/tokenreviews", Body: `{}`},
		"SubjectAccessReview":     {Method: http.MethodPost, Path: "/apis/authorization.k8s.io/v1/subjectaccessreviews", Body: `{}`},
		"SelfSubjectAccessReview": {Method: http.MethodPost, Path: "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", Body: `{}`},
		"event":                   {Method: http.MethodPost, Path: "/api/v1/namespaces/shop/events", Body: `{}`},
		"Lease":                   {Method: http.MethodPut, Path: "/apis/coordination.k8s.io/v1/namespaces/shop/leases/leader", Body: `{}`},
	} {
		s.claim(what, func(s *site) {
			r.Token = s.token
			resp := s.viaHub(r)
			s.Expect(resp.Code).To(Equal(http.StatusServiceUnavailable), "%s", resp.Body)
			s.Expect(resp.Header.Get("Retry-After")).NotTo(BeEmpty())
			s.Expect(string(resp.Body)).To(And(ContainSubstring("unreachable"), ContainSubstring(`"kind":"Status"`)))
		})
	}
	s.claim("the cache is as it was", func(s *site) {
		s.Expect(s.names(s.cached(hub.Request{Path: configMaps}))).To(HaveLen(5))
		s.Expect(string(s.cached(hub.Request{Path: configMaps + "/cm-0"}).Body)).To(Equal(string(before.Body)))
	})
}

func TestCase12WatchWithoutNodeSelectorLeavesForeignPodsOutOfTheKubeletsList(t *testing.T) {
	const kubelet = "kubelet/v1.37.2 (linux/amd64) kubernetes/abc"
	s := newSite(t)
	s.pod("mine", hub.NodeName)
	s.pod("foreign", "edge-2")
	pods := "/api/v1/pods"
	mine := pods + "?fieldSelector=spec.nodeName%3D" + hub.NodeName
	watchFrom := func(path, token, version string) <-chan string {
		return s.stream(s.hub.URL(), hub.Request{Path: path + "&watch=true&resourceVersion=" + version, Token: token, UserAgent: kubelet})
	}
	listed := s.live(hub.Request{Path: mine, UserAgent: kubelet})
	s.Expect(s.names(listed)).To(Equal([]string{"mine"}))
	var list metav1.PartialObjectMetadataList
	s.Expect(json.Unmarshal(listed.Body, &list)).To(Succeed())
	own := watchFrom(mine, s.token, list.ResourceVersion)
	all := watchFrom(pods+"?x=", s.token, list.ResourceVersion)
	others := watchFrom(pods+"?x=", s.other, list.ResourceVersion)
	s.pod("foreign-2", "edge-2")
	s.pod("mine-2", hub.NodeName)
	s.Expect(s.take(own, 1)[0]).To(ContainSubstring(`"name":"mine-2"`))
	s.Expect(s.take(all, 2)[0]).To(ContainSubstring(`"name":"foreign-2"`))
	s.take(others, 2)
	s.loseCloud()
	check := func(s *site) {
		s.Expect(s.names(s.cached(hub.Request{Path: mine, UserAgent: kubelet}))).To(Equal([]string{"mine", "mine-2"}))
		resp := s.viaHub(hub.Request{Path: pods, Token: s.token, UserAgent: kubelet})
		s.Expect(resp.Code).To(Equal(http.StatusServiceUnavailable), "a watch alone is no list: %s", resp.Body)
	}
	s.claim("the kubelet's list has its node's Pods", check)
	s.restartHub()
	s.claim("also after an offline restart", check)
}

func (w *world) pod(name, node string) {
	w.Helper()
	_, err := w.client.CoreV1().Pods(namespace).Create(w.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{NodeName: node, ServiceAccountName: app, Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
}

func TestCase14EmptyListsHaveItemsAndAResourceVersion(t *testing.T) {
	s := newSite(t)
	const asMetadata = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
	requests := map[string]hub.Request{
		"json":             {Path: secrets},
		"protobuf":         {Path: secrets, Accept: protobuf},
		"metadata":         {Path: secrets, Accept: asMetadata},
		"selected by name": {Path: configMaps + "?fieldSelector=metadata.name%3Dnone"},
		"selected online":  {Path: configMaps + "?labelSelector=nobody%3Dhere"},
	}
	online := map[string]*hub.Response{}
	for what, r := range requests {
		online[what] = s.live(r)
	}
	s.live(hub.Request{Path: configMaps})
	s.loseCloud()
	for what, r := range requests {
		s.claim(what, func(s *site) {
			got := s.cached(r)
			if r.Accept != asMetadata { // which kube-apiserver itself gives null items
				s.Expect(string(got.Body)).To(Equal(string(online[what].Body)))
			}
			if r.Accept != protobuf {
				s.expectEmptyList(got)
			}
		})
	}
	s.claim("selected offline, from a list with objects", func(s *site) {
		s.expectEmptyList(s.cached(hub.Request{Path: configMaps + "?labelSelector=never%3Dlisted"}))
		s.expectEmptyList(s.cached(hub.Request{Path: configMaps + "?labelSelector=never%3Dlisted", Accept: asMetadata}))
	})
}

func (w *world) expectEmptyList(resp *hub.Response) {
	w.Helper()
	w.Expect(string(resp.Body)).To(And(ContainSubstring(`"items":[]`), MatchRegexp(`"resourceVersion":"[1-9][0-9]*"`)))
}

func TestCase16RemovedAgentsLeaveNoFiles(t *testing.T) {
	s := newSite(t)
	const canary = "canary-of-the-removed-agents"
	s.configMap("canary", nil, canary)
	read := func(s *site, agents ...string) {
		for _, agent := range agents {
			s.live(hub.Request{Path: configMaps, UserAgent: agent + "/1"})
			s.Eventually(func() []string { return s.filesWith(canary) }).WithTimeout(time.Minute).Should(ContainElement(HavePrefix("cache/" + agent + "/")))
		}
	}
	read(s, "foo-manager", "manager", "Manager")
	s.claim("while the hub runs", func(s *site) {
		s.setAgents(app, "manager", "Manager")
		s.awaitAgents(app, "manager", "Manager")
		s.Eventually(filepath.Join(s.hub.CacheDir(), "foo-manager")).ShouldNot(BeADirectory())
		s.Expect(s.filesWith(canary)).To(And(HaveLen(2), HaveEach(ContainSubstring("anager/"))))
	})
	s.claim("while the hub was stopped", func(s *site) {
		s.Expect(s.hub.Stop()).To(Succeed())
		s.setAgents(app, "manager")
		s.Expect(s.hub.Start(s.Context())).To(Succeed())
		s.awaitAgents(app, "manager")
		s.Eventually(filepath.Join(s.hub.CacheDir(), "Manager")).ShouldNot(BeADirectory())
		s.Expect(s.filesWith(canary)).To(And(HaveLen(1), HaveEach(HavePrefix("cache/manager/"))))
	})
	s.claim("with the last of them nothing is left", func(s *site) {
		s.setAgents(app)
		s.awaitAgents(app)
		s.Eventually(func() ([]string, error) { return filepath.Glob(filepath.Join(s.hub.CacheDir(), "*anager*")) }).Should(BeEmpty()) // directories last
		s.Expect(s.filesWith(canary)).To(BeEmpty())
	})
}
