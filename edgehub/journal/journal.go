// Package journal keeps append-only files of checksummed records and makes
// them durable in groups. It knows bytes on disk and nothing of what they mean.
//
// A file is written in one of two ways. It is staged under a temporary name
// and published, which replaces the file of that name in one step, or records
// are appended to the published file. Either way the data is durable at most
// Options.Interval (and the time the disk takes) after Publish or Flush.
// After a crash a file is the old one or the new one, and reading it back ends
// before the first record that is torn or damaged.
package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Options are a Store's settings; the zero value has sensible ones.
type Options struct {
	// Interval is the shortest time between two syncs of one file, 0.9
	// seconds if zero. A file that was not synced lately is synced at once.
	Interval time.Duration
	// OnError is told of a file that could not be made durable. The file's
	// content is not to be trusted to survive a power loss until it has
	// been staged and published anew: after a failed fsync the kernel may
	// hold pages as clean that never reached the disk, so that a second
	// fsync proves nothing, and nothing more is appended to them.
	//
	// An error that is ErrUnwritten is of another kind: the file is in
	// order, but its last records wait in memory, for room on the disk
	// perhaps. Writing them is tried each Interval.
	//
	// OnError must not call the Store. It may be called for several files at once.
	OnError func(name string, err error)
	// OnStaged is told by how many bytes the files that are staged for a name
	// have grown, or shrunk: they count until they are published or
	// discarded. It must not call the Store.
	OnStaged func(name string, bytes int64)
}

var (
	// ErrUnwritten says that records could not be written yet.
	ErrUnwritten = errors.New("records wait to be written")
	// ErrClosed is the error of a store that was closed.
	ErrClosed = errors.New("journal is closed")
)

// Store is a tree of journal files with one goroutine that syncs them.
type Store struct {
	fs       FS
	options  Options
	instance string // tells this store's temporary names from others'
	temps    atomic.Uint64
	room     atomic.Int64 // of writeRoom that is taken
	written  atomic.Int64
	syncs    atomic.Int64

	// commitMu is held while files are renamed, so that RemoveAll can't
	// miss one that is just arriving.
	commitMu sync.Mutex
	unsynced map[string]bool // directories that something was removed from

	mu        sync.Mutex
	dirty     map[*File]bool
	published map[string]*File     // staged files to rename, by name
	lastSync  map[string]time.Time // by name, for files that are replaced
	durable   map[string]bool      // directories that are there after a crash
	synced    map[string]bool      // directories that this store has synced
	closed    bool
	closeErr  error // what Close could not make durable

	wake chan struct{}
	done chan struct{}
}

// Open returns a Store over a file system. Close must be called.
func Open(fsys FS, options Options) *Store {
	if options.Interval == 0 {
		options.Interval = 900 * time.Millisecond
	}
	if options.OnError == nil {
		options.OnError = func(string, error) {}
	}
	if options.OnStaged == nil {
		options.OnStaged = func(string, int64) {}
	}
	s := &Store{
		fs:        fsys,
		options:   options,
		instance:  rand.Text(),
		dirty:     map[*File]bool{},
		published: map[string]*File{},
		unsynced:  map[string]bool{},
		lastSync:  map[string]time.Time{},
		durable:   map[string]bool{".": true},
		synced:    map[string]bool{},
		wake:      make(chan struct{}, 1),
		done:      make(chan struct{}),
	}
	go s.run()
	return s
}

// Stats are counters since the store was opened.
type Stats struct {
	Written int64 // bytes written to files
	Syncs   int64 // calls of fsync on files and directories
}

// Stats returns the store's counters.
func (s *Store) Stats() Stats { return Stats{s.written.Load(), s.syncs.Load()} }

// Stage creates a file that will take the place of name once it is published.
func (s *Store) Stage(name string) (*File, error) {
	if err := s.fs.MkdirAll(path.Dir(name), dirPerm); err != nil {
		return nil, fmt.Errorf("stage %s: %w", name, err)
	}
	temp := tempName(name, s.instance+"-"+strconv.FormatUint(s.temps.Add(1), 10))
	h, err := s.fs.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, filePerm)
	if err != nil {
		return nil, fmt.Errorf("stage %s: %w", name, err)
	}
	f := s.file(name, temp, h)
	f.staged = true
	return f, nil
}

