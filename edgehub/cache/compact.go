package cache

import (
	"errors"

	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

// compactMin is how many bytes of events a view may hold, however short its
// list is.
const compactMin = 4 << 20

// compactIfDue is called after events came. It writes a view anew once they take twice the room of its
// list: then what is rewritten is at most half of what was written since. v.mu
// is held.
func (s *Store) compactIfDue(v *view) {
	s.ledger.set(v)
	if events := v.journal.Size() - v.listed; events < compactMin || events < 2*v.listed {
		return
	}
	if err := s.rewrite(v); err != nil {
		s.failed(v, err)
		// Not before as much has come again, lest every event tries.
		v.listed = v.journal.Size()
	}
}

// rewrite replaces a view's file by its present state. What came before can no
// longer be replayed to watches. v.mu is held.
func (s *Store) rewrite(v *view) (err error) {
	l := loader{index: newIndex()}
	if err := v.journal.Scan(l.read); err != nil {
		if isDamage(err) {
			err = errors.Join(err, v.drop(s))
		}
		return err
	}
	staged, err := s.stageFile(v)
	if err != nil {
		return err
	}
	end := v.head
	end.ResourceVersion, end.Count = v.version(), len(l.index.objects)
	if err := copyObjects(v, staged, l.index, end); err != nil {
		return errors.Join(err, staged.Discard())
	}
	if err := staged.Publish(); err != nil {
		return errors.Join(err, staged.Discard())
	}
	klog.V(3).InfoS("Compacted a view", "file", v.file, "before", v.journal.Size(), "after", staged.Size())
	_ = v.journal.Close() // replaced
	v.journal, v.head, v.base, v.listed, v.index = staged, end, v.last, staged.Size(), nil
	s.ledger.set(v)
	return nil
}

func copyObjects(v *view, staged *viewFile, from *index, end endRecord) error {
	var buf, scratch []byte
	copyRecord := func(pos journal.Position) error {
		if cap(buf) < int(pos.Length) {
			buf = make([]byte, pos.Length)
		}
		body, err := v.journal.Read(pos, buf)
		if err != nil {
			return err
		}
		rec, err := parseRecord(body)
		if err != nil {
			return err
		}
		// Only the type changes: an object that an event brought is one
		// of the list now.
		scratch = append(scratch[:0], `"t":"`...)
		if rec.key == nil {
			scratch = append(scratch, recordChunk...)
		} else {
			scratch = append(scratch, recordObject...)
		}
		_, err = staged.Append(scratch, body[len(`"t":"`)+len(rec.typ):])
		return err
	}
	for _, e := range from.list() {
		if err := copyRecord(e.pos); err != nil {
			return err
		}
	}
	for _, pos := range from.chunks {
		if err := copyRecord(pos); err != nil {
			return err
		}
	}
	return appendJSON(staged, end)
}
