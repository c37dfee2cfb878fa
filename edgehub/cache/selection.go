package cache

import (
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

// selection is the part of a snapshot that a query asks for, in the form in
// which it asks.
type selection struct {
	*snapshot
	format
	representation string
	apiVersion     string // of the objects as they are answered
	kind           string
	prefix         string // of the keys, where the snapshot has more namespaces
	labels         labels.Selector
	fields         fields.Selector

	buf, decoded []byte
}

// find returns what a query can be answered from: its own view, or else the
// newest of the broader ones. The caller releases it.
func (s *Store) find(q Query) (*selection, error) {
	best, err := s.own(q)
	if err != nil {
		return nil, err
	}
	if best == nil {
		for _, v := range s.siblings(q.Key) {
			if !covers(v.key, q.Key) {
				continue
			}
			snap, err := v.snapshot(s)
			if err != nil {
				return nil, err
			}
			switch {
			case snap == nil:
			case best == nil || snap.last > best.last:
				if best != nil {
					best.release()
				}
				best = snap
			default:
				snap.release()
			}
		}
	}
	if best == nil {
		return nil, errNotCached(q)
	}
	sel, err := newSelection(best, q)
	if err != nil {
		best.release()
		return nil, err
	}
	return sel, nil
}

// own returns the content of the view that a query names.
func (s *Store) own(q Query) (*snapshot, error) {
	for _, v := range s.siblings(q.Key) {
		if v.key == q.Key {
			return v.snapshot(s)
		}
	}
	return nil, nil
}

// covers reports whether a list holds all that is asked for.
func covers(have, want Key) bool {
	return have.Name == "" && have.Document == "" &&
		(have.Namespace == "" || have.Namespace == want.Namespace) &&
		(have.LabelSelector == "" || have.LabelSelector == want.LabelSelector) &&
		(have.FieldSelector == "" || have.FieldSelector == want.FieldSelector) &&
		(have.Representation == "" || have.Representation == want.Representation)
}

// newSelection picks what a query asks for from a snapshot, which stays the
// caller's to release if there is an error.
func newSelection(snap *snapshot, q Query) (*selection, error) {
	sel := &selection{snapshot: snap, representation: q.Key.Representation, apiVersion: snap.head.APIVersion, kind: snap.head.Kind}
	// A single object is picked by its key, whatever selected the list it is in.
	several := q.Verb == List || q.Verb == Watch
	if several && snap.key.LabelSelector != q.Key.LabelSelector {
		sel.labels = q.labels
	}
	if several && snap.key.FieldSelector != q.Key.FieldSelector {
		sel.fields = q.fields
		if err := checkFields(q); err != nil {
			return nil, err
		}
	}
	if several && snap.key.Namespace == "" && q.Key.Namespace != "" {
		sel.prefix = q.Key.Namespace + "/"
	}
	if sel.representation != "" {
		sel.apiVersion, sel.kind = "meta.k8s.io/v1", partialObjectMetadata
	}
	protobuf := sel.representation != "" || isBuiltIn(sel.apiVersion, sel.kind)
	var ok bool
	if sel.format, ok = negotiate(q.Accept, sel.representation, protobuf, q.Verb == Watch); !ok {
		return nil, errNotAcceptable()
	}
	return sel, nil
}

// whole reports whether every object of the snapshot is selected as it is.
func (s *selection) whole() bool { return s.prefix == "" && s.labels == nil && s.fields == nil }

// read returns the object at a position in the encoding and representation
// that is asked for, and whether it is selected. raw is valid until the next
// call.
func (s *selection) read(key string, pos journal.Position) (raw []byte, selected bool, err error) {
	if s.buf, err = grow(s.buf, int(pos.Length)); err != nil {
		return nil, false, err
	}
	body, err := s.journal.Read(pos, s.buf)
	if err != nil {
		return nil, false, err
	}
	rec, err := parseRecord(body)
	if err != nil {
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
		if s.representation != "" && enc != s.encoding {
			return convertMetadata(raw, enc, s.encoding)
		}
		return convert(raw, enc, s.encoding, s.apiVersion, s.kind)
	}
	meta, err := capture.Metadata(raw, enc)
	if err != nil {
		return nil, err
	}
	return convertMetadata(metadataObject(meta, enc), enc, s.encoding)
}

// metadataObject makes a PartialObjectMetadata of an object's metadata.
func metadataObject(meta []byte, enc capture.Encoding) []byte {
	if enc == capture.JSON {
		b := append([]byte(`{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":`), meta...)
		return append(b, '}')
	}
	return capture.AppendMetadata(nil, meta)
}

func convertMetadata(raw []byte, from, to capture.Encoding) ([]byte, error) {
	return convert(raw, from, to, "meta.k8s.io/v1", partialObjectMetadata)
}

// matchesFields evaluates a field selector on one object.
func (s *selection) matchesFields(key string, raw []byte, enc capture.Encoding) (bool, error) {
	namespace, name, _ := strings.Cut(key, "/")
	for _, req := range s.fields.Requirements() {
		var value string
		switch req.Field {
		case "metadata.name":
			value = name
		case "metadata.namespace":
			value = namespace
		default:
			text, err := convert(raw, enc, capture.JSON, s.head.APIVersion, s.head.Kind)
			if err != nil {
				return false, err
			}
			if value, err = fieldValue(s.snapshot.key, text, req.Field); err != nil {
				return false, err
			}
		}
		if equal := value == req.Value; equal == (req.Operator == "!=") {
			return false, nil
		}
	}
	return true, nil
}

// selectable names, for the resources whose field labels are known, each label
// that kube-apiserver can select by. The labels are JSON paths, with a default
// for where the path is absent.
var selectable = map[string]map[string]string{
	"pods": {
		"spec.nodeName": "", "spec.restartPolicy": "", "spec.schedulerName": "", "spec.serviceAccountName": "",
		"spec.hostNetwork": "false", "status.phase": "", "status.podIP": "", "status.nominatedNodeName": "",
	},
	"nodes":                  {"spec.unschedulable": "false"},
	"namespaces":             {"status.phase": ""},
	"secrets":                {"type": ""},
	"services":               {"spec.clusterIP": "", "spec.type": ""},
	"replicationcontrollers": {"status.replicas": "0"},
	"replicasets.apps":       {"status.replicas": "0"},
	"jobs.batch":             {"status.successful": "0"},
	"certificatesigningrequests.certificates.k8s.io": {"spec.signerName": ""},
}

// renamed are the labels that are not the path of their value.
var renamed = map[string]string{"status.successful": "status.succeeded"}

// checkFields refuses a field label that kube-apiserver can't select by. Which
// labels a custom resource has is up to its definition; one that selects nothing
// it knows of is not told from one that has no objects.
func checkFields(q Query) error {
	known, listed := selectable[groupResource(q.Key).String()]
	custom := !listed && strings.Contains(q.Key.Group, ".")
	for _, req := range q.fields.Requirements() {
		_, ok := known[req.Field]
		if req.Field != "metadata.name" && req.Field != "metadata.namespace" && !ok && !custom {
			if !listed {
				return apierrors.NewBadRequest(fmt.Sprintf(`"%s" is not a known field selector: only "metadata.name", "metadata.namespace"`, req.Field))
			}
			return apierrors.NewBadRequest(fmt.Sprintf("field label not supported: %s", req.Field))
		}
	}
	return nil
}

func fieldValue(k Key, text []byte, label string) (string, error) {
	path := label
	if other, ok := renamed[label]; ok {
		path = other
	}
	value, ok, err := capture.Field(text, strings.Split(path, ".")...)
	if err != nil {
		return "", err
	}
	if !ok {
		value = selectable[groupResource(k).String()][label]
	}
	return value, nil
}
