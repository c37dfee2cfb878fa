package oracle

import (
	"context"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"sync"

	. "github.com/onsi/gomega"

	"github.com/edgehub-io/edge-hub/test/hub"
)

// scope is what of a resource a program reads.
type scope struct{ namespace, labels, fields string }

func (s scope) request(verb string, r *resource) request {
	q := ask(verb, r, s.namespace)
	if s.labels != "" {
		q = q.with(param{"labelSelector", s.labels})
	}
	if s.fields != "" {
		q = q.with(param{"fieldSelector", s.fields})
	}
	return q
}

// program is a User-Agent that reads through the hub in one manner.
type program struct {
	agent  string
	accept string
	scopes func(r *resource) []scope
	read   func(ctx context.Context, p *program, c caller, r *resource, s scope) (*stream, error)
	late   bool // reads once everything has been changed
	// defines says that the program reads the definitions of custom resources
	// as well, as kubectl and many controllers do.
	defines bool
	// asks reports whether a cell of the matrix is something that the
	// program's views can answer.
	asks func(q request) bool
}

func everywhere(*resource) []scope { return []scope{{}} }

// narrow are views of which none is broad.
func narrow(r *resource) []scope {
	scopes := []scope{{namespace: r.one()}, {labels: "app=web"}}
	if !r.clusterScope {
		scopes = append(scopes, scope{namespace: "shop-eu", labels: "tier"})
	}
	for _, f := range r.fieldSelectors[:min(1, len(r.fieldSelectors))] {
		scopes = append(scopes, scope{fields: f})
	}
	if r.clusterScope {
		scopes = scopes[1:]
	}
	return scopes
}

var programs = []*program{
	{agent: "lists", defines: true, accept: jsonType, scopes: everywhere, read: list, late: true, asks: now},
	{agent: "lists-protobuf", defines: true, accept: protobufType + "," + jsonType, scopes: everywhere, read: list, late: true, asks: some(6)},
	{agent: "pages", accept: jsonType, scopes: everywhere, read: paged, late: true, asks: some(9)},
	{agent: "follows", defines: true, accept: jsonType, scopes: everywhere, read: follow, asks: changing(some(3))},
	{agent: "watchlists", accept: protobufType + "," + jsonType, scopes: everywhere, read: watchLists, asks: some(4)},
	{agent: "narrow", defines: true, accept: jsonType, scopes: narrow, read: follow, asks: func(q request) bool {
		if !oneInTwo(q) {
			return false
		}
		for _, s := range narrow(q.res) {
			if q.namespace == s.namespace && (s.labels == "" || q.get("labelSelector") == s.labels) && (s.fields == "" || q.get("fieldSelector") == s.fields) {
				return q.verb != "get" || s.labels+s.fields == ""
			}
		}
		return false
	}},
	{agent: "gets", accept: jsonType, scopes: everywhere, read: gotten, late: true, asks: func(q request) bool {
		return q.verb == "get" && q.namespace != bulk && q.name != "gone" && q.name != "nobody"
	}},
	{agent: "tables", accept: tableType, scopes: everywhere, read: list, late: true, asks: func(q request) bool {
		return strings.HasPrefix(q.accept, jsonType+table) && q.verb == "list" && q.get("includeObject") != "Object" && q.selectsByMetadata()
	}},
	{agent: "metadata", accept: jsonType + partialList + "," + jsonType, scopes: everywhere, read: list, late: true, asks: func(q request) bool {
		return q.verb == "get" && strings.Contains(q.accept, partial) && !strings.Contains(q.accept, partialList) ||
			q.verb != "get" && strings.Contains(q.accept, partialList) && q.selectsByMetadata()
	}},
}

// tableType is what kubectl get asks for.
const tableType = jsonType + table + "," + jsonType

// now asks for everything, but only at times for what was before.
func now(q request) bool {
	return !q.is("resourceVersion", "{base}", "{middle}") || oneInFive(q)
}

var oneInTwo, oneInFive = some(2), some(5)

// some asks one of n requests, a different share for each resource.
func some(n int) func(q request) bool {
	count := map[string]int{}
	return func(q request) bool {
		count[q.res.Resource]++
		return count[q.res.Resource]%n == 0
	}
}

// changing asks what depends on what was before, and what another asks.
func changing(asks func(q request) bool) func(q request) bool {
	return func(q request) bool {
		return q.verb == "watch" || q.has("resourceVersion") && q.get("resourceVersion") != "0" || asks(q)
	}
}

// agents are the User-Agents of all programs.
func agents() []string {
	var names []string
	for _, p := range programs {
		names = append(names, p.agent)
	}
	return names
}

