package cache

import (
	"bufio"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

// CBOR (KEP-4222) is written in the way of k8s.io/apimachinery: texts as byte
// strings, and bytes, which are base64 in JSON, as what they are. Only the Go type
// of an object tells the two apart.

// selfDescribed appends the tag that every answer in CBOR begins with (RFC 8949,
// 3.4.6).
func selfDescribed(dst []byte) []byte { return append(dst, 0xd9, 0xd9, 0xf7) }

// appendCBOR appends an object in JSON as CBOR.
func appendCBOR(dst, text []byte, apiVersion, kind string) ([]byte, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return dst, err
	}
	var value any
	if obj, err := builtIn().New(gv.WithKind(kind)); err == nil {
		value = obj
		err = json.Unmarshal(text, obj)
		if err != nil {
			return dst, err
		}
	} else if err := utiljson.Unmarshal(text, &value); err != nil {
		return dst, err
	}
	b, err := cbor.Marshal(value)
	return append(dst, b...), err
}

// appendCBORFrame appends an event of a watch (RFC 8742). object is in JSON.
func appendCBORFrame(dst []byte, typ string, object []byte, apiVersion, kind string) ([]byte, error) {
	typed, err := capture.AppendTyped(nil, object, apiVersion, kind)
	if err != nil {
		return dst, err
	}
	dst = append(selfDescribed(dst), 0xa2) // a map of two
	if dst, err = appendCBORText(dst, "type", typ, "object"); err != nil {
		return dst, err
	}
	return appendCBOR(selfDescribed(dst), typed, apiVersion, kind)
}

func appendCBORText(dst []byte, texts ...string) ([]byte, error) {
	for _, text := range texts {
		b, err := cbor.Marshal(text)
		if err != nil {
			return dst, err
		}
		dst = append(dst, b...)
	}
	return dst, nil
}

// cborList writes a list whose items, an array without a length, come last.
type cborList struct {
	*selection
	out     *bufio.Writer
	meta    capture.ListMeta
	scratch []byte
}

func (l *cborList) begin() (err error) {
	// Lists of custom resources carry an empty token, as in JSON.
	var meta any = map[string]any{"resourceVersion": l.meta.ResourceVersion, "continue": l.meta.Continue}
	if !l.meta.Sorted {
		meta = metav1.ListMeta{ResourceVersion: l.meta.ResourceVersion, Continue: l.meta.Continue, RemainingItemCount: l.meta.RemainingItemCount}
	} else if n := l.meta.RemainingItemCount; n != nil {
		meta.(map[string]any)["remainingItemCount"] = *n
	}
	b, err := cbor.Marshal(meta)
	if err != nil {
		return err
	}
	head := append(selfDescribed(nil), 0xa4) // a map of four
	if head, err = appendCBORText(head, "kind", l.meta.Kind, "apiVersion", l.meta.APIVersion, "metadata"); err != nil {
		return err
	}
	head = append(head, b...)
	head, err = appendCBORText(head, "items")
	_, _ = l.out.Write(append(head, 0x9f))
	return err
}

func (l *cborList) item(item []byte) (err error) {
	l.scratch, err = appendCBOR(l.scratch[:0], item, l.apiVersion, l.kind)
	_, _ = l.out.Write(l.scratch)
	return err
}

func (l *cborList) end() error {
	_ = l.out.WriteByte(0xff)
	return nil
}
