package oracle

import (
	"regexp"
	"strconv"
	"strings"
)

// accepted are differences that are meant to be, each with its reason.
var accepted = []cause{
	{
		// A view begins with a list. What changed before it was never
		// delivered to the program, so nobody on the node knows it. A watch
		// from there gets the same 410 that it gets from a kube-apiserver
		// that has compacted its history, and informers list again.
		"history before a view's list is not known",
		func(c cell, d difference) bool {
			return c.program.late && c.request.is("resourceVersion", "{base}", "{middle}", "1", "007") &&
				(c.request.verb == "watch" && (strings.Contains(d.got, "[E:]") || d.in("body[0].object", "body (elements)") && c.got.expired()) ||
					strings.Contains(d.got, "410 Expired"))
		},
	},
	{
		// Nobody needs to read the past exactly while the cloud is away.
		// etcd has it for five minutes only.
		"the past before a view's list can't be read exactly",
		func(c cell, d difference) bool {
			return c.request.verb == "list" && strings.Contains(d.got, "410 Expired") && c.request.is("resourceVersion", "1", "007")
		},
	},
	{
		// kube-apiserver fails to encode the events and sends nothing at all.
		"a watch of PartialObjectMetadataList gets PartialObjectMetadata",
		func(c cell, d difference) bool {
			return c.request.verb == "watch" && strings.Contains(c.request.accept, "PartialObjectMetadataList") && d.field == "body (elements)" && strings.HasPrefix(d.want, "0 ")
		},
	},
	{
		// kube-apiserver gives read-time defaults to the Services of a watch
		// that it doesn't give to those of a list, so the view of a program
		// that watches has them.
		"a Service that became an ExternalName has defaults in a watch that it lacks in a list",
		func(c cell, d difference) bool {
			return c.request.res.Resource == "services" && strings.HasSuffix(d.field, "spec.internalTrafficPolicy") && !c.program.late
		},
	},
	{
		// Clients in Go take both for the same, others stumble over null.
		"an empty list has items [], not null",
		func(_ cell, d difference) bool { return d.field == "body.items" && d.want == "null" && d.got == "[]" },
	},
	{
		// kube-apiserver looks for the namespace of the field selector alone,
		// and gives a token that does not fit the request: the second page is
		// the first once more.
		"pages of all namespaces selected by metadata.namespace are not repeated",
		func(c cell, d difference) bool {
			return c.request.walk && c.request.namespace == "" && strings.Contains(c.request.get("fieldSelector"), "metadata.namespace=") && !d.isAnswer()
		},
	},
	{
		// kube-apiserver gives a token if objects are left, selected or not.
		"there is no token for a page without objects",
		func(c cell, d difference) bool {
			return c.request.walk && (c.request.has("labelSelector") || c.request.has("fieldSelector")) &&
				(strings.HasSuffix(d.field, "pages") && d.want == "true" || strings.HasSuffix(d.field, "metadata.continue") && (d.got == "(absent)" || d.got == `""`))
		},
	},
}

