package cache

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// Verb is what a query does.
type Verb uint8

// The verbs that a cache can answer.
const (
	Get Verb = iota + 1
	List
	Watch
	GetDocument
)

// Query is a read request in the cache's terms.
type Query struct {
	Key  Key
	Verb Verb

	ResourceVersion      string
	ResourceVersionMatch string
	Limit                int64
	Continue             string
	SendInitialEvents    bool
	AllowBookmarks       bool
	Timeout              time.Duration // 0 if the client named none

	Accept []MediaType

	labels labels.Selector
	fields fields.Selector
}

// documents are the paths below which discovery and schemas are served; a
// restarted client needs them before it can ask for anything else.
var documents = []string{"/api", "/apis", "/openapi", "/version"}

// uncached are the resources that are never stored: leases are only worth
// something while they are fresh, and events are written, not depended upon.
var uncached = map[string]bool{
	"leases.coordination.k8s.io": true,
	"events":                     true,
	"events.events.k8s.io":       true,
}

// NewQuery reads a request. ok is false if the cache has no part in it: it
// writes, it names a subresource, or what it reads is never cached.
func NewQuery(r *http.Request, info *request.RequestInfo, agent, identity string) (q Query, ok bool) {
	if r.Method != http.MethodGet || agent == "" || identity == "" {
		return Query{}, false
	}
	q.Accept = parseAccept(r.Header)
	q.Key = Key{Agent: agent, Identity: identity}
	if !info.IsResourceRequest {
		return q.document(r)
	}
	resource := info.Resource
	if info.APIGroup != "" {
		resource += "." + info.APIGroup
	}
	if info.Subresource != "" || uncached[resource] {
		return Query{}, false
	}
	q.Key.Group, q.Key.Version, q.Key.Resource = info.APIGroup, info.APIVersion, info.Resource
	q.Key.Namespace = info.Namespace
	if resource == "namespaces" {
		// The request info takes a Namespace object to be in itself.
		q.Key.Namespace = ""
	}
	switch want := q.representation(); {
	case want == partialObjectMetadata:
		q.Key.Representation = want
	case want == table && info.Verb != "watch":
		q.Key.Representation, q.Key.Document = want, r.URL.RawQuery
	}
	switch info.Verb {
	case "get":
		q.Verb, q.Key.Name = Get, info.Name
		return q, info.Name != ""
	case "list", "watch":
		q.Verb = List
		if info.Verb == "watch" {
			q.Verb = Watch
		}
		return q, q.options(r.URL.Query(), info)
	}
	return Query{}, false
}

func (q Query) document(r *http.Request) (Query, bool) {
	for _, prefix := range documents {
		if r.URL.Path == prefix || strings.HasPrefix(r.URL.Path, prefix+"/") {
			q.Verb = GetDocument
			q.Key.Document = r.URL.Path
			if r.URL.RawQuery != "" {
				q.Key.Document += "?" + r.URL.RawQuery
			}
			q.Key.Document += " " + strings.Join(r.Header.Values("Accept"), ",")
			return q, true
		}
	}
	return Query{}, false
}

// options reads metav1.ListOptions. It reports false for options that
// kube-apiserver refuses, whose answer it is to give.
func (q *Query) options(v url.Values, info *request.RequestInfo) bool {
	var err error
	if q.labels, err = labels.Parse(v.Get("labelSelector")); err != nil {
		return false
	}
	if q.fields, err = fields.ParseSelector(v.Get("fieldSelector")); err != nil {
		return false
	}
	if info.Name != "" && v.Get("fieldSelector") == "" {
		// GET .../watch/pods/NAME, the old way to watch one object.
		q.fields = fields.OneTermEqualSelector("metadata.name", info.Name)
	}
	q.Key.LabelSelector, q.Key.FieldSelector = q.labels.String(), q.fields.String()
	q.ResourceVersion, q.ResourceVersionMatch = v.Get("resourceVersion"), v.Get("resourceVersionMatch")
	q.Continue = v.Get("continue")
	if s := v.Get("limit"); s != "" {
		if q.Limit, err = strconv.ParseInt(s, 10, 64); err != nil {
			return false
		}
	}
	if s := v.Get("timeoutSeconds"); s != "" {
		seconds, err := strconv.ParseInt(s, 10, 32)
		if err != nil {
			return false
		}
		q.Timeout = time.Duration(seconds) * time.Second
	}
	q.SendInitialEvents = q.Verb == Watch && isTrue(v.Get("sendInitialEvents"))
	q.AllowBookmarks = isTrue(v.Get("allowWatchBookmarks"))
	return true
}

// isTrue reads a boolean as API machinery's query conversion does: anything
// but "", "0" and "false" is true.
func isTrue(s string) bool { return s != "" && s != "0" && !strings.EqualFold(s, "false") }

// representation is the kind of the answer that is asked for first.
func (q *Query) representation() string {
	if len(q.Accept) == 0 {
		return ""
	}
	return strings.TrimSuffix(q.Accept[0].As, "List")
}

// startVersion is the resourceVersion from which a watch continues, zero if it
// starts with the present state.
func (q *Query) startVersion() uint64 {
	if q.SendInitialEvents {
		return 0
	}
	return parseVersion(q.ResourceVersion)
}

// parseVersion reads a resourceVersion as the integer that it is in every
// conformant API server (KEP-5504); zero if it is none.
func parseVersion(s string) uint64 {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return v
}
