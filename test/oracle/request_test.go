package oracle

import (
	"net/url"
	"strings"
)

// Media types that programs ask for.
const (
	jsonType     = "application/json"
	yamlType     = "application/yaml"
	protobufType = "application/vnd.kubernetes.protobuf"
	cborType     = "application/cbor"
	table        = ";as=Table;v=v1;g=meta.k8s.io"
	partial      = ";as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	partialList  = ";as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
)

// param is one parameter of a request. In the value, {current}, {base},
// {middle} and {newer} stand for resourceVersions, see versions.
type param struct{ name, value string }

// request is a cell of the matrix.
type request struct {
	verb      string // get, list or watch
	res       *resource
	namespace string // "" is all
	name      string // of a get
	params    []param
	accept    string
	gzip      bool
	walk      bool // go on until the last page
	foreign   bool // the continue token is kube-apiserver's
}

func (q request) with(params ...param) request {
	q.params = append(q.params[:len(q.params):len(q.params)], params...)
	return q
}

func (q request) as(accept string) request {
	q.accept = accept
	return q
}

func (q request) get(name string) string {
	for _, p := range q.params {
		if p.name == name {
			return p.value
		}
	}
	return ""
}

func (q request) has(name string) bool {
	for _, p := range q.params {
		if p.name == name {
			return true
		}
	}
	return false
}

// selectsByMetadata reports whether an object's metadata tells if it is selected.
func (q request) selectsByMetadata() bool {
	for _, term := range strings.Split(q.get("fieldSelector"), ",") {
		if term != "" && !strings.HasPrefix(term, "metadata.") {
			return false
		}
	}
	return true
}

// String is the request in one line.
func (q request) String() string {
	var b strings.Builder
	b.WriteString(q.verb + " " + q.res.Resource)
	if q.res.Version != "v1" {
		b.WriteString("." + q.res.Version)
	}
	if q.namespace != "" {
		b.WriteString(" -n " + q.namespace)
	}
	if q.name != "" {
		b.WriteString(" " + q.name)
	}
	for _, p := range q.params {
		if p.name == "continue" && q.foreign {
			p.value = "(kube-apiserver's)"
		}
		b.WriteString(" " + p.name + "=" + p.value)
	}
	if q.walk {
		b.WriteString(" (all pages)")
	}
	if q.accept != "" {
		b.WriteString(" Accept:" + short(q.accept))
	}
	if q.gzip {
		b.WriteString(" gzip")
	}
	return b.String()
}

func short(accept string) string {
	return strings.NewReplacer("application/", "", "vnd.kubernetes.", "", ";v=v1;g=meta.k8s.io", "").Replace(accept)
}

// target is the request's path and query for a server with these versions.
func (q request) target(v versions) string {
	path := q.res.path(q.namespace)
	if q.name != "" {
		path += "/" + q.name
	}
	values := url.Values{}
	if q.verb == "watch" {
		values.Set("watch", "true")
		if !q.has("timeoutSeconds") {
			values.Set("timeoutSeconds", "2") // of which kube-apiserver may need one
		}
	}
	for _, p := range q.params {
		values.Add(p.name, v.fill(p.value))
	}
	if len(values) == 0 {
		return path
	}
	return path + "?" + values.Encode()
}

// versions are resourceVersions by what they are to one server.
type versions struct {
	current string // of a list now
	base    string // before any change
	middle  string // between the changes
	newer   string // in the future
}

func (v versions) fill(s string) string {
	return strings.NewReplacer("{current}", v.current, "{base}", v.base, "{middle}", v.middle, "{newer}", v.newer).Replace(s)
}
