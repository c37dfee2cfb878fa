package server

import (
	"net/http"

	"github.com/edgehub-io/edge-hub/edgehub/middleware"
	"github.com/edgehub-io/edge-hub/edgehub/status"
	"github.com/edgehub-io/edge-hub/edgehub/upstream"
)

// handler assembles what a request passes, from the outside in.
func (h *hub) handler() http.Handler {
	failed := func(w http.ResponseWriter, _ *http.Request, err error) {
		status.Write(w, status.Unreachable(err.Error()))
	}
	var asNode http.Handler
	if h.node != nil {
		asNode = upstream.Proxy(h.node, failed)
	}
	deps := middleware.Cache{Caches: h.config.Caches, Store: h.store, Identity: h.identity, Upstream: h.upstream}
	next := middleware.WithNode(h.identity.IsNode, asNode, upstream.Proxy(h.callers, failed))
	next = middleware.WithCache(deps, next)
	next = middleware.WithLimits(h.limiter, next)
	next = middleware.WithSafeHeaders(next)
	next = middleware.WithLog(middleware.NewMetrics(h.registry, h.listed).Observe, next)
	next = middleware.WithRequestInfo(next)
	return middleware.WithRecovery(next)
}
