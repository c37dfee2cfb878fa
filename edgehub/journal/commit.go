package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// markDirty asks for a live file to be synced. The caller holds a reference.
func (s *Store) markDirty(f *File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dirty[f] {
		return
	}
	s.dirty[f] = true
	f.refs.Add(1)
	s.wakeUp()
}

// publish asks for a staged file to be synced and renamed. The caller holds a
// reference.
func (s *Store) publish(f *File) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	superseded := s.published[f.name]
	if superseded == f {
		s.mu.Unlock()
		return nil
	}
	s.published[f.name] = f
	f.refs.Add(1)
	s.wakeUp()
	s.mu.Unlock()
	if superseded != nil {
		superseded.abandon(ErrReplaced)
	}
	return nil
}

func (s *Store) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run syncs what is due until the store is closed, and then everything.
func (s *Store) run() {
	defer close(s.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next, closed := s.commit()
		if closed {
			if s.idle() {
				return
			}
			continue // records came in meanwhile
		}
		if next > 0 {
			timer.Reset(next)
		}
		select {
		case <-s.wake:
		case <-timer.C:
		}
	}
}

func (s *Store) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.dirty) == 0 && len(s.published) == 0
}

// commit makes the files durable that are due. It returns the time until the
// next ones are, zero if there are none, and whether the store is closed.
func (s *Store) commit() (next time.Duration, closed bool) {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	due := s.takeDue(&next, &closed)
	var working sync.WaitGroup
	var mu sync.Mutex // of closeErr
	room := make(chan struct{}, maxSyncs)
	for len(due) > 0 {
		n := 1
		for n < len(due) && due[n].name == due[0].name {
			n++
		}
		files := due[:n]
		due = due[n:]
		room <- struct{}{}
		working.Go(func() {
			defer func() { <-room }()
			if err := s.commitFiles(files, closed); err != nil && closed {
				mu.Lock()
				defer mu.Unlock()
				s.closeErr = errors.Join(s.closeErr, err)
			}
		})
	}
	working.Wait()
	return next, closed
}

// maxSyncs is how many files are synced at once. A disk takes several for little more
// than the time of one, and what is due is durable within Options.Interval only if
// many files don't have to wait for each other.
const maxSyncs = 16

// commitFiles makes the files of one name durable, the published one first: what it
// replaces need not be synced.
func (s *Store) commitFiles(files []*File, closed bool) (errs error) {
	replaced := false
	for _, f := range files {
		if !replaced {
			published, err := s.commitFile(f, closed)
			replaced = published && (err == nil || errors.Is(err, ErrUnwritten))
			if err != nil && !errors.Is(err, ErrReplaced) {
				s.options.OnError(f.name, err)
				errs = errors.Join(errs, err)
			}
		}
		_ = f.Release() // the data is durable or its loss was reported
	}
	return errs
}

func (s *Store) takeDue(next *time.Duration, closed *bool) []*File {
	s.mu.Lock()
	defer s.mu.Unlock()
	*closed = s.closed
	now := time.Now()
	var due []*File
	// Of one name the published one comes first.
	take := func(f *File) bool {
		wait := s.options.Interval - now.Sub(s.lastSync[f.name])
		if wait > 0 && !s.closed {
			if *next == 0 || wait < *next {
				*next = wait
			}
			return false
		}
		due = append(due, f)
		return true
	}
	for name, f := range s.published {
		if take(f) {
			delete(s.published, name)
		}
	}
	for f := range s.dirty {
		if take(f) {
			delete(s.dirty, f)
		}
	}
	for name, at := range s.lastSync {
		if now.Sub(at) > s.options.Interval {
			delete(s.lastSync, name)
		}
	}
	for _, f := range due {
		s.lastSync[f.name] = now
	}
	slices.SortStableFunc(due, func(a, b *File) int { return strings.Compare(a.name, b.name) })
	return due
}

// commitFile makes one file durable, under its final name. It reports whether
// the file was staged until now.
func (s *Store) commitFile(f *File, closed bool) (published bool, err error) {
	f.mu.Lock()
	if f.err != nil {
		f.mu.Unlock()
		return false, nil // reported when it failed; its pages prove nothing
	}
	unwritten := f.flush()
	known := f.reported
	f.reported = unwritten != nil
	if known && unwritten != nil && !f.unsynced && f.temp == "" && !closed {
		f.mu.Unlock()
		s.markDirty(f) // to try again
		return false, nil
	}
	f.unsynced = false
	temp := f.temp
	f.mu.Unlock()

	s.syncs.Add(1)
	err = f.handle.Sync()
	published = temp != ""
	switch {
	case published:
		err = s.rename(f, temp, err)
	case err != nil:
		f.fail(err)
	default:
		err = s.syncOnce(path.Dir(f.name))
	}
	if err == nil && unwritten != nil {
		err = fmt.Errorf("%w: %w", ErrUnwritten, unwritten)
		if !closed {
			s.markDirty(f) // to try again
		}
	}
	return published, err
}

// rename brings a staged file that was synced, with a result, to its place.
func (s *Store) rename(f *File, temp string, err error) error {
	if err == nil {
		err = s.fs.Rename(temp, f.name)
	}
	if err != nil {
		f.giveUp(err)
		return fmt.Errorf("publish %s: %w", f.name, err)
	}
	f.mu.Lock()
	f.temp = ""
	again := f.unsynced || len(f.buf) > 0
	f.mu.Unlock()
	if again {
		// Records came in between the sync and the rename.
		s.markDirty(f)
	}
	if err := s.syncDirs(path.Dir(f.name)); err != nil {
		return fmt.Errorf("publish %s: %w", f.name, err)
	}
	return nil
}

// syncOnce makes the entries of a directory durable that were there when the
// store was opened: the process before may not have come to it. A directory
// that could not be synced has its next try here.
func (s *Store) syncOnce(dir string) error {
	s.mu.Lock()
	synced := s.synced[dir] && s.durable[dir]
	s.mu.Unlock()
	if synced {
		return nil
	}
	if err := s.syncDirs(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil // a directory that is gone has nothing to keep
}

// syncDirs makes the entries of dir durable, and those of the directories
// above it that were not synced since dir may have been made.
func (s *Store) syncDirs(dir string) error {
	if err := s.syncDir(dir); err != nil {
		return err
	}
	var reached []string
	for !s.isDurable(dir) {
		reached = append(reached, dir)
		dir = path.Dir(dir)
		if err := s.syncDir(dir); err != nil {
			return err
		}
	}
	// Only now: a directory is durable if those above it are.
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, dir := range reached {
		s.durable[dir] = true
	}
	return nil
}

func (s *Store) isDurable(dir string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable[dir]
}

func (s *Store) syncDir(dir string) error {
	s.syncs.Add(1)
	err := s.fs.SyncDir(dir)
	s.mu.Lock()
	if errors.Is(err, fs.ErrNotExist) {
		delete(s.synced, dir)
	} else {
		s.synced[dir] = err == nil
	}
	s.mu.Unlock()
	return err
}

// Close makes everything durable and ends the store. Files that are staged
// but not published are left for RemoveStaged. The error, of which OnError was
// told as well, says what could not be made durable.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.wakeUp()
	s.mu.Unlock()
	<-s.done
	return s.closeErr
}
