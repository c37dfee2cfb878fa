package middleware

import (
	"fmt"
	"net/http"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/edgehub/cache"
	"github.com/edgehub-io/edge-hub/edgehub/identity"
	"github.com/edgehub-io/edge-hub/edgehub/limits"
	"github.com/edgehub-io/edge-hub/edgehub/report"
	"github.com/edgehub-io/edge-hub/edgehub/status"
	"github.com/edgehub-io/edge-hub/edgehub/upstream"
)

// Cache is what WithCache works with.
type Cache struct {
	// Caches reports whether an agent is cached now.
	Caches   func(agent string) bool
	Store    *cache.Store
	Identity *identity.Authenticator
	Upstream *upstream.Upstream
	// Seen is told of callers that kube-apiserver has accepted; nil tells nobody.
	Seen *report.Seen
	// Admits reports whether what ServiceAccounts of a namespace read as an agent is
	// cached.
	Admits func(agent, namespace string) bool
}

// WithCache records what kube-apiserver answers to cached agents, and answers
// for it while it can't. next proxies.
func WithCache(c Cache, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := &cached{Cache: c, info: requestInfo(r), agent: hubconfig.AgentOf(r.UserAgent())}
		h.caches = c.Caches(h.agent)
		if !c.Upstream.Up() {
			h.failed(w, r, upstream.ErrDown)
			return
		}
		exchangeOf(r.Context()).Source = sourceCloud
		if h.caches {
			askReadably(r, h.info)
		}
		h.asked = c.Store.Asked()
		hooks := &upstream.Hooks{Response: h.response, Failed: h.failed}
		next.ServeHTTP(w, r.WithContext(upstream.WithHooks(r.Context(), hooks)))
	})
}

// cached is one request on its way.
type cached struct {
	Cache
	info   *request.RequestInfo
	agent  string
	caches bool // the agent is cached
	asked  cache.Moment
}

// response looks at kube-apiserver's response before it is passed on.
func (h *cached) response(resp *http.Response) error {
	r := resp.Request
	if upstream.FromGateway(resp) {
		h.Upstream.Suspect()
		if h.canAnswer(r) {
			return fmt.Errorf("%w: %s", upstream.ErrGateway, resp.Status)
		}
		return nil
	}
	accepted := resp.StatusCode < http.StatusMultipleChoices && h.Seen != nil
	read := resp.StatusCode == http.StatusOK && r.Method == http.MethodGet
	agent, refused := h.agent, false
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		if !upstream.MayRefuse(resp) || resp.StatusCode == http.StatusUnauthorized && (speaksForAnother(h.info) || wasLetIn(resp)) {
			return nil
		}
		refused = true
		if !h.caches {
			agent = anyAgent // it is the identity that is refused, whatever its agent
		}
	}
	if !h.caches && !read && !refused {
		if accepted && h.due(r) {
			id, credential, _ := h.Identity.Caller(r)
			h.note(id, credential, "")
		}
		return nil
	}
	if !h.caches && read && h.info.Verb != "watch" && !(accepted && h.due(r, r.URL.Path, r.URL.RawQuery, r.Header.Get("Accept"))) {
		return nil // the same was noted a moment ago
	}
	// The request as it was sent upstream tells who upstream takes the
	// caller for.
	id, credential, ok := h.Identity.Caller(r)
	var q cache.Query
	if ok {
		q, ok = cache.NewQuery(r, h.info, agent, id.Key)
	}
	if accepted {
		h.sighted(r, id, credential, &q, ok && read && q.Asks())
	}
	if h.caches || resp.StatusCode == http.StatusUnauthorized {
		h.Identity.Observe(credential, resp.StatusCode)
	}
	if !ok || resp.StatusCode != http.StatusOK && !h.Upstream.Ready() {
		// An apiserver that is starting refuses everybody until it has
		// read who may do what.
		return nil
	}
	switch {
	case h.caches, read && h.info.Verb == "watch":
		resp.Body = h.Store.Record(q, resp, h.asked)
	case refused:
		h.Store.Refused(q, resp.StatusCode, h.asked)
	}
	return nil
}

