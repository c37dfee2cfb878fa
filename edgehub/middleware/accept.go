package middleware

import (
	"net/http"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/edgehub-io/edge-hub/edgehub/cache"
)

// readable is what of an Accept header (RFC 9110, 12.5.1) names answers that edge-hub
// can read: JSON, protobuf, and what may be either.
func readable(accept string) string {
	clauses := strings.Split(accept, ",")
	known := slices.DeleteFunc(slices.Clone(clauses), func(clause string) bool {
		switch mediaTypeOf(clause) {
		case "", "*/*", "application/*", typeJSON, typeProtobuf:
			return false
		}
		return true
	})
	if len(known) == len(clauses) {
		return accept
	}
	return strings.Trim(strings.Join(known, ","), ", ")
}

const (
	typeJSON     = "application/json"
	typeProtobuf = "application/vnd.kubernetes.protobuf"
)

func mediaTypeOf(clause string) string {
	mediaType, _, _ := strings.Cut(clause, ";")
	return strings.ToLower(strings.TrimSpace(mediaType))
}

// withoutProtobuf is an Accept header without whole objects in protobuf, if it names JSON
// as well. The server behind an APIService may write it, and only who has its types can
// read that.
func withoutProtobuf(accept string) string {
	clauses := strings.Split(accept, ",")
	if !slices.ContainsFunc(clauses, func(clause string) bool { return mediaTypeOf(clause) == typeJSON }) {
		return accept
	}
	return strings.TrimSpace(strings.Join(slices.DeleteFunc(clauses, func(clause string) bool {
		return mediaTypeOf(clause) == typeProtobuf && !strings.Contains(clause, "as=")
	}), ","))
}

// askReadably has a read of a cached agent answered in what can be recorded, where the
// agent names JSON or protobuf beside what can't be: client-go does, with
// ClientsPreferCBOR (KEP-4222). A header that names none of the two goes as it is, and so
// does that of a subresource, which is not recorded: what a Pod answers through
// kube-apiserver is the Pod's to choose.
func askReadably(r *http.Request, info *request.RequestInfo) {
	if r.Method != http.MethodGet || !info.IsResourceRequest || info.Subresource != "" {
		return
	}
	accept := strings.Join(r.Header.Values("Accept"), ",")
	known := readable(accept)
	if cache.IsCustom(info.APIGroup) {
		known = withoutProtobuf(known)
	}
	if known != accept && slices.ContainsFunc(strings.Split(known, ","), func(clause string) bool {
		mediaType := mediaTypeOf(clause)
		return mediaType == typeJSON || mediaType == typeProtobuf
	}) {
		r.Header.Set("Accept", known)
	}
}
