// Package capture splits the bodies kube-apiserver streams for LIST, WATCH and
// GET into one record per object, and puts such records together again, without
// decoding an object into a typed or an unstructured value.
//
// A body is read from an io.Reader as it arrives. At most one object is held at
// a time, in a buffer that is reused for the next one. A body is accepted only
// if it is well formed from its first to its last byte: JSON is checked against
// RFC 8259 token by token, so a record may be spliced into another document as it
// is; protobuf is checked down to the fields of ObjectMeta, below which nothing
// is interpreted. Whatever is cut short, duplicated or ambiguous is an error.
package capture

import (
	"errors"
	"fmt"
	"io"
)

// Encoding is how an object's bytes are written.
type Encoding uint8

const (
	// JSON is application/json.
	JSON Encoding = iota + 1
	// Protobuf is application/vnd.kubernetes.protobuf.
	Protobuf
)

// String returns "json" or "protobuf".
func (e Encoding) String() string {
	switch e {
	case JSON:
		return "json"
	case Protobuf:
		return "protobuf"
	}
	return fmt.Sprintf("Encoding(%d)", uint8(e))
}

// MaxObjectSize is the size in bytes of the largest object, and of the largest
// watch event, that is read. kube-apiserver accepts request bodies of 3 MiB, and
// etcd values of 1.5 MiB (--max-request-bytes).
const MaxObjectSize = 8 << 20

var (
	// ErrMalformed is returned for bytes that are not a well-formed body.
	ErrMalformed = errors.New("malformed body")
	// ErrTooLarge is returned for an object larger than MaxObjectSize.
	ErrTooLarge = errors.New("object too large")
	// ErrBusy is returned for a large object when memory for it is taken by
	// others that are read at the same time.
	ErrBusy = errors.New("too many large objects at once")
	// ErrUnsupported is returned for a well-formed body of a form that can't be
	// split without loss: an unknown Encoding, another encoding inside a protobuf
	// envelope, a v1 List in protobuf, or a list that is one shard of a collection.
	ErrUnsupported = errors.New("unsupported body")
	// ErrNotList is matched by the *NotListError that List returns.
	ErrNotList = errors.New("not a list")
)

// NotListError is returned by List for an object that has no items, such as a
// Status or a Table.
type NotListError struct {
	// Kind is the object's kind, empty if it carries none.
	Kind string
}

// Error implements error.
func (e *NotListError) Error() string {
	return fmt.Sprintf("%v: kind %q", ErrNotList, e.Kind)
}

// Is reports whether target is ErrNotList.
func (e *NotListError) Is(target error) bool { return target == ErrNotList }

// Object is one Kubernetes object as received.
type Object struct {
	Encoding Encoding
	// Raw is the object itself. JSON: the text of the object, without line breaks;
	// a body that had them, as ?pretty=true makes it, has its white space removed.
	// Protobuf: the object's message, without the "k8s\0" prefix and without the
	// runtime.Unknown around it.
	Raw []byte
	// Kind and APIVersion are those carried by the object or by its envelope. The
	// items of built-in lists carry none.
	Kind, APIVersion string
	// Namespace, Name, UID and ResourceVersion are those of the object's metadata,
	// empty where it has none.
	Namespace, Name, UID, ResourceVersion string
}

// ListMeta is a list without its items.
type ListMeta struct {
	Kind, APIVersion, ResourceVersion, Continue string
	// RemainingItemCount is nil if the list doesn't carry it.
	RemainingItemCount *int64
	// Sorted says that the members are in alphabetical order, so that metadata
	// comes after the items, as kube-apiserver writes lists of custom resources in
	// JSON.
	Sorted bool
}

// ListHandler receives a list in the order of the stream. Both functions may be
// nil. An error returned by either ends the reading and is returned by List as
// it is.
type ListHandler struct {
	// Begin is called once, also for an empty list: before the first item if kind,
	// apiVersion and metadata precede the items, else after the last one, as in JSON
	// lists of custom resources (see ListMeta.Sorted).
	Begin func(ListMeta) error
	// Item is called for each item. The object's Raw is valid only during the call.
	Item func(Object) error
}

func (h *ListHandler) begin(m ListMeta) error {
	if h.Begin == nil {
		return nil
	}
	return h.Begin(m)
}

func (h *ListHandler) item(o Object) error {
	if h.Item == nil {
		return nil
	}
	return h.Item(o)
}