// speaksForAnother reports whether an answer may be a Pod's, a Service's or a node's
// that kube-apiserver passes on: it has let the caller in then, and they have not.
func speaksForAnother(info *request.RequestInfo) bool {
	switch info.Subresource {
	case "proxy", "exec", "attach", "portforward", "log":
		return true
	}
	return false
}

// wasLetIn reports whether an answer is to a caller whom kube-apiserver has let in, as
// a 401 of the server behind an APIService is: priority and fairness (KEP-1040) come
// after authentication, and say so in what they let pass. That server can add a header
// to those of kube-apiserver, but not take one away.
func wasLetIn(resp *http.Response) bool {
	return resp.Header.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID) != ""
}

// anyAgent stands for agents that are not cached, whose names may be anything.
const anyAgent = "edge-hub"

// sighted tells of a caller, if it was not a moment ago, and of each read that its
// program depends on and that goes past the cache.
func (h *cached) sighted(r *http.Request, id identity.Identity, credential identity.Credential, q *cache.Query, asks bool) {
	var read []string
	if asks {
		read = append(read, "")
	}
	if due := h.due(r, read...); !due && (!asks || h.keeps(id)) {
		return
	}
	file := ""
	if asks {
		file = q.File()
	}
	h.note(id, credential, file)
}

func (h *cached) due(r *http.Request, read ...string) bool {
	return h.Seen.Due(h.agent, r.Header.Get("Authorization"), read...)
}

// keeps reports whether what a caller reads is cached.
func (h *cached) keeps(id identity.Identity) bool {
	return h.caches && h.Admits(h.agent, identity.NamespaceOf(id.Key))
}

// note tells of a caller, whoever it is. file is where what it has read is to be
// kept, "" if it has read nothing.
func (h *cached) note(id identity.Identity, credential identity.Credential, file string) {
	_, pod, uid := credential.Pod()
	h.Seen.Note(report.Request{
		Pair: report.Pair{Agent: h.agent, Namespace: identity.NamespaceOf(id.Key)},
		Pod:  pod, UID: types.UID(uid), Cached: h.keeps(id), Read: file,
	})
}

// canAnswer reports whether the cache has an answer for the caller.
func (h *cached) canAnswer(r *http.Request) bool {
	if !h.caches {
		return false
	}
	id, err := h.Identity.Authenticate(r)
	if err != nil {
		return false
	}
	q, ok := cache.NewQuery(r, h.info, h.agent, id.Key)
	return ok && h.Store.CanAnswer(q)
}

// failed answers a request that kube-apiserver did not.
func (h *cached) failed(w http.ResponseWriter, r *http.Request, cause error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
	x := exchangeOf(r.Context())
	x.Source = sourceHub
	klog.V(3).InfoS("Kube-apiserver gave no answer", "agent", printable(h.agent), "path", printable(r.URL.Path), "reason", cause)
	if refusal := limits.Refusal(cause); refusal != nil {
		status.Write(w, refusal)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		if upstream.WasSent(cause) {
			status.Write(w, status.OutcomeUnknown())
			return
		}
		status.Write(w, status.Unreachable("the request was not carried out; edge-hub answers reads from its cache and never queues or pretends writes"))
		return
	}
	if err := h.answer(w, r, x); err != nil {
		status.Write(w, err)
	}
}

// answer answers a read from the cache. An error means that nothing was
// written.
func (h *cached) answer(w http.ResponseWriter, r *http.Request, x *Exchange) error {
	if !h.caches {
		return status.Unreachable(fmt.Sprintf("the agent %q is not cached; to have it cached add it to cache_agents in ConfigMap %s/%s while the cloud is reachable",
			printable(h.agent), hubconfig.Namespace, hubconfig.Name))
	}
	id, err := h.Identity.Authenticate(r)
	if err != nil {
		return err
	}
	q, ok := cache.NewQuery(r, h.info, h.agent, id.Key)
	if !ok {
		return status.NeverCached()
	}
	if !h.Store.Knows(h.agent, id.Key) {
		return status.Forbidden(fmt.Sprintf("%s was served nothing as %q while kube-apiserver was reachable, so edge-hub has nothing to serve it now", id.User, h.agent))
	}
	x.Source = sourceCache
	return h.Store.Answer(w, r, q, h.Upstream)
}
