package capture

import "strconv"

// parse reads the metadata of a list, which has been validated.
func (m *ListMeta) parse(b []byte) error {
	s := text(b)
	seen := map[string]bool{}
	for key, ok := s.open(); ok; key, ok = s.nextKey() {
		if seen[string(key)] {
			return s.malformed("duplicate member")
		}
		seen[string(key)] = true
		switch string(key) {
		case "resourceVersion":
			m.ResourceVersion, ok = s.stringOrNull()
		case "continue":
			m.Continue, ok = s.stringOrNull()
		case "remainingItemCount":
			ok = s.remaining(m)
		case "shardInfo":
			return errShard
		default:
			ok = s.skip(1)
		}
		if !ok {
			return s.err
		}
	}
	return s.err
}

func (s *scanner) remaining(m *ListMeta) bool {
	if s.next() == 'n' {
		return s.literal("null")
	}
	start := s.pos
	if !s.skip(1) {
		return false
	}
	n, err := strconv.ParseInt(string(s.buf[start:s.pos]), 10, 64)
	if err != nil {
		return s.fail("remainingItemCount is no whole number")
	}
	m.RemainingItemCount = &n
	return true
}

// stringOrNull passes a string and returns it, or the empty string for null.
func (s *scanner) stringOrNull() (string, bool) {
	if s.next() == 'n' {
		return "", s.literal("null")
	}
	p, ok := s.str()
	if !ok {
		return "", false
	}
	return string(p.bytes(s.buf)), true
}

// open passes the brace of an object that is all in memory and returns its first
// key, with the colon passed. Like nextKey it returns false at the end of the
// object, which is passed, and on errors.
func (s *scanner) open() (key []byte, ok bool) {
	if !s.expect('{') {
		return nil, false
	}
	return s.key(true)
}

func (s *scanner) nextKey() (key []byte, ok bool) { return s.key(false) }

func (s *scanner) key(first bool) (key []byte, ok bool) {
	_, ok = s.member(first, func(k []byte) string {
		key = k
		return ""
	})
	return key, ok
}

// find passes an object up to the value of the member named name.
func (s *scanner) find(name string) bool {
	for key, ok := s.open(); ok; key, ok = s.nextKey() {
		if string(key) == name {
			return true
		}
		if !s.skip(1) {
			return false
		}
	}
	return false
}

func metadataJSON(raw []byte) ([]byte, error) {
	s := text(raw)
	if !s.find("metadata") || s.next() == 'n' {
		return nil, s.err
	}
	start := s.pos
	if !s.skipObject(1) {
		return nil, s.err
	}
	return raw[start:s.pos:s.pos], nil
}

func stringMapJSON(raw []byte, name string) (map[string]string, error) {
	s := text(raw)
	if !s.find("metadata") || s.next() == 'n' || !s.find(name) || s.next() == 'n' {
		return nil, s.err
	}
	var m map[string]string
	for key, ok := s.open(); ok; key, ok = s.nextKey() {
		value, ok := s.stringOrNull()
		if !ok {
			break
		}
		if m == nil {
			m = make(map[string]string, 8)
		}
		m[string(key)] = value
	}
	if s.err != nil {
		return nil, s.err
	}
	return m, nil
}

// Field returns the value at a path of an Object.Raw in JSON, such as "spec",
// "nodeName", as text: a string without its quotes, a number, true or false as
// written. It returns false if there is no such member or if it is null, an
// object or an array. raw is read only as far as needed.
func Field(raw []byte, path ...string) (string, bool, error) {
	s := text(raw)
	for _, name := range path {
		if s.next() != '{' || !s.find(name) {
			return "", false, s.err
		}
	}
	switch s.next() {
	case 0, 'n', '{', '[':
		return "", false, s.err
	case '"':
		value, ok := s.stringOrNull()
		return value, ok, s.err
	}
	start := s.pos
	if !s.skip(1) {
		return "", false, s.err
	}
	return string(raw[start:s.pos]), true, nil
}

// AppendTyped appends an object in JSON to dst with kind and apiVersion in it, as
// kube-apiserver writes an object that is no list item. Where raw carries both,
// wherever they are, it is copied as it is; what is missing is put in front.
func AppendTyped(dst, raw []byte, apiVersion, kind string) ([]byte, error) {
	s := text(raw)
	var hasKind, hasVersion bool
	for key, ok := s.open(); ok; key, ok = s.nextKey() {
		hasKind = hasKind || string(key) == "kind"
		hasVersion = hasVersion || string(key) == "apiVersion"
		if hasKind && hasVersion {
			return append(dst, raw...), nil
		}
		if !s.skip(1) {
			break
		}
	}
	if s.err != nil {
		return dst, s.err
	}
	dst = append(dst, '{')
	if !hasKind {
		dst = appendMember(dst, "kind", kind)
	}
	if !hasVersion {
		dst = appendMember(dst, "apiVersion", apiVersion)
	}
	brace := text(raw)
	brace.expect('{')
	if brace.next() == '}' {
		dst = dst[:len(dst)-1]
	}
	return append(dst, raw[brace.pos:]...), nil
}

// AppendUntyped appends an object in JSON to dst without the kind and apiVersion
// in front of its other members, as the items of built-in lists are written.
func AppendUntyped(dst, raw []byte) ([]byte, error) {
	s := text(raw)
	if !s.expect('{') {
		return dst, s.err
	}
	rest := s.pos
	for key, ok := s.key(true); ok; key, ok = s.nextKey() {
		if string(key) != "kind" && string(key) != "apiVersion" {
			return append(append(dst, '{'), raw[rest:]...), nil
		}
		if !s.skip(1) {
			break
		}
		rest = s.pos
		if s.next() == ',' {
			rest = s.pos + 1
		}
	}
	if s.err != nil {
		return dst, s.err
	}
	return append(append(dst, '{'), raw[rest:]...), nil
}
