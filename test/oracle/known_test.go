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
	{
		// What kube-apiserver says of a column that is no field of the API is its
		// own text.
		"columns that are no field are described in the hub's own words",
		func(_ cell, d difference) bool {
			return strings.Contains(d.field, ".columnDefinitions[") && strings.HasSuffix(d.field, ".description")
		},
	},
	{
		// Only the definition tells what can be selected by, and what is printed.
		"a custom resource is a stranger to who has not read its definition",
		func(c cell, d difference) bool {
			return c.request.res.custom && !c.program.defines &&
				(strings.Contains(d.want, "field label not supported") || strings.Contains(c.request.accept, "as=Table") && d.in("columnDefinitions", ".cells"))
		},
	},
}

// known are defects of the hub that are not mended yet, the gravest first.
var known = []cause{}

func (q request) is(name string, values ...string) bool {
	for _, v := range values {
		if q.get(name) == v {
			return true
		}
	}
	return false
}

func (d difference) isAnswer() bool { return strings.HasSuffix(d.field, "answer") }

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
