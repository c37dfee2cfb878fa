package attack

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/edgehub-io/edge-hub/test/hub"
	"github.com/edgehub-io/edge-hub/test/report"
)

// listedAgents are those in cache_agents, besides the ones always cached.
const listedAgents = "edge-app,Edge-App,other-app"

// agents are User-Agents that callers send. The hub caches the first four.
var agents = []string{
	"edge-app/1.0", "Edge-App/1.0", "other-app/v2 (linux/amd64)", "kubelet/v1.37.2",
	"KubeLet/v1", "stranger/1.0", "../edge-app", "*", "edge-app%2f..", "",
}

const cachedAgents = 4

// person is somebody with a credential, and what kube-apiserver lets them read.
type person struct {
	name    string
	token   string
	client  *http.Client
	home    string // the namespace that only they may read, "" for none
	subject rbacv1.Subject

	continueToken string // of a list of theirs in pages
}

// vault is what all persons have, and who was served what while the cloud was
// there.
type vault struct {
	canaries map[string][]string // text -> its forms

	mu     sync.Mutex
	served map[string]map[string]bool // text -> names of persons
}

// newCanaries makes a text for each resource, that is found nowhere else.
func (v *vault) newCanaries() map[string]string {
	made := map[string]string{}
	for _, resource := range resources {
		text := "canary" + rand.Text()
		made[resource], v.canaries[text] = text, canaryForms(text)
	}
	return made
}

var resources = []string{"secrets", "configmaps"}

// shared is a namespace in which everybody may read one object by its name.
const shared = "shared"

// read is a form of request for what belongs to somebody.
type read struct {
	name   string
	path   func(resource string, owner *person) string
	method string
	accept string
}

const (
	protobuf = "application/vnd.kubernetes.protobuf"
	asTable  = "application/json;as=Table;v=v1;g=meta.k8s.io"
	asList   = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
	asObject = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
)

func home(query string) func(string, *person) string {
	return func(resource string, owner *person) string {
		return "/api/v1/namespaces/" + owner.home + "/" + resource + query
	}
}

func everywhere(query string) func(string, *person) string {
	return func(resource string, _ *person) string { return "/api/v1/" + resource + query }
}

func byName(query string) func(string, *person) string {
	return func(resource string, owner *person) string {
		return "/api/v1/namespaces/" + shared + "/" + resource + "?fieldSelector=metadata.name%3D" + objectOf(owner) + query
	}
}

func one(suffix string) func(string, *person) string {
	return func(resource string, owner *person) string {
		return "/api/v1/namespaces/" + shared + "/" + resource + "/" + objectOf(owner) + suffix
	}
}

func objectOf(p *person) string { return "only-" + p.name }

func continued(resource string, owner *person) string {
	return "/api/v1/namespaces/" + owner.home + "/" + resource + "?limit=1&continue=" + url.QueryEscape(owner.continueToken)
}

// online are the reads that everybody makes of their own.
var online = []read{
	{name: "get", path: one("")},
	{name: "get protobuf", path: one(""), accept: protobuf},
	{name: "get metadata", path: one(""), accept: asObject},
	{name: "list", path: home("")},
	{name: "list protobuf", path: home(""), accept: protobuf},
	{name: "list table", path: home(""), accept: asTable},
	{name: "list metadata", path: home(""), accept: asList},
	{name: "list by name", path: byName("")},
	{name: "list by label", path: home("?labelSelector=canary")},
	{name: "watch list", path: home("?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1")},
}

