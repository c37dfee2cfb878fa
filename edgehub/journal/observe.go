package journal

import (
	"io/fs"
	"os"
	"time"
)

// The operations that Observe tells of.
const (
	OpCreate   = "create"
	OpOpen     = "open"
	OpRead     = "read"
	OpWrite    = "write"
	OpTruncate = "truncate"
	OpSync     = "sync" // of a file or a directory
	OpMkdir    = "mkdir"
	OpReadDir  = "readdir"
	OpRename   = "rename"
	OpRemove   = "remove"
	OpTouch    = "touch"
)

// Observe returns a file system that does what fsys does, and tells of each
// operation how long it took and how it ended; of reads only those that fail.
// observe is called by several goroutines at once.
func Observe(fsys FS, observe func(op string, took time.Duration, err error)) FS {
	return &observed{fsys, observe}
}

type observed struct {
	fs      FS
	observe func(op string, took time.Duration, err error)
}

// tell is deferred with the operation's beginning.
func (o *observed) tell(op string, start time.Time, err *error) {
	o.observe(op, time.Since(start), *err)
}

func (o *observed) OpenFile(name string, flag int, perm fs.FileMode) (h Handle, err error) {
	op := OpOpen
	if flag&os.O_CREATE != 0 {
		op = OpCreate
	}
	defer o.tell(op, time.Now(), &err)
	if h, err = o.fs.OpenFile(name, flag, perm); err != nil {
		return nil, err
	}
	return &observedHandle{h, o}, nil
}

func (o *observed) MkdirAll(name string, perm fs.FileMode) (err error) {
	defer o.tell(OpMkdir, time.Now(), &err)
	return o.fs.MkdirAll(name, perm)
}

func (o *observed) ReadDir(name string) (entries []fs.DirEntry, err error) {
	defer o.tell(OpReadDir, time.Now(), &err)
	return o.fs.ReadDir(name)
}

func (o *observed) Rename(oldName, newName string) (err error) {
	defer o.tell(OpRename, time.Now(), &err)
	return o.fs.Rename(oldName, newName)
}

func (o *observed) Remove(name string) (err error) {
	defer o.tell(OpRemove, time.Now(), &err)
	return o.fs.Remove(name)
}

func (o *observed) RemoveAll(name string) (err error) {
	defer o.tell(OpRemove, time.Now(), &err)
	return o.fs.RemoveAll(name)
}

func (o *observed) SyncDir(name string) (err error) {
	defer o.tell(OpSync, time.Now(), &err)
	return o.fs.SyncDir(name)
}

func (o *observed) Chtimes(name string, accessed, modified time.Time) (err error) {
	defer o.tell(OpTouch, time.Now(), &err)
	return o.fs.Chtimes(name, accessed, modified)
}

type observedHandle struct {
	Handle
	fs *observed
}

// ReadAt is not timed: an answer reads thousands of records.
func (h *observedHandle) ReadAt(b []byte, offset int64) (n int, err error) {
	if n, err = h.Handle.ReadAt(b, offset); err != nil {
		h.fs.observe(OpRead, 0, err)
	}
	return n, err
}

func (h *observedHandle) WriteAt(b []byte, offset int64) (n int, err error) {
	defer h.fs.tell(OpWrite, time.Now(), &err)
	return h.Handle.WriteAt(b, offset)
}

func (h *observedHandle) Truncate(size int64) (err error) {
	defer h.fs.tell(OpTruncate, time.Now(), &err)
	return h.Handle.Truncate(size)
}

func (h *observedHandle) Sync() (err error) {
	defer h.fs.tell(OpSync, time.Now(), &err)
	return h.Handle.Sync()
}