// List reads one whole list. The error is nil only if the body was one complete,
// well-formed list followed by EOF; until then the items handed out must not be
// taken for a complete list. JSON may be surrounded by white space.
//
// A body that is no list gives an error matching ErrNotList, as early as it can
// be told; the rest of r is then not read.
func List(r io.Reader, enc Encoding, h ListHandler) (ListMeta, error) {
	switch enc {
	case JSON:
		return listJSON(r, &h)
	case Protobuf:
		return listProtobuf(r, &h)
	}
	return ListMeta{}, unknownEncoding(enc)
}

// Event types, as in k8s.io/apimachinery/pkg/watch.
const (
	Added        = "ADDED"
	Modified     = "MODIFIED"
	Deleted      = "DELETED"
	BookmarkType = "BOOKMARK"
	Error        = "ERROR"
)

// initialEventsEnd is the annotation of the bookmark that ends the initial events
// of a watch with sendInitialEvents=true (KEP-3157).
const initialEventsEnd = "k8s.io/initial-events-end"

// Event is one event of a watch.
type Event struct {
	// Type is ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.
	Type string
	// Object is the object the event is about; for ERROR it is the Status. Its Raw
	// is valid only during the call that delivers the event.
	Object Object
	// InitialEventsEnd is set for the BOOKMARK that ends the initial events of a
	// watch with sendInitialEvents=true (KEP-3157). A Table doesn't tell.
	InitialEventsEnd bool
}

// Watch calls fn with each event as soon as its last byte has been read, until
// EOF. EOF between two events is no error; anywhere else it is. An error returned
// by fn ends the reading and is returned as it is.
//
// Little memory is held while waiting for an event.
func Watch(r io.Reader, enc Encoding, fn func(Event) error) error {
	switch enc {
	case JSON:
		return watchJSON(r, fn)
	case Protobuf:
		return watchProtobuf(r, fn)
	}
	return unknownEncoding(enc)
}

// Single reads a body that is one object, up to EOF. The object's Raw belongs to
// the caller.
func Single(r io.Reader, enc Encoding) (Object, error) {
	switch enc {
	case JSON:
		return singleJSON(r)
	case Protobuf:
		return singleProtobuf(r)
	}
	return Object{}, unknownEncoding(enc)
}

// Meta checks one object given as Object.Raw and returns what it says about
// itself. Raw of the result is raw. Protobuf messages carry no kind; a message
// whose metadata is a ListMeta (a Status, a list) must not be given.
func Meta(raw []byte, enc Encoding) (Object, error) {
	switch enc {
	case JSON:
		return metaJSON(raw)
	case Protobuf:
		return metaProtobuf(raw)
	}
	return Object{}, unknownEncoding(enc)
}

// Labels returns metadata.labels of an Object.Raw, nil if there are none.
func Labels(raw []byte, enc Encoding) (map[string]string, error) {
	switch enc {
	case JSON:
		return stringMapJSON(raw, "labels")
	case Protobuf:
		return stringMapProtobuf(raw, fieldLabels)
	}
	return nil, unknownEncoding(enc)
}

// Annotations returns metadata.annotations of an Object.Raw, nil if there are none.
func Annotations(raw []byte, enc Encoding) (map[string]string, error) {
	switch enc {
	case JSON:
		return stringMapJSON(raw, "annotations")
	case Protobuf:
		return stringMapProtobuf(raw, fieldAnnotations)
	}
	return nil, unknownEncoding(enc)
}

// Metadata returns the part of an Object.Raw that is its metadata, nil if it has
// none. JSON: the text of the metadata object. Protobuf: the ObjectMeta message.
func Metadata(raw []byte, enc Encoding) ([]byte, error) {
	switch enc {
	case JSON:
		return metadataJSON(raw)
	case Protobuf:
		return metadataProtobuf(raw)
	}
	return nil, unknownEncoding(enc)
}

func unknownEncoding(enc Encoding) error {
	return fmt.Errorf("%w: %v", ErrUnsupported, enc)
}

// eventType returns the constant for an event's type, or nothing if it is unknown.
func eventType(t []byte) string {
	for _, known := range [...]string{Added, Modified, Deleted, BookmarkType, Error} {
		if string(t) == known {
			return known
		}
	}
	return ""
}

// endsInitialEvents reports whether an event is the bookmark that ends the initial
// events of a watch.
func endsInitialEvents(e Event) (bool, error) {
	if e.Type != BookmarkType {
		return false, nil
	}
	annotations, err := Annotations(e.Object.Raw, e.Object.Encoding)
	return annotations[initialEventsEnd] == "true", err
}

const incompleteEvent = "watch event without a known type and an object"

var (
	errShard       = fmt.Errorf("%w: one shard of a list", ErrUnsupported)
	errContentType = fmt.Errorf("%w: envelope with a content type or encoding", ErrUnsupported)
)

func tooLarge(size uint64) error {
	return fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, size, MaxObjectSize)
}
