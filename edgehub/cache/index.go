package cache

import (
	"slices"
	"strings"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

// index says where a view's objects and events lie in its file.
type index struct {
	objects map[string]entry
	sorted  []entry // objects in the order of a list; nil when out of date
	events  []event
	chunks  []journal.Position // of a document
}

// entry is an object's newest record.
type entry struct {
	key     string
	version uint64
	pos     journal.Position
}

// event is an event's record, and the object's record before it, of length
// zero if there was none.
type event struct {
	entry
	typ      string
	previous journal.Position
}

func newIndex() *index { return &index{objects: map[string]entry{}} }

func (x *index) add(rec record, pos journal.Position) {
	key, version := string(rec.key), parseVersion(string(rec.version))
	switch typ := string(rec.typ); typ {
	case recordObject:
		x.objects[key] = entry{key, version, pos}
	case recordChunk:
		x.chunks = append(x.chunks, pos)
	case capture.Added, capture.Modified, capture.Deleted:
		x.apply(typ, key, version, pos)
	}
}

func (x *index) apply(typ, key string, version uint64, pos journal.Position) {
	e := entry{key, version, pos}
	x.events = append(x.events, event{entry: e, typ: typ, previous: x.objects[key].pos})
	x.sorted = nil
	if typ == capture.Deleted {
		delete(x.objects, key)
	} else {
		x.objects[key] = e
	}
}

// list returns the objects in the order in which kube-apiserver lists them:
// that of their keys in etcd.
func (x *index) list() []entry {
	if x.sorted == nil {
		x.sorted = make([]entry, 0, len(x.objects))
		for _, e := range x.objects {
			x.sorted = append(x.sorted, e)
		}
		slices.SortFunc(x.sorted, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	}
	return x.sorted
}

// find returns the object with a key from a list of sorted entries.
func find(objects []entry, key string) (entry, bool) {
	i, ok := slices.BinarySearchFunc(objects, key, func(e entry, k string) int { return strings.Compare(e.key, k) })
	if !ok {
		return entry{}, false
	}
	return objects[i], true
}
