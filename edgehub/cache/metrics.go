package cache

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	notRecorded *prometheus.CounterVec
	dropped     prometheus.Counter
	foreign     prometheus.Counter
	evictions   *prometheus.CounterVec
	diskErrors  *prometheus.CounterVec
	writes      prometheus.Histogram
	syncs       prometheus.Histogram
}

func newMetrics() *metrics {
	buckets := []float64{.0001, .0005, .001, .005, .01, .05, .1, .5, 1, 5}
	return &metrics{
		notRecorded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "edgehub_cache_not_recorded_total",
			Help: "Answers of kube-apiserver to cached agents that did not become cached data, by reason.",
		}, []string{"reason"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "edgehub_cache_damaged_files_total",
			Help: "Cache files that were dropped because they could not be read.",
		}),
		foreign: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "edgehub_cache_unreadable_files_total",
			Help: "Cache files found at the start that were sealed with another key.",
		}),
		evictions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "edgehub_cache_evictions_total",
			Help: "Views that were removed to make room, by what lacked it: agent_quota, total_quota or disk_full.",
		}, []string{"reason"}),
		diskErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "edgehub_cache_disk_errors_total",
			Help: "Operations on the cache directory that failed, by operation and reason.",
		}, []string{"op", "reason"}),
		writes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "edgehub_cache_write_duration_seconds",
			Help:    "Time that writes to files of the cache took.",
			Buckets: buckets,
		}),
		syncs: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "edgehub_cache_fsync_duration_seconds",
			Help:    "Time that fsyncs of files and directories of the cache took.",
			Buckets: buckets,
		}),
	}
}

func (m *metrics) register(registry prometheus.Registerer, s *Store, listed func(agent string) bool) {
	// Zero is worth saying: an alert can tell it from a hub that is gone.
	for _, reason := range []string{overAgentQuota, overTotalQuota, diskFull} {
		m.evictions.WithLabelValues(reason)
	}
	counter := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value)
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	registry.MustRegister(m.notRecorded, m.dropped, m.foreign, m.evictions, m.diskErrors, m.writes, m.syncs,
		counter("edgehub_cache_written_bytes_total", "Bytes written to the cache directory.",
			func() float64 { return float64(s.journal.Stats().Written) }),
		counter("edgehub_cache_fsyncs_total", "Calls of fsync on files and directories of the cache.",
			func() float64 { return float64(s.journal.Stats().Syncs) }),
		gauge("edgehub_cache_degraded", "1 while the cache directory can't be written.", func() float64 {
			if s.disk.status() != nil {
				return 1
			}
			return 0
		}),
		gauge("edgehub_cache_recordings", "Answers that are being recorded, watches apart.",
			func() float64 { return float64(s.unfinished.Load()) }),
		gauge("edgehub_cache_queued_bytes", "Bytes of answers that wait to be recorded.",
			func() float64 { return float64(s.budget.used()) }),
		gauge("edgehub_cache_staged_bytes", "Size of the lists that are being recorded.", func() float64 {
			s.ledger.mu.Lock()
			defer s.ledger.mu.Unlock()
			return float64(s.ledger.staged)
		}),
		&contents{s, listed},
	)
}

// contents collects what the cache holds, by agent.
type contents struct {
	store  *Store
	listed func(agent string) bool
}

var (
	bytesDesc = prometheus.NewDesc("edgehub_cache_bytes",
		"Size of the cached views' files. Agents that are not listed by name are other.", []string{"agent"}, nil)
	viewsDesc = prometheus.NewDesc("edgehub_cache_views",
		"Cached views. Agents that are not listed by name are other.", []string{"agent"}, nil)
	objectsDesc = prometheus.NewDesc("edgehub_cache_objects",
		"Objects in the views that this process has read or written. Agents that are not listed by name are other.", []string{"agent"}, nil)
	incompleteDesc = prometheus.NewDesc("edgehub_cache_incomplete_views",
		"Views that were asked for and are missing, or behind what was delivered, by reason.", []string{"reason"}, nil)
	quotaDesc = prometheus.NewDesc("edgehub_cache_quota_bytes",
		"Quota in total, and of an agent that has no other. 0 is none.", []string{"scope"}, nil)
)

// Describe implements prometheus.Collector.
func (c *contents) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{bytesDesc, viewsDesc, objectsDesc, incompleteDesc, quotaDesc} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c *contents) Collect(metrics chan<- prometheus.Metric) {
	send := func(desc *prometheus.Desc, value float64, label string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, label)
	}
	for agent, s := range c.shares() {
		send(bytesDesc, float64(s.bytes), agent)
		send(viewsDesc, float64(s.views), agent)
		send(objectsDesc, float64(s.objects), agent)
	}
	for reason, n := range c.store.incomplete() {
		send(incompleteDesc, float64(n), reason)
	}
	quota := c.store.ledger.quota
	send(quotaDesc, float64(quota.Total), "total")
	send(quotaDesc, float64(quota.PerAgent), "agent")
}

func (c *contents) shares() map[string]share {
	l := c.store.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	shares := map[string]share{}
	for holder, s := range l.holders {
		agent := holder.agent
		if c.listed != nil && !c.listed(agent) {
			agent = "other"
		}
		sum := shares[agent]
		sum.bytes += s.bytes
		sum.views += s.views
		sum.objects += s.objects
		shares[agent] = sum
	}
	return shares
}
