package capture

import (
	"bytes"
	"io"
	"unicode/utf8"
)

// name* return the key if it has a meaning in an object, its metadata, a list or
// an event, and nothing for all others. The results are constants, so that they
// outlive the buffer and cost no allocation.
func nameInObject(key []byte) string {
	switch string(key) {
	case "kind":
		return "kind"
	case "apiVersion":
		return "apiVersion"
	case "metadata":
		return "metadata"
	}
	return ""
}

func nameInMetadata(key []byte) string {
	switch string(key) {
	case "namespace":
		return "namespace"
	case "name":
		return "name"
	case "uid":
		return "uid"
	case "resourceVersion":
		return "resourceVersion"
	}
	return ""
}

func nameInList(key []byte) string {
	if string(key) == "items" {
		return "items"
	}
	return nameInObject(key)
}

func nameInEvent(key []byte) string {
	switch string(key) {
	case "type":
		return "type"
	case "object":
		return "object"
	}
	return ""
}

// spans is where an object says who it is.
type spans struct {
	kind, apiVersion, namespace, name, uid, resourceVersion span
	metadata                                                bool
}

// once reads a string, or null, that an object may have only once: with two, each
// reader would be free to believe another.
func (s *scanner) once(p *span) bool {
	if p.set {
		return s.fail("duplicate member")
	}
	if s.next() == 'n' {
		p.set = true
		return s.literal("null")
	}
	var ok bool
	*p, ok = s.str()
	return ok
}

// object passes an object whose brace is the next token, and notes who it is.
func (s *scanner) object(o *spans, depth int) bool {
	if !s.expect('{') {
		return false
	}
	for key, ok := s.member(true, nameInObject); ok; key, ok = s.member(false, nameInObject) {
		switch key {
		case "kind":
			ok = s.once(&o.kind)
		case "apiVersion":
			ok = s.once(&o.apiVersion)
		case "metadata":
			if o.metadata {
				return s.fail("duplicate member")
			}
			o.metadata = true
			ok = s.metadata(o, depth+1)
		default:
			ok = s.skip(depth)
		}
		if !ok {
			return false
		}
	}
	return s.err == nil
}

func (s *scanner) metadata(o *spans, depth int) bool {
	if s.next() == 'n' {
		return s.literal("null")
	}
	if !s.expect('{') {
		return false
	}
	for key, ok := s.member(true, nameInMetadata); ok; key, ok = s.member(false, nameInMetadata) {
		switch key {
		case "namespace":
			ok = s.once(&o.namespace)
		case "name":
			ok = s.once(&o.name)
		case "uid":
			ok = s.once(&o.uid)
		case "resourceVersion":
			ok = s.once(&o.resourceVersion)
		default:
			ok = s.skip(depth)
		}
		if !ok {
			return false
		}
	}
	return s.err == nil
}

// reader reads objects one after the other and remembers the strings they share.
type reader struct {
	scanner
	kind, apiVersion, namespace string
	scratch                     []byte
}

func newReader(r io.Reader) *reader {
	return &reader{scanner: scanner{window: newWindow(r)}}
}

// begin prepares for an object whose bytes are to be kept.
func (r *reader) begin() {
	r.lineBreak, r.bits = false, 0
	r.keep()
}

// finish makes the Object of kept[start:end], which object has passed.
func (r *reader) finish(o *spans, start, end int) (Object, error) {
	kept := r.buf[r.mark:]
	raw := kept[start:end:end]
	if len(raw) > MaxObjectSize {
		return Object{}, tooLarge(uint64(len(raw)))
	}
	if r.bits&eachHigh != 0 && !utf8.Valid(raw) {
		return Object{}, r.malformed("object is not valid UTF-8")
	}
	obj := Object{
		Encoding:   JSON,
		Kind:       same(&r.kind, o.kind.bytes(kept)),
		APIVersion: same(&r.apiVersion, o.apiVersion.bytes(kept)),
		Namespace:  same(&r.namespace, o.namespace.bytes(kept)),
	}
	obj.Name, obj.UID, obj.ResourceVersion = join(&r.scratch, o.name.bytes(kept), o.uid.bytes(kept), o.resourceVersion.bytes(kept))
	if r.lineBreak && r.r != nil {
		raw = compact(raw)
	}
	obj.Raw = raw
	return obj, nil
}

