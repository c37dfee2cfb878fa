package middleware

import (
	"net/http"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxSeries bounds the series of edgehub_requests_total, whatever there is to
	// ask for: those that come later name no resource, and in the end no agent.
	maxSeries = 4000
	// otherLabel stands for all that has no label of its own.
	otherLabel = "other"
)

// Metrics counts exchanges. Labels are bounded: agents that are not listed are
// "other", and only what kube-apiserver served names a resource.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	listed   func(agent string) bool

	mu     sync.RWMutex
	series map[labels]prometheus.Counter
}

// labels are those of one series.
type labels struct{ agent, verb, resource, code, source string }

// NewMetrics registers the metrics. listed says which agents have a label of
// their own.
func NewMetrics(registry prometheus.Registerer, listed func(agent string) bool) *Metrics {
	m := &Metrics{
		listed: listed,
		series: map[labels]prometheus.Counter{},
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
	l := labels{x.Agent, x.Verb, x.Resource, codeOf(x.Code), x.Source}
	if !m.listed(l.agent) {
		l.agent = otherLabel
	}
	if x.Code >= http.StatusBadRequest {
		l.resource = ""
	}
	if !knownVerbs[l.verb] {
		l.verb = otherLabel
	}
	m.counter(l).Inc()
	if l.verb != "watch" && x.Code != http.StatusSwitchingProtocols {
		m.duration.WithLabelValues(l.verb, l.source).Observe(x.Duration.Seconds())
	}
}

// counter returns the counter of a series, or of one that stands for it too.
func (m *Metrics) counter(l labels) prometheus.Counter {
	m.mu.RLock()
	c := m.series[l]
	m.mu.RUnlock()
	if c != nil {
		return c
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c = m.series[l]; c != nil {
		return c
	}
	if len(m.series) >= maxSeries {
		l.resource = otherLabel
	}
	if len(m.series) >= 2*maxSeries {
		l.agent = otherLabel
	}
	if c = m.series[l]; c == nil {
		c = m.requests.WithLabelValues(l.agent, l.verb, l.resource, l.code, l.source)
		m.series[l] = c
	}
	return c
}

// codeOf is a status code, or its class if it is none that HTTP knows: what a Pod
// answers passes the hub as well.
func codeOf(code int) string {
	if http.StatusText(code) != "" {
		return strconv.Itoa(code)
	}
	return strconv.Itoa(code/100) + "xx"
}

var knownVerbs = map[string]bool{
	"get": true, "list": true, "watch": true, "create": true, "update": true, "patch": true,
	"delete": true, "deletecollection": true, "post": true, "put": true, "head": true, "options": true,
}
