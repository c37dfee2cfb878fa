package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestOnlyWhatCameLaterIsRead: whoever waits for something new must not find the old.
func TestOnlyWhatCameLaterIsRead(t *testing.T) {
	n := &node{dir: t.TempDir()}
	log := n.logFile("kubelet")
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		t.Fatal(err)
	}
	line := func(at time.Time, pod, status string) string {
		return at.UTC().Format("I0102 15:04:05.000000") + ` 1 kubelet.go:1] "SyncLoop (probe)" probe="readiness" status="` + status + `" pod="e2e/` + pod + "\"\n"
	}
	at := time.Now().Add(-time.Minute)
	text := line(at, "before", "ready")
	write := func() {
		if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	since := n.now()
	since.Time = at.Add(-time.Hour) // what has been read is not read again, whenever it was
	text += line(at, "a", "ready") + line(at, "b", "ready") + line(at, "b", "not ready") + "no line of klog's\n"
	write()
	ready, err := n.readySince(since)
	if err != nil || len(ready) != 1 || ready["e2e/a"].Sub(at).Abs() > time.Second {
		t.Errorf("%v, %v", ready, err)
	}
	n.ahead = 2 * time.Hour
	if ready, err = n.readySince(since); err != nil || len(ready) != 0 {
		t.Errorf("a clock that is ahead: %v, %v", ready, err)
	}
}
