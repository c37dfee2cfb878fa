package middleware

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts exchanges. Labels are bounded: agents that are not listed are
// "other", and only what kube-apiserver served names a resource.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	listed   func(agent string) bool
}

// NewMetrics registers the metrics. listed says which agents have a label of
// their own.
func NewMetrics(registry prometheus.Registerer, listed func(agent string) bool) *Metrics {
	m := &Metrics{
		listed: listed,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "edgehub_requests_total",
			Help: "Requests answered, by who asked for what and where the answer came from (cloud, cache or hub).",
		}, []string{"agent", "verb", "resource", "code", "source"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "edgehub_request_duration_seconds",
			Help:    "Time from a request's arrival to the end of its response, watches and upgrades aside.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"verb", "source"}),
	}
	registry.MustRegister(m.requests, m.duration)
	return m
}

// Observe counts an exchange.
func (m *Metrics) Observe(x *Exchange) {
	agent, verb, resource := x.Agent, x.Verb, x.Resource
	if !m.listed(agent) {
		agent = "other"
	}
	if x.Code >= http.StatusBadRequest {
		resource = ""
	}
	if !knownVerbs[verb] {
		verb = "other"
	}
	m.requests.WithLabelValues(agent, verb, resource, strconv.Itoa(x.Code), x.Source).Inc()
	if verb != "watch" && x.Code != http.StatusSwitchingProtocols {
		m.duration.WithLabelValues(verb, x.Source).Observe(x.Duration.Seconds())
	}
}

var knownVerbs = map[string]bool{
	"get": true, "list": true, "watch": true, "create": true, "update": true, "patch": true,
	"delete": true, "deletecollection": true, "post": true, "put": true, "head": true, "options": true,
}
