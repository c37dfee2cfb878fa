package rewrite

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
)

// gzipMembers decompresses a body. kube-apiserver ends a gzip member (RFC 1952,
// 2.2) with each flush of a watch: what has come of one must not wait for the
// next.
type gzipMembers struct {
	source *bufio.Reader
	member *gzip.Reader // nil between members: it has more than 40 KB
}

func newMembers(source io.Reader) *gzipMembers {
	return &gzipMembers{source: bufio.NewReaderSize(source, 512)}
}

// Read implements io.Reader.
func (m *gzipMembers) Read(b []byte) (int, error) {
	for {
		if m.member == nil {
			if _, err := m.source.Peek(1); err != nil {
				return 0, err // io.EOF between members is the end
			}
			member, err := gzip.NewReader(m.source)
			if err != nil {
				return 0, fmt.Errorf("decompress: %w", err)
			}
			member.Multistream(false)
			m.member = member
		}
		n, err := m.member.Read(b)
		if err == io.EOF {
			m.member = nil
			if n > 0 {
				return n, nil
			}
			continue
		}
		if err != nil {
			return n, fmt.Errorf("decompress: %w", err)
		}
		return n, nil
	}
}
