package cache

import (
	"net/http"
	"slices"
	"strings"

	"github.com/munnerz/goautoneg"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
	"github.com/edgehub-io/edge-hub/edgehub/status"
)

// Media types that kube-apiserver serves, in its order of preference.
const (
	typeJSON     = "application/json"
	typeYAML     = "application/yaml"
	typeProtobuf = "application/vnd.kubernetes.protobuf"
	typeCBOR     = "application/cbor"
)

var (
	mediaTypes = []string{typeJSON, typeYAML, typeProtobuf, typeCBOR}
	// YAML has no frames.
	streamTypes = []string{typeJSON + ";stream=watch", typeProtobuf + ";stream=watch", "application/cbor-seq"}
)

// encodingOf is the encoding that a Content-Type header names; ok is false for
// one that is not captured.
func encodingOf(contentType string) (enc capture.Encoding, ok bool) {
	mediaType, _, _ := strings.Cut(contentType, ";")
	switch strings.TrimSpace(mediaType) {
	case typeJSON:
		return capture.JSON, true
	case typeProtobuf:
		return capture.Protobuf, true
	}
	return 0, false
}

// format is how an answer is written.
type format struct {
	mediaType string // one of mediaTypes
	// as is Table, PartialObjectMetadata, PartialObjectMetadataList, or empty for
	// the objects themselves. A list may be asked for as any of them.
	as string
	// metaVersion is the apiVersion of what as names: meta.k8s.io/v1 or /v1beta1.
	metaVersion string
	// includeObject is what the rows of a Table have of their objects.
	includeObject metav1.IncludeObjectPolicy
}

// encoding is what an object is read in to be written in the format.
func (f format) encoding() capture.Encoding {
	if f.mediaType == typeProtobuf {
		return capture.Protobuf
	}
	return capture.JSON
}

// streamType is the media type of a watch.
func (f format) streamType() string {
	switch f.mediaType {
	case typeJSON:
		return typeJSON
	case typeCBOR:
		return "application/cbor-seq" // RFC 8742
	}
	return f.mediaType + ";stream=watch"
}

// representation is what as names, whether of one object or of many.
func (f format) representation() string { return strings.TrimSuffix(f.as, "List") }

// negotiate chooses the format of an answer, as kube-apiserver does: the first
// that is accepted of those that it can write. protobuf says whether that is one for
// whole objects: it is not for custom resources.
func negotiate(accept string, protobuf bool) (f format, ok bool) {
	if accept == "" {
		return format{mediaType: typeJSON}, true
	}
	for _, clause := range goautoneg.ParseAccept(accept) {
		for _, mediaType := range mediaTypes {
			if !matches(clause, mediaType) {
				continue
			}
			if f, ok := transformed(clause.Params, mediaType); ok && (protobuf || f.as != "" || mediaType != typeProtobuf) {
				return f, true
			}
		}
	}
	return format{}, false
}

func matches(clause goautoneg.Accept, mediaType string) bool {
	typ, subtype, _ := strings.Cut(mediaType, "/")
	return clause.Type == "*" && clause.SubType == "*" || clause.Type == typ && (clause.SubType == "*" || clause.SubType == subtype)
}

// transformed reads the parameters of a media type; ok is false if they ask for
// what is not served.
func transformed(params map[string]string, mediaType string) (f format, ok bool) {
	f.mediaType = mediaType
	if s := params["stream"]; s != "" && (s != "watch" || mediaType == typeYAML) {
		return f, false
	}
	if s := params["sv"]; s != "" && s != "v1" {
		return f, false
	}
	as, asked := params["as"]
	group, grouped := params["g"]
	version, versioned := params["v"]
	if !asked && !grouped && !versioned {
		return f, true
	}
	f.as, f.metaVersion = as, group+"/"+version
	if f.metaVersion != "meta.k8s.io/v1" && f.metaVersion != "meta.k8s.io/v1beta1" {
		return f, false
	}
	switch as {
	case table:
		return f, mediaType == typeJSON || mediaType == typeYAML
	case partialObjectMetadata, partialObjectMetadata + "List":
		return f, true
	}
	return f, false
}

// notRouted is kube-apiserver's answer to a request for one of its own resources
// that accepts no media type by its full name, whatever its parameters: a step
// before negotiation, which knows application/* but never gets to see it.
func notRouted(accept string, several bool) error {
	served := mediaTypes
	if several {
		served = append(slices.Clone(mediaTypes), streamTypes...)
	}
	for _, clause := range strings.Split(accept, ",") {
		mediaType, _, _ := strings.Cut(clause, ";")
		if m := strings.TrimSpace(mediaType); m == "*/*" || slices.Contains(served, m) {
			return nil
		}
	}
	if accept == "" {
		return nil
	}
	err := status.New(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, 0,
		"406: Not Acceptable\n\nAvailable representations: "+strings.Join(served, ", "))
	err.ErrStatus.Details = &metav1.StatusDetails{}
	return err
}

func errNotAcceptable(served []string) error {
	return status.New(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, 0,
		"only the following media types are accepted: "+strings.Join(served, ", "))
}

// errorType is the media type in which an error is written: what is accepted,
// unless as something else than it is. JSON is the last resort.
func errorType(accept string) string {
	for _, clause := range goautoneg.ParseAccept(accept) {
		for _, mediaType := range mediaTypes {
			if !matches(clause, mediaType) {
				continue
			}
			if f, ok := transformed(clause.Params, mediaType); ok && f.metaVersion == "" && clause.Params["sv"] == "" {
				return mediaType
			}
		}
	}
	return typeJSON
}

// acceptsGzip reads Accept-Encoding as kube-apiserver does, which takes a name
// with a quality for another one.
func acceptsGzip(r *http.Request) bool {
	for _, name := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		if strings.TrimSpace(name) == "gzip" {
			return true
		}
	}
	return false
}

// builtInGroups are the API groups of kube-apiserver itself. Resources of every
// other group are taken for custom resources.
var builtInGroups = map[string]string{
	"": "core", "admissionregistration.k8s.io": "", "apps": "", "authentication.k8s.io": "", "authorization.k8s.io": "",
	"autoscaling": "", "batch": "", "certificates.k8s.io": "", "coordination.k8s.io": "", "discovery.k8s.io": "",
	"events.k8s.io": "core", "extensions": "networking", "flowcontrol.apiserver.k8s.io": "", "internal.apiserver.k8s.io": "apiserverinternal",
	"lifecycle.k8s.io": "", "networking.k8s.io": "", "node.k8s.io": "", "policy": "", "rbac.authorization.k8s.io": "", "resource.k8s.io": "",
	"scheduling.k8s.io": "", "storage.k8s.io": "", "storagemigration.k8s.io": "",
	"apiextensions.k8s.io": "", "apiregistration.k8s.io": "",
}

// IsCustom reports whether a group is none of kube-apiserver's own. Its resources can
// be kept in JSON alone: nothing is known of their types.
func IsCustom(group string) bool {
	_, ok := builtInGroups[group]
	return !ok
}

// internalType is the Go type by which kube-apiserver's messages call a kind.
func internalType(group, kind string, several bool) string {
	switch {
	case IsCustom(group) && several:
		return "*unstructured.UnstructuredList"
	case IsCustom(group):
		return "*unstructured.Unstructured"
	case several:
		kind += "List"
	}
	pkg := builtInGroups[group]
	if pkg == "" {
		pkg, _, _ = strings.Cut(group, ".")
	}
	return "*" + pkg + "." + kind
}
