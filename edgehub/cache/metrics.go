package cache

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	notRecorded *prometheus.CounterVec
	dropped     prometheus.Counter
	errors      prometheus.Counter
}

func newMetrics(registry prometheus.Registerer, s *Store) *metrics {
	m := &metrics{
		notRecorded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "edgehub_cache_not_recorded_total",
			Help: "Answers of kube-apiserver to cached agents that did not become cached data, by reason.",
		}, []string{"reason"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "edgehub_cache_damaged_files_total",
			Help: "Cache files that were dropped because they could not be read.",
		}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "edgehub_cache_write_errors_total",
			Help: "Failed attempts to write to the cache directory or to make it durable.",
		}),
	}
	written := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "edgehub_cache_written_bytes_total",
		Help: "Bytes written to the cache directory.",
	}, func() float64 { return float64(s.journal.Stats().Written) })
	syncs := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "edgehub_cache_fsyncs_total",
		Help: "Calls of fsync on files and directories of the cache.",
	}, func() float64 { return float64(s.journal.Stats().Syncs) })
	if registry != nil {
		registry.MustRegister(m.notRecorded, m.dropped, m.errors, written, syncs)
	}
	return m
}
