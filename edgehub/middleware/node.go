package middleware

import "net/http"

// WithNode sends the requests of this node's kubelet through asNode, which has
// the node's credential, and all others through next as they came. This is the
// one place where a credential other than the caller's goes with a request.
func WithNode(isNode func(*http.Request) bool, asNode, next http.Handler) http.Handler {
	if asNode == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isNode(r) {
			asNode.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}
