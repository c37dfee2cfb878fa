package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
	"github.com/edgehub-io/edge-hub/edgehub/journal"
	tables "github.com/edgehub-io/edge-hub/edgehub/table"
)

// answerPrinted answers a request for a Table with one that kube-apiserver
// printed: the same if there is no newer state of its objects, and rows of
// another if there is no state of them at all. done is false if the objects are
// to be printed.
func (s *Store) answerPrinted(w http.ResponseWriter, q Query) (done bool, err error) {
	if q.Verb == Watch {
		return false, nil
	}
	objects, gone := s.freshness(q.unprinted())
	if same, err := s.own(q); err == nil && same != nil {
		defer same.release()
		// Of a custom resource whose definition is not known there are no
		// columns but in what was printed.
		best := !objects.After(same.asOf) || !gone && IsCustom(q.Key.Group) && s.definition(q.Key) == nil
		if best && q.format.mediaType == typeJSON {
			// Pages behind the first one, and a version that is meant exactly, are of what
			// was printed before.
			if t, _ := s.printed(q); t != nil && q.Continue == "" && q.wanted() == 0 && t.asOf.After(same.asOf) {
				defer t.release()
				return true, s.answerRows(w, q, t)
			} else if t != nil {
				t.release()
			}
			return true, s.answerDocument(w, q, same)
		}
	}
	if !objects.IsZero() {
		return false, nil
	}
	t, err := s.printed(q)
	if t == nil || err != nil {
		return false, err
	}
	defer t.release()
	return true, s.answerRows(w, q, t)
}

// freshness is when the cloud last confirmed what a query can be answered from,
// zero if it can't be. gone says that the answer is that there is no such object, or that
// it may not be read.
func (s *Store) freshness(q Query) (asOf time.Time, gone bool) {
	if q.Verb == Get {
		snap, _, err := s.findObject(q)
		if known, ok := errors.AsType[knownError](err); ok && apierrors.IsNotFound(err) {
			return known.asOf, true
		}
		if err != nil {
			if gone = !isNotCached(err); gone {
				asOf = s.clock.Now()
			}
			return asOf, gone
		}
		defer snap.release()
		return snap.asOf, false
	}
	sel, err := s.find(q)
	if err != nil {
		return asOf, false
	}
	defer sel.release()
	return sel.asOf, false
}

// printedTable is a Table as it was printed.
type printedTable struct {
	*snapshot
	meta    metav1.ListMeta
	columns []metav1.TableColumnDefinition
}

// printed returns the newest complete Table that has the rows that a query asks
// for, nil if there is none.
func (s *Store) printed(q Query) (best *printedTable, err error) {
	for _, v := range s.siblings(q.Key.directory()) {
		if !prints(v.key, q) {
			continue
		}
		snap, err := v.snapshot(s)
		if err != nil || snap == nil {
			continue
		}
		t := &printedTable{snapshot: snap}
		if err := t.rows(nil); err != nil || t.meta.Continue != "" || best != nil && !snap.asOf.After(best.asOf) {
			snap.release()
			continue
		}
		if best != nil {
			best.release()
		}
		best = t
	}
	return best, nil
}

// prints reports whether a Table has all rows that are asked for, if it is
// complete, with what is needed of their objects.
func prints(have Key, q Query) bool {
	if have.Representation != table || q.format.includeObject == metav1.IncludeObject {
		return false
	}
	query, metaVersion, _ := strings.Cut(have.Document, " ")
	if metaVersion == "" {
		metaVersion = "meta.k8s.io/v1"
	}
	params, err := url.ParseQuery(query)
	include := metav1.IncludeObjectPolicy(params.Get("includeObject"))
	if err != nil || metaVersion != q.format.metaVersion || params.Has("continue") || include != "" && include != metav1.IncludeMetadata {
		return false
	}
	have.Representation, have.Document = "", ""
	return covers(have, q.unprinted()) && q.metadataSelects()
}

// tableRow is a row as it was printed.
type tableRow struct {
	Cells      json.RawMessage `json:"cells"`
	Conditions json.RawMessage `json:"conditions,omitempty"`
	Object     json.RawMessage `json:"object"`
}

// errEnough ends the reading of rows.
var errEnough = errors.New("enough rows")

