package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/seal"
)

// Inspector reads a cache directory for people. It changes nothing, not even when
// a view was last used, and so it can look at the directory of a running hub.
type Inspector struct {
	fs    journal.FS
	key   *seal.Key
	pause time.Duration // before a damaged file is looked at again
}

// NewInspector returns an Inspector of a cache directory. Sealed views are opened
// with key; without one only what anybody may know of them is told.
func NewInspector(directory *os.Root, key *seal.Key) *Inspector {
	return &Inspector{fs: journal.OS(directory), key: key, pause: lookAgain}
}

// ViewInfo describes a view on the disk.
type ViewInfo struct {
	// Key is the view's. Of a sealed view that can't be opened it lacks what may
	// name objects; of a damaged file it has what the names of directories say.
	Key Key `json:"key"`
	// File is the view's file in the cache directory.
	File string `json:"file"`
	// Bytes is the size of the file.
	Bytes int64 `json:"bytes"`
	// Objects are those in the view, 0 for a document.
	Objects int `json:"objects"`
	// ResourceVersion is that up to which the view is complete.
	ResourceVersion string `json:"resourceVersion,omitempty"`
	// Refused is the status code with which kube-apiserver has refused the
	// object, 0 if it hasn't: there is nothing to serve.
	Refused int `json:"refused,omitempty"`
	// Confirmed is when the cloud last confirmed the content, as of some moment
	// in the last minute if a hub is running.
	Confirmed time.Time `json:"confirmed"`
	// Complete is true if the file holds all of a list, object or document: it
	// is what the hub would serve without the cloud.
	Complete bool `json:"complete"`
	// Sealed is true if the view is encrypted, and Opened if the node key opens it.
	Sealed bool `json:"sealed,omitempty"`
	Opened bool `json:"opened,omitempty"`
	// Damage says what is wrong with the file, empty if nothing is.
	Damage string `json:"damage,omitempty"`
}

// Views calls fn for each view that match lets pass, in no particular order. What
// disappears meanwhile is left out.
func (i *Inspector) Views(ctx context.Context, match func(Key) bool, fn func(ViewInfo) error) error {
	return i.files(".", 0, func(file string, info fs.FileInfo) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if key, known := keyOfPath(file); known && !match(key) {
			return nil // without reading it
		}
		view, err := i.look(ctx, file, info)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case !match(view.Key):
			return nil
		}
		return fn(view)
	})
}

// files calls fn for each file that is called like a view's.
func (i *Inspector) files(dir string, depth int, fn func(file string, info fs.FileInfo) error) error {
	entries, err := i.fs.ReadDir(dir)
	if depth > 0 && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the cache directory: %w", err)
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		switch {
		case depth < 3 && e.IsDir():
			err = i.files(name, depth+1, fn)
		case depth == 3 && !e.IsDir() && strings.HasSuffix(e.Name(), fileSuffix) && !strings.HasPrefix(e.Name(), journal.TempPrefix):
			info, statErr := e.Info()
			if statErr != nil {
				continue // it has gone
			}
			err = fn(name, info)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keyOfPath is what a file's directories tell of its view, and whether they tell
// all of that: long names are shortened.
func keyOfPath(file string) (k Key, known bool) {
	resource := path.Base(path.Dir(file))
	identity := path.Dir(path.Dir(file))
	agent, knowsAgent := named(path.Dir(identity))
	name, knowsIdentity := named(path.Base(identity))
	resource, knowsResource := named(resource)
	k.Agent, k.Identity = agent, name
	if parts := strings.SplitN(resource, ".", 3); len(parts) == 3 {
		k.Resource, k.Version, k.Group = parts[0], parts[1], parts[2]
	}
	if k.Group == "core" {
		k.Group = ""
	}
	return k, knowsAgent && knowsIdentity && knowsResource
}

const (
	// A record that a running hub is about to write is whole a moment later.
	lookAgain = 100 * time.Millisecond
	looks     = 5
)

// look reads a view's file.
func (i *Inspector) look(ctx context.Context, file string, info fs.FileInfo) (ViewInfo, error) {
	for n := 1; ; n++ {
		l, f, err := i.load(file, nil)
		key, _ := keyOfPath(file)
		view := ViewInfo{
			Key: key, File: file, Bytes: info.Size(), Confirmed: info.ModTime(),
			Sealed: holdsSealed(path.Dir(file)), Opened: f.cipher != nil,
		}
		if err == nil {
			view.Key, view.Complete = l.key, true
			view.Objects, view.Refused, view.ResourceVersion = l.objects, l.end.Refused, l.version()
			if l.key.isDocument() {
				view.Objects = 0
			}
			return view, nil
		}
		if errors.Is(err, errOtherKey) {
			view.Key = f.overt // no more can be known
			view.Complete = true
			return view, nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			return view, err
		}
		if n == looks { // be it that the disk can't read it
			view.Damage, view.Complete = err.Error(), l.ended
			return view, nil
		}
		select {
		case <-ctx.Done():
			return view, ctx.Err()
		case <-time.After(i.pause):
		}
	}
}

// openedFile is a file that an Inspector reads.
type openedFile struct {
	viewFile
	handle journal.Handle // closed, unless load was asked for an index
	overt  Key            // of a sealed view
}

// load reads a file as a hub does that starts, and fills an index if there is
// one. The caller then closes the handle. An error that is damage says so.
func (i *Inspector) load(file string, x *index) (l loader, f openedFile, err error) {
	l.index = x
	if f.handle, err = i.fs.OpenFile(file, os.O_RDONLY, 0); err != nil {
		return l, f, err
	}
	defer func() {
		if x == nil || err != nil {
			_ = f.handle.Close() // it was only read
		}
	}()
	info, err := f.handle.Stat()
	if err != nil {
		return l, f, err
	}
	sealed := holdsSealed(path.Dir(file))
	intact, err := journal.Inspect(io.NewSectionReader(f.handle, 0, info.Size()), func(pos journal.Position, body []byte) error {
		if sealed && pos.Offset == 0 {
			return i.unseal(&f, file, body)
		}
		return f.plain(pos, body, l.read)
	})
	switch {
	case err != nil:
	case intact < info.Size():
		err = fmt.Errorf("damaged at byte %d of %d: %w", intact, info.Size(), journal.ErrCorrupt)
	case !l.ended:
		err = fmt.Errorf("list without end: %w", journal.ErrCorrupt)
	case l.key.file() != file:
		err = fmt.Errorf("holds another view: %w", journal.ErrCorrupt)
	}
	return l, f, err
}

// unseal reads the first record of a sealed file.
func (i *Inspector) unseal(f *openedFile, file string, body []byte) error {
	rec, err := parseSealed(body)
	if err != nil {
		return err
	}
	f.overt = rec.Key
	if i.key == nil || rec.By != i.key.ID() {
		return errOtherKey
	}
	if f.cipher, err = i.key.Cipher(rec.Salt, file); err != nil {
		return fmt.Errorf("%w: %w", err, journal.ErrCorrupt)
	}
	return nil
}

// version is the resourceVersion up to which what was read is complete.
func (l *loader) version() string {
	v := view{head: l.end, last: l.last}
	return v.version()
}