// run lets programs read everything they read.
func (w *world) run(late bool) []*stream {
	w.Helper()
	var mu sync.Mutex
	var streams []*stream
	var errs []error
	var wg sync.WaitGroup
	for _, p := range programs {
		if p.late != late {
			continue
		}
		wg.Go(func() {
			if p.defines {
				if _, err := list(w.Context(), p, w.viaHub(p.agent), definition, scope{}); err != nil {
					mu.Lock()
					errs = append(errs, fmt.Errorf("%s: %w", p.agent, err))
					mu.Unlock()
				}
			}
			for _, r := range resources {
				for _, s := range p.scopes(r) {
					st, err := p.read(w.Context(), p, w.viaHub(p.agent), r, s)
					mu.Lock()
					if err != nil {
						errs = append(errs, fmt.Errorf("%s: %w", p.agent, err))
					}
					if st != nil {
						streams = append(streams, st)
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	w.Expect(errs).To(BeEmpty())
	return streams
}

func (p *program) acceptFor(r *resource) string {
	if r.custom && p.accept == protobufType+","+jsonType {
		return jsonType // what a client made for custom resources asks for
	}
	return p.accept
}

func list(ctx context.Context, p *program, c caller, r *resource, s scope) (*stream, error) {
	a, err := c.ask(ctx, s.request("list", r).as(p.acceptFor(r)), versions{})
	return nil, succeeded(a, err)
}

func paged(ctx context.Context, p *program, c caller, r *resource, s scope) (*stream, error) {
	q := s.request("list", r).as(p.acceptFor(r)).with(param{"limit", "3"})
	q.walk = true
	a, err := c.ask(ctx, q, versions{})
	return nil, succeeded(a, err)
}

func gotten(ctx context.Context, p *program, c caller, r *resource, _ scope) (*stream, error) {
	for _, name := range []string{"stays", "stays-2", "leaves", "flap", "added", "reborn"} {
		q := ask("get", r, r.one()).as(p.acceptFor(r))
		q.name = name
		a, err := c.ask(ctx, q, versions{})
		if err := succeeded(a, err); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func succeeded(a *answer, err error) error {
	for ; err == nil && a != nil; a = a.next {
		if a.code != http.StatusOK {
			err = fmt.Errorf("%d %s", a.code, a.body)
		}
	}
	return err
}

// follow lists and watches from there, as informers did before WatchList.
func follow(ctx context.Context, p *program, c caller, r *resource, s scope) (*stream, error) {
	a, err := c.ask(ctx, s.request("list", r).as(p.acceptFor(r)), versions{})
	if err := succeeded(a, err); err != nil {
		return nil, err
	}
	tree, _ := a.tree().(map[string]any)
	meta, _ := tree["metadata"].(map[string]any)
	version, _ := meta["resourceVersion"].(string)
	return p.open(ctx, c, r, s, param{"resourceVersion", version}, param{"allowWatchBookmarks", "true"}, param{"timeoutSeconds", "600"})
}

// watchLists does as informers do now.
func watchLists(ctx context.Context, p *program, c caller, r *resource, s scope) (*stream, error) {
	st, err := p.open(ctx, c, r, s, append([]param{{"timeoutSeconds", "600"}}, watchList...)...)
	if err != nil {
		return nil, err
	}
	select {
	case <-st.synced:
		return st, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// stream is a watch that goes on while objects are changed.
type stream struct {
	res    *resource
	scope  scope
	agent  string
	synced chan struct{} // closed with the bookmark that ends the initial events

	mu   sync.Mutex
	last int // how many last changes came
}

func (p *program) open(ctx context.Context, c caller, r *resource, s scope, params ...param) (*stream, error) {
	q := s.request("watch", r).with(params...)
	resp, err := hub.Open(ctx, c.http, c.server, hub.Request{Path: q.target(versions{}), Token: c.token, UserAgent: c.agent + "/1.0", Accept: p.acceptFor(r)})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %s", q, resp.Status)
	}
	st := &stream{res: r, scope: s, agent: p.agent, synced: make(chan struct{})}
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	go func() {
		defer resp.Body.Close()
		_ = readFrames(mediaType, resp.Body, st.frame) // ends when kube-apiserver does
	}()
	return st, nil
}

func (s *stream) frame(f any) {
	m, _ := f.(map[string]any)
	obj, _ := m["object"].(map[string]any)
	meta, _ := obj["metadata"].(map[string]any)
	annotations, _ := meta["annotations"].(map[string]any)
	if m["type"] == "BOOKMARK" && annotations["k8s.io/initial-events-end"] == "true" {
		close(s.synced)
	}
	if m["type"] != "BOOKMARK" && annotations[lastChange] == "true" {
		s.mu.Lock()
		s.last++
		s.mu.Unlock()
	}
}

// changes is how many last changes the stream is to see.
func (s *stream) changes() int {
	if s.res.clusterScope || s.scope.namespace != "" {
		return 1
	}
	return len(namespaces)
}

func (s *stream) complete() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last < s.changes() {
		return fmt.Errorf("%s: %s %+v: %d of %d namespaces have changed", s.agent, s.res, s.scope, s.last, s.changes())
	}
	return nil
}
