package policy

import (
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// What the controller writes, by result.
var (
	configWrites = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "edgehub_operator_config_writes_total",
		Help: "Writes of kube-system/edge-hub-cfg, by result: written, conflict if somebody else wrote at the same time, or failed.",
	}, []string{"result"})
	statusWrites = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "edgehub_operator_status_writes_total",
		Help: "Writes of the status of EdgeHubPolicies, by result: written, conflict if the policy had changed, or failed.",
	}, []string{"result"})
)

func init() {
	for _, counter := range []*prometheus.CounterVec{configWrites, statusWrites} {
		metrics.Registry.MustRegister(counter)
		for _, result := range []string{"written", "conflict", "failed"} {
			counter.WithLabelValues(result)
		}
	}
}

// resultOf is the label of what came of a write.
func resultOf(err error) string {
	switch {
	case err == nil:
		return "written"
	case apierrors.IsConflict(err):
		return "conflict"
	}
	return "failed"
}
