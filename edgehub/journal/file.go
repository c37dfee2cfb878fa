package journal

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// writeSize is how many bytes are gathered before they are written.
	writeSize = 64 << 10
	// writeRoom is how many bytes all files together keep for that. Beyond it, what is
	// appended is written at once: a thousand files may be staged, each for somebody
	// who has stopped reading in the middle.
	writeRoom = 2 << 20
)

// ErrReplaced is the error of a file that was replaced, removed or discarded.
var ErrReplaced = errors.New("journal file was replaced")

// File is one append-only journal. A file from Stage is invisible to other
// processes and to a restart until Publish; a file from Open is the one that
// is there. It is safe for concurrent use.
//
// A File starts with one reference, which Close or Discard gives back. Readers
// that must outlive a replacement take their own with Acquire and Release.
type File struct {
	store *Store
	name  string

	handle Handle
	found  time.Time // see ModTime
	refs   atomic.Int32

	mu       sync.Mutex
	temp     string // its present name while staged, "" once it is live
	staged   bool   // and not published or given up: OnStaged counts it
	buf      []byte // whole records that are appended, not yet written
	room     int64  // of writeRoom that buf takes
	size     int64  // bytes in handle that are whole records
	unsynced bool   // written to since the last sync began
	reported bool   // OnError knows that buf can't be written
	err      error  // sticky: nothing can be appended any more
}

// Name is the file's name once it is published.
func (f *File) Name() string { return f.name }

// Size is the number of bytes appended so far.
func (f *File) Size() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size + int64(len(f.buf))
}

// Append adds a record whose body is the concatenation of parts: the inside
// of a JSON object without its opening brace, on one line. The record reaches
// the operating system at the latest with the next Flush.
func (f *File) Append(parts ...[]byte) (Position, error) {
	length, sum := prefixLen+1, uint32(0)
	for _, p := range parts {
		length += len(p)
		sum = crc32.Update(sum, castagnoli, p)
	}
	if length > MaxRecord {
		return Position{}, fmt.Errorf("append to %s: %w", f.name, ErrTooLarge)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return Position{}, fmt.Errorf("append to %s: %w", f.name, f.err)
	}
	if len(f.buf)+length > writeSize {
		if err := f.drain(); err != nil {
			return Position{}, err
		}
	}
	pos := Position{f.size + int64(len(f.buf)), int32(length)}
	if length > writeSize {
		if err := f.writeLarge(sum, parts); err != nil {
			return Position{}, err
		}
	} else {
		f.buf = appendPrefix(slices.Grow(f.buf, length), sum)
		for _, p := range parts {
			f.buf = append(f.buf, p...)
		}
		f.buf = append(f.buf, '\n')
	}
	if f.takeRoom() > writeRoom {
		_ = f.flush() // what can't be written now is as what waits for a Flush
	}
	if f.temp == "" {
		// The committer flushes as well, should no Flush come.
		f.store.markDirty(f)
	}
	return pos, nil
}

// writeLarge writes a record that is larger than the buffer, which is empty. A
// large part goes straight to the file: copying it into the buffer would only
// make the buffer grow.
func (f *File) writeLarge(sum uint32, parts [][]byte) error {
	start := f.size
	f.buf = appendPrefix(f.buf, sum)
	for _, p := range parts {
		if len(f.buf)+len(p) <= writeSize {
			f.buf = append(f.buf, p...)
			continue
		}
		err := f.drain()
		if err == nil {
			err = f.write(p)
		}
		if err != nil {
			return f.undo(start, err)
		}
	}
	f.buf = append(f.buf, '\n')
	if err := f.drain(); err != nil {
		return f.undo(start, err)
	}
	return nil
}

// undo takes back a record of which a part may have been written. If that
// fails too, nothing may be appended behind the torn record.
func (f *File) undo(offset int64, cause error) error {
	f.count(offset - f.size)
	f.buf, f.size = f.buf[:0], offset
	if err := f.handle.Truncate(offset); err != nil {
		f.err = errors.Join(cause, err)
	}
	return cause
}

// Flush hands what was appended to the operating system, so that it survives
// the end of this process. If that fails nothing is lost: the records can be
// read, and writing them is tried again.
func (f *File) Flush() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.flush()
}

func (f *File) flush() error {
	if err := f.drain(); err != nil {
		return err
	}
	// A long-lived file that is written to now and then must not hold a
	// buffer all the time.
	f.buf = nil
	f.takeRoom()
	return nil
}

// takeRoom counts what buf takes, and returns what those of all files do.
func (f *File) takeRoom() int64 {
	took := f.room
	f.room = int64(cap(f.buf))
	return f.store.room.Add(f.room - took)
}