// rows reads the Table, and calls f, if it is not nil, with each row.
func (t *printedTable) rows(f func(row tableRow) error) error {
	d := json.NewDecoder(&chunkReader{snapshot: t.snapshot, left: t.chunks})
	if _, err := d.Token(); err != nil { // the brace
		return err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		switch name {
		case "metadata":
			err = d.Decode(&t.meta)
		case "columnDefinitions":
			err = d.Decode(&t.columns)
		case "rows":
			if f == nil {
				return nil // kube-apiserver writes them last
			}
			return eachRow(d, f)
		default:
			var other json.RawMessage
			err = d.Decode(&other)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func eachRow(d *json.Decoder, f func(row tableRow) error) error {
	if _, err := d.Token(); err != nil {
		return err
	}
	for d.More() {
		var row tableRow
		if err := d.Decode(&row); err != nil {
			return err
		}
		if err := f(row); errors.Is(err, errEnough) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// chunkReader reads a document.
type chunkReader struct {
	*snapshot
	left         []journal.Position
	buf, decoded []byte
	rest         []byte
}

// Read implements io.Reader.
func (r *chunkReader) Read(b []byte) (n int, err error) {
	for len(r.rest) == 0 {
		if len(r.left) == 0 {
			return 0, io.EOF
		}
		if r.buf, r.decoded, err = r.chunk(r.left[0], r.buf, r.decoded); err != nil {
			return 0, err
		}
		r.rest, r.left = r.decoded, r.left[1:]
	}
	n = copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// answerRows answers with the rows of a Table that are selected. It reads them
// twice: where the answer ends is written before its rows.
func (s *Store) answerRows(w http.ResponseWriter, q Query, t *printedTable) error {
	snap := *t.snapshot
	snap.version, snap.last = t.meta.ResourceVersion, parseVersion(t.meta.ResourceVersion)
	snap.base = snap.last
	if err := checkVersion(q, &snap); err != nil {
		return err
	}
	if err := q.format.checkTable(); err != nil {
		return err
	}
	sel := newSelection(&snap, q.unprinted())
	sel.printer = &tables.Printer{Columns: t.columns}
	var err error
	if snap.objects, err = sel.selectedRows(q, t); err != nil {
		return apierrors.NewInternalError(err)
	}
	if q.Verb == Get && len(snap.objects) == 0 {
		return apierrors.NewNotFound(groupResource(q.Key), q.Key.Name)
	}
	objects, err := sel.from(q)
	if err != nil {
		return err
	}
	sel.prefix, sel.labels, sel.fields = "", nil, nil // what is left is selected
	p, err := sel.page(objects, q)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	meta := capture.ListMeta{ResourceVersion: snap.version, Continue: p.token, RemainingItemCount: p.remaining}
	if q.Verb == Get {
		meta.ResourceVersion = fmt.Sprint(p.objects[0].version)
	}
	s.head(w, sel.mediaType, t.asOf)
	if err := sel.writeRows(w, meta, p, t); err != nil && !errors.Is(err, errClientGone) {
		s.abort(t.snapshot, err)
	}
	return nil
}

// selectedRows are the objects whose rows are selected.
func (s *selection) selectedRows(q Query, t *printedTable) (all []entry, err error) {
	err = t.rows(func(row tableRow) error {
		key, version, selected, err := s.selectsRow(q, row)
		if selected {
			all = append(all, entry{key: key, version: version})
		}
		return err
	})
	return all, err
}

func (s *selection) selectsRow(q Query, row tableRow) (key string, version uint64, selected bool, err error) {
	o, err := capture.Meta(row.Object, capture.JSON)
	if err != nil {
		return "", 0, false, err
	}
	key, version = objectKey(o.Namespace, o.Name), parseVersion(o.ResourceVersion)
	if q.Verb == Get {
		return key, version, key == objectKey(q.Key.Namespace, q.Key.Name), nil
	}
	selected, err = s.selects(key, row.Object, capture.JSON)
	return key, version, selected, err
}

func (s *selection) writeRows(w http.ResponseWriter, meta capture.ListMeta, p page, t *printedTable) error {
	left := p.objects
	return s.writeList(w, meta, p.size, func(item func([]byte) error) error {
		return t.rows(func(row tableRow) error {
			if len(left) == 0 {
				return errEnough
			}
			o, err := capture.Meta(row.Object, capture.JSON)
			if err != nil || objectKey(o.Namespace, o.Name) != left[0].key {
				return err
			}
			left = left[1:]
			if s.includeObject == metav1.IncludeNone {
				row.Object = json.RawMessage("null")
			}
			b, err := json.Marshal(row)
			if err != nil {
				return err
			}
			return item(b)
		})
	})
}