// basic are tried by everybody on everybody else's, offline; curious on one
// person's each, in turn.
var (
	basic = []read{
		{name: "get", path: one("")},
		{name: "list", path: home("")},
		{name: "list by name", path: byName("")},
		{name: "watch", path: home("?watch=1&resourceVersion=0&timeoutSeconds=1")},
	}
	curious = []read{
		{name: "get protobuf", path: one(""), accept: protobuf},
		{name: "get metadata", path: one(""), accept: asObject},
		{name: "get table", path: one(""), accept: asTable},
		{name: "get yaml", path: one(""), accept: "application/yaml"},
		{name: "get from home", path: func(resource string, owner *person) string {
			return "/api/v1/namespaces/" + owner.home + "/" + resource + "/" + objectOf(owner)
		}},
		{name: "get at any version", path: one("?resourceVersion=0")},
		{name: "head", path: one(""), method: http.MethodHead},
		{name: "options", path: one(""), method: http.MethodOptions},
		{name: "subresource", path: one("/status")},
		{name: "list everywhere", path: everywhere("")},
		{name: "list everywhere table", path: everywhere(""), accept: asTable},
		{name: "list everywhere by name", path: func(resource string, owner *person) string {
			return "/api/v1/" + resource + "?fieldSelector=metadata.name%3D" + objectOf(owner)
		}},
		{name: "list protobuf", path: home(""), accept: protobuf},
		{name: "list table", path: home(""), accept: asTable},
		{name: "list metadata", path: home(""), accept: asList},
		{name: "list cbor", path: home(""), accept: "application/cbor"},
		{name: "list by label", path: home("?labelSelector=canary")},
		{name: "list by no label", path: home("?labelSelector=%21nothing")},
		{name: "list at any version", path: home("?resourceVersion=0")},
		{name: "list at an exact version", path: home("?resourceVersion=1&resourceVersionMatch=Exact")},
		{name: "list not older", path: home("?resourceVersion=1&resourceVersionMatch=NotOlderThan")},
		{name: "list at a future version", path: home("?resourceVersion=99999999999")},
		{name: "list pages", path: home("?limit=1")},
		{name: "another's continue token", path: continued},
		{name: "watch list", path: home("?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1")},
		{name: "watch by name", path: byName("&watch=1&timeoutSeconds=1")},
		{name: "watch table", path: home("?watch=1&timeoutSeconds=1"), accept: asTable},
		{name: "old watch", path: func(resource string, owner *person) string {
			return "/api/v1/watch/namespaces/" + owner.home + "/" + resource + "?timeoutSeconds=1"
		}},
		{name: "path with dots", path: func(resource string, owner *person) string {
			return "/api/v1/namespaces/other/../" + owner.home + "/" + resource
		}},
		{name: "doubled slashes", path: func(resource string, owner *person) string {
			return "//api//v1/namespaces/" + owner.home + "//" + resource
		}},
		{name: "escaped", path: func(resource string, owner *person) string {
			return "/api/v1/namespaces/" + shared + "/" + resource + "/%6fnly-" + owner.name
		}},
		{name: "write", path: one(""), method: http.MethodDelete},
	}
)

// TestACachedByteGoesOnlyToTheIdentityThatWasServedIt: every object has texts of
// its own in its data, annotations and labels. What of them comes to somebody
// offline, by whatever User-Agent and form of request, must have come to them
// online.
func TestACachedByteGoesOnlyToTheIdentityThatWasServedIt(t *testing.T) {
	w := newWorld(t)
	v := &vault{canaries: map[string][]string{}, served: map[string]map[string]bool{}}
	people := w.people(v)
	w.startHub(listedAgents)
	requests := w.readOwn(v, people)
	w.loseCloud()
	kept := w.expectOwn(v, people)
	w.restart()
	strangers := w.strangers(people[1])
	attempts, bytes := w.trespass(v, append(slices.Clone(people), strangers...), people)
	report.Line(t, "%d requests online by %d identities as %d agents, %d own answers offline; then %d attempts by them and %d strangers: %d bytes across identities",
		requests, len(people), len(agents), kept, attempts, len(strangers), bytes)
	w.Expect(bytes).To(BeZero())
	w.Expect(attempts).To(BeNumerically(">", 10_000))
	w.expectSilence(v, people)
}

