package main

import (
	"flag"
	"io"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

const (
	// logDelay is how long a line may wait for others. A system call for each line
	// is a tenth of what a small request costs the hub.
	logDelay = 100 * time.Millisecond
	// logBuffer is how many bytes wait for each other at most.
	logBuffer = 16 << 10
)

// logLines writes lines of the log in batches. It has no timer while nothing
// waits.
type logLines struct {
	w io.Writer

	mu      sync.Mutex
	waiting []byte
	timer   *time.Timer
}

// Write implements io.Writer.
func (l *logLines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting)+len(line) > logBuffer {
		l.flush()
	}
	if len(l.waiting) == 0 {
		if l.timer == nil {
			l.timer = time.AfterFunc(logDelay, l.Flush)
		} else {
			l.timer.Reset(logDelay)
		}
	}
	l.waiting = append(l.waiting, line...)
	return len(line), nil
}

// Flush writes what waits.
func (l *logLines) Flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
}

func (l *logLines) flush() {
	if len(l.waiting) == 0 {
		return
	}
	l.timer.Stop()
	_, _ = l.w.Write(l.waiting) // there is nowhere else to say that it failed
	l.waiting = l.waiting[:0]
}

// urgentLines are lines that do not wait, nor do those before them.
type urgentLines struct{ *logLines }

// Write implements io.Writer.
func (u urgentLines) Write(line []byte) (int, error) {
	defer u.Flush()
	return u.logLines.Write(line)
}

// logTo has klog write lines of information to l, where they may wait, and
// warnings and errors past all that waits. logging are klog's flags.
func logTo(l *logLines, logging *flag.FlagSet) error {
	for name, value := range map[string]string{"logtostderr": "false", "one_output": "true", "stderrthreshold": "FATAL"} {
		if err := logging.Set(name, value); err != nil {
			return err
		}
	}
	klog.SetOutput(urgentLines{l})
	klog.SetOutputBySeverity("INFO", l)
	return nil
}
