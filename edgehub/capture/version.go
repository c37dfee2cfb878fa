package capture

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// AppendWithVersion appends an Object.Raw to dst with another
// metadata.resourceVersion in the place of the one it has. kube-apiserver shows
// an object that leaves a watch's selection as it was before, at the version at
// which it left.
func AppendWithVersion(dst, raw []byte, enc Encoding, resourceVersion string) ([]byte, error) {
	switch enc {
	case JSON:
		return appendVersionJSON(dst, raw, resourceVersion)
	case Protobuf:
		return appendVersionProtobuf(dst, raw, resourceVersion)
	}
	return dst, unknownEncoding(enc)
}

func appendVersionJSON(dst, raw []byte, resourceVersion string) ([]byte, error) {
	s := text(raw)
	if !s.find("metadata") || !s.find("resourceVersion") || s.next() != '"' {
		if s.err != nil {
			return dst, s.err
		}
		return dst, fmt.Errorf("%w: no resourceVersion", ErrMalformed)
	}
	start := s.pos
	if !s.skip(1) {
		return dst, s.err
	}
	dst = append(dst, raw[:start]...)
	dst = appendQuoted(dst, resourceVersion)
	return append(dst, raw[s.pos:]...), nil
}

// appendVersionProtobuf writes the fields in their order, which is that of
// their numbers in all that Kubernetes generates.
func appendVersionProtobuf(dst, raw []byte, resourceVersion string) ([]byte, error) {
	start := len(dst)
	for rest := raw; len(rest) > 0; {
		f, tail, err := next(rest)
		if err != nil {
			return dst[:start], err
		}
		if f.num != fieldMetadata || f.typ != protowire.BytesType {
			dst = append(dst, rest[:len(rest)-len(tail)]...)
			rest = tail
			continue
		}
		meta := make([]byte, 0, len(f.value)+len(resourceVersion))
		for m := f.value; len(m) > 0; {
			field, after, err := next(m)
			if err != nil {
				return dst[:start], err
			}
			if field.num == fieldResourceVersion {
				meta = appendString(meta, fieldResourceVersion, resourceVersion)
			} else {
				meta = append(meta, m[:len(m)-len(after)]...)
			}
			m = after
		}
		dst = append(appendTag(dst, fieldMetadata, len(meta)), meta...)
		rest = tail
	}
	return dst, nil
}
