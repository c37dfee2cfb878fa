package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"sync/atomic"
)

const (
	dirPerm  fs.FileMode = 0o700
	filePerm fs.FileMode = 0o600
)

// FS is the part of a file system that a journal needs. Names are slash
// separated and relative to the tree's root. OS returns the real one; tests
// put a recording or failing one in its place.
type FS interface {
	OpenFile(name string, flag int, perm fs.FileMode) (Handle, error)
	MkdirAll(name string, perm fs.FileMode) error
	ReadDir(name string) ([]fs.DirEntry, error)
	Rename(oldName, newName string) error
	Remove(name string) error
	RemoveAll(name string) error
	// SyncDir makes the entries of a directory durable: a rename or a new
	// file is there after a power loss only once its directory was synced.
	SyncDir(name string) error
}

// Handle is an open file of an FS.
type Handle interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
}

// OS is the file tree below root. Because every access goes through an
// os.Root, a symbolic link planted in the tree cannot lead out of it.
func OS(root *os.Root) FS { return osFS{root} }

type osFS struct{ root *os.Root }

func (o osFS) OpenFile(name string, flag int, perm fs.FileMode) (Handle, error) {
	f, err := o.root.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (o osFS) MkdirAll(name string, perm fs.FileMode) error { return o.root.MkdirAll(name, perm) }
func (o osFS) Rename(oldName, newName string) error         { return o.root.Rename(oldName, newName) }
func (o osFS) Remove(name string) error                     { return o.root.Remove(name) }
func (o osFS) RemoveAll(name string) error                  { return o.root.RemoveAll(name) }

func (o osFS) ReadDir(name string) ([]fs.DirEntry, error) {
	d, err := o.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.ReadDir(-1)
}

func (o osFS) SyncDir(name string) error {
	d, err := o.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

var tempSequence atomic.Uint64

// tempName is a name beside name that no reader takes for a journal. The
// process id keeps a restarted process apart from files its predecessor left.
func tempName(name string) string {
	return path.Join(path.Dir(name), TempPrefix+strconv.Itoa(os.Getpid())+"-"+strconv.FormatUint(tempSequence.Add(1), 10))
}

// TempPrefix begins the name of every file that is not yet complete. What a
// crash leaves under such a name is garbage.
const TempPrefix = ".tmp-"

// WriteFile replaces the file name below root with data in one step: after a
// crash at any moment either the old content or the new is there. It returns
// once the new content is durable. The file's mode is 0600.
func WriteFile(root *os.Root, name string, data []byte) (err error) {
	fsys := OS(root)
	dir := path.Dir(name)
	if err := fsys.MkdirAll(dir, dirPerm); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	temp := tempName(name)
	f, err := fsys.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, filePerm)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = fsys.Rename(temp, name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, errors.Join(err, fsys.Remove(temp)))
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
