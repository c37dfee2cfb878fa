package cache

import (
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"sync"

	"k8s.io/klog/v2"
)

// views are the views in one directory.
type views struct {
	discovery  sync.Mutex // held while the directory is read
	discovered bool       // every file in it has its view in byKey

	mu      sync.Mutex
	removed bool
	byKey   map[Key]*view
	lists   []*view // those of objects, in no order; only ever appended to, or replaced
	refused refused
}

// view returns the view with a key; nil if it is not to be cached.
func (s *Store) view(key Key) *view {
	v, done := s.use(key)
	if v != nil {
		done()
	}
	return v
}

// use is view for a recording, which calls done at its end.
func (s *Store) use(key Key) (v *view, done func()) {
	dir := s.directory(key.directory())
	if dir == nil {
		return nil, nil
	}
	dir.mu.Lock()
	defer dir.mu.Unlock()
	v = dir.view(key)
	v.users++
	return v, func() {
		dir.mu.Lock()
		defer dir.mu.Unlock()
		v.users--
	}
}

// directory returns the views in a directory; nil if they are not to be cached.
func (s *Store) directory(d directory) *views {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mayCache(d) {
		return nil
	}
	dir := s.dirs[d]
	if dir == nil {
		dir = &views{byKey: map[Key]*view{}, refused: s.absent[d]}
		s.dirs[d] = dir
		delete(s.absent, d)
	}
	return dir
}

// mayCache is called with s.mu held.
func (s *Store) mayCache(d directory) bool {
	return s.caches != nil && s.caches(d.agent) && (!d.sealed() || s.sealKey != nil) && !s.denies(d)
}

// view is called with d.mu held.
func (d *views) view(key Key) *view {
	v := d.byKey[key]
	if v != nil {
		v.idle = false
	} else {
		v = &view{key: key, file: key.file(), removed: d.removed, withdrawn: d.refused.since(key)}
		d.byKey[key] = v
		if key.isList() {
			d.lists = append(d.lists, v)
		}
	}
	return v
}

// remove ends the views of a directory that is to be removed.
func (d *views) remove() {
	d.mu.Lock()
	d.removed = true
	all := slices.Collect(maps.Values(d.byKey))
	d.mu.Unlock()
	for _, v := range all {
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
func (s *Store) siblings(d directory) []*view {
	dir := s.discovered(d)
	if dir == nil {
		return nil
	}
	dir.mu.Lock()
	defer dir.mu.Unlock()
	return slices.Collect(maps.Values(dir.byKey))
}

// listsOf is siblings for those that are lists of objects.
func (s *Store) listsOf(d directory) []*view {
	dir := s.discovered(d)
	if dir == nil {
		return nil
	}
	dir.mu.Lock()
	defer dir.mu.Unlock()
	return dir.lists
}

// known returns the view with a key, nil if neither memory nor disk knows of one.
func (s *Store) known(key Key) *view {
	dir := s.discovered(key.directory())
	if dir == nil {
		return nil
	}
	dir.mu.Lock()
	defer dir.mu.Unlock()
	return dir.byKey[key]
}

// discovered returns the views in a directory, including those that only the disk
// knows of yet; nil if they are not to be cached, or there can be none.
func (s *Store) discovered(d directory) *views {
	if !s.mayHave(d) {
		return nil
	}
	dir := s.directory(d)
	if dir == nil {
		return nil
	}
	dir.discovery.Lock()
	defer dir.discovery.Unlock()
	if dir.discovered {
		return dir
	}
	// The disk is read without dir.mu, which the live path takes.
	var found []Key
	found, dir.discovered = s.discover(d)
	dir.mu.Lock()
	defer dir.mu.Unlock()
	for _, key := range found {
		dir.view(key)
	}
	return dir
}

// discover returns the keys of the views whose files are in a directory, and
// whether that is all of them. It removes what a crash left of lists that were
// being recorded, and what ought to be sealed and is not.
func (s *Store) discover(d directory) (keys []Key, all bool) {
	all = true
	entries, err := s.journal.ReadDir(d.path())
	if err == nil {
		err = s.journal.RemoveStaged(d.path())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.ErrorS(err, "Could not list cached views", "directory", d.path())
		all = false
	}
	for _, e := range entries {
		key, err := s.keyOf(path.Join(d.path(), e.Name()))
		if err != nil || key.directory() != d || key.file() != path.Join(d.path(), e.Name()) {
			klog.V(2).InfoS("Ignoring a file that is no view", "directory", d.path(), "file", e.Name(), "reason", err)
			if d.sealed() && isDamage(err) && !e.IsDir() {
				s.removeDamaged(path.Join(d.path(), e.Name()), err)
			}
			// What can't be read now may be next time.
			all = all && (err == nil || isUseless(err))
			continue
		}
		keys = append(keys, key)
	}
	return keys, all
}

// retire takes the views out of memory that have nothing and that nobody has looked up
// since it was called last. Their directories stay for as long as their agent is cached.
func (s *Store) retire() {
	s.mu.Lock()
	dirs := maps.Clone(s.dirs)
	s.mu.Unlock()
	for _, dir := range dirs {
		dir.mu.Lock()
		before := len(dir.byKey)
		for key, v := range dir.byKey {
			switch {
			case v.users > 0 || s.pages.has(v) || s.watches.any(v.file):
			case !v.idle:
				v.idle = true
			case v.empty():
				delete(dir.byKey, key)
			}
		}
		if len(dir.byKey) < before {
			dir.lists = slices.DeleteFunc(slices.Clone(dir.lists), func(v *view) bool { return dir.byKey[v.key] != v })
		}
		dir.mu.Unlock()
	}
}

// empty reports whether a view has nothing, and retires it then. What is missing of it
// demand knows.
func (v *view) empty() bool {
	if !v.mu.TryLock() {
		return false
	}
	defer v.mu.Unlock()
	v.retired = v.loaded && v.journal == nil && !v.stray
	return v.retired
}

func (s *Store) all() []*view {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*view
	for _, dir := range s.dirs {
		dir.mu.Lock()
		all = slices.AppendSeq(all, maps.Values(dir.byKey))
		dir.mu.Unlock()
	}
	return all
}
