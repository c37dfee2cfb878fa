package cache

import (
	"compress/gzip"
	"net/http"
	"sync"
)

// gzipFrom is how many bytes an answer must have to be compressed
// (k8s.io/apiserver, APIResponseCompression).
const gzipFrom = 128 << 10

// gzipWriters are kept because each has almost a mebibyte of tables.
var gzipWriters = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // a level that exists
	return z
}}

// compressed holds an answer back until it is known to be long, and compresses
// it then.
type compressed struct {
	http.ResponseWriter
	code   int
	held   []byte
	passes bool // nothing is held back any more
	gzip   *gzip.Writer
}

// WriteHeader waits for what follows.
func (c *compressed) WriteHeader(code int) { c.code = code }

func (c *compressed) Write(b []byte) (int, error) {
	switch {
	case c.gzip != nil:
		return c.gzip.Write(b)
	case c.passes:
		return c.ResponseWriter.Write(b)
	case len(c.held)+len(b) <= gzipFrom:
		c.held = append(c.held, b...)
		return len(b), nil
	}
	c.Header().Set("Content-Encoding", "gzip")
	c.Header().Add("Vary", "Accept-Encoding")
	c.gzip = gzipWriters.Get().(*gzip.Writer)
	c.gzip.Reset(c.ResponseWriter)
	if err := c.pass(c.gzip); err != nil {
		return 0, err
	}
	return c.gzip.Write(b)
}

// pass writes what was held back.
func (c *compressed) pass(to interface{ Write([]byte) (int, error) }) error {
	c.passes = true
	c.ResponseWriter.WriteHeader(c.code)
	_, err := to.Write(c.held)
	c.held = nil
	return err
}

// Close ends an answer that was written. That its client is gone is no error.
func (c *compressed) Close() error {
	switch {
	case c.gzip != nil:
		_ = c.gzip.Close()
	case !c.passes && c.code != 0:
		_ = c.pass(c.ResponseWriter)
	}
	return nil
}

func (c *compressed) release() {
	if c.gzip != nil {
		gzipWriters.Put(c.gzip)
		c.gzip = nil
	}
}

// memberWriter compresses a watch: what comes between two flushes is a gzip
// member of its own (RFC 1952, 2.2), so that a watch that waits holds no tables.
type memberWriter struct {
	http.ResponseWriter
	gzip *gzip.Writer
}

// WriteHeader says how the body is written.
func (m *memberWriter) WriteHeader(code int) {
	m.Header().Set("Content-Encoding", "gzip")
	m.Header().Add("Vary", "Accept-Encoding")
	m.ResponseWriter.WriteHeader(code)
}

func (m *memberWriter) Write(b []byte) (int, error) {
	if m.gzip == nil {
		m.gzip = gzipWriters.Get().(*gzip.Writer)
		m.gzip.Reset(m.ResponseWriter)
	}
	return m.gzip.Write(b)
}

// FlushError ends the member. http.ResponseController calls it.
func (m *memberWriter) FlushError() error {
	if m.gzip != nil {
		// What is in a member's last block is held back by readers, Go's among
		// them, until they know what follows the member: nothing must be in it.
		err := m.gzip.Flush()
		if err == nil {
			err = m.gzip.Close()
		}
		gzipWriters.Put(m.gzip)
		if m.gzip = nil; err != nil {
			return err
		}
	}
	return http.NewResponseController(m.ResponseWriter).Flush()
}
