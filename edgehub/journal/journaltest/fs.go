// Package journaltest is a file system in memory for tests of what a crash and
// a failing disk leave behind. It records every operation, and tells which
// states a power loss after any of them may leave on the disk.
package journaltest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

// Kind is what an operation does.
type Kind uint8

// The operations. Those up to Remove change the tree.
const (
	Create Kind = iota + 1 // makes a file
	Write
	Truncate
	Mkdir
	Rename
	Remove
	Sync    // of a file
	SyncDir // of a directory
	Open    // a file that is there
	Read
	ReadDir
	Chtimes
)

// Op is an operation that is about to happen.
type Op struct {
	Kind Kind
	Name string
	// Size is how many bytes are written or read, the size to truncate to, or
	// the flags to open with.
	Size int64
}

// Changes reports whether the operation changes the tree.
func (o Op) Changes() bool { return o.Kind <= Remove }

// Fault is how an operation fails.
type Fault struct {
	Err error
	// Written is how many bytes a failing Write writes all the same.
	Written int
	// Unheard says that the disk never heard of the operation, as when its
	// process is killed before: a failing Sync loses no page then.
	Unheard bool
	// Evict drops the pages that a failing Sync did not write, so that
	// reading shows what the disk holds. Linux does so on some file systems;
	// on others the pages read as if they had been written.
	Evict bool
}

// FS implements journal.FS.
type FS struct {
	// Capacity is how many bytes the files may hold in all, 0 for no limit.
	// A write that finds too little room is cut short with ENOSPC. It is set
	// while nobody uses the file system.
	Capacity int64

	hook atomic.Pointer[func(Op) *Fault]

	mu     sync.Mutex
	root   *node
	log    []record
	counts map[Kind]int
	open   int
	used   int64
	nodes  int
}

// node is a file or a directory.
type node struct {
	id      int // in the order of creation
	dir     bool
	data    []byte           // as it is read
	entries map[string]*node // as they are read
	modTime time.Time
	used    time.Time // as Chtimes says
	links   int
	handles int

	// What the disk held when the recording began.
	initialData    []byte
	initialEntries map[string]*node
}

// record is an operation that happened.
type record struct {
	kind     Kind
	node     *node // the file, or the directory that changed
	child    *node // what the entry names
	name, to string
	offset   int64
	data     []byte // that was written; of a Sync: the content it made durable
	size     int64
	upTo     int  // the operations that a sync covers are those before it
	failed   bool // of a sync: its pages are taken for clean, but some are lost
}

// New returns an empty file system.
func New() *FS {
	f := &FS{counts: map[Kind]int{}}
	f.root = f.newDir()
	return f
}

func (f *FS) newDir() *node {
	n := f.newFile()
	n.dir, n.entries, n.initialEntries = true, map[string]*node{}, map[string]*node{}
	return n
}

func (f *FS) newFile() *node {
	f.nodes++
	return &node{id: f.nodes, links: 1, modTime: time.Now()}
}

// Len is the number of operations so far after which a crash can be tried.
func (f *FS) Len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.log)
}

// Count is how often an operation succeeded.
func (f *FS) Count(kind Kind) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[kind]
}

// Handles is the number of files that are open.
func (f *FS) Handles() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

// Used is the number of bytes that files hold, including those that are
// removed but still open.
func (f *FS) Used() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used
}

// Files returns the names of all files, sorted.
func (f *FS) Files() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	var walk func(string, *node)
	walk = func(name string, n *node) {
		if !n.dir {
			names = append(names, name)
		}
		for entry, child := range n.entries {
			walk(path.Join(name, entry), child)
		}
	}
	walk(".", f.root)
	slices.Sort(names)
	return names
}

// Put replaces a file's content behind the back of whoever uses it, and as if
// it had always been on the disk.
func (f *FS) Put(name string, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.root
	for part := range strings.SplitSeq(path.Dir(name), "/") {
		if part != "." {
			n = f.place(n, part, f.newDir)
		}
	}
	n = f.place(n, path.Base(name), f.newFile)
	f.used += int64(len(data) - len(n.data))
	n.data, n.initialData = slices.Clone(data), slices.Clone(data)
}

