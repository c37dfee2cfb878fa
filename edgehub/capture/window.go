package capture

import (
	"fmt"
	"io"
	"sync"
)

const (
	// smallWindow is what a body is read with that brings little at a time, as do
	// watches. Many of them may be in the middle of an object.
	smallWindow = 8 << 10
	// readWindow is what any other is read with while its objects are smaller.
	readWindow = 32 << 10
	// maxWindow leaves room around an object for what encloses it.
	maxWindow = MaxObjectSize + readWindow
	// maxEmptyReads is how often a reader may return neither bytes nor an error.
	maxEmptyReads = 100
)

var (
	smallPool  = sync.Pool{New: func() any { return new([smallWindow]byte) }}
	windowPool = sync.Pool{New: func() any { return new([readWindow]byte) }}
)

// window is the part of a stream that is in memory: what has been read and not
// passed, and, while something is kept, everything since it began.
type window struct {
	r      io.Reader // nil if buf is all there is
	buf    []byte
	pos    int   // the next byte to look at
	mark   int   // the first byte to keep, or noMark
	brims  bool  // the reader had as much as there was room for
	offset int64 // where in the stream buf[0] is
	ended  error // what the reader ended with
}

const noMark = -1

// Waiter is implemented by readers that know how to wait for something to read. No
// buffer is taken or made larger while they do.
type Waiter interface {
	// Wait returns when Read has bytes or an error to return at once.
	Wait()
}

// newWindow returns a window that has no buffer until something is read.
func newWindow(r io.Reader) window {
	return window{r: r, mark: noMark}
}

func newBuffer(size int) []byte {
	switch size {
	case smallWindow:
		return smallPool.Get().(*[smallWindow]byte)[:0]
	case readWindow:
		return windowPool.Get().(*[readWindow]byte)[:0]
	default:
		return make([]byte, 0, size)
	}
}

func freeBuffer(buf []byte) {
	switch {
	case cap(buf) == smallWindow:
		smallPool.Put((*[smallWindow]byte)(buf[:smallWindow]))
	case cap(buf) == readWindow:
		windowPool.Put((*[readWindow]byte)(buf[:readWindow]))
	case cap(buf) > readWindow:
		large.give(cap(buf))
	}
}

// release gives the buffer back. The window must not be used any more.
func (w *window) release() {
	freeBuffer(w.buf)
	w.buf = nil
}

// shrink gives the buffer back if nothing is in it, since watches mostly wait.
func (w *window) shrink() {
	if w.pos < len(w.buf) || cap(w.buf) == 0 {
		return
	}
	w.offset += int64(w.pos)
	freeBuffer(w.buf)
	w.buf, w.pos, w.mark, w.brims = nil, 0, noMark, false
}

// keep makes the window hold all bytes from pos on until drop is called.
func (w *window) keep() { w.mark = w.pos }
func (w *window) drop() { w.mark = noMark }

// kept returns the bytes from the mark up to pos. They are valid until more is
// called.
func (w *window) kept() []byte { return w.buf[w.mark:w.pos:w.pos] }

// at is the position in the stream, for messages.
func (w *window) at() int64 { return w.offset + int64(w.pos) }

// more reads at least one further byte to the end of buf, or returns io.EOF. Bytes
// before pos and before the mark are dropped, so that slices and indexes of buf
// change.
func (w *window) more() error {
	if w.r == nil {
		return io.EOF
	}
	if w.ended != nil {
		return w.ended
	}
	w.slide()
	if len(w.buf) == cap(w.buf) || w.brims && cap(w.buf) < readWindow {
		if r, ok := w.r.(Waiter); ok {
			r.Wait()
		}
		if err := w.grow(); err != nil {
			return err
		}
	}
	for range maxEmptyReads {
		n, err := w.r.Read(w.buf[len(w.buf):cap(w.buf)])
		w.buf = w.buf[:len(w.buf)+n]
		w.brims = len(w.buf) == cap(w.buf)
		if err != nil && err != io.EOF {
			err = fmt.Errorf("reading body at byte %d: %w", w.offset+int64(len(w.buf)), err)
		}
		w.ended = err
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	w.ended = fmt.Errorf("reading body: %w", io.ErrNoProgress)
	return w.ended
}

// slide moves what is needed to the front of the buffer.
func (w *window) slide() {
	first := w.pos
	if w.mark != noMark {
		first = w.mark
		w.mark = 0
	}
	if first == 0 {
		return // also for speed: a large object may come in many small reads
	}
	n := copy(w.buf, w.buf[first:])
	w.buf = w.buf[:n]
	w.pos -= first
	w.offset += int64(first)
}

// grow makes room for more bytes than the buffer has. A large one doubles, so that
// memory follows what was received and not what a length field claims.
func (w *window) grow() error {
	var size int
	switch c := cap(w.buf); {
	case c >= maxWindow:
		return fmt.Errorf("%w: more than %d bytes at byte %d", ErrTooLarge, MaxObjectSize, w.offset)
	case c == 0:
		size = smallWindow
	case c == smallWindow:
		size = readWindow
	case c > maxWindow/4:
		size = maxWindow // the last step
	default:
		size = 2 * c
	}
	if size > readWindow && !large.take(size) {
		return fmt.Errorf("%w: at byte %d", ErrBusy, w.offset)
	}
	buf := append(newBuffer(size), w.buf...)
	freeBuffer(w.buf)
	w.buf = buf
	return nil
}

// need makes at least n bytes available from pos on.
func (w *window) need(n int) error {
	for len(w.buf)-w.pos < n {
		if err := w.more(); err != nil {
			return err
		}
	}
	return nil
}

// cut turns EOF where bytes are missing into an error that says so.
func (w *window) cut(err error) error {
	if err == io.EOF {
		return fmt.Errorf("body cut short at byte %d: %w", w.offset+int64(len(w.buf)), io.ErrUnexpectedEOF)
	}
	return err
}

func (w *window) malformed(format string, args ...any) error {
	return fmt.Errorf("%w at byte %d: %s", ErrMalformed, w.at(), fmt.Sprintf(format, args...))
}
