package capture

import (
	"bytes"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// Fields of metav1.ObjectMeta and metav1.ListMeta that are read or written here.
// See k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto.
const (
	fieldName            = 1
	fieldNamespace       = 3
	fieldUID             = 5
	fieldResourceVersion = 6
	fieldLabels          = 11
	fieldAnnotations     = 12

	fieldListSelfLink        = 1
	fieldListResourceVersion = 2
	fieldListContinue        = 3
	fieldListRemaining       = 4
	fieldListShardInfo       = 5
)

// Fields of metav1.WatchEvent, of runtime.RawExtension and of map entries.
const (
	fieldEventType   = 1
	fieldEventObject = 2

	fieldExtensionRaw = 1

	fieldMapKey   = 1
	fieldMapValue = 2
)

// field is one field of a message that is in memory.
type field struct {
	num   protowire.Number
	typ   protowire.Type
	value []byte // of a length-delimited field
	n     uint64 // of a varint
}

// next takes the first field off b.
func next(b []byte) (f field, rest []byte, err error) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		return f, nil, badWire(n)
	}
	b = b[n:]
	f.num, f.typ = num, typ
	switch typ {
	case protowire.BytesType:
		f.value, n = protowire.ConsumeBytes(b)
	case protowire.VarintType:
		f.n, n = protowire.ConsumeVarint(b)
	default:
		n = protowire.ConsumeFieldValue(num, typ, b)
	}
	if n < 0 {
		return f, nil, badWire(n)
	}
	return f, b[n:], nil
}

func badWire(n int) error {
	return fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(n))
}

// wanted says where the value of a field goes. It may occur once, and must be
// length-delimited.
type wanted struct {
	num   protowire.Number
	value *[]byte
}

// pick reads a message and stores the fields that are wanted. A value that was
// found is not nil.
func pick(b []byte, fields ...wanted) error {
	for len(b) > 0 {
		f, rest, err := next(b)
		if err != nil {
			return err
		}
		b = rest
		for _, w := range fields {
			if w.num != f.num {
				continue
			}
			if f.typ != protowire.BytesType || *w.value != nil {
				return fmt.Errorf("%w: field %d is duplicated or of the wrong type", ErrMalformed, f.num)
			}
			*w.value = f.value
		}
	}
	return nil
}

type typeMeta struct{ apiVersion, kind []byte }

func parseTypeMeta(b []byte) (t typeMeta, err error) {
	err = pick(b, wanted{fieldAPIVersion, &t.apiVersion}, wanted{fieldKind, &t.kind})
	return t, err
}

func (m *ListMeta) parseProtobuf(b []byte) error {
	var seen uint32
	for len(b) > 0 {
		f, rest, err := next(b)
		if err != nil {
			return err
		}
		b = rest
		if f.num > fieldListShardInfo {
			continue
		}
		typ := protowire.BytesType
		if f.num == fieldListRemaining {
			typ = protowire.VarintType
		}
		if f.typ != typ || seen&(1<<f.num) != 0 {
			return fmt.Errorf("%w: field %d of ListMeta is duplicated or of the wrong type", ErrMalformed, f.num)
		}
		seen |= 1 << f.num
		switch f.num {
		case fieldListResourceVersion:
			m.ResourceVersion = string(f.value)
		case fieldListContinue:
			m.Continue = string(f.value)
		case fieldListRemaining:
			n := int64(f.n)
			m.RemainingItemCount = &n
		case fieldListShardInfo:
			return errShard
		}
	}
	return nil
}

// identities makes Objects of messages and remembers the strings they share.
type identities struct {
	kind, apiVersion, namespace string
	scratch                     []byte
}

