package cache

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/json"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

// ErrSealed says that a view can't be read because its key is not at hand.
var ErrSealed = errors.New("sealed with a node key that is not at hand")

// StoredObject is an object of a view.
type StoredObject struct {
	// Namespace, Name and ResourceVersion are the object's.
	Namespace, Name string
	ResourceVersion uint64
	// Content is the object as JSON decodes it, with its kind. It is nil if the
	// object was received as protobuf and is of no kind that is known here;
	// Encoded is then what was received, in base64.
	Content map[string]any
	Encoded string
}

// Objects calls fn for each object of a view, ordered by namespace and name.
func (i *Inspector) Objects(view ViewInfo, fn func(StoredObject) error) error {
	l, f, err := i.open(view)
	if err != nil {
		return err
	}
	defer f.handle.Close()
	for _, entry := range l.index.list() {
		rec, err := f.record(entry.pos)
		if err != nil {
			return fmt.Errorf("read %s: %w", view.File, err)
		}
		object, err := rec.stored(l.end, entry)
		if err != nil {
			return fmt.Errorf("read %s of %s: %w", entry.key, view.File, err)
		}
		if err := fn(object); err != nil {
			return err
		}
	}
	return nil
}

// Document returns the bytes of a view that is a document, and their media type.
func (i *Inspector) Document(view ViewInfo) (content []byte, contentType string, err error) {
	l, f, err := i.open(view)
	if err != nil {
		return nil, "", err
	}
	defer f.handle.Close()
	for _, pos := range l.index.chunks {
		rec, err := f.record(pos)
		if err != nil {
			return nil, "", fmt.Errorf("read %s: %w", view.File, err)
		}
		chunk, _, err := rec.data(nil)
		if err != nil {
			return nil, "", fmt.Errorf("read %s: %w", view.File, err)
		}
		content = append(content, chunk...)
	}
	return content, l.end.ContentType, nil
}

func (i *Inspector) open(view ViewInfo) (loader, openedFile, error) {
	l, f, err := i.load(view.File, newIndex())
	for n := 1; isDamage(err) && n < looks; n++ {
		time.Sleep(i.pause)
		l, f, err = i.load(view.File, newIndex())
	}
	if errors.Is(err, errOtherKey) {
		err = ErrSealed
	}
	if err != nil {
		err = fmt.Errorf("read %s: %w", view.File, err)
	}
	return l, f, err
}

// record returns the record at a position. What it holds stays valid.
func (f *openedFile) record(at journal.Position) (found record, err error) {
	none := fmt.Errorf("no record at byte %d: %w", at.Offset, journal.ErrCorrupt)
	read := func(_ journal.Position, body []byte) error {
		found, none = record{}, nil
		found, err = parseRecord([]byte(string(body)))
		return err
	}
	_, err = journal.Inspect(io.NewSectionReader(f.handle, at.Offset, int64(at.Length)), func(_ journal.Position, body []byte) error {
		return f.plain(at, body, read)
	})
	return found, errors.Join(err, none)
}

// stored decodes an object of a list with an end record.
func (r record) stored(end endRecord, e entry) (StoredObject, error) {
	namespace, name, _ := strings.Cut(e.key, "/")
	o := StoredObject{Namespace: namespace, Name: name, ResourceVersion: e.version}
	raw, encoding, err := r.data(nil)
	if err != nil {
		return o, err
	}
	text, err := convert(raw, encoding, capture.JSON, end.APIVersion, end.Kind)
	if err != nil {
		o.Encoded = base64.StdEncoding.EncodeToString(raw)
		return o, nil
	}
	if err := json.Unmarshal(text, &o.Content); err != nil {
		return o, fmt.Errorf("decode: %w", err)
	}
	if o.Content == nil {
		return o, fmt.Errorf("no object: %w", journal.ErrCorrupt)
	}
	if o.Content["kind"] == nil {
		o.Content["apiVersion"], o.Content["kind"] = end.APIVersion, end.Kind
	}
	return o, nil
}
