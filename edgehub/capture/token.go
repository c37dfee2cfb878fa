package capture

import (
	"encoding/binary"
	"math/bits"
)

const (
	eachByte = 0x0101010101010101
	eachHigh = 0x8080808080808080
)

// special returns a word whose lowest set bit is in the first byte of w that is a
// quote, a backslash or a control character. w is little-endian.
func special(w uint64) uint64 {
	quote := w ^ '"'*eachByte
	slash := w ^ '\\'*eachByte
	return ((quote-eachByte)&^quote | (slash-eachByte)&^slash | (w-' '*eachByte)&^w) & eachHigh
}

// skipString passes a string whose opening quote has been passed, and its closing
// quote. escaped says that it holds a backslash.
func (s *scanner) skipString() (escaped, ok bool) {
	for {
		b, i := s.buf, s.pos
		var seen uint64
		for i+8 <= len(b) {
			w := binary.LittleEndian.Uint64(b[i:])
			seen |= w
			if m := special(w); m != 0 {
				i += bits.TrailingZeros64(m) >> 3
				break
			}
			i += 8
		}
		for i < len(b) && b[i] != '"' && b[i] != '\\' && b[i] >= ' ' {
			seen |= uint64(b[i])
			i++
		}
		s.bits |= seen
		s.pos = i
		switch {
		case i == len(b):
			if !s.refill() {
				return escaped, false
			}
		case b[i] == '"':
			s.pos++
			return escaped, true
		case b[i] == '\\':
			escaped = true
			if !s.escape() {
				return escaped, false
			}
		default:
			return escaped, s.fail("control character in a string")
		}
	}
}

// escape passes an escape sequence whose backslash is at pos.
func (s *scanner) escape() bool {
	s.pos++
	c, ok := s.byte()
	if !ok {
		return false
	}
	switch c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return true
	case 'u':
		for range 4 {
			if c, ok = s.byte(); !ok {
				return false
			}
			if !isHex(c) {
				return s.fail("bad \\u escape")
			}
		}
		return true
	}
	return s.fail("bad escape")
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// byte passes and returns one byte.
func (s *scanner) byte() (byte, bool) {
	if s.pos == len(s.buf) && !s.refill() {
		return 0, false
	}
	c := s.buf[s.pos]
	s.pos++
	return c, true
}

func (s *scanner) literal(word string) bool {
	for i := range len(word) {
		c, ok := s.byte()
		if !ok {
			return false
		}
		if c != word[i] {
			return s.fail("bad literal")
		}
	}
	return true
}

// number passes a number: -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?
// A number ends where something else begins, which is always there: only objects
// and arrays are read at the top.
func (s *scanner) number() bool {
	c, ok := s.byte()
	if ok && c == '-' {
		c, ok = s.byte()
	}
	switch {
	case !ok:
		return false
	case c == '0':
		c, ok = s.peek()
	case '1' <= c && c <= '9':
		c, ok = s.digits()
	default:
		return s.fail("bad number")
	}
	if ok && c == '.' {
		s.pos++
		if c, ok = s.digit(); ok {
			c, ok = s.digits()
		}
	}
	if ok && (c == 'e' || c == 'E') {
		s.pos++
		if c, ok = s.peek(); ok && (c == '+' || c == '-') {
			s.pos++
		}
		if ok {
			if _, ok = s.digit(); ok {
				_, ok = s.digits()
			}
		}
	}
	return ok
}

// peek returns the byte at pos.
func (s *scanner) peek() (byte, bool) {
	if s.pos == len(s.buf) && !s.refill() {
		return 0, false
	}
	return s.buf[s.pos], true
}

// digit passes one digit.
func (s *scanner) digit() (byte, bool) {
	c, ok := s.byte()
	if ok && (c < '0' || c > '9') {
		return c, s.fail("bad number")
	}
	return c, ok
}

// digits passes digits, if any, and returns the byte that follows them.
func (s *scanner) digits() (byte, bool) {
	for {
		c, ok := s.peek()
		if !ok || c < '0' || c > '9' {
			return c, ok
		}
		s.pos++
	}
}