// known are defects of the hub that are not mended yet, the gravest first.
var known = []cause{
	{"GET as a list's partial metadata is called uncached, not refused", func(c cell, d difference) bool {
		return c.request.verb == "get" && (d.got503() || strings.Contains(d.got, "InternalError"))
	}},
	{"a Table is not continued with kube-apiserver's token", func(c cell, d difference) bool {
		return c.request.foreign && !strings.HasSuffix(d.field, "continue.start")
	}},
	{"a bookmark has no empty spec and status", func(c cell, d difference) bool {
		return c.frame(d) == "BOOKMARK" && d.got == "(absent)" && !strings.Contains(c.request.accept, "Table")
	}},
	{"fields that can't be selected by", func(c cell, d difference) bool {
		return d.isAnswer() && (strings.Contains(d.want, "field label not supported") || strings.Contains(d.want, "not a known field selector") ||
			strings.Contains(d.want, "400 BadRequest: field label"))
	}},
	{"no Table of what was never asked for as one", func(c cell, d difference) bool {
		return c.program.agent != "tables" && (d.isAnswer() && strings.Contains(d.want, " Table") || c.request.verb == "watch" && strings.Contains(c.request.accept, "as=Table"))
	}},
	{"a list of custom resources in YAML lacks its empty continue", func(c cell, d difference) bool {
		return c.wants(yamlType) && c.request.res.custom && strings.HasSuffix(d.field, "metadata.continue") && d.want == `""`
	}},
	{"a Table answers only what it was printed for", func(c cell, d difference) bool {
		return c.program.agent == "tables" && d.got503()
	}},
	{"no CBOR", func(c cell, d difference) bool {
		return d.isAnswer() && c.wants("application/cbor") && c.want.code == 200
	}},
	{"a watch falls back from YAML, which has no stream", func(c cell, d difference) bool {
		return c.request.verb == "watch" && d.isAnswer() && strings.HasPrefix(d.want, "406") && strings.Contains(c.request.accept, "q=0.9")
	}},
	{"406 comes after 404", func(_ cell, d difference) bool {
		return d.isAnswer() && strings.HasPrefix(d.want, "406") && strings.HasPrefix(d.got, "404")
	}},
	{"a watch from the future is refused at once", func(c cell, d difference) bool {
		return c.request.verb == "watch" && c.request.is("resourceVersion", "{newer}") && strings.Contains(d.got, "Too large")
	}},
	{"no bookmark at the end of a watch from 0", func(c cell, d difference) bool {
		return c.request.verb == "watch" && d.field == "body (elements)" && strings.HasSuffix(d.want, " B:]") && !strings.HasSuffix(d.got, " B:]") && c.request.is("resourceVersion", "", "0")
	}},
	{"lists are not compressed", func(c cell, d difference) bool {
		return c.request.gzip && (d.field == "header Content-Encoding" || d.field == "header Vary")
	}},
	{"406 says something else", func(_ cell, d difference) bool {
		return d.isAnswer() && strings.HasPrefix(d.want, "406") && strings.HasPrefix(d.got, "406")
	}},
	{"application/* is accepted", func(c cell, d difference) bool {
		return d.isAnswer() && strings.HasPrefix(d.want, "406") && c.request.accept == "application/*"
	}},
	{"partial metadata of one object is taken for that of a list and the reverse", func(_ cell, d difference) bool {
		return d.isAnswer() && (strings.Contains(d.want, "406 NotAcceptable: you requested PartialObjectMetadata") || strings.Contains(d.want, "content is not a list"))
	}},
	{"errors are JSON whatever is accepted", func(c cell, d difference) bool {
		return c.want.code >= 400 && (d.field == "header Content-Type" || d.in("body.apiVersion", "body.kind", "body.(envelope)") && c.wants(protobufType))
	}},
	{"a watch or GET from a resourceVersion that is no number gets another error", func(_ cell, d difference) bool {
		return d.isAnswer() && (strings.Contains(d.want, "invalid resource version") || strings.Contains(d.want, "strconv.ParseUint"))
	}},
}

func (q request) is(name string, values ...string) bool {
	for _, v := range values {
		if q.get(name) == v {
			return true
		}
	}
	return false
}

// wants reports whether kube-apiserver answered in a media type.
func (c cell) wants(mediaType string) bool {
	return strings.HasPrefix(c.want.header.Get("Content-Type"), mediaType)
}

func (d difference) isAnswer() bool { return strings.HasSuffix(d.field, "answer") }

func (d difference) got503() bool { return strings.HasPrefix(d.got, "503 ServiceUnavailable") }

// in reports whether the difference is in one of these parts of the body.
func (d difference) in(parts ...string) bool {
	for _, p := range parts {
		if strings.Contains(d.field, p) {
			return true
		}
	}
	return false
}

// expired reports whether a watch got nothing but a 410.
func (a *answer) expired() bool {
	frames, _ := a.normalized().([]any)
	return len(frames) == 1 && nameOf(frames[0]) == "E:"
}

var frameIndex = regexp.MustCompile(`^body\[(\d+)\]`)

// frame is the type of the event that a difference is in, as kube-apiserver
// sent it.
func (c cell) frame(d difference) string {
	m := frameIndex.FindStringSubmatch(d.field)
	frames, _ := c.want.normalized().([]any)
	if m == nil {
		return ""
	}
	i, err := strconv.Atoi(m[1])
	if err != nil || i >= len(frames) {
		return ""
	}
	ev, _ := frames[i].(map[string]any)
	typ, _ := ev["type"].(string)
	return typ
}
