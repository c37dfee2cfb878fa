package cache

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
	"github.com/edgehub-io/edge-hub/edgehub/journal"
	tables "github.com/edgehub-io/edge-hub/edgehub/table"
)

// selection is the part of a snapshot that a query asks for, in the form in
// which it asks.
type selection struct {
	*snapshot
	format
	read           capture.Encoding // what objects are read in
	representation string           // PartialObjectMetadata, or empty
	apiVersion     string           // of the objects as they are answered
	kind           string
	prefix         string // of the keys, where the snapshot has more namespaces
	labels         labels.Selector
	fields         fields.Selector
	printer        *tables.Printer // if they are answered as a Table
	marked         *tables.DefaultClass
	now            time.Time // that ages are told as of

	buf, decoded []byte
}

// find returns what a query can be answered from: of its own view and the broader
// ones those that still tell of the version it asks for, of these the newest, and of
// these its own. The caller releases it.
func (s *Store) find(q Query) (*selection, error) {
	wanted := q.wanted()
	var views []candidate
	for _, v := range s.listsOf(q.Key.directory()) {
		if covers(v.key, q) {
			if c := v.candidate(s, wanted, v.key == q.Key); c.view != nil {
				views = append(views, c)
			}
		}
	}
	slices.SortStableFunc(views, candidate.compare)
	for _, c := range views {
		snap, err := c.view.snapshot(s)
		if err != nil {
			return nil, err
		}
		if snap != nil { // else it went bad
			return newSelection(snap, q), nil
		}
	}
	return nil, errNotCached(q)
}

// wanted is the version of which a query must be answered, 0 for any.
func (q Query) wanted() uint64 {
	switch {
	case q.Verb == Watch:
		return q.startVersion()
	case q.Continue != "":
		token, err := parseToken(q.Continue)
		if err != nil || token.ResourceVersion < 0 {
			return 0
		}
		return uint64(token.ResourceVersion)
	case q.exact():
		return parseVersion(q.ResourceVersion)
	}
	return 0
}

// candidate is a view that a query may be answered from.
type candidate struct {
	view *view
	last uint64
	fits bool // it tells of the version that is wanted
	own  bool
}

// candidate has no view if there is no content.
func (v *view) candidate(s *Store, wanted uint64, own bool) candidate {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.load(s); v.journal == nil {
		return candidate{}
	}
	return candidate{v, v.last, wanted == 0 || v.base <= wanted && wanted <= v.last, own}
}

// compare puts what is to be preferred first.
func (c candidate) compare(d candidate) int {
	bit := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	return cmp.Or(bit(d.fits)-bit(c.fits), cmp.Compare(d.last, c.last), bit(d.own)-bit(c.own), strings.Compare(c.view.file, d.view.file))
}

// own returns the content of the view that a query names.
func (s *Store) own(q Query) (*snapshot, error) {
	v := s.known(q.Key)
	if v == nil {
		return nil, nil
	}
	return v.snapshot(s)
}

// covers reports whether a list holds all that is asked for.
func covers(have Key, q Query) bool {
	want := q.Key
	return have.Name == "" && have.Document == "" &&
		(have.Namespace == "" || have.Namespace == want.Namespace) &&
		(have.LabelSelector == "" || have.LabelSelector == want.LabelSelector) &&
		(have.FieldSelector == "" || have.FieldSelector == want.FieldSelector) &&
		(have.Representation == "" || have.Representation == want.Representation && (have.FieldSelector == want.FieldSelector || q.metadataSelects()))
}

// metadataSelects reports whether an object's metadata tells if it is selected.
func (q Query) metadataSelects() bool {
	return q.fields == nil || !slices.ContainsFunc(q.fields.Requirements(), func(r fields.Requirement) bool {
		return r.Field != "metadata.name" && r.Field != "metadata.namespace"
	})
}

// newSelection picks what a query asks for from a snapshot, which stays the
// caller's to release.
func newSelection(snap *snapshot, q Query) *selection {
	sel := &selection{
		snapshot: snap, format: q.format, read: q.format.encoding(),
		representation: q.Key.Representation, apiVersion: snap.head.APIVersion, kind: snap.head.Kind,
	}
	// A single object is picked by its key, whatever selected the list it is in.
	several := q.Verb == List || q.Verb == Watch
	if several && snap.key.LabelSelector != q.Key.LabelSelector {
		sel.labels = q.labels
	}
	if several && snap.key.FieldSelector != q.Key.FieldSelector {
		sel.fields = q.fields
	}
	if several && snap.key.Namespace == "" && q.Key.Namespace != "" {
		sel.prefix = q.Key.Namespace + "/"
	}
	if sel.representation != "" {
		sel.apiVersion, sel.kind = q.format.metaVersion, partialObjectMetadata
	}
	return sel
}

// whole reports whether every object of the snapshot is selected as it is.
func (s *selection) whole() bool { return s.prefix == "" && s.labels == nil && s.fields == nil }

// object returns the object at a position in the encoding and representation
// that is asked for, and whether it is selected. raw is valid until the next
// call.
func (s *selection) object(key string, pos journal.Position) (raw []byte, selected bool, err error) {
	rec, buf, err := s.record(pos, s.buf)
	if s.buf = buf; err != nil {
		return nil, false, err
	}
	raw, enc, err := rec.data(s.decoded)
	if err != nil {
		return nil, false, err
	}
	if enc == capture.Protobuf {
		s.decoded = raw
	}
	if selected, err = s.selects(key, raw, enc); err != nil || !selected {
		return nil, false, err
	}
	raw, err = s.present(raw, enc)
	return raw, err == nil, err
}

func grow(buf []byte, n int) ([]byte, error) {
	if n > journal.MaxRecord {
		return nil, journal.ErrTooLarge
	}
	if cap(buf) < n {
		return make([]byte, n), nil
	}
	return buf[:n], nil
}

func (s *selection) selects(key string, raw []byte, enc capture.Encoding) (bool, error) {
	if !strings.HasPrefix(key, s.prefix) {
		return false, nil
	}
	if s.labels != nil && !s.labels.Empty() {
		set, err := capture.Labels(raw, enc)
		if err != nil {
			return false, err
		}
		if !s.labels.Matches(labels.Set(set)) {
			return false, nil
		}
	}
	if s.fields == nil || s.fields.Empty() {
		return true, nil
	}
	return s.matchesFields(key, raw, enc)
}

// present brings an object into the form that is asked for.
func (s *selection) present(raw []byte, enc capture.Encoding) ([]byte, error) {
	if s.representation == s.key.Representation {
		return convert(raw, enc, s.read, s.apiVersion, s.kind)
	}
	meta, err := capture.Metadata(raw, enc)
	if err != nil {
		return nil, err
	}
	return convert(s.metadataObject(meta, enc), enc, s.read, s.apiVersion, partialObjectMetadata)
}

// metadataObject makes a PartialObjectMetadata of an object's metadata.
func (f format) metadataObject(meta []byte, enc capture.Encoding) []byte {
	if enc == capture.JSON {
		b := append([]byte(`{"kind":"PartialObjectMetadata","apiVersion":"`+f.metaVersion+`","metadata":`), meta...)
		return append(b, '}')
	}
	return capture.AppendMetadata(nil, meta)
}