// place returns what a directory has under a name, made if there is nothing.
func (f *FS) place(dir *node, name string, create func() *node) *node {
	n := dir.entries[name]
	if n == nil {
		n = create()
		dir.entries[name], dir.initialEntries[name] = n, n
	}
	return n
}

// Get returns a file's content.
func (f *FS) Get(name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.lookup(name)
	if err != nil {
		return nil, err
	}
	return slices.Clone(n.data), nil
}

func (f *FS) inject(kind Kind, name string, size int64) *Fault {
	if hook := f.hook.Load(); hook != nil {
		return (*hook)(Op{kind, name, size})
	}
	return nil
}

// Inject has a function called before each operation from now on, nil for none.
// No lock is held while it runs: it may fail the operation by returning a
// fault, and it may block.
func (f *FS) Inject(hook func(Op) *Fault) {
	if hook == nil {
		f.hook.Store(nil)
		return
	}
	f.hook.Store(&hook)
}

// lookup is called with f.mu held.
func (f *FS) lookup(name string) (*node, error) {
	n := f.root
	if name == "." {
		return n, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		if !n.dir {
			return nil, &fs.PathError{Op: "lookup", Path: name, Err: syscall.ENOTDIR}
		}
		if n = n.entries[part]; n == nil {
			return nil, &fs.PathError{Op: "lookup", Path: name, Err: fs.ErrNotExist}
		}
	}
	return n, nil
}

func (f *FS) add(r record) {
	f.log = append(f.log, r)
	f.counts[r.kind]++
}

// OpenFile implements journal.FS.
func (f *FS) OpenFile(name string, flag int, _ fs.FileMode) (journal.Handle, error) {
	kind := Open
	if flag&os.O_CREATE != 0 {
		kind = Create
	}
	if fault := f.inject(kind, name, int64(flag)); fault != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fault.Err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	dir, err := f.lookup(path.Dir(name))
	if err != nil {
		return nil, err
	}
	n := dir.entries[path.Base(name)]
	switch {
	case n != nil && flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	case n == nil && flag&os.O_CREATE == 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case n == nil:
		n = f.newFile()
		dir.entries[path.Base(name)] = n
		f.add(record{kind: Create, node: dir, child: n, name: path.Base(name)})
	case n.dir && flag&(os.O_RDWR|os.O_WRONLY) != 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EISDIR}
	}
	n.handles++
	f.open++
	return &handle{fs: f, node: n, name: name, writable: flag&(os.O_RDWR|os.O_WRONLY) != 0}, nil
}

// MkdirAll implements journal.FS.
func (f *FS) MkdirAll(name string, _ fs.FileMode) error {
	f.mu.Lock()
	_, err := f.lookup(name)
	f.mu.Unlock()
	if err == nil {
		return nil
	}
	if fault := f.inject(Mkdir, name, 0); fault != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: fault.Err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.root
	for part := range strings.SplitSeq(name, "/") {
		child := n.entries[part]
		if child == nil {
			child = f.newDir()
			n.entries[part] = child
			f.add(record{kind: Mkdir, node: n, child: child, name: part})
		}
		if n = child; !n.dir {
			return &fs.PathError{Op: "mkdir", Path: name, Err: syscall.ENOTDIR}
		}
	}
	return nil
}

