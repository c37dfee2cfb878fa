package metrics

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestOnlyTheLeaderTells has an operator that does not lead: it reads nothing, and
// shows nothing.
func TestOnlyTheLeaderTells(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewCollector(nil, nil, make(chan struct{})))
	families, err := registry.Gather()
	if err != nil || len(families) > 0 {
		t.Errorf("it shows %v, error %v", families, err)
	}
}