// people are identities of each kind, with what they may read.
func (w *world) people(v *vault) []*person {
	w.Helper()
	w.namespace(shared)
	people := []*person{}
	add := func(p *person) {
		p.home = "home-" + p.name
		w.namespace(p.home)
		if p.token == "" && p.client == nil {
			// The name is the same in each namespace.
			p.token, p.subject = w.account(p.home, "app")
		}
		if p.client == nil {
			p.client = w.dial()
		}
		for namespace, object := range map[string]string{p.home: "", shared: objectOf(p)} {
			w.plant(namespace, objectOf(p), v.newCanaries())
			w.grant(namespace, objectOf(p), object, p.subject)
		}
		people = append(people, p)
	}
	for _, name := range []string{"auditor", "a", "b", "b-c", "c"} {
		add(&person{name: name})
	}
	add(&person{name: "robot", token: robotToken, subject: rbacv1.Subject{Kind: "User", Name: "robot", APIGroup: rbacv1.GroupName}})
	add(&person{name: "node", client: w.dial(w.certificate("system:node:"+hub.NodeName, "system:nodes")),
		subject: rbacv1.Subject{Kind: "User", Name: "system:node:" + hub.NodeName, APIGroup: rbacv1.GroupName}})
	// The auditor may read everything, so that what is in their cache is what
	// everybody else would like to have.
	w.grantAll("auditor", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: resources, Verbs: []string{"get", "list", "watch"}}, people[0].subject)
	return people
}

// strangers have credentials that give them nothing, in one way or another made
// of somebody's.
func (w *world) strangers(victim *person) []*person {
	w.Helper()
	parts := strings.Split(victim.token, ".")
	tokens := map[string]string{
		"no token":          "",
		"a garbage token":   "garbage",
		"a cut token":       victim.token[:len(victim.token)-1],
		"no signature":      parts[0] + "." + parts[1] + ".",
		"the payload":       parts[1],
		"a guessed name":    "system:serviceaccount:home-a:app",
		"a forged token":    w.forge(victim.token, nil),
		"an expired token":  w.mint(victim.token, map[string]any{"exp": time.Now().Add(-time.Hour).Unix(), "nbf": 0, "iat": 0}),
		"another cluster's": w.forge(victim.token, map[string]any{"iss": "https://kubernetes.default.svc"}),
	}
	all := []*person{
		{name: "another node", client: w.dial(w.certificate("system:node:edge-2", "system:nodes"))},
		{name: "an administrator without the cloud", client: w.dial(w.certificate("admin", "system:masters"))},
		{name: "a self-made node", client: w.dial(selfSigned(w.T, "system:node:"+hub.NodeName, "system:nodes"))},
	}
	for _, name := range slices.Sorted(maps.Keys(tokens)) {
		all = append(all, &person{name: name, token: tokens[name], client: w.dial()})
	}
	return all
}

func (p *person) request(r read, resource, agent string, owner *person) hub.Request {
	return hub.Request{Method: r.method, Path: r.path(resource, owner), Token: p.token, UserAgent: agent, Accept: r.accept}
}

// readOwn lets everybody read what is theirs, as every agent.
func (w *world) readOwn(v *vault, people []*person) (requests int) {
	w.Helper()
	for _, p := range people { // kube-apiserver takes a moment to know what is granted
		w.Eventually(func() int { return w.send(p.client, p.request(online[3], "secrets", "warm-up/1", p)).Code }).Should(Equal(http.StatusOK), p.name)
	}
	var jobs []func() error
	ask := func(p *person, r read, resource, agent string) {
		jobs = append(jobs, func() error {
			resp, err := hub.Do(w.Context(), p.client, w.hub.URL(), p.request(r, resource, agent, p))
			if err != nil {
				return err
			}
			if resp.Code != http.StatusOK || resp.Header.Get("Cache-Status") != "" || v.note(string(resp.Body), p) == 0 {
				return fmt.Errorf("online, %s as %q gets nothing of theirs by %s: %d %s", p.name, agent, r.name, resp.Code, resp.Body)
			}
			return nil
		})
	}
	for i, p := range people {
		for a, agent := range agents {
			for _, resource := range resources {
				for _, r := range online {
					if strings.HasPrefix(r.name, "watch") && a > 0 {
						continue // it lasts for a second
					}
					ask(p, r, resource, agent)
				}
				if i == 0 {
					ask(p, read{name: "everything", path: everywhere("")}, resource, agent)
				}
			}
		}
	}
	w.inParallel(jobs)
	for _, p := range people {
		resp := w.send(p.client, hub.Request{Path: "/api/v1/namespaces/" + p.home + "/configmaps?limit=1", Token: p.token, UserAgent: agents[0]})
		p.continueToken = between(string(resp.Body), `"continue":"`, `"`)
		w.Expect(p.home == "home-auditor" || p.continueToken == "" || len(p.continueToken) > 10).To(BeTrue())
	}
	return len(jobs)
}

