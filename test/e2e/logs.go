package main

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A moment is a time on the node, and how long its logs were then: who looks for what
// came after it reads no more than that.
type moment struct {
	time.Time
	sizes map[string]int64
}

// logFile is the path of a service's log.
func (n *node) logFile(service string) string { return filepath.Join(n.dir, "log", service+".log") }

// podLogs are the logs of a Pod's containers; * is any Pod.
func (n *node) podLogs(namespace, name string) []string {
	logs, _ := filepath.Glob(filepath.Join(n.dir, "/var/log/pods", namespace+"_"+name+"_*", "*", "*.log"))
	return logs
}

// now is this moment.
func (n *node) now() moment {
	m := moment{time.Now(), map[string]int64{}}
	for _, path := range append(n.podLogs("*", "*"), n.logFile("kubelet")) {
		if info, err := os.Stat(path); err == nil {
			m.sizes[path] = info.Size()
		}
	}
	return m
}

// readySince finds out on the node, without the cloud, when each Pod became ready
// after a moment: the kubelet's log says so.
func (n *node) readySince(since moment) (map[string]time.Time, error) {
	ready := map[string]time.Time{}
	err := scan(n.logFile("kubelet"), since, func(line string) {
		if !strings.Contains(line, `"SyncLoop (probe)" probe="readiness"`) {
			return
		}
		at, ok := klogTime(line)
		if at = at.Add(-n.ahead); !ok || at.Before(since.Time) {
			return
		}
		_, rest, _ := strings.Cut(line, ` pod="`)
		pod, _, _ := strings.Cut(rest, `"`)
		if strings.Contains(line, `status="ready"`) {
			ready[pod] = at
		} else {
			delete(ready, pod)
		}
	})
	return ready, err
}

// klogTime reads the time at the beginning of a line of klog's, such as
// "I0130 15:04:05.123456", which has no year and is UTC on the node.
func klogTime(line string) (time.Time, bool) {
	const layout = "20060102 15:04:05.000000"
	if len(line) < 1+len(layout)-4 {
		return time.Time{}, false
	}
	at, err := time.Parse(layout, time.Now().UTC().Format("2006")+line[1:1+len(layout)-4])
	return at, err == nil
}

// printedSince reports whether a Pod has printed text after a moment.
func (n *node) printedSince(pod, text string, since moment) (bool, error) {
	line, err := n.lineSince(pod, text, since)
	return line != "", err
}

// lineSince is a line with text that a Pod has printed after a moment, or "".
func (n *node) lineSince(pod, text string, since moment) (found string, err error) {
	namespace, name, _ := strings.Cut(pod, "/")
	for _, log := range n.podLogs(namespace, name) {
		if err := scan(log, since, func(line string) {
			at, rest, _ := strings.Cut(line, " ") // the format of CRI's logs: time, stream, tag, text
			if t, err := time.Parse(time.RFC3339Nano, at); err == nil && t.After(since.Time) && strings.Contains(rest, text) {
				if words := strings.SplitN(rest, " ", 3); len(words) == 3 {
					found = words[2]
				}
			}
		}); err != nil {
			return "", err
		}
	}
	return found, nil
}

// scan reads the lines that came to a log after a moment.
func scan(path string, since moment, line func(string)) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // its Pod has gone
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() >= since.sizes[path] { // else it was begun anew
		if _, err := f.Seek(since.sizes[path], io.SeekStart); err != nil {
			return err
		}
	}
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line(s.Text())
	}
	return s.Err()
}