// drain writes the buffer. If that fails the next try writes the same bytes to
// the same place, so that a part that was written does no harm.
func (f *File) drain() error {
	if err := f.write(f.buf); err != nil {
		return err
	}
	f.buf, f.reported = f.buf[:0], false
	return nil
}

func (f *File) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	n, err := f.handle.WriteAt(p, f.size)
	f.store.written.Add(int64(n))
	if err == nil {
		f.count(int64(n))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f.name, err)
	}
	f.size += int64(n)
	f.unsynced = true
	return nil
}

// count tells OnStaged of a staged file. f.mu is held.
func (f *File) count(bytes int64) {
	if f.staged && bytes != 0 {
		f.store.options.OnStaged(f.name, bytes)
	}
}

// unstage ends counting. f.mu is held.
func (f *File) unstage() {
	f.count(-f.size)
	f.staged = false
}

// Scan calls fn for each record in order. The body is valid until fn returns;
// an error of fn ends the scan and is returned.
func (f *File) Scan(fn func(Position, []byte) error) error {
	f.mu.Lock()
	var waiting []byte
	if f.flush() != nil {
		waiting = bytes.Clone(f.buf)
	}
	written := f.size
	f.mu.Unlock()
	r := io.MultiReader(io.NewSectionReader(f.handle, 0, written), bytes.NewReader(waiting))
	valid, err := scan(r, fn)
	if err == nil && valid < written+int64(len(waiting)) {
		err = ErrCorrupt
	}
	if err != nil {
		return fmt.Errorf("scan %s: %w", f.name, err)
	}
	return nil
}

// Read returns the body of the record at pos, in buf if it is large enough.
func (f *File) Read(pos Position, buf []byte) ([]byte, error) {
	if cap(buf) < int(pos.Length) {
		buf = make([]byte, pos.Length)
	}
	buf = buf[:pos.Length]
	if !f.readWaiting(pos, buf) {
		if _, err := f.handle.ReadAt(buf, pos.Offset); err != nil {
			return nil, fmt.Errorf("read %s at %d: %w", f.name, pos.Offset, err)
		}
	}
	b, err := body(buf[:len(buf)-1])
	if err != nil {
		return nil, fmt.Errorf("read %s at %d: %w", f.name, pos.Offset, err)
	}
	return b, nil
}

// readWaiting copies a record that is not in the file yet.
func (f *File) readWaiting(pos Position, to []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := pos.Offset - f.size
	return at >= 0 && at < int64(len(f.buf)) && copy(to, f.buf[at:]) == len(to)
}

// Publish asks for a staged file to take the place of the one with its name:
// it is synced, renamed and its directory synced, within Options.Interval. A
// later Publish under the same name supersedes one that has not happened yet.
// Records may be appended before and after.
func (f *File) Publish() error {
	f.mu.Lock()
	err := f.err
	if err == nil {
		err = f.flush()
	}
	f.mu.Unlock()
	if err == nil {
		err = f.store.publish(f)
	}
	if err == nil {
		f.mu.Lock()
		f.unstage()
		f.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("publish %s: %w", f.name, err)
	}
	return nil
}

// Discard removes a staged file and gives its reference back.
func (f *File) Discard() error {
	f.giveUp(ErrReplaced)
	return f.Release()
}

// abandon gives up a staged file together with the committer's reference.
func (f *File) abandon(cause error) {
	f.giveUp(cause)
	_ = f.Release() // nothing of it is wanted
}

// giveUp ends appending and removes a staged file.
func (f *File) giveUp(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = cause
	f.unstage()
	if f.temp != "" {
		_ = f.store.fs.Remove(f.temp) // RemoveStaged finds what stays behind
		f.temp = ""
	}
}

// fail ends appending to a file that could not be made durable. What was
// appended can still be read, to be written anew.
func (f *File) fail(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = cause
}

// Close gives the first reference back. What was flushed is still synced.
func (f *File) Close() error { return f.Release() }

// Acquire takes a reference for a reader. It reports false if the file is
// closed already.
func (f *File) Acquire() bool {
	for {
		n := f.refs.Load()
		if n == 0 {
			return false
		}
		if f.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Release gives a reference back; the last one closes the file.
func (f *File) Release() error {
	if f.refs.Add(-1) > 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buf, f.err = nil, ErrReplaced
	f.takeRoom()
	return f.handle.Close()
}

// ModTime is when the file had last been written to when it was opened, before
// anything was cut off; the zero time for one that was staged.
func (f *File) ModTime() time.Time { return f.found }
