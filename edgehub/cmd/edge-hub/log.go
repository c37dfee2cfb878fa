package main

import (
	"flag"
	"fmt"
	"io"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

const (
	// logDelay is how long a line may wait for others. A system call for each line
	// is a tenth of what a small request costs the hub.
	logDelay = 100 * time.Millisecond
	// logBatch is how many bytes wait for each other, and logBuffer how many may
	// wait at all while others are written, and logReserve how many more of
	// warnings and errors: who floods the log with requests does not hide those.
	logBatch   = 16 << 10
	logBuffer  = 64 << 10
	logReserve = 64 << 10
	// logPatience is how long whoever has a line may be held up by a log that is not
	// taken, once until it has been, and lastPatience how long the program's end.
	logPatience  = 100 * time.Millisecond
	lastPatience = 3 * time.Second
)

// logLines writes lines of the log in batches. Where they go may take nothing for
// long, as containerd while it restarts, or its disk: lines are lost then, which
// the next one says, and no request waits. It has no timer while nothing waits.
type logLines struct {
	w io.Writer

	mu      sync.Mutex
	waiting []byte
	spare   []byte // to wait in next
	timer   *time.Timer
	writing chan struct{} // is closed when what is written has been; nil if nothing is
	stuck   bool          // it was waited for in vain
	lost    int           // lines
}

// Write implements io.Writer.
func (l *logLines) Write(line []byte) (int, error) {
	l.write(line, logBuffer)
	return len(line), nil
}

// write has a line wait, if it is among the first bytes that may.
func (l *logLines) write(line []byte, most int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting)+len(line) > logBatch {
		l.begin()
	}
	if len(l.waiting)+len(line) > most && !l.await() {
		l.lost++
		return
	}
	l.add(line)
}

// add has a line wait. The caller holds mu.
func (l *logLines) add(line []byte) {
	if len(l.waiting) == 0 {
		if l.timer == nil {
			l.timer = time.AfterFunc(logDelay, l.flushSoon)
		} else {
			l.timer.Reset(logDelay)
		}
	}
	l.waiting = append(l.waiting, line...)
}

// begin begins to write what waits, unless something is written already. The caller
// holds mu.
func (l *logLines) begin() {
	if len(l.waiting) == 0 || l.writing != nil {
		return
	}
	l.timer.Stop()
	batch, done := l.waiting, make(chan struct{})
	l.waiting, l.spare, l.writing = l.spare[:0], nil, done
	go func() {
		_, _ = l.w.Write(batch) // there is nowhere else to say that it failed
		l.mu.Lock()
		defer l.mu.Unlock()
		l.spare, l.writing = batch, nil
		l.stuck = l.stuck && len(l.waiting) > logBatch // it is slow, and would hold others up again
		close(done)
		if l.lost > 0 {
			l.add(fmt.Appendf(nil, "%d lines of the log are lost, for nobody took them\n", l.lost))
			l.lost = 0
		}
		if len(l.waiting) > 0 {
			l.begin() // it has waited for a write already
		}
	}()
}

// await waits for what is being written, but only once if that is stuck, and
// reports whether it is written. The caller holds mu.
func (l *logLines) await() bool {
	done := l.writing
	if done == nil || l.stuck {
		return done == nil
	}
	l.stuck = !l.awaitFor(done, logPatience)
	return !l.stuck
}

// awaitFor waits for a write, without mu, and reports whether it has ended. The caller
// holds mu.
func (l *logLines) awaitFor(done chan struct{}, patience time.Duration) bool {
	l.mu.Unlock()
	defer l.mu.Lock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

func (l *logLines) flushSoon() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begin()
}

// Flush writes what waits, and returns when that is done, or stuck.
func (l *logLines) Flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range 2 { // what is being written, and what waits for that
		l.begin()
		if !l.await() {
			return
		}
	}
}

// Close is Flush with more patience, for the program's end.
func (l *logLines) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for end := time.Now().Add(lastPatience); ; {
		l.begin()
		if l.writing == nil || !l.awaitFor(l.writing, time.Until(end)) {
			return
		}
	}
}

// urgentLines are lines that do not wait, nor do those before them.
type urgentLines struct{ *logLines }

// Write implements io.Writer.
func (u urgentLines) Write(line []byte) (int, error) {
	u.write(line, logBuffer+logReserve)
	u.Flush()
	return len(line), nil
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
