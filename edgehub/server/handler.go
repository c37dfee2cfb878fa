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
	deps := middleware.Cache{Caches: h.config.Caches, Store: h.store, Identity: h.identity, Upstream: h.upstream, Seen: h.seen,
		Admits: func(agent, namespace string) bool { return h.config.Current().Admits(agent, namespace) }}
	next := middleware.WithNode(h.identity.IsNode, asNode, upstream.Proxy(h.callers, failed))
	next = middleware.WithCache(deps, next)
	endpoint, _ := h.options.podEndpoint() // which was validated
	next = middleware.WithRewrite(endpoint, h.identity.IsNode, next)
	next = middleware.WithWebSocketWatches(h.config.Caches, h.options.Limits.ClientTimeout, next)
	next = middleware.WithTokens(h.tokens, h.identity.IsNode, next)
	next = middleware.WithFailingFast(h.identity.IsNode, next)
	next = middleware.WithLimits(h.limiter, next)
	next = middleware.WithSafeHeaders(next)
	next = middleware.WithLog(middleware.NewMetrics(h.registry, h.listed).Observe, next)
	next = middleware.WithRequestInfo(next)
	return withPace(&h.pace, middleware.WithRecovery(next))
}
