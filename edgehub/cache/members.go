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
	one    [1]byte      // that Wait has read, if ahead
	ahead  bool
	err    error // that it met
}

// memberBuffer is what a watch that waits holds.
const memberBuffer = 512

var gzipReaders sync.Pool

func newMembers(source io.Reader) *members {
	return &members{source: bufio.NewReaderSize(source, memberBuffer)}
}

// Wait implements capture.Waiter. A member says that it has ended when it is read once
// more.
func (m *members) Wait() {
	if m.ahead || m.err != nil {
		return
	}
	n, err := m.Read(m.one[:])
	m.ahead, m.err = n > 0, err
}

// Read implements io.Reader.
func (m *members) Read(b []byte) (int, error) {
	switch {
	case m.ahead && len(b) > 0:
		m.ahead = false
		return copy(b, m.one[:]), nil
	case m.err != nil:
		return 0, m.err
	}
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
