package middleware

import (
	"net/http"

	"github.com/edgehub-io/edge-hub/edgehub/limits"
	"github.com/edgehub-io/edge-hub/edgehub/status"
)

// WithLimits refuses requests that are more than may be under way, with 429 and
// Retry-After as kube-apiserver's priority and fairness does (KEP-1040), and holds
// clients to the limits of bodies and of patience.
func WithLimits(l *limits.Limiter, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out, limited, end, err := l.Begin(w, r)
		if err != nil {
			status.Write(w, err)
			return
		}
		defer end()
		next.ServeHTTP(out, limited)
	})
}
