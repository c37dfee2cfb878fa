package cache

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"syscall"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

const (
	// minProbe and maxProbe are how long after a disk has failed it is tried
	// again, the first time and at most.
	minProbe = time.Second
	maxProbe = time.Minute
	// probeSize is how much must fit for the disk not to count as full.
	probeSize = 1 << 20
	probeFile = journal.TempPrefix + "probe"
)

// Why the disk fails: the values of a metric's label.
const (
	reasonNoSpace  = "no_space"
	reasonIO       = "io_error"
	reasonReadOnly = "read_only"
	reasonOther    = "other"
)

// faultOf is the reason in an error of the file system, "" if it has none that
// tells of the disk.
func faultOf(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return ""
	}
	switch errno {
	case syscall.ENOSPC, syscall.EDQUOT:
		return reasonNoSpace
	case syscall.EIO:
		return reasonIO
	case syscall.EROFS:
		return reasonReadOnly
	case syscall.ENOENT, syscall.EEXIST, syscall.ENOTEMPTY:
		return "" // said of a name
	}
	return reasonOther
}

// disk watches over the cache directory's file system.
type disk struct {
	fs      journal.FS // unobserved, to probe
	clock   clock.PassiveClock
	metrics *metrics
	failed  chan struct{} // signalled when writing begins to fail

	mu       sync.Mutex
	failures uint64
	problem  *DiskProblem // nil while it can be written
}

// DiskProblem says why nothing can be written to the cache.
type DiskProblem struct {
	Err   error // ENOSPC, EIO or EROFS
	Since time.Time
}

// observe is told of every operation.
func (d *disk) observe(op string, took time.Duration, err error) {
	switch op {
	case journal.OpWrite:
		d.metrics.writes.Observe(took.Seconds())
	case journal.OpSync:
		d.metrics.syncs.Observe(took.Seconds())
	}
	if err == nil {
		return
	}
	reason := faultOf(err)
	if reason == "" {
		return
	}
	d.metrics.diskErrors.WithLabelValues(op, reason).Inc()
	reads := op == journal.OpRead || op == journal.OpReadDir || op == journal.OpOpen && reason != reasonReadOnly
	if reads || reason == reasonOther {
		return
	}
	var errno syscall.Errno
	_ = errors.As(err, &errno) // faultOf has found it
	d.mu.Lock()
	d.failures++
	first := d.problem == nil
	if first {
		d.problem = &DiskProblem{Since: d.clock.Now()}
	}
	d.problem = &DiskProblem{errno, d.problem.Since}
	d.mu.Unlock()
	if first {
		klog.ErrorS(err, "The cache can't be written; live requests go on, and views keep their last complete state")
		select {
		case d.failed <- struct{}{}:
		default:
		}
	}
}

// status returns what is wrong, nil for nothing.
func (d *disk) status() *DiskProblem {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.problem
}

// recheck tries whether a disk that failed can be written again, and if so lets
// what was not kept be tried anew. It reports whether it can.
func (s *Store) recheck() bool {
	d := s.disk
	d.mu.Lock()
	failures := d.failures
	d.mu.Unlock()
	if err := d.probe(); err != nil {
		klog.V(2).InfoS("The cache still can't be written", "reason", err)
		return false
	}
	d.mu.Lock()
	recovered := d.failures == failures
	was := d.problem
	if recovered {
		d.problem = nil
	}
	d.mu.Unlock()
	if recovered {
		s.refusals.retry()
		s.losses.forget()
	}
	if recovered && was != nil {
		klog.InfoS("The cache can be written again", "failedFor", d.clock.Since(was.Since).Round(time.Second))
	}
	return recovered
}

// probe writes a file, makes it durable, and removes it.
func (d *disk) probe() error {
	f, err := d.fs.OpenFile(probeFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	_, err = f.WriteAt(make([]byte, probeSize), 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close(), d.fs.Remove(probeFile)); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	return nil
}

// losses paces how often views are written anew because the disk lost them.
type losses struct {
	mu     sync.Mutex
	byFile map[string]*loss
}

type loss struct {
	wait time.Duration // before the next time
	due  time.Time     // when it is written anew
}

// pause is how long to wait before a view is written anew.
func (l *losses) pause(file string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.byFile, func(_ string, known *loss) bool { return now.Sub(known.due) > 2*maxProbe })
	known := l.byFile[file]
	if known == nil {
		known = &loss{}
		if l.byFile == nil {
			l.byFile = map[string]*loss{}
		}
		l.byFile[file] = known
	}
	pause := known.wait
	known.wait, known.due = min(max(2*pause, minProbe), maxProbe), now.Add(pause)
	return pause
}

// allows reports whether a list of a view may be recorded again.
func (l *losses) allows(file string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.byFile[file]
	return known == nil || !now.Before(known.due)
}

// forget is called when the disk works again.
func (l *losses) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.byFile)
}
