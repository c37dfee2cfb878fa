package cache

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"sync"
)

// members decompresses a body. kube-apiserver ends a gzip member (RFC 1952, 2.2)
// with each flush of a watch, so that an idle watch holds no compressor; nor does
// it hold a decompressor here, which has more than 40 KB.
type members struct {
	source *bufio.Reader
	member *gzip.Reader // nil between members
}

// memberBuffer is what a watch that waits holds.
const memberBuffer = 512

var gzipReaders sync.Pool

func newMembers(source io.Reader) *members {
	return &members{source: bufio.NewReaderSize(source, memberBuffer)}
}

// Wait implements capture.Waiter, as far as an idle watch is concerned.
func (m *members) Wait() {
	if m.member == nil {
		_, _ = m.source.Peek(1) // Read sees the error, too
	}
}

// Read implements io.Reader.
func (m *members) Read(b []byte) (int, error) {
	for {
		if m.member == nil {
			if _, err := m.source.Peek(1); err != nil {
				return 0, err // io.EOF between members is the end
			}
			if err := m.next(); err != nil {
				return 0, fmt.Errorf("decompress: %w", err)
			}
		}
		n, err := m.member.Read(b)
		switch {
		case err == io.EOF:
			m.release()
			if n > 0 {
				return n, nil
			}
		case err != nil:
			return n, fmt.Errorf("decompress: %w", err)
		default:
			return n, nil
		}
	}
}

func (m *members) next() (err error) {
	if pooled, ok := gzipReaders.Get().(*gzip.Reader); ok {
		m.member = pooled
		err = pooled.Reset(m.source)
	} else {
		m.member, err = gzip.NewReader(m.source)
	}
	if err != nil {
		m.member = nil
		return err
	}
	m.member.Multistream(false)
	return nil
}

// release gives the decompressor back.
func (m *members) release() {
	if m.member != nil {
		gzipReaders.Put(m.member)
		m.member = nil
	}
}
