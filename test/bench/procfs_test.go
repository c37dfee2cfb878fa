package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestOwnProcess(t *testing.T) {
	pid := os.Getpid()
	for start := time.Now(); time.Since(start) < 50*time.Millisecond; {
		// Uses the processor.
	}
	if used, err := cpu(pid); err != nil || used <= 0 {
		t.Errorf("processor time is %v, %v", used, err)
	}
	now, peak, err := memory(pid)
	if err != nil || now < 1<<20 || peak < now {
		t.Errorf("memory is %d, peak %d, %v", now, peak, err)
	}
	if _, err := diskWrites(pid); err != nil {
		t.Error(err)
	}
	if _, err := cpu(-1); err == nil {
		t.Error("a process that is not there has used the processor")
	}
}

func TestChild(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if pid, err := child("sleep"); err != nil || pid != cmd.Process.Pid {
		t.Errorf("child is %d, %v, want %d", pid, err, cmd.Process.Pid)
	}
	if pid, err := child("no such program"); err == nil {
		t.Errorf("found %d", pid)
	}
}

func TestScrapeAddsSeriesUp(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "# HELP a of a\na{x=\"1 }\"} 1\na{x=\"2\"} 2.5\nab 7\nbig 1e+06\n")
	}))
	defer server.Close()
	m, err := scrape(t.Context(), server.URL)
	if err != nil || m["a"] != 3.5 || m["ab"] != 7 || m["big"] != 1e6 || m[`a{x="1 }"}`] != 1 || len(m) != 5 {
		t.Errorf("metrics are %v, %v", m, err)
	}
}

func TestUsage(t *testing.T) {
	before := usage{cpu: 1, disk: 10, metrics: metrics{"a": 1, "b": 2}}
	after := usage{cpu: 3, disk: 15, metrics: metrics{"a": 4, "b": 2, "c": 5}}
	d := after.since(before)
	d = d.plus(d)
	if d.cpu != 4 || d.disk != 10 || d.metrics["a"] != 6 || d.metrics["b"] != 0 || d.metrics["c"] != 10 {
		t.Errorf("twice the difference is %+v", d)
	}
	if after.metrics["a"] != 4 {
		t.Error("the operand was changed")
	}
}
