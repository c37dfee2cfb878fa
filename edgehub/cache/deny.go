package cache

import (
	"errors"
	"path"
	"strings"

	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

// sealed reports whether the views in a directory are encrypted.
func (d directory) sealed() bool { return holdsSealed(d.resource) }

// denies reports whether what is in a directory must not be kept.
func (s *Store) denies(d directory) bool {
	return d.sealed() && s.denySecrets(d.agent, d.identity) || !s.admits(d.agent, d.identity)
}

// removeDenied removes from the disk what must not be kept. Its views have
// ended.
func (s *Store) removeDenied() error {
	var errs []error
	s.walk(".", 0, func(dir string) {
		if strings.Count(dir, "/") != 2 {
			return
		}
		d, ok := s.directoryOf(dir)
		if !ok || !s.denies(d) {
			return
		}
		errs = append(errs, s.removeDirectory(dir))
	})
	return errors.Join(errs...)
}

// removeDirectory removes a directory whose views have ended, with what of them was
// still to be written.
func (s *Store) removeDirectory(dir string) error {
	klog.InfoS("Removing cached data that is no longer to be kept", "directory", dir)
	err := s.journal.RemoveAll(dir)
	s.ledger.gone(dir)
	s.refusals.gone(dir)
	return err
}

// directoryOf is the directory of views that has a path. If the path is
// shortened, one of its files has to tell; what that says is true if it leads to
// the same path.
func (s *Store) directoryOf(dir string) (d directory, ok bool) {
	parts := strings.Split(dir, "/")
	agent, agentOK := named(parts[0])
	identity, identityOK := named(parts[1])
	if d = (directory{agent, identity, parts[2]}); agentOK && identityOK {
		return d, true
	}
	entries, err := s.journal.ReadDir(dir)
	if err != nil {
		return d, false
	}
	for _, e := range entries {
		if !holdsSealed(dir) {
			if key, err := s.keyOf(path.Join(dir, e.Name())); err == nil && key.directory().path() == dir {
				return key.directory(), true
			}
			continue
		}
		var rec sealedRecord
		f, err := s.journal.Open(path.Join(dir, e.Name()), func(_ journal.Position, body []byte) (err error) {
			if rec, err = parseSealed(body); err == nil {
				err = errStop
			}
			return err
		})
		if err == nil {
			_ = f.Close() // empty, or damaged
		}
		if d = rec.Key.directory(); errors.Is(err, errStop) && d.path() == dir {
			return d, true
		}
	}
	return d, false
}
