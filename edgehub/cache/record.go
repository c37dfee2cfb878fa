package cache

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

// The records of a view's file, in the order in which they come:
//
//	{"crc":"…","t":"VIEW","v":1,"key":{…}}                          once, first
//	{"crc":"…","t":"OBJECT","k":"NAMESPACE/NAME","rv":"12","o":{…}}  each listed object
//	{"crc":"…","t":"END","rv":"12","n":1,"kind":"Pod","apiVersion":"v1","listKind":"PodList"}
//	{"crc":"…","t":"ADDED","k":"NAMESPACE/NAME","rv":"13","o":{…}}   events: ADDED, MODIFIED, DELETED
//	{"crc":"…","t":"BOOKMARK","rv":"14"}
//
// An object received as JSON is the member "o", one received as protobuf is
// base64 in the member "b". A document's bytes are CHUNK records with a member
// "b" between VIEW and END. In a sealed view a member "p", which is the bytes as
// they are, takes the place of "b": what is sealed need not be text.
const (
	recordView   = "VIEW"
	recordObject = "OBJECT"
	recordChunk  = "CHUNK"
	recordEnd    = "END"

	formatVersion = 1
)

// viewRecord is the first record of a file.
type viewRecord struct {
	Type    string `json:"t"`
	Version int    `json:"v"`
	Key     Key    `json:"key"`
}

// endRecord completes a list.
type endRecord struct {
	Type            string `json:"t"`
	ResourceVersion string `json:"rv"`
	Count           int    `json:"n"`
	// Kind and APIVersion are those of an object, ListKind that of the list.
	Kind       string `json:"kind,omitempty"`
	APIVersion string `json:"apiVersion,omitempty"`
	ListKind   string `json:"listKind,omitempty"`
	// Sorted says that kube-apiserver writes this kind's lists with their
	// members in alphabetical order, as it does for custom resources.
	Sorted bool `json:"sorted,omitempty"`
	// Typed says that the items of a list in JSON name their kind.
	Typed bool `json:"typed,omitempty"`
	// Refused is set if the view holds no object but the status code, 403 or
	// 404, that kube-apiserver has refused it with. ResourceVersion is then the
	// newest that was known of the resource.
	Refused int `json:"refused,omitempty"`
	// ContentType and ETag are a document's.
	ContentType string `json:"contentType,omitempty"`
	ETag        string `json:"etag,omitempty"`
}

// appendJSON appends a record that is written once or twice in a file.
func appendJSON(f *viewFile, record any) error {
	b, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	_, err = f.Append(b[1:])
	return err
}

var closeBrace = []byte{'}'}

// appendObject appends the record of an object or of an event about one.
// scratch is used and returned to be used again.
func appendObject(f *viewFile, scratch []byte, typ string, o *capture.Object) (journal.Position, []byte, error) {
	scratch = append(scratch[:0], `"t":"`...)
	scratch = append(scratch, typ...)
	scratch = append(scratch, `","k":`...)
	scratch = appendQuoted(scratch, objectKey(o.Namespace, o.Name))
	scratch = append(scratch, `,"rv":`...)
	scratch = appendQuoted(scratch, o.ResourceVersion)
	if o.Encoding == capture.JSON {
		scratch = append(scratch, `,"o":`...)
		pos, err := f.Append(scratch, o.Raw, closeBrace)
		return pos, scratch, err
	}
	scratch = append(scratch, ',')
	scratch = appendBytes(f, scratch, o.Raw)
	pos, err := f.Append(scratch)
	return pos, scratch, err
}

// appendBytes appends the member that is not text, and the closing brace.
func appendBytes(f *viewFile, dst, data []byte) []byte {
	if f.cipher != nil {
		dst = append(append(dst, `"p":`...), data...)
		return append(dst, '}')
	}
	dst = base64.StdEncoding.AppendEncode(append(dst, `"b":"`...), data)
	return append(dst, `"}`...)
}

func appendBookmark(f *viewFile, version string) error {
	b := appendQuoted([]byte(`"t":"BOOKMARK","rv":`), version)
	_, err := f.Append(b, closeBrace)
	return err
}

func appendChunk(f *viewFile, scratch, data []byte) ([]byte, error) {
	scratch = append(scratch[:0], `"t":"CHUNK",`...)
	scratch = appendBytes(f, scratch, data)
	_, err := f.Append(scratch)
	return scratch, err
}

