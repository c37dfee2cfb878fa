package server

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/edgehub-io/edge-hub/edgehub/middleware"
	"github.com/edgehub-io/edge-hub/edgehub/status"
	"github.com/edgehub-io/edge-hub/edgehub/upstream"
)

// handler assembles what a request passes, from the outside in.
func handler(deps middleware.Cache, callers *upstream.Transport, registry prometheus.Registerer, listed func(string) bool) http.Handler {
	h := upstream.Proxy(callers, func(w http.ResponseWriter, _ *http.Request, err error) {
		status.Write(w, status.Unreachable(err.Error()))
	})
	h = middleware.WithCache(deps, h)
	h = middleware.WithSafeHeaders(h)
	h = middleware.WithLog(middleware.NewMetrics(registry, listed).Observe, h)
	h = middleware.WithRequestInfo(h)
	return middleware.WithRecovery(h)
}
