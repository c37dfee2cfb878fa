package cache

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

// errQuota ends the recording of a list for which the quota has no room.
var errQuota = errors.New("no room within the quota")

// admit makes room for a complete list, or says that there is none. settle must
// be called, with v.mu held, if the list does not become the view's content.
func (s *Store) admit(v *view, size int64) error {
	leave, ok := s.ledger.admit(v, size)
	if !ok {
		return errQuota
	}
	for _, e := range leave {
		s.evict(e)
	}
	return nil
}

// enforce makes views leave that have grown beyond the quota. It reports
// whether what must leave could.
func (s *Store) enforce() bool {
	for range 3 { // a view that was made smaller may not be small enough
		leave := s.ledger.excess()
		if len(leave) == 0 {
			return true
		}
		for _, e := range leave {
			if !s.evict(e) {
				return false
			}
		}
	}
	return true
}

// evict removes a view's file. No view's lock is held. It reports whether it is
// gone, or smaller.
func (s *Store) evict(e eviction) bool {
	v, err := s.viewOf(e.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.ledger.gone(e.file)
		return true
	case err != nil && !isUseless(err):
		klog.ErrorS(err, "Could not evict a view", "file", e.file)
		return false
	case v == nil: // of no use to anybody
		if err := s.journal.RemoveAll(e.file); err != nil {
			klog.ErrorS(err, "Could not evict a file", "file", e.file)
			return false
		}
		s.ledger.gone(e.file)
		return true
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.removed {
		return true
	}
	if e.tooLarge && s.shrink(v) {
		return true
	}
	if err := s.journal.RemoveAll(v.file); err != nil {
		klog.ErrorS(err, "Could not evict a view", "file", v.file)
		return false
	}
	v.forget(s)
	s.metrics.evictions.WithLabelValues(e.reason).Inc()
	s.demand.fault(v.file, missingFor(e.reason))
	if e.tooLarge {
		s.refusals.refuse(v.file, reasonQuota, s.clock.Now())
	}
	klog.InfoS("Evicted the least recently used view", "agent", e.agent, "file", v.file, "bytes", e.size, "reason", e.reason)
	return true
}

// shrink writes a view anew if that is likely to make it much smaller. v.mu is
// held.
func (s *Store) shrink(v *view) bool {
	v.load(s)
	if v.journal == nil {
		return false
	}
	before := v.journal.Size()
	if before-v.listed < before/4 || s.rewrite(v) != nil {
		return false
	}
	return v.journal.Size() < before-before/8
}

// viewOf returns the view whose file has a name, nil if its agent is not cached.
func (s *Store) viewOf(file string) (*view, error) {
	for _, v := range s.near(file) {
		if v.file == file {
			return v, nil
		}
	}
	key, err := s.keyOf(file)
	if err != nil || key.file() != file {
		return nil, err
	}
	return s.view(key), nil
}

// near returns the views in memory among which one is whose file has a name: few,
// if its directory's name tells whose they are.
func (s *Store) near(file string) []*view {
	dir := path.Dir(file)
	if strings.Count(dir, "/") != 2 {
		return s.all()
	}
	d, ok := s.directoryOf(dir)
	if !ok {
		return s.all()
	}
	s.mu.Lock()
	views := s.dirs[d]
	s.mu.Unlock()
	if views == nil {
		return nil
	}
	views.mu.Lock()
	defer views.mu.Unlock()
	return slices.Collect(maps.Values(views.byKey))
}

// relief is the room that a list may still take from others while the disk is
// full.
type relief struct {
	begun bool
	left  int64
}

const (
	// minRelief is how many bytes even a short list may take.
	minRelief = 1 << 20
	// reliefPause is how long after views have left to make room on a full
	// disk no others leave for that, and reliefFailed how long if it was in
	// vain: somebody else fills the disk.
	reliefPause  = time.Minute
	reliefFailed = 10 * time.Minute
)

// reliefs paces how often views leave because the disk is full.
type reliefs struct {
	mu    sync.Mutex
	after time.Time
}

func (r *reliefs) begin(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Before(r.after) {
		return false
	}
	r.after = now.Add(reliefPause)
	return true
}

func (r *reliefs) failed(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.after = now.Add(reliefFailed)
}

// relieve makes a view leave if an error says that the disk is full, and
// reports whether that may have helped. A list may displace as many bytes as it
// had when it first met the full disk. No view's lock is held.
func (s *Store) relieve(file string, r *relief, size int64, err error) bool {
	if !isFull(err) {
		return false
	}
	if !r.begun {
		if !s.reliefs.begin(s.clock.Now()) {
			return false
		}
		r.begun, r.left = true, max(size, minRelief)
	}
	if r.left <= 0 {
		return false
	}
	e, ok := s.ledger.displaced(file)
	if !ok {
		return false
	}
	r.left -= max(e.size, 1)
	return s.evict(e)
}

// relieveEvents makes room for events that wait in memory for it.
func (s *Store) relieveEvents(file string, err error) {
	s.relieve(file, &relief{}, 0, err)
}

// isFull reports whether an error says that there is no room on the disk.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// touchInterval is how often the disk is told when views were last used.
const touchInterval = time.Minute

// keepWithinQuota does what the quota needs, and looks after the disk, until
// ctx ends.
func (s *Store) keepWithinQuota(ctx context.Context) {
	s.scan()
	close(s.scanned)
	touch := s.clock.NewTicker(touchInterval)
	defer touch.Stop()
	var probe, enforce <-chan time.Time
	var wait time.Duration
	over := s.ledger.over
	for {
		if over != nil && !s.enforce() {
			// What can't leave now is not tried with every event.
			over, enforce = nil, s.clock.After(touchInterval)
		}
		select {
		case <-ctx.Done():
			s.touch() // for the next start
			return
		case <-over:
		case <-enforce:
			over, enforce = s.ledger.over, nil
		case <-touch.C():
			s.touch()
		case <-s.disk.failed:
			if probe == nil {
				wait = minProbe
				probe = s.clock.After(wait)
			}
		case <-probe:
			if probe = nil; !s.recheck() {
				wait = min(2*wait, maxProbe)
				probe = s.clock.After(wait)
			}
		}
	}
}

// scan accounts for what a start finds on the disk, and removes what a crash
// left of lists that were being recorded, and what ought to be sealed and is not.
func (s *Store) scan() {
	foreigners := 0
	objects := s.restoreObjects()
	s.walk(".", 0, func(dir string) {
		_ = s.journal.RemoveStaged(dir) // tried again when the directory is used
		if holdsSealed(dir) {
			if d, ok := s.directoryOf(dir); ok {
				s.siblings(d)
			}
		}
		entries, err := s.journal.ReadDir(dir)
		if err != nil {
			return // then it has no views either
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil || !info.Mode().IsRegular() || !strings.HasSuffix(e.Name(), fileSuffix) {
				continue
			}
			file := path.Join(dir, e.Name())
			foreign := false
			if holdsSealed(dir) {
				if _, err := s.keyOf(file); errors.Is(err, errOtherKey) {
					foreign = true
					foreigners++
				}
			}
			used := info.ModTime()
			if accessed := journal.Accessed(info); accessed.After(used) {
				used = accessed
			}
			s.ledger.found(file, info.Size(), objects[file], used, foreign)
		}
	})
	s.ledger.complete()
	if foreigners > 0 {
		s.metrics.foreign.Add(float64(foreigners))
		klog.InfoS("Cached Secrets were sealed with another key and can't be read: they are cached again once they are read from the cloud", "views", foreigners)
	}
}

// walk calls fn for every directory AGENT/IDENTITY/RESOURCE.
func (s *Store) walk(dir string, depth int, fn func(dir string)) {
	if depth == 3 {
		fn(dir)
		return
	}
	entries, err := s.journal.ReadDir(dir)
	if err != nil {
		klog.ErrorS(err, "Could not look through the cache directory", "directory", dir)
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			s.walk(path.Join(dir, e.Name()), depth+1, fn)
		}
	}
}

// touch tells the disk which views were used, and when, so that the order
// outlasts a restart. The file's modification time is when the cloud last
// confirmed it.
func (s *Store) touch() {
	if s.disk.status() != nil {
		return
	}
	for _, a := range s.ledger.untouched() {
		if err := s.journal.Touch(a.file, a.used, a.asOf); err != nil && !errors.Is(err, fs.ErrNotExist) {
			klog.V(2).InfoS("Could not keep when a view was last used", "file", a.file, "reason", err)
		}
	}
}
