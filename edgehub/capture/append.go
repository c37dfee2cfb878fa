package capture

import (
	"encoding/binary"
	"encoding/json"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// AppendEnvelope appends an object in protobuf with its prefix and envelope, as
// k8s.io/apimachinery's protobuf serializer writes it.
func AppendEnvelope(dst, raw []byte, apiVersion, kind string) []byte {
	dst = appendEnvelopeHead(dst, len(raw), apiVersion, kind)
	dst = append(dst, raw...)
	return appendEnvelopeTail(dst)
}

func appendEnvelopeHead(dst []byte, size int, apiVersion, kind string) []byte {
	dst = append(dst, prefix...)
	dst = appendTag(dst, fieldTypeMeta, 1+protowire.SizeBytes(len(apiVersion))+1+protowire.SizeBytes(len(kind)))
	dst = appendString(dst, fieldAPIVersion, apiVersion)
	dst = appendString(dst, fieldKind, kind)
	return appendTag(dst, fieldRaw, size)
}

// envelopeTailSize is what appendEnvelopeTail appends, in bytes.
const envelopeTailSize = 4

func appendEnvelopeTail(dst []byte) []byte {
	return appendString(appendString(dst, fieldContentEncoding, ""), fieldContentType, "")
}

// appendTag appends what precedes the size bytes of a length-delimited field.
func appendTag(dst []byte, num protowire.Number, size int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.BytesType), uint64(size))
}

func appendString(dst []byte, num protowire.Number, s string) []byte {
	return append(appendTag(dst, num, len(s)), s...)
}

// AppendMetadata appends the Object.Raw in protobuf of an object that has nothing
// but metadata, a PartialObjectMetadata; meta is what Metadata returns.
func AppendMetadata(dst, meta []byte) []byte {
	return append(appendTag(dst, fieldMetadata, len(meta)), meta...)
}

// AppendWatchFrame appends one event as kube-apiserver streams it. obj is an
// Object.Raw, of an object of the given kind. JSON: {"type":...,"object":...} and
// a line break; kind and apiVersion are added to the object where it lacks them.
// Protobuf: a length of 4 bytes, big-endian, and a WatchEvent.
func AppendWatchFrame(dst []byte, enc Encoding, eventType string, obj []byte, apiVersion, kind string) ([]byte, error) {
	start := len(dst)
	switch enc {
	case JSON:
		dst = append(dst, `{"type":`...)
		dst = appendQuoted(dst, eventType)
		dst = append(dst, `,"object":`...)
		dst, err := AppendTyped(dst, obj, apiVersion, kind)
		if err != nil {
			return dst[:start], err
		}
		return append(dst, '}', '\n'), nil
	case Protobuf:
		var scratch [256]byte
		head := appendEnvelopeHead(scratch[:0], len(obj), apiVersion, kind)
		inner := len(head) + len(obj) + envelopeTailSize
		dst = append(dst, 0, 0, 0, 0)
		dst = appendString(dst, fieldEventType, eventType)
		dst = appendTag(dst, fieldEventObject, 1+protowire.SizeBytes(inner))
		dst = appendTag(dst, fieldExtensionRaw, inner)
		dst = appendEnvelopeTail(append(append(dst, head...), obj...))
		binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
		return dst, nil
	}
	return dst, unknownEncoding(enc)
}

// Bookmark returns a minimal object, in the form of Object.Raw, for a BOOKMARK
// event: its metadata holds resourceVersion and, if initialEventsEnd is set, the
// annotation that ends a watch's initial events (KEP-3157). It returns nil for an
// unknown encoding.
func Bookmark(enc Encoding, apiVersion, kind, resourceVersion string, initialEventsEnd bool) []byte {
	switch enc {
	case JSON:
		return bookmarkJSON(apiVersion, kind, resourceVersion, initialEventsEnd)
	case Protobuf:
		return bookmarkProtobuf(resourceVersion, initialEventsEnd)
	}
	return nil
}

func bookmarkJSON(apiVersion, kind, resourceVersion string, last bool) []byte {
	b := appendMember([]byte{'{'}, "kind", kind)
	b = appendMember(b, "apiVersion", apiVersion)
	b = append(b, `"metadata":{"resourceVersion":`...)
	b = appendQuoted(b, resourceVersion)
	if last {
		b = append(b, `,"annotations":{`...)
		b = append(appendQuoted(b, initialEventsEnd), `:"true"}`...)
	}
	return append(b, '}', '}')
}

