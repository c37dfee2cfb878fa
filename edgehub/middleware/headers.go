package middleware

import (
	"net/http"
	"strings"

	"github.com/edgehub-io/edge-hub/edgehub/status"
)

// WithSafeHeaders refuses requests that are ambiguous about who sends them or
// where they go, and removes the headers by which a front proxy names a user:
// no client of the hub is one.
func WithSafeHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refusal := unsafe(r); refusal != "" {
			w.Header().Set("Connection", "close")
			status.Write(w, status.BadRequest(refusal))
			return
		}
		removeRemote(r.Header)
		next.ServeHTTP(w, r)
	})
}

func removeRemote(h http.Header) {
	for name := range h {
		if len(name) >= len(remotePrefix) && strings.EqualFold(name[:len(remotePrefix)], remotePrefix) {
			delete(h, name)
		}
	}
}

const remotePrefix = "X-Remote-"

// unsafe says what is wrong with a request, or "".
func unsafe(r *http.Request) string {
	switch {
	case r.Method == http.MethodConnect, r.URL.Host != "", !strings.HasPrefix(r.URL.Path, "/"):
		return "edge-hub forwards to kube-apiserver only: send the path of a Kubernetes API request"
	case len(r.Header["Authorization"]) > 1:
		return "the request has several Authorization headers: send one"
	case len(r.Header["User-Agent"]) > 1:
		return "the request has several User-Agent headers: send one"
	}
	for _, value := range r.Header["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "", "close", "keep-alive", "upgrade", "te", "http2-settings":
			default:
				// It would be removed on the way, so that kube-apiserver
				// saw another request than the hub did.
				return "the Connection header must not name other headers"
			}
		}
	}
	return ""
}
