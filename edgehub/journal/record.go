package journal

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
)

// A record is one line of text that is one JSON object, so that a person can
// read and grep a journal:
//
//	{"crc":"8a1c03f2",<body>\n
//
// The body is the rest of the object: its members and the closing brace, on
// one line. The checksum is CRC-32C (Castagnoli) over the body, in eight
// lower-case hexadecimal digits.
const (
	crcHead   = `{"crc":"`
	crcTail   = `",`
	crcDigits = 8
	prefixLen = len(crcHead) + crcDigits + len(crcTail)
)

// readers are kept because a start reads the beginning of many files.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 64<<10) }}

// MaxRecord bounds the length of a record in bytes, so that a damaged file
// cannot make its reader allocate without end.
const MaxRecord = 32 << 20

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	// ErrCorrupt says that the bytes at a position are not the record that
	// was written there.
	ErrCorrupt = errors.New("record fails its checksum")
	// ErrTooLarge says that a record is longer than MaxRecord.
	ErrTooLarge = errors.New("record too large")
)

// Position is where a record lies in its file.
type Position struct {
	Offset int64
	Length int32 // in bytes, line end included
}

func appendPrefix(dst []byte, sum uint32) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, crcHead...)
	for shift := 28; shift >= 0; shift -= 4 {
		dst = append(dst, hex[sum>>shift&0xf])
	}
	return append(dst, crcTail...)
}

// body returns a line's body if the line, given without its line end, is a
// record whose checksum holds.
func body(line []byte) ([]byte, error) {
	if len(line) <= prefixLen {
		return nil, ErrCorrupt
	}
	var want [prefixLen]byte
	b := line[prefixLen:]
	if string(appendPrefix(want[:0], crc32.Checksum(b, castagnoli))) != string(line[:prefixLen]) {
		return nil, ErrCorrupt
	}
	return b, nil
}

// scan reads records from r until the end or the first bad one and returns
// the number of bytes that hold good records. The body passed to fn is valid
// until fn returns; an error of fn ends the scan before that record and is
// returned, a damaged or torn record ends it without error.
func scan(r io.Reader, fn func(Position, []byte) error) (valid int64, err error) {
	br := readers.Get().(*bufio.Reader)
	br.Reset(r)
	defer func() {
		br.Reset(nil)
		readers.Put(br)
	}()
	var long []byte
	for {
		line, err := br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long[:0], line...)
			for errors.Is(err, bufio.ErrBufferFull) && len(long) <= MaxRecord {
				line, err = br.ReadSlice('\n')
				long = append(long, line...)
			}
			line = long
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, bufio.ErrBufferFull):
			return valid, nil
		case err != nil:
			return valid, fmt.Errorf("read record at %d: %w", valid, err)
		case len(line) > MaxRecord:
			return valid, nil
		}
		b, err := body(line[:len(line)-1])
		if err != nil {
			return valid, nil
		}
		if err := fn(Position{valid, int32(len(line))}, b); err != nil {
			return valid, err
		}
		valid += int64(len(line))
	}
}
