package journaltest

import (
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"
)

// handle is an open file.
type handle struct {
	fs       *FS
	node     *node
	name     string
	writable bool
	closed   bool
}

func (h *handle) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: h.name, Err: err}
}

// ReadAt implements io.ReaderAt.
func (h *handle) ReadAt(p []byte, offset int64) (int, error) {
	if fault := h.fs.inject(Read, h.name, int64(len(p))); fault != nil {
		return 0, h.fail("read", fault.Err)
	}
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return 0, h.fail("read", os.ErrClosed)
	}
	if offset >= int64(len(h.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.node.data[offset:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt.
func (h *handle) WriteAt(p []byte, offset int64) (int, error) {
	fault := h.fs.inject(Write, h.name, int64(len(p)))
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	var err error
	switch {
	case h.closed:
		return 0, h.fail("write", os.ErrClosed)
	case !h.writable:
		return 0, h.fail("write", syscall.EBADF)
	case fault != nil:
		p, err = p[:min(fault.Written, len(p))], h.fail("write", fault.Err)
	}
	if grow := offset + int64(len(p)) - int64(len(h.node.data)); h.fs.Capacity > 0 && grow > 0 && grow > h.fs.Capacity-h.fs.used {
		fits := max(0, int64(len(p))-(grow-max(0, h.fs.Capacity-h.fs.used)))
		p, err = p[:fits], h.fail("write", syscall.ENOSPC)
	}
	if len(p) == 0 {
		return 0, err
	}
	before := len(h.node.data)
	h.node.data = writeAt(h.node.data, p, offset)
	h.fs.used += int64(len(h.node.data) - before)
	h.node.modTime = time.Now()
	h.fs.add(record{kind: Write, node: h.node, offset: offset, data: slices.Clone(p)})
	return len(p), err
}

// Truncate implements journal.Handle.
func (h *handle) Truncate(size int64) error {
	fault := h.fs.inject(Truncate, h.name, size)
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	switch {
	case h.closed:
		return h.fail("truncate", os.ErrClosed)
	case !h.writable:
		return h.fail("truncate", syscall.EINVAL)
	case fault != nil:
		return h.fail("truncate", fault.Err)
	}
	h.fs.used += size - int64(len(h.node.data))
	h.node.data = resize(h.node.data, size)
	h.fs.add(record{kind: Truncate, node: h.node, size: size})
	return nil
}

// Sync implements journal.Handle. What is written while it runs is not
// covered by it.
func (h *handle) Sync() error {
	h.fs.mu.Lock()
	upTo, content, closed := len(h.fs.log), slices.Clone(h.node.data), h.closed
	h.fs.mu.Unlock()
	if closed {
		return h.fail("fsync", os.ErrClosed)
	}
	fault := h.fs.inject(Sync, h.name, 0)
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	r := record{kind: Sync, node: h.node, upTo: upTo, data: content}
	if fault == nil {
		h.fs.add(r)
		return nil
	}
	if fault.Unheard {
		return h.fail("fsync", fault.Err)
	}
	r.failed = true
	if fault.Evict {
		// The reader loses all that was written since the last sync.
		h.node.data = resize(h.fs.onDisk(h.node), int64(len(h.node.data)))
		r.data = slices.Clone(h.node.data)
		r.upTo = len(h.fs.log)
	}
	h.fs.log = append(h.fs.log, r)
	return h.fail("fsync", fault.Err)
}

// Stat implements journal.Handle.
func (h *handle) Stat() (fs.FileInfo, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return nil, h.fail("stat", os.ErrClosed)
	}
	return h.node.info(h.name), nil
}

// Close implements io.Closer.
func (h *handle) Close() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return h.fail("close", os.ErrClosed)
	}
	h.closed = true
	h.fs.open--
	h.node.handles--
	h.fs.reclaim(h.node)
	return nil
}

// resize cuts b off or fills it up with zeros. It never writes to b's array
// beyond its length.
func resize(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return slices.Clip(b[:size])
	}
	return append(slices.Clip(b), make([]byte, size-int64(len(b)))...)
}

func writeAt(b, p []byte, offset int64) []byte {
	if end := offset + int64(len(p)); end > int64(len(b)) {
		if offset == int64(len(b)) {
			return append(b, p...)
		}
		b = resize(b, end)
	}
	copy(b[offset:], p)
	return b
}
