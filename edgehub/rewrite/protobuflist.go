package rewrite

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

// A list in protobuf says how long it is before its first item, so that an item
// can't change its size on the way. What has changed is therefore brought to the
// size that it had, see fit. All else is passed on as it comes.

// Fields of runtime.Unknown, and of every list.
const (
	fieldRaw   = 2
	fieldItems = 2
)

// prefix begins a body.
const prefix = "k8s\x00"

// protobufList copies a list.
type protobufList struct {
	*Rewriter
	in   *bufio.Reader
	out  *bufio.Writer
	left int64 // of the list, once it has begun
}

func (r *Rewriter) copyProtobufList(out *bufio.Writer, body io.Reader) error {
	l := &protobufList{Rewriter: r, in: bufio.NewReader(body), out: out}
	head, err := l.in.Peek(len(prefix))
	if err != nil {
		return cut(err)
	}
	if string(head) != prefix {
		return fmt.Errorf("rewrite: %w: no protobuf prefix", capture.ErrMalformed)
	}
	if err := l.pass(int64(len(prefix))); err != nil {
		return err
	}
	for {
		num, size, err := l.field()
		if err != nil {
			return err
		}
		if num == fieldRaw {
			l.left = size
			break
		}
		if err := l.pass(size); err != nil {
			return err
		}
	}
	for l.left > 0 {
		if err := l.member(); err != nil {
			return err
		}
	}
	if l.left < 0 {
		return fmt.Errorf("rewrite: %w: a field is longer than its list", capture.ErrMalformed)
	}
	_, err = io.Copy(out, l.in)
	return err
}

// field passes the tag of a field and, for a length-delimited one, its length,
// which is returned. Values of other types are passed.
func (l *protobufList) field() (num protowire.Number, size int64, err error) {
	tag, err := l.varint()
	if err != nil {
		return 0, 0, err
	}
	num, typ := protowire.DecodeTag(tag)
	switch typ {
	case protowire.BytesType:
		length, err := l.varint()
		if err == nil && (length > 1<<40 || num < protowire.MinValidNumber) {
			err = fmt.Errorf("rewrite: %w: bad field", capture.ErrMalformed)
		}
		return num, int64(length), err
	case protowire.VarintType:
		_, err = l.varint()
		return num, 0, err
	}
	// Lists have no others, and none of another length.
	return 0, 0, fmt.Errorf("rewrite: %w: wire type %d in a list", capture.ErrUnsupported, typ)
}

// varint passes a number.
func (l *protobufList) varint() (uint64, error) {
	v, err := binary.ReadUvarint(l.in)
	if err != nil {
		return 0, cut(err)
	}
	n, err := l.out.Write(protowire.AppendVarint(nil, v))
	l.left -= int64(n)
	return v, err
}

// pass passes n bytes.
func (l *protobufList) pass(n int64) error {
	passed, err := io.CopyN(l.out, l.in, n)
	l.left -= passed
	return cut(err)
}

// cut is the error of a body that ends too early.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// member passes a field of the list, changed if it is an item.
func (l *protobufList) member() error {
	num, size, err := l.field()
	if err != nil {
		return err
	}
	if num != fieldItems {
		return l.pass(size)
	}
	if size > capture.MaxObjectSize || size > l.left {
		return fmt.Errorf("rewrite item of %d bytes: %w", size, capture.ErrTooLarge)
	}
	item := make([]byte, size)
	if _, err := io.ReadFull(l.in, item); err != nil {
		return cut(err)
	}
	l.left -= size
	o, err := capture.Meta(item, capture.Protobuf)
	if err != nil {
		return err
	}
	changed, err := l.object(o)
	if err != nil {
		return err
	}
	if changed != nil {
		if fitted, ok := fit(changed, len(item)); ok {
			item = fitted
		} else {
			// It has no managed fields, so kube-apiserver did not write it.
			klog.InfoS("An object was not led to the hub, for there was no room in its list", "namespace", o.Namespace, "name", o.Name, "bytes", len(changed)-len(item))
		}
	}
	_, err = l.out.Write(item)
	return err
}

// fieldManagedFields is that of metav1.ObjectMeta.
const fieldManagedFields = 17

// fieldPadding is a number that no message has: protobuf keeps 19000 to 19999 for
// itself (https://protobuf.dev/programming-guides/proto3/#assigning), and those who
// read a message skip what they don't know.
const fieldPadding = 19000

// paddingHead is the size of the padding's tag.
const paddingHead = 3

// fit brings an object to a size in bytes without changing what it says: what is
// too short is padded, and what is too long loses metadata.managedFields, which
// nobody on a node needs. That is not enough if ok is false.
func fit(object []byte, size int) (fitted []byte, ok bool) {
	if len(object) > size {
		var err error
		if object, err = withoutManagedFields(object); err != nil || len(object) > size {
			return nil, false
		}
	}
	missing := size - len(object)
	switch {
	case missing == 0:
		return object, true
	case missing <= paddingHead:
		return widen(object, missing)
	}
	object = protowire.AppendTag(object, fieldPadding, protowire.BytesType)
	missing -= paddingHead
	width := 1
	if missing > 0x80 {
		width = 5
	}
	object = appendWide(object, uint64(missing-width), width)
	return append(object, make([]byte, missing-width)...), true
}

func withoutManagedFields(object []byte) ([]byte, error) {
	return edit(nil, object, func(dst []byte, f field) ([]byte, bool, error) {
		if f.num != fieldMetadata {
			return dst, false, nil
		}
		return within(dst, f, replace(fieldManagedFields))
	})
}

// widen makes an object longer by a few bytes: the length of its metadata is
// written with more digits than it needs, which any reader takes.
func widen(object []byte, by int) ([]byte, bool) {
	f, rest, err := nextField(object)
	if err != nil || f.typ != protowire.BytesType {
		return nil, false
	}
	wide := protowire.AppendTag(make([]byte, 0, len(object)+by), f.num, f.typ)
	wide = appendWide(wide, uint64(len(f.value)), protowire.SizeVarint(uint64(len(f.value)))+by)
	return append(append(wide, f.value...), rest...), true
}

// appendWide appends a varint of a width in bytes.
func appendWide(dst []byte, v uint64, width int) []byte {
	for range width - 1 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v)&0x7f)
}