// Open opens a published file and calls fn for each of its records. Reading
// ends at the first record that is damaged or that fn refuses with an error;
// what follows is cut off, so that the next Append continues a legal prefix.
// An error of fn other than ErrCorrupt leaves the file as it is and is
// returned. If there is no such file the error is fs.ErrNotExist.
//
// A file on a file system that is mounted read-only, and one that can't be cut
// off, can be read but not appended to.
func (s *Store) Open(name string, fn func(Position, []byte) error) (*File, error) {
	h, err := s.fs.OpenFile(name, os.O_RDWR, filePerm)
	readOnly := errors.Is(err, syscall.EROFS)
	if readOnly {
		h, err = s.fs.OpenFile(name, os.O_RDONLY, filePerm)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	f := s.file(name, "", h)
	if readOnly {
		f.err = syscall.EROFS
	}
	if err := f.recover(fn); err != nil {
		return nil, fmt.Errorf("open %s: %w", name, errors.Join(err, h.Close()))
	}
	return f, nil
}

func (s *Store) file(name, temp string, h Handle) *File {
	f := &File{store: s, name: name, temp: temp, handle: h}
	f.refs.Store(1)
	return f
}

func (f *File) recover(fn func(Position, []byte) error) error {
	info, err := f.handle.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("not a regular file: %s", info.Mode().Type())
	}
	f.found = info.ModTime()
	valid, err := scan(io.NewSectionReader(f.handle, 0, info.Size()), fn)
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return err
	}
	f.size = valid
	if f.err != nil {
		return nil
	}
	if valid < info.Size() {
		f.err = f.cutOff(valid)
	}
	if f.err == nil {
		// A process that was killed may have written what is here and not
		// have come to sync it.
		f.store.markDirty(f)
	}
	return nil
}

// cutOff removes what lies behind the last good record. It is gone for good
// before anything is appended: else a crash could leave a new record in front
// of an old one that happens to begin where the new one ends.
func (f *File) cutOff(size int64) error {
	if err := f.handle.Truncate(size); err != nil {
		return err
	}
	f.store.syncs.Add(1)
	return f.handle.Sync()
}

// Touch says when a file was last used and modified, see Accessed. The times
// are not synced.
func (s *Store) Touch(name string, accessed, modified time.Time) error {
	if err := s.fs.Chtimes(name, accessed, modified); err != nil {
		return fmt.Errorf("touch %s: %w", name, err)
	}
	return nil
}

// ReadDir lists a directory without the files that are still staged.
func (s *Store) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := s.fs.ReadDir(name)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", name, err)
	}
	kept := entries[:0]
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), TempPrefix) {
			kept = append(kept, e)
		}
	}
	return kept, nil
}

// RemoveStaged removes what a crash left of files that were being staged in a
// directory. It leaves those that this store is staging.
func (s *Store) RemoveStaged(dir string) error {
	entries, err := s.fs.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), TempPrefix) && !strings.HasPrefix(e.Name(), TempPrefix+s.instance) {
			errs = append(errs, s.fs.RemoveAll(path.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// RemoveAll removes a file or a directory with all it holds, durably. Files
// below it that were to be published are dropped.
func (s *Store) RemoveAll(name string) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	below := func(n string) bool { return n == name || strings.HasPrefix(n, name+"/") }
	s.mu.Lock()
	var dropped []*File
	for f := range s.dirty {
		if below(f.name) {
			delete(s.dirty, f)
			dropped = append(dropped, f)
		}
	}
	for n, f := range s.published {
		if below(n) {
			delete(s.published, n)
			dropped = append(dropped, f)
		}
	}
	forget := func(dir string, _ bool) bool { return below(dir) }
	maps.DeleteFunc(s.durable, forget)
	maps.DeleteFunc(s.synced, forget)
	s.mu.Unlock()
	for _, f := range dropped {
		f.abandon(ErrReplaced)
	}
	if err := s.fs.RemoveAll(name); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	s.unsynced[path.Dir(name)] = true
	if err := s.syncRemoved(); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// SyncRemoved makes durable what RemoveAll could remove and no more. Without it
// what is gone may be back after a crash, though nobody finds it to remove again.
func (s *Store) SyncRemoved() error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	return s.syncRemoved()
}

// SyncAbsent makes durable that something is not in a directory, or that there is no
// such directory: a process before may have removed it, and not have come to that.
func (s *Store) SyncAbsent(dir string) error {
	for ; ; dir = path.Dir(dir) {
		s.mu.Lock()
		synced := s.synced[dir] && s.durable[dir]
		s.mu.Unlock()
		if synced {
			return nil
		}
		s.commitMu.Lock() // lest it is removed meanwhile
		err := s.syncDirs(dir)
		s.commitMu.Unlock()
		if !errors.Is(err, fs.ErrNotExist) || dir == "." {
			return err
		}
	}
}

// syncRemoved is called with s.commitMu held.
func (s *Store) syncRemoved() error {
	for removed := range s.unsynced {
		for dir := removed; ; dir = path.Dir(dir) {
			err := s.syncDirs(dir)
			if err == nil {
				break
			}
			if !errors.Is(err, fs.ErrNotExist) || dir == "." {
				return err
			}
			// The directory is gone as well, but perhaps not yet for good.
		}
		delete(s.unsynced, removed)
	}
	return nil
}