func bookmarkProtobuf(resourceVersion string, last bool) []byte {
	meta := appendString(nil, fieldResourceVersion, resourceVersion)
	if last {
		entry := appendString(nil, fieldMapKey, initialEventsEnd)
		entry = appendString(entry, fieldMapValue, "true")
		meta = append(appendTag(meta, fieldAnnotations, len(entry)), entry...)
	}
	return AppendMetadata(nil, meta)
}

// ListItemSize returns how many bytes AppendListItem adds for an item in protobuf
// whose Raw has the given size. AppendListHead needs their sum.
func ListItemSize(rawSize int) int64 { return int64(1 + protowire.SizeBytes(rawSize)) }

// AppendListHead appends what precedes the items of a list. A list captured from
// kube-apiserver and put together again from its ListMeta and items is the same
// byte for byte. itemBytes is the sum of ListItemSize over all items; JSON does
// not need it.
func AppendListHead(dst []byte, enc Encoding, m ListMeta, itemBytes int64) ([]byte, error) {
	switch enc {
	case JSON:
		dst = append(dst, '{')
		if m.Sorted {
			dst = appendMember(dst, "apiVersion", m.APIVersion)
			return append(dst, `"items":[`...), nil
		}
		dst = appendMember(dst, "kind", m.Kind)
		dst = appendMember(dst, "apiVersion", m.APIVersion)
		dst = append(dst, `"metadata":{`...)
		if m.ResourceVersion != "" {
			dst = appendMember(dst, "resourceVersion", m.ResourceVersion)
		}
		if m.Continue != "" {
			dst = appendMember(dst, "continue", m.Continue)
		}
		dst = appendRemaining(dst, m.RemainingItemCount)
		return append(trimComma(dst), `},"items":[`...), nil
	case Protobuf:
		meta := appendString(nil, fieldListSelfLink, "")
		meta = appendString(meta, fieldListResourceVersion, m.ResourceVersion)
		meta = appendString(meta, fieldListContinue, m.Continue)
		if m.RemainingItemCount != nil {
			meta = protowire.AppendTag(meta, fieldListRemaining, protowire.VarintType)
			meta = protowire.AppendVarint(meta, uint64(*m.RemainingItemCount))
		}
		dst = appendEnvelopeHead(dst, 1+protowire.SizeBytes(len(meta))+int(itemBytes), m.APIVersion, m.Kind)
		return append(appendTag(dst, fieldMetadata, len(meta)), meta...), nil
	}
	return dst, unknownEncoding(enc)
}

// AppendListItem appends one item, an Object.Raw as the list is to show it. first
// is set for the first item of a list.
func AppendListItem(dst []byte, enc Encoding, raw []byte, first bool) ([]byte, error) {
	switch enc {
	case JSON:
		if !first {
			dst = append(dst, ',')
		}
		return append(dst, raw...), nil
	case Protobuf:
		return append(appendTag(dst, fieldItems, len(raw)), raw...), nil
	}
	return dst, unknownEncoding(enc)
}

// AppendListTail appends what follows the items of a list. m must be what
// AppendListHead was given.
func AppendListTail(dst []byte, enc Encoding, m ListMeta) ([]byte, error) {
	switch enc {
	case JSON:
		if !m.Sorted {
			return append(dst, "]}\n"...), nil
		}
		dst = append(dst, "],"...)
		dst = appendMember(dst, "kind", m.Kind)
		dst = append(dst, `"metadata":{`...)
		dst = appendMember(dst, "continue", m.Continue)
		dst = appendRemaining(dst, m.RemainingItemCount)
		dst = appendMember(dst, "resourceVersion", m.ResourceVersion)
		return append(trimComma(dst), "}}\n"...), nil
	case Protobuf:
		return appendEnvelopeTail(dst), nil
	}
	return dst, unknownEncoding(enc)
}

// appendMember appends a key, a string and a comma.
func appendMember(dst []byte, key, value string) []byte {
	dst = append(dst, '"')
	dst = append(dst, key...)
	dst = append(dst, '"', ':')
	return append(appendQuoted(dst, value), ',')
}

func appendRemaining(dst []byte, n *int64) []byte {
	if n == nil {
		return dst
	}
	dst = append(dst, `"remainingItemCount":`...)
	return append(strconv.AppendInt(dst, *n, 10), ',')
}

func trimComma(dst []byte) []byte {
	if dst[len(dst)-1] == ',' {
		return dst[:len(dst)-1]
	}
	return dst
}

// appendQuoted appends a JSON string with the escapes kube-apiserver uses.
func appendQuoted(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(s) // can't fail for a string
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