// ReadDir implements journal.FS.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	if fault := f.inject(ReadDir, name, 0); fault != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fault.Err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.lookup(name)
	if err != nil {
		return nil, err
	}
	if !n.dir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: syscall.ENOTDIR}
	}
	var entries []fs.DirEntry
	for name, child := range n.entries {
		entries = append(entries, fs.FileInfoToDirEntry(child.info(name)))
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// Rename implements journal.FS, within one directory.
func (f *FS) Rename(oldName, newName string) error {
	if fault := f.inject(Rename, newName, 0); fault != nil {
		return &os.LinkError{Op: "rename", Old: oldName, New: newName, Err: fault.Err}
	}
	if path.Dir(oldName) != path.Dir(newName) {
		return &os.LinkError{Op: "rename", Old: oldName, New: newName, Err: errors.ErrUnsupported}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.lookup(oldName)
	if err != nil {
		return err
	}
	dir, _ := f.lookup(path.Dir(newName))
	from, to := path.Base(oldName), path.Base(newName)
	if replaced := dir.entries[to]; replaced != nil {
		f.unlink(replaced)
	}
	delete(dir.entries, from)
	dir.entries[to] = n
	f.add(record{kind: Rename, node: dir, child: n, name: from, to: to})
	return nil
}

// Remove implements journal.FS.
func (f *FS) Remove(name string) error {
	if fault := f.inject(Remove, name, 0); fault != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fault.Err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.lookup(name)
	if err != nil {
		return err
	}
	if len(n.entries) > 0 {
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
	}
	dir, _ := f.lookup(path.Dir(name))
	f.remove(dir, path.Base(name))
	return nil
}

// RemoveAll implements journal.FS.
func (f *FS) RemoveAll(name string) error {
	if fault := f.inject(Remove, name, 0); fault != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fault.Err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.lookup(name); err != nil {
		return nil
	}
	dir, _ := f.lookup(path.Dir(name))
	f.remove(dir, path.Base(name))
	return nil
}

// remove is called with f.mu held.
func (f *FS) remove(dir *node, name string) {
	n := dir.entries[name]
	for child := range n.entries {
		f.remove(n, child)
	}
	delete(dir.entries, name)
	f.unlink(n)
	f.add(record{kind: Remove, node: dir, child: n, name: name})
}

func (f *FS) unlink(n *node) {
	n.links--
	f.reclaim(n)
}

func (f *FS) reclaim(n *node) {
	if n.links == 0 && n.handles == 0 {
		f.used -= int64(len(n.data))
	}
}

// SyncDir implements journal.FS.
func (f *FS) SyncDir(name string) error {
	f.mu.Lock()
	n, err := f.lookup(name)
	upTo := len(f.log)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	if fault := f.inject(SyncDir, name, 0); fault != nil {
		// What was to be synced stays as it is: durable or not.
		return &fs.PathError{Op: "fsync", Path: name, Err: fault.Err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.add(record{kind: SyncDir, node: n, upTo: upTo})
	return nil
}

// Chtimes implements journal.FS. No crash takes it back.
func (f *FS) Chtimes(name string, accessed, modified time.Time) error {
	if fault := f.inject(Chtimes, name, 0); fault != nil {
		return &fs.PathError{Op: "chtimes", Path: name, Err: fault.Err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.lookup(name)
	if err != nil {
		return err
	}
	if !accessed.IsZero() {
		n.used = accessed
	}
	if !modified.IsZero() {
		n.modTime = modified
	}
	return nil
}

func (n *node) info(name string) fs.FileInfo {
	return info{name, n.dir, int64(len(n.data)), n.modTime, n.used}
}

type info struct {
	name    string
	dir     bool
	size    int64
	modTime time.Time
	used    time.Time
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) ModTime() time.Time { return i.modTime }
func (i info) IsDir() bool        { return i.dir }
func (i info) Sys() any {
	return &syscall.Stat_t{Atim: syscall.NsecToTimespec(max(0, i.used.UnixNano()))}
}
func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}

// String names the kind in messages.
func (k Kind) String() string {
	names := []string{"?", "create", "write", "truncate", "mkdir", "rename", "remove", "fsync", "fsync of directory", "open", "read", "readdir", "chtimes"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// ReadOnly is to be injected for a file system that was mounted read-only, as Linux
// does when a disk fails.
func ReadOnly(op Op) *Fault {
	if op.Changes() || op.Kind == Chtimes || op.Kind == Open && op.Size != 0 {
		return &Fault{Err: syscall.EROFS}
	}
	return nil
}
