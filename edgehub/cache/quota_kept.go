package cache

import (
	"maps"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// reasonQuota and reasonOverflow are further reasons not to keep a view.
const (
	reasonQuota    = "quota"
	reasonOverflow = "overflow"
)

// refusals are the views that are not kept as they should be: the disk, the
// quota or the recording's pace did not allow it.
type refusals struct {
	demand *demand // is told of them

	mu     sync.Mutex
	byFile map[string]*refusal
}

type refusal struct {
	reason string
	wait   time.Duration
	until  time.Time // before that it is not tried again
}

const (
	minRefusal  = 5 * time.Second
	maxRefusal  = 10 * time.Minute
	maxRefusals = 10000
)

// refuse notes that a list was not kept, and that it is not to be recorded again
// for a while.
func (r *refusals) refuse(file, reason string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.note(file, reason)
	known.wait = min(max(2*known.wait, minRefusal), maxRefusal)
	known.until = now.Add(known.wait)
}

// behind notes that a view lacks what was delivered last, and reports whether
// that is news. The next list may make it whole.
func (r *refusals) behind(file, reason string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	news := r.byFile[file] == nil
	r.note(file, reason)
	return news
}

// note is called with r.mu held. If there are too many, others are forgotten, and tried
// again.
func (r *refusals) note(file, reason string) *refusal {
	known := r.byFile[file]
	if known == nil {
		if len(r.byFile) >= maxRefusals {
			of := func(file string, _ *refusal) holder { return holderOfFile(file) }
			least := func(known *refusal) bool { return known.until.IsZero() } // holds nothing back
			for _, other := range surplus(r.byFile, holderOfFile(file), of, least) {
				delete(r.byFile, other)
			}
		}
		if r.byFile == nil {
			r.byFile = map[string]*refusal{}
		}
		known = &refusal{}
		r.byFile[file] = known
		klog.InfoS("A view is not kept as it should be", "file", file, "reason", reason)
	}
	known.reason = reason
	r.demand.fault(file, missingFor(reason))
	return known
}

// allows reports whether a list of a view may be recorded again.
func (r *refusals) allows(file string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.byFile[file]
	return known == nil || !now.Before(known.until)
}

// kept says that a view is kept, or that nobody wants it any more.
func (r *refusals) kept(file string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byFile, file)
	r.demand.fault(file, "")
}

// mended says that a view is whole again without a list. Whether the quota has room for
// one that tells nothing of.
func (r *refusals) mended(file string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.byFile[file]; known != nil && known.reason != reasonQuota {
		delete(r.byFile, file)
		r.demand.fault(file, "")
	}
}

func (r *refusals) has(file string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byFile[file] != nil
}

// gone says that nobody wants the views in a directory any more.
func (r *refusals) gone(dir string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.byFile, func(file string, _ *refusal) bool { return strings.HasPrefix(file, dir+"/") })
}

// keep forgets the views whose agents are not cached.
func (r *refusals) keep(caches func(agent string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for file := range r.byFile {
		if !caches(agentOfFile(file)) {
			delete(r.byFile, file)
		}
	}
}

// retry lets what the disk prevented be tried at once.
func (r *refusals) retry() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, known := range r.byFile {
		if known.reason != reasonQuota {
			known.wait, known.until = 0, time.Time{}
		}
	}
}

// count returns the number of views that are not kept, by reason.
func (r *refusals) count() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	count := map[string]int{}
	for _, known := range r.byFile {
		count[known.reason]++
	}
	return count
}

// Status is what an operator should know of the cache.
type Status struct {
	Disk    *DiskProblem   // nil while the disk can be written
	NotKept map[string]int // views that are not kept as they should be, by reason
	Views   int
	Bytes   int64
	Quota   int64 // in total, 0 for none
}

// Status returns the cache's present state. It waits for no disk.
func (s *Store) Status() Status {
	status := Status{Disk: s.disk.status(), NotKept: s.refusals.count(), Quota: s.ledger.quota.Total}
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	status.Views, status.Bytes = len(s.ledger.files), s.ledger.total+s.ledger.staged
	return status
}
