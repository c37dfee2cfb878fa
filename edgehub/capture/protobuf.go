package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// prefix begins every body in application/vnd.kubernetes.protobuf. What follows is
// a runtime.Unknown. See k8s.io/apimachinery/pkg/runtime/serializer/protobuf.
const prefix = "k8s\x00"

// Fields of runtime.Unknown, and of the runtime.TypeMeta in it.
const (
	fieldTypeMeta        = 1
	fieldRaw             = 2
	fieldContentEncoding = 3
	fieldContentType     = 4

	fieldAPIVersion = 1
	fieldKind       = 2
)

// Fields of every list. The first is that of every object, too: a test holds this
// against all types of client-go.
const (
	fieldMetadata = 1
	fieldItems    = 2
)

// maxTypeMeta bounds apiVersion and kind together, in bytes.
const maxTypeMeta = 64 << 10

// stream reads the messages of a body that are too large to be held at once.
type stream struct {
	window
	ids identities
}

func newStream(r io.Reader) *stream {
	return &stream{window: newWindow(r)}
}

// done reports whether the end of the stream has been reached.
func (s *stream) done() (bool, error) {
	if s.pos < len(s.buf) {
		return false, nil
	}
	err := s.more()
	if err == io.EOF {
		return true, nil
	}
	return false, err
}

// message is a message of which only the end is known.
type message struct {
	*stream
	end int64 // where in the stream it ends, or -1 for the end of the stream
}

// take passes n bytes and returns them. They are valid until the next call.
func (m *message) take(n uint64) ([]byte, error) {
	if n > MaxObjectSize {
		return nil, tooLarge(n)
	}
	if m.end >= 0 && n > uint64(m.end-m.at()) {
		return nil, m.malformed("field is longer than its message")
	}
	if err := m.need(int(n)); err != nil {
		return nil, m.cut(err)
	}
	b := m.buf[m.pos : m.pos+int(n) : m.pos+int(n)]
	m.pos += int(n)
	return b, nil
}

func (m *message) varint() (uint64, error) {
	var v uint64
	for shift := 0; shift < 64; shift += 7 {
		b, err := m.take(1)
		if err != nil {
			return 0, err
		}
		if shift == 63 && b[0] > 1 {
			break
		}
		v |= uint64(b[0]&0x7f) << shift
		if b[0] < 0x80 {
			return v, nil
		}
	}
	return 0, m.malformed("varint overflows")
}

// field passes the tag of the next field and, for a length-delimited one, its
// length. Values of other types are passed.
func (m *message) field() (num protowire.Number, size uint64, delimited bool, err error) {
	tag, err := m.varint()
	if err != nil {
		return 0, 0, false, err
	}
	num, typ := protowire.DecodeTag(tag)
	if num < protowire.MinValidNumber {
		return 0, 0, false, m.malformed("bad field number")
	}
	switch typ {
	case protowire.BytesType:
		size, err = m.varint()
		if err == nil && m.end >= 0 && size > uint64(m.end-m.at()) {
			err = m.malformed("field is longer than its message")
		}
		return num, size, true, err
	case protowire.VarintType:
		_, err = m.varint()
	case protowire.Fixed32Type:
		_, err = m.take(4)
	case protowire.Fixed64Type:
		_, err = m.take(8)
	default:
		err = m.malformed("bad wire type")
	}
	return num, 0, false, err
}

// protoList is the state of reading one list in protobuf.
type protoList struct {
	*stream
	h               *ListHandler
	meta            ListMeta
	metadata, begun bool
}

func listProtobuf(r io.Reader, h *ListHandler) (ListMeta, error) {
	l := protoList{stream: newStream(r), h: h}
	defer l.release()
	if err := l.readEnvelope(); err != nil {
		return ListMeta{}, err
	}
	return l.meta, nil
}

