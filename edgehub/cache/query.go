package cache

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/edgehub-io/edge-hub/edgehub/status"
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
	// SendInitialEvents says that a watch sends what is there and marks its end
	// with a bookmark (KEP-3157), so that it can be recorded as a list: because it
	// asks for that, or because it is from no version and takes bookmarks.
	SendInitialEvents bool
	AllowBookmarks    bool
	Timeout           time.Duration // 0 if the client named none

	format      format
	ifNoneMatch string // of a document
	errorType   string // the media type of an error
	gzip        bool   // the client takes it

	invalid    error // the Status that the request gets in any case
	badVersion error // of the resourceVersion, if it is no number
	initial    bool  // a watch sends what is there
	implied    bool  // it does not say so
	fromNow    bool  // a watch without a version sends only what changes
	labels     labels.Selector
	fields     fields.Selector
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
	if strings.HasPrefix(r.URL.Path, "//") {
		// The request info has it for a resource's. kube-apiserver knows no such
		// path, and its 404 says nothing of that resource.
		return Query{}, false
	}
	q.Key = Key{Agent: agent, Identity: identity}
	q.gzip = acceptsGzip(r)
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
	q.negotiate(r, info.Verb)
	switch want := q.format.representation(); {
	case want == partialObjectMetadata:
		q.Key.Representation = want
	case want == table && info.Verb != "watch":
		q.Key.Representation, q.Key.Document = want, r.URL.RawQuery
	}
	if q.format.representation() == table {
		q.tableOptions(r.URL.Query())
	}
	switch info.Verb {
	case "get":
		q.Verb, q.Key.Name = Get, info.Name
		q.ResourceVersion = r.URL.Query().Get("resourceVersion")
		q.badVersion = checkNumber(q.ResourceVersion)
		return q, info.Name != ""
	case "list", "watch":
		q.Verb = List
		if info.Verb == "watch" {
			q.Verb = Watch
		}
		q.options(r.URL.Query(), info)
		return q, true
	}
	return Query{}, false
}

// negotiate reads what the request accepts, before anything else is looked at.
func (q *Query) negotiate(r *http.Request, verb string) {
	accept := r.Header.Get("Accept")
	q.errorType = errorType(accept)
	if !IsCustom(q.Key.Group) {
		if q.invalid = notRouted(accept, verb != "get"); q.invalid != nil {
			return
		}
	}
	var ok bool
	if q.format, ok = negotiate(accept, !IsCustom(q.Key.Group)); !ok {
		q.invalid = errNotAcceptable(mediaTypes)
	}
}

// tableOptions reads metav1.TableOptions. What is wrong with them shows only
// once there is something to print.
func (q *Query) tableOptions(v url.Values) {
	q.format.includeObject = metav1.IncludeObjectPolicy(v.Get("includeObject"))
	if q.format.metaVersion != "meta.k8s.io/v1" && q.Key.Document != "" {
		q.Key.Document += " " + q.format.metaVersion
	}
}

// checkNumber is kube-apiserver's answer to a resourceVersion that is no number.
func checkNumber(version string) error {
	if version == "" {
		return nil
	}
	if _, err := strconv.ParseUint(version, 10, 64); err != nil {
		return status.New(http.StatusInternalServerError, "", 0, fmt.Sprintf("resourceVersion: Invalid value: %q: %v", version, err))
	}
	return nil
}

func (q Query) document(r *http.Request) (Query, bool) {
	for _, prefix := range documents {
		if r.URL.Path == prefix || strings.HasPrefix(r.URL.Path, prefix+"/") {
			q.Verb = GetDocument
			// What is answered does not depend on the query: how long it may take,
			// which version of it (hash) is known already, how it is indented.
			q.ifNoneMatch = strings.Join(r.Header.Values("If-None-Match"), ",")
			q.Key.Document = r.URL.Path + " " + strings.Join(r.Header.Values("Accept"), ",")
			return q, true
		}
	}
	return Query{}, false
}

// options reads metav1.ListOptions. What kube-apiserver would refuse becomes
// q.invalid.
func (q *Query) options(v url.Values, info *request.RequestInfo) {
	bad := func(err error) {
		if err != nil && q.invalid == nil {
			q.invalid = err
		}
	}
	var err error
	if q.labels, err = labels.Parse(v.Get("labelSelector")); err == nil {
		q.fields, err = fields.ParseSelector(v.Get("fieldSelector"))
	}
	if err != nil {
		bad(status.BadRequest(err.Error()))
		q.labels, q.fields = labels.Nothing(), fields.Nothing()
		return
	}
	if info.Name != "" && v.Get("fieldSelector") == "" {
		// GET .../watch/pods/NAME, the old way to watch one object.
		q.fields = fields.OneTermEqualSelector("metadata.name", info.Name)
	}
	q.Key.LabelSelector, q.Key.FieldSelector = q.labels.String(), q.fields.String()
	q.ResourceVersion, q.ResourceVersionMatch = v.Get("resourceVersion"), v.Get("resourceVersionMatch")
	q.Continue = v.Get("continue")
	if v.Has("limit") {
		if q.Limit, err = strconv.ParseInt(v.Get("limit"), 10, 64); err != nil {
			bad(status.BadRequest(err.Error()))
		}
	}
	if v.Has("timeoutSeconds") {
		seconds, err := strconv.ParseInt(v.Get("timeoutSeconds"), 10, 64)
		if err != nil {
			bad(status.BadRequest(err.Error()))
		}
		q.Timeout = time.Duration(min(seconds, 1<<31)) * time.Second
	}
	initial := isTrue(v.Get("sendInitialEvents"))
	q.fromNow = v.Has("sendInitialEvents") && !initial
	q.AllowBookmarks = isTrue(v.Get("allowWatchBookmarks"))
	bad(q.validate(v.Has("sendInitialEvents"), initial))
	q.SendInitialEvents = q.initial && q.AllowBookmarks && q.format.as != table
	q.implied = !v.Has("sendInitialEvents")
	q.badVersion = checkNumber(q.ResourceVersion)
	if q.badVersion != nil && q.Verb == List {
		bad(apierrors.NewBadRequest("invalid resource version: " + q.badVersion.Error()))
	}
}

// validate applies kube-apiserver's own rules for options that depend on each
// other.
func (q *Query) validate(has, initial bool) error {
	options := internalversion.ListOptions{
		Watch: q.Verb == Watch, ResourceVersion: q.ResourceVersion, Continue: q.Continue, Limit: q.Limit,
		ResourceVersionMatch: metav1.ResourceVersionMatch(q.ResourceVersionMatch), AllowWatchBookmarks: q.AllowBookmarks,
	}
	if has {
		options.SendInitialEvents = &initial
	}
	// What was meant by a watch from no version before there were options for it.
	internalversion.SetListOptionsDefaults(&options, true)
	q.initial = q.Verb == Watch && options.SendInitialEvents != nil && *options.SendInitialEvents
	if errs := validation.ValidateListOptions(&options, true); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	return nil
}

// isTrue reads a boolean as API machinery's query conversion does: anything
// but "", "0" and "false" is true.
func isTrue(s string) bool { return s != "" && s != "0" && !strings.EqualFold(s, "false") }

// startVersion is the resourceVersion from which a watch continues, zero if it
// starts with the present state.
func (q *Query) startVersion() uint64 {
	if q.initial {
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