// between returns what stands between two texts, "" if they don't occur.
func between(s, before, after string) string {
	_, s, _ = strings.Cut(s, before)
	s, _, ok := strings.Cut(s, after)
	if !ok {
		return ""
	}
	return s
}

// note remembers which texts were served to somebody, and returns how many.
func (v *vault) note(body string, p *person) (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for text, forms := range v.canaries {
		if leaked(body, forms) > 0 {
			if v.served[text] == nil {
				v.served[text] = map[string]bool{}
			}
			v.served[text][p.name] = true
			n++
		}
	}
	return n
}

// foreign counts the bytes of texts that somebody was not served online.
func (v *vault) foreign(answer string, p *person) (n int) {
	for text, forms := range v.canaries {
		if !v.served[text][p.name] {
			n += leaked(answer, forms)
		}
	}
	return n
}

// expectOwn checks that everybody has what is theirs offline, without which the
// test would show nothing.
func (w *world) expectOwn(v *vault, people []*person) (answers int) {
	w.Helper()
	for _, p := range people {
		for a, agent := range agents {
			for _, resource := range resources {
				for _, r := range online[:4] {
					q := p.request(r, resource, agent, p)
					if a >= cachedAgents {
						w.Expect(w.send(p.client, q).Code).To(Equal(http.StatusServiceUnavailable), "%s as %q", p.name, agent)
						continue
					}
					w.Eventually(func() string { return string(w.send(p.client, q).Body) }).Should(Satisfy(func(body string) bool {
						return v.note(body, p) > 0
					}), "%s reads %s as %s", p.name, r.name, agent)
					answers++
				}
			}
		}
	}
	return answers
}

// restart lets the hub forget what it has in memory.
func (w *world) restart() {
	w.Helper()
	w.Expect(w.hub.Stop()).To(Succeed())
	w.Expect(w.hub.Start(w.Context())).To(Succeed())
	w.Eventually(w.ready).Should(ContainSubstring("[!]upstream/"))
}

// trespass lets everybody ask for what is not theirs.
func (w *world) trespass(v *vault, intruders, owners []*person) (attempts, bytes int) {
	w.Helper()
	var (
		mu   sync.Mutex
		jobs []func() error
		turn int
	)
	try := func(p, owner *person, r read, resource, agent string) {
		if p == owner {
			return
		}
		jobs = append(jobs, func() error {
			q := p.request(r, resource, agent, owner)
			resp, err := hub.Do(w.Context(), p.client, w.hub.URL(), q)
			if err != nil {
				return fmt.Errorf("%s as %q: %s %s: %w", p.name, agent, q.Method, q.Path, err)
			}
			n := v.foreign(string(resp.Body)+fmt.Sprint(resp.Header), p)
			mu.Lock()
			bytes += n
			mu.Unlock()
			if n > 0 {
				return fmt.Errorf("%s, as %q, got %d bytes of what is not theirs by %s %s, on the way to %s's", p.name, agent, n, r.name, q.Path, owner.name)
			}
			return nil
		})
	}
	for _, p := range intruders {
		for _, agent := range agents {
			for _, resource := range resources {
				for _, r := range basic {
					for _, owner := range owners {
						try(p, owner, r, resource, agent)
					}
				}
				for _, r := range curious {
					turn++
					try(p, owners[turn%len(owners)], r, resource, agent)
				}
			}
		}
	}
	w.inParallel(jobs)
	return len(jobs), bytes
}

// inParallel runs jobs on a few goroutines.
func (w *world) inParallel(jobs []func() error) {
	w.Helper()
	next, failed := make(chan func() error), make(chan error, len(jobs))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for job := range next {
				if err := job(); err != nil {
					failed <- err
				}
			}
		})
	}
	for _, job := range jobs {
		next <- job
	}
	close(next)
	wg.Wait()
	close(failed)
	for i := 0; i < 10; i++ { // they are much alike
		if err, ok := <-failed; ok {
			w.Error(err)
		}
	}
	if n := len(failed); n > 0 {
		w.Errorf("and %d more", n)
	}
}
