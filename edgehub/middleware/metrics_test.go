package middleware

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestSeriesAreBounded, whatever there is to ask for and however it is answered.
func TestSeriesAreBounded(t *testing.T) {
	m := NewMetrics(prometheus.NewRegistry(), func(string) bool { return true })
	const asked = 40000
	for i := range asked {
		m.Observe(&Exchange{Agent: fmt.Sprint("app-", i%500), Verb: fmt.Sprint("verb-", i), Resource: fmt.Sprint("kind-", i), Code: 200 + i%100, Source: sourceCloud})
	}
	// Each agent with each code, once more than there is room for.
	if n := testutil.CollectAndCount(m.requests); n > 2*maxSeries+100 {
		t.Errorf("%d series", n)
	}
	sum := 0.0
	for _, c := range m.series {
		sum += testutil.ToFloat64(c)
	}
	if sum != asked {
		t.Errorf("%v of %d requests are counted", sum, asked)
	}
	for code, want := range map[int]string{200: "200", 410: "410", 299: "2xx", 599: "5xx", 999: "9xx"} {
		if got := codeOf(code); got != want {
			t.Errorf("code %d is %q", code, got)
		}
	}
}
