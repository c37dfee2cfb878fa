package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"k8s.io/klog/v2"
)

// Remove removes the views that match lets pass from memory and disk, as if they
// had been evicted: the next list of a client brings them back. match sees of a
// sealed view that can't be opened, or of a damaged file, what ViewInfo.Key has.
// It returns how many it has removed.
func (s *Store) Remove(match func(Key) bool) (removed int, err error) {
	files := map[string]Key{}
	for _, v := range s.all() {
		files[v.file] = v.key // perhaps it is not on the disk yet
	}
	s.walk(".", 0, func(dir string) {
		entries, err := s.journal.ReadDir(dir)
		if err != nil {
			return // it was removed
		}
		for _, e := range entries {
			file := path.Join(dir, e.Name())
			if _, known := files[file]; known || e.IsDir() || !strings.HasSuffix(e.Name(), fileSuffix) {
				continue
			}
			key, err := s.keyOf(file)
			if err != nil {
				key, _ = keyOfPath(file)
			}
			files[file] = key
		}
	})
	var errs []error
	for file, key := range files {
		if !match(key) {
			continue
		}
		ok, err := s.removeView(file)
		if ok {
			removed++
		}
		errs = append(errs, err)
	}
	klog.InfoS("Removed views as asked for on the node", "views", removed)
	return removed, errors.Join(errs...)
}

// removeView removes a view, and reports whether there was any.
func (s *Store) removeView(file string) (removed bool, err error) {
	v, err := s.viewOf(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil && !isUseless(err):
		return false, fmt.Errorf("remove %s: %w", file, err)
	case v == nil: // only the disk knows of it
		if err := s.journal.RemoveAll(file); err != nil {
			return false, fmt.Errorf("remove %s: %w", file, err)
		}
		s.ledger.gone(file)
		return true, nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.load(s)
	removed = v.journal != nil || v.stray
	if err := v.drop(s); err != nil {
		return false, fmt.Errorf("remove %s: %w", file, err)
	}
	return removed, nil
}

// ErrInUse says that a hub is running over a cache directory.
var ErrInUse = errors.New("a hub is using the cache directory")

// Use says that this process is a hub over a cache directory, until release is
// called. While somebody changes the directory by hand, Use waits.
func Use(directory *os.Root) (release func(), err error) { return lock(directory, syscall.LOCK_SH) }

// Change says that this process changes a cache directory by hand, until release
// is called. The error is ErrInUse while a hub is running over it.
func Change(directory *os.Root) (release func(), err error) {
	release, err = lock(directory, syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, ErrInUse
	}
	return release, err
}

// lock takes an advisory lock (flock(2)) that ends with this process at the latest.
func lock(directory *os.Root, how int) (release func(), err error) {
	f, err := directory.Open(".")
	if err != nil {
		return nil, err
	}
	for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
		err = syscall.Flock(int(f.Fd()), how)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the cache directory: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil // which unlocks
}
