package main

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// memory reads a process's resident set, now and at its highest since
// resetPeak, in bytes.
func memory(pid int) (now, peak int64, err error) {
	kb, err := readFields(fmt.Sprintf("/proc/%d/status", pid))
	return kb["VmRSS"] << 10, kb["VmHWM"] << 10, err
}

// resetPeak lets a process's highest resident set start anew (proc_pid_clear_refs(5)).
func resetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// diskWrites reads how many bytes a process caused to be written to the disk,
// less those whose file was removed in time (proc_pid_io(5)).
func diskWrites(pid int) (float64, error) {
	io, err := readFields(fmt.Sprintf("/proc/%d/io", pid))
	return float64(io["write_bytes"] - io["cancelled_write_bytes"]), err
}

// readFields reads lines of the form "name: number unit".
func readFields(path string) (map[string]int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	values := map[string]int64{}
	for line := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(line, ":")
		if fields := strings.Fields(rest); len(fields) > 0 {
			if v, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
				values[name] = v
			}
		}
	}
	return values, nil
}

// cpu reads the processor time, user and system, that a process has used, to
// the hundredth of a second.
func cpu(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold any byte; utime and stime are the
	// 12th and 13th field behind it.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100), nil // USER_HZ is 100 on Linux
}

// metrics are the values of a process's metrics: of each series, and of the
// series of one metric added up.
type metrics map[string]float64

// scrape reads metrics in Prometheus' text format.
func scrape(ctx context.Context, url string) (metrics, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	m := metrics{}
	s := bufio.NewScanner(resp.Body)
	for s.Scan() {
		i := strings.LastIndexByte(s.Text(), ' ')
		if i < 0 || s.Text()[0] == '#' {
			continue
		}
		v, err := strconv.ParseFloat(s.Text()[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("read metrics: %w", err)
		}
		series := s.Text()[:i]
		name, _, labelled := strings.Cut(series, "{")
		m[name] += v
		if labelled {
			m[series] = v
		}
	}
	return m, s.Err()
}

// usage is what a process has used up since it started.
type usage struct {
	cpu     time.Duration
	disk    float64 // bytes
	metrics metrics
}

// usageOf reads what a program has used; kube-apiserver, of which the processor
// time alone is read, if p is nil.
func usageOf(ctx context.Context, p *program) (u usage, err error) {
	if p == nil {
		pid, err := child("kube-apiserver")
		if err != nil {
			return u, err
		}
		u.cpu, err = cpu(pid)
		return u, err
	}
	if u.metrics, err = scrape(ctx, p.metrics); err != nil {
		return u, err
	}
	if u.disk, err = diskWrites(p.process.PID()); err != nil {
		return u, err
	}
	u.cpu, err = cpu(p.process.PID())
	return u, err
}

// child finds a process that this one has started by the first 15 characters
// of its name, which is what the kernel knows of it.
func child(name string) (pid int, err error) {
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return 0, err
	}
	for _, list := range lists {
		pids, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(pids)) {
			comm, err := os.ReadFile("/proc/" + field + "/comm")
			if err == nil && strings.TrimSpace(string(comm)) == name[:min(len(name), 15)] {
				return strconv.Atoi(field)
			}
		}
	}
	return 0, fmt.Errorf("%s does not run", name)
}

// since is what was used between an earlier moment and u.
func (u usage) since(before usage) usage {
	d := usage{cpu: u.cpu - before.cpu, disk: u.disk - before.disk, metrics: metrics{}}
	maps.Copy(d.metrics, u.metrics)
	for name, v := range before.metrics {
		d.metrics[name] -= v
	}
	return d
}

// plus adds two differences.
func (u usage) plus(other usage) usage {
	sum := usage{cpu: u.cpu + other.cpu, disk: u.disk + other.disk, metrics: metrics{}}
	for _, m := range []metrics{u.metrics, other.metrics} {
		for name, v := range m {
			sum.metrics[name] += v
		}
	}
	return sum
}

// The metrics that are read here.
const (
	allocated   = "go_memstats_alloc_bytes_total"
	mallocs     = "go_memstats_mallocs_total"
	heap        = "go_memstats_heap_alloc_bytes"
	written     = "edgehub_cache_written_bytes_total"
	fsyncs      = "edgehub_cache_fsyncs_total"
	notRecorded = "edgehub_cache_not_recorded_total"
	losses      = "edgehub_upstream_losses_total"
)
