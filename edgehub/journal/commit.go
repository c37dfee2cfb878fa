package journal

import (
	"errors"
	"fmt"
	"path"
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
func (s *Store) publish(f *File) {
	s.mu.Lock()
	superseded := s.published[f.name]
	if superseded == f {
		s.mu.Unlock()
		return
	}
	s.published[f.name] = f
	f.refs.Add(1)
	s.wakeUp()
	s.mu.Unlock()
	if superseded != nil {
		superseded.abandon(ErrReplaced)
	}
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
			return
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

// commit makes the files durable that are due. It returns the time until the
// next ones are, zero if there are none, and whether the store is closed.
func (s *Store) commit() (next time.Duration, closed bool) {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	for _, f := range s.takeDue(&next, &closed) {
		err := s.commitFile(f)
		if err != nil && !errors.Is(err, ErrReplaced) {
			s.options.OnError(f.name, err)
		}
		_ = f.Release() // the data is durable or its loss was reported
	}
	return next, closed
}

func (s *Store) takeDue(next *time.Duration, closed *bool) []*File {
	s.mu.Lock()
	defer s.mu.Unlock()
	*closed = s.closed
	now := time.Now()
	var due []*File
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
	return due
}

// commitFile makes one file durable, under its final name.
func (s *Store) commitFile(f *File) error {
	f.mu.Lock()
	err := f.flush()
	f.unsynced = false
	temp := f.temp
	f.mu.Unlock()
	if err == nil {
		s.syncs.Add(1)
		err = f.handle.Sync()
	}
	if temp == "" {
		if err != nil {
			f.fail(err)
		}
		return err
	}
	if err == nil {
		err = s.fs.Rename(temp, f.name)
	}
	if err != nil {
		f.giveUp(err)
		return fmt.Errorf("publish %s: %w", f.name, err)
	}
	f.mu.Lock()
	f.temp = ""
	again := f.unsynced
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

// syncDirs makes the entries of dir durable, and those of the directories
// above it that were not synced since dir may have been made.
func (s *Store) syncDirs(dir string) error {
	for {
		if err := s.syncDir(dir); err != nil {
			return err
		}
		s.mu.Lock()
		known := s.durable[dir]
		s.durable[dir] = true
		s.mu.Unlock()
		if known || dir == "." {
			return nil
		}
		dir = path.Dir(dir)
	}
}

func (s *Store) syncDir(dir string) error {
	s.syncs.Add(1)
	return s.fs.SyncDir(dir)
}

// Close makes everything durable and ends the store. Files that are staged
// but not published are left for RemoveStaged.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.wakeUp()
	s.mu.Unlock()
	<-s.done
	return nil
}
