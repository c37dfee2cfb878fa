package middleware

import (
	"net/http"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/edgehub-io/edge-hub/edgehub/status"
)

// requestInfos names verb and resource of a request by kube-apiserver's rules.
var requestInfos = request.RequestInfoFactory{
	APIPrefixes:          sets.NewString("api", "apis"),
	GrouplessAPIPrefixes: sets.NewString("api"),
}

// WithRequestInfo puts what a request asks for into its context, for
// request.RequestInfoFrom.
func WithRequestInfo(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, err := requestInfos.NewRequestInfo(r)
		if err != nil {
			status.Write(w, status.BadRequest(err.Error()))
			return
		}
		next.ServeHTTP(w, r.WithContext(request.WithRequestInfo(r.Context(), info)))
	})
}

// requestInfo returns what WithRequestInfo found.
func requestInfo(r *http.Request) *request.RequestInfo {
	if info, ok := request.RequestInfoFrom(r.Context()); ok {
		return info
	}
	return &request.RequestInfo{Path: r.URL.Path}
}
