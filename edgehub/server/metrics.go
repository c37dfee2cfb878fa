package server

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// observe registers the metrics of what several parts know together.
func (h *hub) observe() {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "edgehub_build_info", Help: "1, with the version of edge-hub.", ConstLabels: prometheus.Labels{"version": h.options.Version},
	})
	build.Set(1)
	h.registry.MustRegister(build, &fleetMetrics{h})
}

// fleetMetrics collects what is asked for seldom and known elsewhere.
type fleetMetrics struct{ hub *hub }

var (
	endpointDesc = prometheus.NewDesc("edgehub_upstream_endpoint_up",
		"1 while this kube-apiserver endpoint answers.", []string{"server"}, nil)
	agentsDesc = prometheus.NewDesc("edgehub_agents",
		"Cached agents in use, for each namespace that uses them, by whether their Pods would start without the cloud now.", []string{"offline_ready"}, nil)
	uncachedDesc = prometheus.NewDesc("edgehub_uncached_agents",
		"Agents seen that are not cached, for each namespace that uses them.", nil, nil)
	relistsDesc = prometheus.NewDesc("edgehub_relists_total",
		"Watches of agents in use that were ended so that their lists go through the cache, earlier runs included.", nil, nil)
)

// Describe implements prometheus.Collector.
func (*fleetMetrics) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{endpointDesc, agentsDesc, uncachedDesc, relistsDesc} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (m *fleetMetrics) Collect(metrics chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	for _, s := range m.hub.upstream.Status() {
		up := 0.0
		if s.Up {
			up = 1
		}
		gauge(endpointDesc, up, s.Server)
	}
	cached, uncached := m.hub.agents()
	ready, relists := 0, int64(0)
	for _, a := range cached {
		if a.OfflineReady() {
			ready++
		}
		relists += a.Relists
	}
	gauge(agentsDesc, float64(ready), "true")
	gauge(agentsDesc, float64(len(cached)-ready), "false")
	gauge(uncachedDesc, float64(len(uncached)))
	metrics <- prometheus.MustNewConstMetric(relistsDesc, prometheus.CounterValue, float64(relists))
}

// expirations collects when certificates expire that come from files.
type expirations map[string]*certificate

var expirationDesc = prometheus.NewDesc("edgehub_certificate_expiration_timestamp_seconds",
	"When the hub's own certificate expires, in seconds since 1970, by certificate: client or serving.", []string{"certificate"}, nil)

// Describe implements prometheus.Collector.
func (expirations) Describe(descs chan<- *prometheus.Desc) { descs <- expirationDesc }

// Collect implements prometheus.Collector.
func (e expirations) Collect(metrics chan<- prometheus.Metric) {
	for _, name := range slices.Sorted(maps.Keys(e)) {
		if current, err := e[name].get(nil); err == nil && current.Leaf != nil {
			metrics <- prometheus.MustNewConstMetric(expirationDesc, prometheus.GaugeValue, float64(current.Leaf.NotAfter.Unix()), name)
		}
	}
}
