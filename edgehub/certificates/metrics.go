package certificates

import "github.com/prometheus/client_golang/prometheus"

// Values of the label result.
const (
	resultIssued  = "issued"
	resultRefused = "refused" // denied, or not signed
	resultError   = "error"
)

type metrics struct {
	expiration *prometheus.GaugeVec
	renewals   *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		expiration: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "edgehub_certificate_expiration_timestamp_seconds",
			Help: "When the hub's own certificate expires, in seconds since 1970, by certificate: client or serving.",
		}, []string{"certificate"}),
		renewals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "edgehub_certificate_renewals_total",
			Help: "Attempts to get a certificate, by certificate and result: issued, refused or error.",
		}, []string{"certificate", "result"}),
	}
	if registry != nil {
		registry.MustRegister(m.expiration, m.renewals)
	}
	return m
}
