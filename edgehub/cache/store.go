// Package cache keeps what programs read from kube-apiserver, as views, and
// answers the same reads while kube-apiserver can't.
//
// A view is one (agent, identity, resource, scope): a list and the watch events
// that followed, in one journal file. Store.Record copies answers of
// kube-apiserver into views as they stream by; Store.Answer serves a request
// from the view it would have read, or from a broader one of the same agent
// and identity.
package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

// Options are a Store's settings.
type Options struct {
	FS       journal.FS            // the cache directory
	Registry prometheus.Registerer // nil for none
	Clock    clock.WithTicker      // nil for the real one
	Journal  journal.Options
}

// Store is all views of a node.
type Store struct {
	journal    *journal.Store
	clock      clock.WithTicker
	metrics    *metrics
	budget     budget
	pages      pages
	recordings sync.WaitGroup

	mu     sync.Mutex
	caches func(agent string) bool // nil until the first SetAgents
	dirs   map[directory]*views
}

// views are the views in one directory.
type views struct {
	mu     sync.Mutex
	loaded bool // every file in the directory has its view in byKey
	byKey  map[Key]*view
}

// Open returns the store over a cache directory. It reads no view before one is
// asked for.
func Open(options Options) *Store {
	s := &Store{clock: options.Clock, dirs: map[directory]*views{}}
	if s.clock == nil {
		s.clock = clock.RealClock{}
	}
	s.budget.left = pipesLimit
	options.Journal.OnError = s.lost
	s.journal = journal.Open(options.FS, options.Journal)
	s.metrics = newMetrics(options.Registry, s)
	return s
}

// Run does the store's housekeeping until ctx ends.
func (s *Store) Run(ctx context.Context) {
	ticker := s.clock.NewTicker(time.Minute)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
			s.pages.expire(false)
			s.forgetIndexes()
		}
	}
}

// Close waits for the recordings, whose bodies must have ended, and makes
// everything durable.
func (s *Store) Close() error {
	s.recordings.Wait()
	s.pages.expire(true)
	return s.journal.Close()
}

// SetAgents says which agents are cached. Views of others are removed, on disk
// as in memory.
func (s *Store) SetAgents(caches func(agent string) bool) error {
	s.mu.Lock()
	s.caches = caches
	var errs []error
	gone := map[string]bool{}
	for dir, views := range s.dirs {
		if !caches(dir.agent) {
			gone[agentPath(dir.agent)] = true
			views.remove()
			delete(s.dirs, dir)
		}
	}
	s.mu.Unlock()
	entries, err := s.journal.ReadDir(".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if agent, ok := agentOfPath(e.Name()); e.IsDir() && (!ok || !caches(agent)) || gone[e.Name()] {
			klog.InfoS("Removing the cache of an agent that is no longer listed", "directory", e.Name())
			errs = append(errs, s.journal.RemoveAll(e.Name()))
		}
	}
	return errors.Join(errs...)
}

// view returns the view with a key; nil if its agent is not cached.
func (s *Store) view(key Key) *view {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.caches == nil || !s.caches(key.Agent) {
		return nil
	}
	dir := s.directory(key.directory())
	dir.mu.Lock()
	defer dir.mu.Unlock()
	return dir.view(key)
}

// directory is called with s.mu held.
func (s *Store) directory(d directory) *views {
	dir := s.dirs[d]
	if dir == nil {
		dir = &views{byKey: map[Key]*view{}}
		s.dirs[d] = dir
	}
	return dir
}

// view is called with d.mu held.
func (d *views) view(key Key) *view {
	v := d.byKey[key]
	if v == nil {
		v = &view{key: key, file: key.file()}
		d.byKey[key] = v
	}
	return v
}

// remove ends the views of a directory that is to be removed.
func (d *views) remove() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, v := range d.byKey {
		v.mu.Lock()
		v.removed = true
		if v.journal != nil {
			_ = v.journal.Close() // its file is removed
		}
		v.journal, v.index = nil, nil
		v.mu.Unlock()
	}
}

// siblings returns every view of a resource of one agent and identity,
// including those that only the disk knows of yet.
func (s *Store) siblings(key Key) []*view {
	s.mu.Lock()
	if s.caches == nil || !s.caches(key.Agent) {
		s.mu.Unlock()
		return nil
	}
	d := key.directory()
	dir := s.directory(d)
	s.mu.Unlock()

	dir.mu.Lock()
	defer dir.mu.Unlock()
	if !dir.loaded {
		dir.loaded = true
		s.discover(d, dir)
	}
	all := make([]*view, 0, len(dir.byKey))
	for _, v := range dir.byKey {
		all = append(all, v)
	}
	return all
}

// discover adds the views whose files are in a directory. dir.mu is held.
func (s *Store) discover(d directory, dir *views) {
	entries, err := s.journal.ReadDir(d.path())
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			klog.ErrorS(err, "Could not list cached views", "directory", d.path())
		}
		return
	}
	for _, e := range entries {
		key, err := s.keyOf(path.Join(d.path(), e.Name()))
		if err != nil || key.directory() != d || key.file() != path.Join(d.path(), e.Name()) {
			klog.V(2).InfoS("Ignoring a file that is no view", "directory", d.path(), "file", e.Name(), "reason", err)
			continue
		}
		dir.view(key)
	}
}

var errStop = errors.New("read enough")

// keyOf reads a file's first record.
func (s *Store) keyOf(file string) (key Key, err error) {
	_, err = s.journal.Open(file, func(_ journal.Position, body []byte) error {
		rec, err := parseRecord(body)
		if err != nil {
			return err
		}
		if string(rec.typ) != recordView {
			return errNotLegal
		}
		h, err := rec.header()
		if err != nil {
			return err
		}
		key = h.Key
		return errStop
	})
	if errors.Is(err, errStop) {
		return key, nil
	}
	if err == nil {
		err = fmt.Errorf("empty: %w", journal.ErrCorrupt)
	}
	return key, err
}

// Knows reports whether the store holds anything of an identity under an agent.
func (s *Store) Knows(agent, identity string) bool {
	entries, err := s.journal.ReadDir(path.Dir(directory{agent: agent, identity: identity, resource: "x"}.path()))
	return err == nil && len(entries) > 0
}

// Drop removes a view.
func (s *Store) Drop(key Key) error {
	v := s.view(key)
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.drop(s)
}

// forgetIndexes frees the indexes that no answer used lately.
func (s *Store) forgetIndexes() {
	for _, v := range s.all() {
		v.mu.Lock()
		if v.index != nil && s.clock.Since(v.used) > time.Minute {
			v.index = nil
		}
		v.mu.Unlock()
	}
}

func (s *Store) all() []*view {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*view
	for _, dir := range s.dirs {
		dir.mu.Lock()
		for _, v := range dir.byKey {
			all = append(all, v)
		}
		dir.mu.Unlock()
	}
	return all
}

// lost is told by the journal that a file did not become durable.
func (s *Store) lost(name string, err error) {
	s.failed(err)
	// The journal's goroutine must not wait for a view's lock, whose holder
	// may be waiting for the journal.
	go func() {
		for _, v := range s.all() {
			if v.file != name {
				continue
			}
			v.mu.Lock()
			if v.journal != nil {
				if err := s.rewrite(v); err != nil {
					klog.ErrorS(err, "Could not write a view anew", "file", name)
				}
			}
			v.mu.Unlock()
		}
	}()
}

func (s *Store) failed(err error) {
	s.metrics.errors.Inc()
	klog.ErrorS(err, "The cache could not be written")
}
