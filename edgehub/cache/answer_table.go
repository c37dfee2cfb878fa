package cache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1beta1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
	"github.com/edgehub-io/edge-hub/edgehub/status"
	tables "github.com/edgehub-io/edge-hub/edgehub/table"
)

// formed brings a selection, whose objects were found, into the form that is
// asked for. An error, which is a Status, is kube-apiserver's.
func (s *Store) formed(sel *selection, q Query) (*selection, error) {
	several := q.Verb == List
	switch {
	case q.format.as == table:
		if err := q.format.checkTable(); err != nil {
			return sel, err
		}
		sel.printer = s.printer(sel.snapshot)
		sel.now = s.clock.Now()
		if several {
			return sel, sel.findDefault()
		}
	case q.format.as == partialObjectMetadata && several:
		return sel, errMismatch(fmt.Sprintf("you requested PartialObjectMetadata, but the requested object is a list (%s)",
			internalType(q.Key.Group, sel.objectKind(), true)))
	case q.format.as == partialObjectMetadata+"List" && q.Verb == Get && IsCustom(q.Key.Group):
		return sel, status.New(http.StatusInternalServerError, "", 0, "content is not a list")
	case q.format.as == partialObjectMetadata+"List" && q.Verb == Get:
		return sel, errMismatch(fmt.Sprintf("you requested PartialObjectMetadataList, but the requested object is not a list (%s)",
			internalType(q.Key.Group, sel.objectKind(), false)))
	}
	return sel, nil
}

// checkTable refuses options of a Table that don't exist.
func (f format) checkTable() error {
	options := metav1.TableOptions{IncludeObject: f.includeObject}
	if errs := validation.ValidateTableOptions(&options); len(errs) > 0 {
		return apierrors.NewBadRequest("Unable to convert to Table as requested: " + errs.ToAggregate().Error())
	}
	return nil
}

func errMismatch(message string) error {
	return status.New(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, 0, message)
}

// objectKind is the kind of the view's objects, which a view of their metadata
// alone does not tell.
func (s *selection) objectKind() string {
	if s.snapshot.key.Representation == "" {
		return s.head.Kind
	}
	return kindOf(s.snapshot.key)
}

// printer is what prints a view's objects.
func (s *Store) printer(snap *snapshot) *tables.Printer {
	if !IsCustom(snap.key.Group) {
		return tables.BuiltIn(schema.GroupKind{Group: snap.key.Group, Kind: snap.head.Kind})
	}
	var columns []tables.CustomColumn
	if d := s.definition(snap.key); d != nil {
		if v := d.Version(snap.key.Version); v != nil {
			columns = v.AdditionalPrinterColumns
		}
	}
	return tables.Custom(columns)
}

// definition is a custom resource's, if the program has read it; else nil.
func (s *Store) definition(k Key) *tables.Definition {
	q := Query{Verb: Get, format: format{mediaType: typeJSON}, Key: Key{
		Agent: k.Agent, Identity: k.Identity,
		Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions", Name: k.Resource + "." + k.Group,
	}}
	snap, e, err := s.findObject(q)
	if err != nil {
		return nil
	}
	defer snap.release()
	raw, _, err := newSelection(snap, q).object(e.key, e.pos)
	if err != nil {
		s.giveUp(snap, err)
		return nil
	}
	d, err := tables.ParseDefinition(raw)
	if err != nil {
		klog.ErrorS(err, "Could not read a cached definition", "resource", q.Key.Name)
		return nil
	}
	return d
}

// findDefault looks through a list of StorageClasses for the one to be marked.
func (s *selection) findDefault() error {
	if s.head.Kind != "StorageClass" {
		return nil
	}
	s.marked = &tables.DefaultClass{}
	for _, e := range s.objects {
		raw, selected, err := s.object(e.key, e.pos)
		if err == nil && selected {
			err = s.marked.Look(raw)
		}
		if err != nil {
			return apierrors.NewInternalError(err)
		}
	}
	return nil
}

// appendRow appends the row of an object, which is in JSON.
func (s *selection) appendRow(dst, raw []byte) ([]byte, error) {
	row, err := s.printer.Print(raw, s.now)
	if err != nil {
		return dst, err
	}
	if s.marked != nil {
		s.marked.Mark(row)
	}
	object, err := s.rowObject(raw)
	if err != nil {
		return dst, err
	}
	b, err := json.Marshal(struct {
		Cells      []any                      `json:"cells"`
		Conditions []metav1.TableRowCondition `json:"conditions,omitempty"`
	}{row.Cells, row.Conditions})
	if err != nil {
		return dst, err
	}
	dst = append(append(dst, b[:len(b)-1]...), `,"object":`...)
	return append(append(dst, object...), '}'), nil
}

// rowObject is what a row has of its object.
func (s *selection) rowObject(raw []byte) ([]byte, error) {
	switch s.includeObject {
	case metav1.IncludeObject:
		return capture.AppendTyped(nil, raw, s.apiVersion, s.kind)
	case metav1.IncludeNone:
		// The end of the initial events must be told in any case.
		if !bytes.Contains(raw, []byte(metav1.InitialEventsAnnotationKey)) {
			return []byte("null"), nil
		}
		if a, err := capture.Annotations(raw, capture.JSON); err != nil || a[metav1.InitialEventsAnnotationKey] != "true" {
			return []byte("null"), err
		}
	}
	meta, err := capture.Metadata(raw, capture.JSON)
	if err != nil {
		return nil, err
	}
	return s.metadataObject(meta, capture.JSON), nil
}

// appendTable appends a Table of one object, in JSON.
func (s *selection) appendTable(dst, raw []byte, noHeaders bool) ([]byte, error) {
	o, err := capture.Meta(raw, capture.JSON)
	if err != nil {
		return dst, err
	}
	if dst, err = s.appendTableHead(dst, capture.ListMeta{ResourceVersion: o.ResourceVersion}, noHeaders); err != nil {
		return dst, err
	}
	if dst, err = s.appendRow(dst, raw); err != nil {
		return dst, err
	}
	return append(dst, "]}"...), nil
}

// appendTableHead appends what comes before the rows.
func (s *selection) appendTableHead(dst []byte, meta capture.ListMeta, noHeaders bool) ([]byte, error) {
	columns := []byte("null")
	m, err := listMetaJSON(meta)
	if err == nil && !noHeaders {
		columns, err = json.Marshal(s.printer.Columns)
	}
	if err != nil {
		return dst, err
	}
	dst = append(dst, `{"kind":"Table","apiVersion":"`+s.metaVersion+`","metadata":`...)
	dst = append(append(dst, m...), `,"columnDefinitions":`...)
	return append(append(dst, columns...), `,"rows":[`...), nil
}