func objectKey(namespace, name string) string { return namespace + "/" + name }

func appendQuoted(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			b, _ := json.Marshal(s) // a string always encodes
			return append(dst, b...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// record is a record that was read. Its fields refer to the bytes it was read
// from.
type record struct {
	typ     []byte
	key     []byte
	version []byte
	body    []byte // the whole record
	json    []byte // member "o"
	base64  []byte // member "b"
	bytes   []byte // member "p"
}

// parseRecord reads the members that this package writes, in the order in
// which it writes them; the journal vouches for the bytes.
func parseRecord(body []byte) (rec record, err error) {
	rec.body = body
	typ, rest, ok := member(body, `"t":`)
	if !ok {
		return rec, fmt.Errorf("record without type: %w", journal.ErrCorrupt)
	}
	rec.typ = typ
	switch string(typ) {
	case recordView, recordEnd:
		return rec, nil
	}
	if key, r, ok := member(rest, `,"k":`); ok {
		rec.key, rest = key, r
	}
	if version, r, ok := member(rest, `,"rv":`); ok {
		rec.version, rest = version, r
	}
	if data, _, ok := member(rest, `,"b":`); ok {
		rec.base64 = data
	} else if data, ok := bytes.CutPrefix(rest, []byte(`,"p":`)); ok {
		rec.bytes, _ = bytes.CutSuffix(data, closeBrace)
	} else if data, ok := bytes.CutPrefix(rest, []byte(`,"o":`)); ok {
		rec.json, _ = bytes.CutSuffix(data, closeBrace)
	}
	return rec, rec.check()
}

// check reports a record that lacks what its type has.
func (r record) check() error {
	hasData := len(r.json) > 0 || r.base64 != nil || r.bytes != nil
	ok := false
	switch string(r.typ) {
	case recordObject, capture.Added, capture.Modified, capture.Deleted:
		ok = r.key != nil && hasData
	case recordChunk:
		ok = r.base64 != nil || r.bytes != nil
	case capture.BookmarkType:
		ok = r.version != nil
	}
	if !ok {
		return fmt.Errorf("record of type %q is not whole: %w", r.typ, journal.ErrCorrupt)
	}
	return nil
}

// member reads a string member that comes next.
func member(b []byte, name string) (value, rest []byte, ok bool) {
	if len(b) < len(name)+2 || string(b[:len(name)]) != name || b[len(name)] != '"' {
		return nil, b, false
	}
	text := b[len(name):]
	end := 1
	for {
		i := bytes.IndexByte(text[end:], '"')
		if i < 0 {
			return nil, b, false
		}
		end += i
		if !escaped(text[1:end]) {
			break
		}
		end++
	}
	value, rest = text[1:end], text[end+1:]
	if bytes.IndexByte(value, '\\') >= 0 {
		var s string
		if json.Unmarshal(text[:end+1], &s) != nil {
			return nil, b, false
		}
		value = []byte(s)
	}
	return value, rest, true
}

// escaped reports whether the byte behind b is escaped by a backslash in it.
func escaped(b []byte) bool {
	n := 0
	for n < len(b) && b[len(b)-1-n] == '\\' {
		n++
	}
	return n%2 == 1
}

// data is the object in a record, in the encoding it was received in. One that
// has to be decoded is decoded into buf, if that is large enough.
func (r record) data(buf []byte) (raw []byte, enc capture.Encoding, err error) {
	if r.bytes != nil {
		return r.bytes, capture.Protobuf, nil
	}
	if r.base64 == nil {
		return r.json, capture.JSON, nil
	}
	buf, err = base64.StdEncoding.AppendDecode(buf[:0], r.base64)
	if err != nil {
		return nil, 0, fmt.Errorf("decode record: %w", err)
	}
	return buf, capture.Protobuf, nil
}

func (r record) header() (h viewRecord, err error) {
	if err = r.unmarshal(&h); err == nil && h.Version != formatVersion {
		err = fmt.Errorf("format version %s: %w", strconv.Itoa(h.Version), errFormat)
	}
	return h, err
}

func (r record) unmarshal(into any) error {
	if err := json.Unmarshal(append([]byte{'{'}, r.body...), into); err != nil {
		return fmt.Errorf("decode record: %w", err)
	}
	return nil
}
