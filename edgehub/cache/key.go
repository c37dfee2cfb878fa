package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"path"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// Key names a view: what one program, acting as one identity, reads of one
// resource in one scope. Keys are compared as they are, so every field is in
// its canonical form.
type Key struct {
	Agent    string `json:"agent"`
	Identity string `json:"identity"`

	// Group, Version and Resource name what is read. All are empty for a
	// document, which is not a resource (discovery, OpenAPI).
	Group    string `json:"group,omitempty"`
	Version  string `json:"version,omitempty"`
	Resource string `json:"resource,omitempty"`

	Namespace     string `json:"namespace,omitempty"` // "" is every namespace
	LabelSelector string `json:"labelSelector,omitempty"`
	FieldSelector string `json:"fieldSelector,omitempty"`
	// Name is set if the view is one object, read with GET.
	Name string `json:"name,omitempty"`
	// Representation is PartialObjectMetadata if the server was asked for
	// objects' metadata alone, Table if it was asked to print them, and empty
	// for whole objects.
	Representation string `json:"as,omitempty"`

	// Document is the path of a document, followed by the media types that were
	// asked for; of a Table, which is kept like a document, it is the query alone.
	Document string `json:"document,omitempty"`
}

const (
	partialObjectMetadata = "PartialObjectMetadata"
	table                 = "Table"
	fileSuffix            = ".jsonl"
	maxName               = 200 // bytes; file systems allow 255
)

// directory is where the views of one resource of one agent and identity lie.
type directory struct{ agent, identity, resource string }

// oneName is the name of the only object that a view can hold, "" if it can hold others.
// It is the name that authorizers go by: that of a GET, and of a list or a watch the one
// that its field selector asks for, as kube-apiserver's RequestInfo has it.
func (k Key) oneName() string {
	if k.Name != "" || k.FieldSelector == "" {
		return k.Name
	}
	selector, err := fields.ParseSelector(k.FieldSelector)
	if err != nil {
		return ""
	}
	name, _ := selector.RequiresExactMatch(metav1.ObjectNameField)
	if len(content.IsPathSegmentName(name)) > 0 {
		return ""
	}
	return name
}

func (k Key) directory() directory {
	d := directory{agent: k.Agent, identity: k.Identity, resource: "discovery"}
	if k.Resource != "" {
		group := k.Group
		if group == "" {
			group = "core"
		}
		d.resource = k.Resource + "." + k.Version + "." + group
	}
	return d
}

// isDocument reports whether a view is not made of objects.
func (k Key) isDocument() bool { return k.Resource == "" || k.Representation == table }

// isList reports whether a view is a list of objects.
func (k Key) isList() bool { return !k.isDocument() && k.Name == "" }

func (d directory) path() string {
	return path.Join(agentPath(d.agent), safeName(d.identity), safeName(d.resource))
}

// agentPath is the directory of an agent's views, called like the agent.
func agentPath(agent string) string { return safeName(agent) }

// agentOfPath is the agent whose directory has a name; ok is false if none's
// has, or if the name is shortened and doesn't tell.
func agentOfPath(name string) (agent string, ok bool) { return named(name) }

// named is the text for which safeName returns a name.
func named(name string) (text string, ok bool) {
	text, err := url.PathUnescape(name)
	return text, err == nil && safeName(text) == name
}

// file is the view's file: DIRECTORY/SCOPE.jsonl, where SCOPE begins with the
// namespace, or _all, which no namespace can be called. A digest takes the place
// of what might name an object of a sealed view.
func (k Key) file() string {
	var b strings.Builder
	switch {
	case k.Resource == "":
		b.WriteString(k.Document)
	case k.Namespace == "":
		b.WriteString("_all")
	default:
		b.WriteString(k.Namespace)
	}
	scope := escape(b.String())
	query := k.Document
	if k.Resource == "" {
		query = ""
	}
	for _, part := range []struct{ name, value string }{
		{"name", k.Name}, {"labels", k.LabelSelector}, {"fields", k.FieldSelector}, {"as", k.Representation}, {"query", query},
	} {
		switch {
		case part.value == "":
		case k.sealed() && part.name != "as":
			scope += "," + part.name + "=~" + digest(part.value)
		default:
			scope += "," + part.name + "=" + escape(part.value)
		}
	}
	return path.Join(k.directory().path(), shorten(scope)+fileSuffix)
}

// safeName turns any text into one file name, different texts into different
// names, such that it can't leave its directory, be hidden, or be too long.
func safeName(s string) string { return shorten(escape(s)) }

// escape writes what is not plain in a file name in the way of a URL: control
// and non-ASCII bytes, separators of paths and of this package, wildcards and
// quotes of the shell, and a dot at the beginning.
func escape(s string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c < ' ' || c > '}' || strings.IndexByte(`/%,=*?"'\`, c) >= 0 || c == '.' && i == 0 {
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&0xf])
		} else {
			b.WriteByte(c)
		}
	}
	if b.Len() == 0 {
		return "%" // what escapes to nothing still needs a name
	}
	return b.String()
}

// shorten cuts an escaped name and puts its digest in place of what is cut.
// No escaped name holds the tilde that marks it.
func shorten(name string) string {
	if len(name) <= maxName {
		return name
	}
	return name[:maxName-33] + "~" + digest(name)
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}
