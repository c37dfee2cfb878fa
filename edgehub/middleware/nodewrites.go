package middleware

import "net/http"

// WithFailingFast spares this node's kubelet the wait before a write that did not
// reach kube-apiserver is tried again. client-go sends a request up to ten times if
// it is told when to (Retry-After), and the kubelet does one thing after the other:
// a Pod's status, an event or a volume would wait for those before it. It has an
// interval of its own for each of them, and restarts nothing for any.
func WithFailingFast(isNode func(*http.Request) bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet, http.MethodHead, http.MethodOptions:
		default:
			if isNode(r) {
				w = &failsFast{ResponseWriter: w}
			}
		}
		next.ServeHTTP(w, r)
	})
}

type failsFast struct{ http.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *failsFast) WriteHeader(code int) {
	if wasNotAsked(code, w.Header()) {
		w.Header().Del("Retry-After")
	}
	w.ResponseWriter.WriteHeader(code)
}

// Unwrap is for http.ResponseController.
func (w *failsFast) Unwrap() http.ResponseWriter { return w.ResponseWriter }