// readEnvelope reads the whole body. The envelope's fields come in order and each
// once, as its only encoder writes them; the last two, which are empty, tell that
// nothing was cut off.
func (l *protoList) readEnvelope() error {
	body := message{stream: l.stream, end: -1}
	head, err := body.take(uint64(len(prefix)))
	if err != nil {
		return err
	}
	if string(head) != prefix {
		return l.malformed("no protobuf prefix")
	}
	for want := protowire.Number(fieldTypeMeta); want <= fieldContentType; want++ {
		num, size, delimited, err := body.field()
		if err == nil && (num != want || !delimited) {
			err = l.malformed("bad envelope")
		}
		if err != nil {
			return err
		}
		switch {
		case num == fieldTypeMeta:
			err = l.readTypeMeta(&body, size)
		case num == fieldRaw:
			err = l.readList(size)
		case size != 0:
			err = errContentType
		}
		if err != nil {
			return err
		}
	}
	done, err := l.done()
	if err == nil && !done {
		err = l.malformed("data after the end of the body")
	}
	return err
}

func (l *protoList) readTypeMeta(m *message, size uint64) error {
	if size > maxTypeMeta {
		return l.malformed("kind is too long")
	}
	b, err := m.take(size)
	if err != nil {
		return err
	}
	t, err := parseTypeMeta(b)
	if err != nil {
		return err
	}
	l.meta.Kind, l.meta.APIVersion = string(t.kind), string(t.apiVersion)
	item, ok := strings.CutSuffix(l.meta.Kind, "List")
	switch {
	case !ok:
		return &NotListError{Kind: l.meta.Kind}
	case item == "": // its items are envelopes
		return fmt.Errorf("%w: list of objects of any kind", ErrUnsupported)
	}
	return nil
}

// readList reads the list, a message of the given size.
func (l *protoList) readList(size uint64) error {
	if size > math.MaxInt64/2 {
		return tooLarge(size)
	}
	m := message{stream: l.stream, end: l.at() + int64(size)}
	for m.at() < m.end {
		num, size, delimited, err := m.field()
		if err != nil {
			return err
		}
		if !delimited {
			if num <= fieldItems {
				return l.malformed("bad wire type")
			}
			continue
		}
		b, err := m.take(size)
		if err != nil {
			return err
		}
		switch num {
		case fieldMetadata:
			err = l.readMeta(b)
		case fieldItems:
			err = l.readItem(b)
		}
		if err != nil {
			return err
		}
	}
	if !l.metadata {
		return l.malformed("list without metadata")
	}
	return l.announce()
}

func (l *protoList) readMeta(b []byte) error {
	if l.metadata {
		return l.malformed("duplicate field")
	}
	l.metadata = true
	return l.meta.parseProtobuf(b)
}

// announce calls the handler's Begin if that has not been done.
func (l *protoList) announce() error {
	if l.begun {
		return nil
	}
	l.begun = true
	return l.h.begin(l.meta)
}

func (l *protoList) readItem(b []byte) error {
	if !l.metadata {
		return l.malformed("items before metadata")
	}
	if err := l.announce(); err != nil {
		return err
	}
	obj, err := l.ids.object(b, false)
	if err != nil {
		return fmt.Errorf("item that ends at byte %d: %w", l.at(), err)
	}
	return l.h.item(obj)
}

// watchProtobuf reads frames of a 4-byte big-endian length and a WatchEvent. See
// k8s.io/apimachinery/pkg/util/framer.
func watchProtobuf(r io.Reader, fn func(Event) error) error {
	s := newStream(r)
	defer s.release()
	m := message{stream: s, end: -1}
	for {
		s.shrink()
		if done, err := s.done(); done || err != nil {
			return err
		}
		head, err := m.take(4)
		if err != nil {
			return err
		}
		frame, err := m.take(uint64(binary.BigEndian.Uint32(head)))
		if err != nil {
			return err
		}
		e, err := s.ids.event(frame)
		if err != nil {
			return fmt.Errorf("watch event that ends at byte %d: %w", s.at(), err)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

func singleProtobuf(r io.Reader) (Object, error) {
	s := newStream(r)
	defer s.release()
	for {
		err := s.more() // nothing is passed, so that all is kept
		if err == io.EOF {
			break
		}
		if err != nil {
			return Object{}, err
		}
	}
	if len(s.buf) == 0 {
		return Object{}, s.cut(io.EOF)
	}
	obj, err := s.ids.enveloped(s.buf)
	if err != nil {
		return Object{}, err
	}
	obj.Raw = bytes.Clone(obj.Raw)
	return obj, nil
}