// same returns b as a string, which is the last one if they are equal.
func same(last *string, b []byte) string {
	if string(b) != *last {
		*last = string(b)
	}
	return *last
}

// join returns three strings that share one allocation.
func join(scratch *[]byte, a, b, c []byte) (string, string, string) {
	*scratch = append(append(append((*scratch)[:0], a...), b...), c...)
	all := string(*scratch)
	return all[:len(a)], all[len(a) : len(a)+len(b)], all[len(a)+len(b):]
}

// compact removes the white space between the tokens of valid JSON, in place.
func compact(b []byte) []byte {
	out := b[:0]
	for i := 0; i < len(b); {
		switch b[i] {
		case ' ', '\t', '\n', '\r':
			i++
		case '"':
			end := i + 1
			for b[end] != '"' {
				if b[end] == '\\' {
					end++
				}
				end++
			}
			out = append(out, b[i:end+1]...)
			i = end + 1
		default:
			out = append(out, b[i])
			i++
		}
	}
	return out
}

func singleJSON(in io.Reader) (Object, error) {
	r := newReader(in)
	defer r.release()
	if r.next() == 0 {
		return Object{}, r.err
	}
	var o spans
	r.begin()
	if !r.object(&o, 1) {
		return Object{}, r.err
	}
	obj, err := r.finish(&o, 0, r.pos-r.mark)
	if err != nil {
		return Object{}, err
	}
	obj.Raw = bytes.Clone(obj.Raw)
	r.drop()
	if !r.end() {
		return Object{}, r.err
	}
	return obj, nil
}

func metaJSON(raw []byte) (Object, error) {
	r := &reader{scanner: *text(raw)}
	var o spans
	if !r.object(&o, 1) {
		return Object{}, r.err
	}
	obj, err := r.finish(&o, 0, r.pos)
	if err != nil {
		return Object{}, err
	}
	if !r.end() {
		return Object{}, r.err
	}
	obj.Raw = raw
	return obj, nil
}

func watchJSON(in io.Reader, fn func(Event) error) error {
	r := newReader(in)
	defer r.release()
	for {
		more, err := r.moreEvents()
		if !more {
			return err
		}
		e, err := r.event()
		if err != nil {
			return err
		}
		if err := fn(e); err != nil {
			return err
		}
		r.drop()
	}
}

// moreEvents waits for the first byte of the next event and reports whether there
// is one.
func (r *reader) moreEvents() (bool, error) {
	for {
		for ; r.pos < len(r.buf); r.pos++ {
			switch r.buf[r.pos] {
			case ' ', '\t', '\n', '\r':
			default:
				return true, nil
			}
		}
		r.shrink()
		if eof, ok := r.refillOrEOF(); eof || !ok {
			return false, r.err
		}
	}
}

// event reads one event. It is kept as a whole, as the type may follow the object.
func (r *reader) event() (Event, error) {
	var (
		o          spans
		typ        span
		start, end int
	)
	r.begin()
	if !r.expect('{') {
		return Event{}, r.err
	}
	for key, ok := r.member(true, nameInEvent); ok; key, ok = r.member(false, nameInEvent) {
		switch key {
		case "type":
			ok = r.once(&typ)
		case "object":
			if end != 0 {
				return Event{}, r.malformed("duplicate member")
			}
			if ok = r.next() != 0; ok {
				start = r.pos - r.mark
				ok = r.object(&o, 2)
				end = r.pos - r.mark
			}
		default:
			ok = r.skip(1)
		}
		if !ok {
			break
		}
	}
	if r.err != nil {
		return Event{}, r.err
	}
	e := Event{Type: eventType(typ.bytes(r.buf[r.mark:]))}
	if e.Type == "" || end == 0 {
		return Event{}, r.malformed(incompleteEvent)
	}
	var err error
	if e.Object, err = r.finish(&o, start, end); err != nil {
		return Event{}, err
	}
	e.InitialEventsEnd, err = endsInitialEvents(e)
	return e, err
}
