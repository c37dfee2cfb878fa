package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"
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
	// Chtimes sets when a file was last accessed and modified; the zero time
	// leaves one as it is.
	Chtimes(name string, accessed, modified time.Time) error
}

// Accessed is when a file was last accessed as its FS says, the zero time if
// it doesn't.
func Accessed(info fs.FileInfo) time.Time {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(stat.Atim.Unix())
	}
	return time.Time{}
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
// os.Root, a symbolic link planted in the tree cannot lead out of it. Files that
// are links are refused as damaged.
func OS(root *os.Root) FS { return osFS{root} }

type osFS struct{ root *os.Root }

func (o osFS) OpenFile(name string, flag int, perm fs.FileMode) (Handle, error) {
	// Reading does not move the access time, which Chtimes sets. The kernel
	// allows that to the file's owner.
	f, err := o.root.OpenFile(name, flag|syscall.O_NOATIME, perm)
	if errors.Is(err, syscall.EPERM) {
		f, err = o.root.OpenFile(name, flag, perm)
	}
	if err != nil {
		return nil, err
	}
	if err := o.checkOwn(name, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// checkOwn refuses a file that has another name as well, of which an os.Root
// knows nothing: a hard link may lead out of the tree, and a symbolic link within
// it to another view's file.
func (o osFS) checkOwn(name string, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink > 1 {
		return fmt.Errorf("%s is a hard link: %w", name, ErrCorrupt)
	}
	if info, err = o.root.Lstat(name); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return fmt.Errorf("%s is a symbolic link: %w", name, ErrCorrupt)
	}
	return nil
}

func (o osFS) Chtimes(name string, accessed, modified time.Time) error {
	return o.root.Chtimes(name, accessed, modified)
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

// tempName is a name beside name that no reader takes for a journal. id must
// differ from those of other processes, a former one with the same process id
// among them, whose files a crash may have left.
func tempName(name, id string) string { return path.Join(path.Dir(name), TempPrefix+id) }

// TempPrefix begins the name of every file that is not yet complete. What a
// crash leaves under such a name is garbage.
const TempPrefix = ".tmp-"

// WriteFile replaces the file name below root with data in one step: after a
// crash at any moment either the old content or the new is there. It returns
// once the new content is durable. The file's mode is 0600.
func WriteFile(root *os.Root, name string, data []byte) error { return writeFile(OS(root), name, data) }

func writeFile(fsys FS, name string, data []byte) error {
	dir := path.Dir(name)
	_, err := fsys.ReadDir(dir)
	isNew := errors.Is(err, fs.ErrNotExist)
	if err := fsys.MkdirAll(dir, dirPerm); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	temp := tempName(name, rand.Text())
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
	for {
		if err := fsys.SyncDir(dir); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if !isNew || dir == "." {
			return nil
		}
		// The directory's own entry is new, and perhaps those above.
		dir = path.Dir(dir)
	}
}

// RemoveTemporary removes what a crash left below root of files that WriteFile was
// writing. Nobody else may be writing there.
func RemoveTemporary(root *os.Root) error {
	return fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.HasPrefix(e.Name(), TempPrefix) {
			err = root.Remove(name)
		}
		if err != nil {
			return fmt.Errorf("remove temporary files: %w", err)
		}
		return nil
	})
}
