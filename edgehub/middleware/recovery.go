// Package middleware is the steps that a request passes, one WithX(deps, next)
// a file. Package server says in which order.
package middleware

import (
	"errors"
	"net/http"
	"runtime/debug"

	"k8s.io/klog/v2"
)

// WithRecovery breaks off a response whose handler panics, and keeps the
// program going. http.ErrAbortHandler is how a handler asks for just that.
func WithRecovery(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				klog.ErrorS(nil, "Request handler panicked", "panic", p, "path", printable(r.URL.Path), "stack", string(debug.Stack()))
			}
			panic(http.ErrAbortHandler)
		}()
		next.ServeHTTP(w, r)
	})
}
