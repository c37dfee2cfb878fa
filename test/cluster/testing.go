package cluster

import (
	"context"
	"testing"
	"time"
)

// StartT starts a control plane that lives as long as the test, in a folder of
// the test's. When the test fails, the end of kube-apiserver's log is logged.
func StartT(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() { // before it also logs how it stops
			t.Logf("%s:\n%s", c.LogFile(apiServer), logTail(c.LogFile(apiServer)))
		}
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}
