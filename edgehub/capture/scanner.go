package capture

import (
	"encoding/json"
	"io"
)

// maxDepth bounds the nesting of arrays and objects. encoding/json allows 10,000;
// no Kubernetes type comes near either.
const maxDepth = 1000

// scanner reads and validates JSON tokens (RFC 8259) from a window. After a
// method has returned false or the zero byte, err says why and nothing else may
// be called.
type scanner struct {
	window
	err error
	// lineBreak is set when white space between tokens held a line break.
	lineBreak bool
	// bits has bit 7 of any byte set if a string held a byte that is not ASCII.
	bits uint64
}

// text returns a scanner of text that is all in memory.
func text(b []byte) *scanner {
	return &scanner{window: window{buf: b, mark: 0}}
}

func (s *scanner) fail(format string, args ...any) bool {
	if s.err == nil {
		s.err = s.malformed(format, args...)
	}
	return false
}

// refill reads more bytes where the text may not end.
func (s *scanner) refill() bool {
	if err := s.more(); err != nil {
		s.err = s.cut(err)
		return false
	}
	return true
}

// next passes white space and returns the byte at pos, which begins a token, or
// zero if there is none.
func (s *scanner) next() byte {
	if s.pos < len(s.buf) {
		if c := s.buf[s.pos]; c > ' ' {
			return c
		}
	}
	return s.nextAfterSpace()
}

func (s *scanner) nextAfterSpace() byte {
	for {
		for ; s.pos < len(s.buf); s.pos++ {
			switch c := s.buf[s.pos]; c {
			case '\n', '\r':
				s.lineBreak = true
			case ' ', '\t':
			case 0:
				s.fail("zero byte")
				return 0
			default:
				return c
			}
		}
		if !s.refill() {
			return 0
		}
	}
}

// end reports whether nothing but white space is left; if not, and if reading
// failed, err says so.
func (s *scanner) end() bool {
	for {
		for ; s.pos < len(s.buf); s.pos++ {
			switch s.buf[s.pos] {
			case '\n', '\r', ' ', '\t':
			default:
				return s.fail("data after the end of the body")
			}
		}
		if eof, ok := s.refillOrEOF(); eof || !ok {
			return ok
		}
	}
}

// refillOrEOF reads more bytes where the text may end.
func (s *scanner) refillOrEOF() (eof, ok bool) {
	switch err := s.more(); err {
	case nil:
		return false, true
	case io.EOF:
		return true, true
	default:
		s.err = err
		return false, false
	}
}

// expect passes white space and the byte c.
func (s *scanner) expect(c byte) bool {
	got := s.next()
	if got != c {
		return s.unexpected(got)
	}
	s.pos++
	return true
}

func (s *scanner) unexpected(c byte) bool {
	return s.fail("unexpected byte %q", c)
}

// skip passes one value of any kind. depth is that of what encloses it.
func (s *scanner) skip(depth int) bool {
	switch c := s.next(); c {
	case '"':
		s.pos++
		_, ok := s.skipString()
		return ok
	case '{':
		return s.skipObject(depth + 1)
	case '[':
		return s.skipArray(depth + 1)
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return s.number()
	default:
		return s.unexpected(c)
	}
}

// skipObject passes an object whose brace is at pos.
func (s *scanner) skipObject(depth int) bool {
	if depth > maxDepth {
		return s.fail("nested deeper than %d", maxDepth)
	}
	s.pos++
	c := s.next()
	if c == '}' {
		s.pos++
		return true
	}
	for {
		if c != '"' {
			return s.unexpected(c)
		}
		s.pos++
		if _, ok := s.skipString(); !ok || !s.expect(':') || !s.skip(depth) {
			return false
		}
		switch c = s.next(); c {
		case ',':
			s.pos++
			c = s.next()
		case '}':
			s.pos++
			return true
		default:
			return s.unexpected(c)
		}
	}
}

// skipArray passes an array whose bracket is at pos.
func (s *scanner) skipArray(depth int) bool {
	more := s.openArray(depth)
	for more {
		if !s.skip(depth) {
			return false
		}
		more = s.nextElement()
	}
	return s.err == nil
}

// openArray passes the bracket at pos and reports whether an element follows.
func (s *scanner) openArray(depth int) bool {
	if depth > maxDepth {
		return s.fail("nested deeper than %d", maxDepth)
	}
	s.pos++
	if s.next() == ']' {
		s.pos++
		return false
	}
	return s.err == nil
}

// nextElement passes what follows an element and reports whether another follows.
func (s *scanner) nextElement() bool {
	switch c := s.next(); c {
	case ',':
		s.pos++
		return true
	case ']':
		s.pos++
		return false
	default:
		return s.unexpected(c)
	}
}

// span is where in the kept bytes the inside of a string is.
type span struct {
	start, end int
	set        bool
	escaped    bool
}

// str passes a string and returns where its inside is, relative to the mark.
func (s *scanner) str() (span, bool) {
	if !s.expect('"') {
		return span{}, false
	}
	start := s.pos - s.mark
	escaped, ok := s.skipString()
	return span{start: start, end: s.pos - 1 - s.mark, set: true, escaped: escaped}, ok
}

// bytes returns the text of a string that str passed, unescaped, if the kept
// bytes begin at kept[0].
func (p span) bytes(kept []byte) []byte {
	b := kept[p.start:p.end]
	if !p.escaped {
		return b
	}
	var v string
	// The string was validated, so that it can't fail. Lone surrogates become U+FFFD
	// as they do in every Go client.
	_ = json.Unmarshal(kept[p.start-1:p.end+1], &v)
	return []byte(v)
}

// member passes the key of the next member of an object, and the colon. first
// says that the object's brace was just passed. It returns false at the end of
// the object, which is passed, and on errors.
//
// Only the keys given to name have a meaning here; it is called while the key's
// bytes are in memory.
func (s *scanner) member(first bool, name func(key []byte) string) (string, bool) {
	c := s.next()
	switch {
	case c == '}':
		s.pos++
		return "", false
	case first:
	case c == ',':
		s.pos++
		c = s.next()
	default:
		return "", s.unexpected(c)
	}
	if c != '"' {
		return "", s.unexpected(c)
	}
	nested := s.mark != noMark
	if !nested {
		s.keep()
	}
	p, ok := s.str()
	if !ok {
		return "", false
	}
	key := name(p.bytes(s.buf[s.mark:]))
	if !nested {
		s.drop()
	}
	return key, s.expect(':')
}