// object reads the message of one object. Its first field is an ObjectMeta, or a
// ListMeta if listMeta is set.
func (ids *identities) object(raw []byte, listMeta bool) (Object, error) {
	if len(raw) > MaxObjectSize {
		return Object{}, tooLarge(uint64(len(raw)))
	}
	obj := Object{Encoding: Protobuf, Raw: raw}
	var metadata, namespace, name, uid, version []byte
	if err := pick(raw, wanted{fieldMetadata, &metadata}); err != nil {
		return Object{}, err
	}
	var err error
	if listMeta {
		err = pick(metadata, wanted{fieldListResourceVersion, &version})
	} else {
		err = pick(metadata, wanted{fieldNamespace, &namespace}, wanted{fieldName, &name},
			wanted{fieldUID, &uid}, wanted{fieldResourceVersion, &version})
	}
	if err != nil {
		return Object{}, err
	}
	obj.Namespace = same(&ids.namespace, namespace)
	obj.Name, obj.UID, obj.ResourceVersion = join(&ids.scratch, name, uid, version)
	return obj, nil
}

// envelope is a runtime.Unknown in memory, behind its prefix.
type envelope struct {
	typeMeta
	raw []byte
}

// openEnvelope reads "k8s\0" and a runtime.Unknown. All of the Unknown's fields
// must be there, as its only encoder writes them: the last two, which are empty,
// tell that nothing was cut off.
func openEnvelope(b []byte) (e envelope, err error) {
	b, ok := bytes.CutPrefix(b, []byte(prefix))
	if !ok {
		return e, fmt.Errorf("%w: no protobuf prefix", ErrMalformed)
	}
	var types, contentEncoding, contentType []byte
	err = pick(b, wanted{fieldTypeMeta, &types}, wanted{fieldRaw, &e.raw},
		wanted{fieldContentEncoding, &contentEncoding}, wanted{fieldContentType, &contentType})
	if err != nil {
		return e, err
	}
	if types == nil || e.raw == nil || contentEncoding == nil || contentType == nil {
		return e, fmt.Errorf("%w: envelope is incomplete", ErrMalformed)
	}
	if len(contentEncoding)+len(contentType) > 0 {
		return e, errContentType
	}
	e.typeMeta, err = parseTypeMeta(types)
	return e, err
}

// enveloped reads one object in its envelope.
func (ids *identities) enveloped(b []byte) (Object, error) {
	e, err := openEnvelope(b)
	if err != nil {
		return Object{}, err
	}
	kind := same(&ids.kind, e.kind)
	obj, err := ids.object(e.raw, kind == "Status" || strings.HasSuffix(kind, "List"))
	if err != nil {
		return Object{}, err
	}
	obj.Kind, obj.APIVersion = kind, same(&ids.apiVersion, e.apiVersion)
	return obj, nil
}

// event reads one WatchEvent.
func (ids *identities) event(b []byte) (Event, error) {
	var typ, extension, raw []byte
	if err := pick(b, wanted{fieldEventType, &typ}, wanted{fieldEventObject, &extension}); err != nil {
		return Event{}, err
	}
	if err := pick(extension, wanted{fieldExtensionRaw, &raw}); err != nil {
		return Event{}, err
	}
	e := Event{Type: eventType(typ)}
	if e.Type == "" || raw == nil {
		return Event{}, fmt.Errorf("%w: %s", ErrMalformed, incompleteEvent)
	}
	var err error
	if e.Object, err = ids.enveloped(raw); err != nil {
		return Event{}, err
	}
	e.InitialEventsEnd, err = endsInitialEvents(e)
	return e, err
}

func metaProtobuf(raw []byte) (Object, error) {
	var ids identities
	return ids.object(raw, false)
}

func metadataProtobuf(raw []byte) (metadata []byte, err error) {
	err = pick(raw, wanted{fieldMetadata, &metadata})
	return metadata, err
}

// stringMapProtobuf reads a map<string, string> of the metadata.
func stringMapProtobuf(raw []byte, num protowire.Number) (map[string]string, error) {
	b, err := metadataProtobuf(raw)
	if err != nil {
		return nil, err
	}
	var m map[string]string
	for len(b) > 0 {
		f, rest, err := next(b)
		if err != nil {
			return nil, err
		}
		b = rest
		if f.num != num {
			continue
		}
		var key, value []byte
		if err := pick(f.value, wanted{fieldMapKey, &key}, wanted{fieldMapValue, &value}); err != nil {
			return nil, err
		}
		if m == nil {
			m = make(map[string]string, 8)
		}
		m[string(key)] = string(value)
	}
	return m, nil
}
