package cache

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/seal"
)

// The file of a sealed view has records of its own:
//
//	{"crc":"…","t":"SEALED","v":1,"key":{…},"by":"…","salt":"…"}  once, first
//	{"crc":"…","s":"…"}                                           one for each record of the view
//
// The first says, for people, what is in the file, less what names objects; "by" is
// the ID of the node key and "salt" the file's, in base64. The others are what
// seal.Cipher makes of the records described at recordView, in base64; a record's
// position is its offset, and the file's identity its path.
const recordSealed = "SEALED"

// errOtherKey says that a file was sealed with another node key. It may be of
// use again: a node may have been started without its credential.
var errOtherKey = errors.New("sealed with another key")

type sealedRecord struct {
	Type    string `json:"t"`
	Version int    `json:"v"`
	Key     Key    `json:"key"`
	By      string `json:"by"`
	Salt    []byte `json:"salt"`
}

// sealed reports whether a view is encrypted on the disk.
func (k Key) sealed() bool { return k.Group == "" && k.Resource == "secrets" }

// holdsSealed is Key.sealed for the path of the directory that a view is in.
func holdsSealed(dir string) bool {
	name := path.Base(dir)
	return strings.HasPrefix(name, "secrets.") && strings.HasSuffix(name, ".core")
}

// overt is what of a sealed view's key may be read by anybody.
func (k Key) overt() Key {
	k.Name, k.LabelSelector, k.FieldSelector, k.Document = "", "", "", ""
	return k
}

// viewFile is a view's journal file. The records of a sealed one are plain to
// whoever appends and reads them. Only one may append at a time.
type viewFile struct {
	*journal.File
	cipher *seal.Cipher // nil if it is not sealed
}

// stageFile stages a view's file, and writes what comes first.
func (s *Store) stageFile(v *view) (*viewFile, error) {
	staged, err := s.journal.Stage(v.file)
	if err != nil {
		return nil, err
	}
	f := &viewFile{File: staged}
	if v.key.sealed() {
		err = f.seal(s.sealKey, v.key)
	}
	if err == nil {
		err = appendJSON(f, viewRecord{recordView, formatVersion, v.key})
	}
	if err != nil {
		return nil, errors.Join(err, f.Discard())
	}
	return f, nil
}

func (f *viewFile) seal(by *seal.Key, key Key) (err error) {
	if by == nil {
		return errors.New("no key to seal with")
	}
	salt := seal.NewSalt()
	if err = appendJSON(f, sealedRecord{recordSealed, formatVersion, key.overt(), by.ID(), salt}); err == nil {
		f.cipher, err = by.Cipher(salt, f.Name())
	}
	return err
}

// openFile opens a view's file and calls fn for each of the view's records, as
// journal.Store.Open does. A file that ought to be sealed and is not is damaged.
func (s *Store) openFile(name string, fn func(journal.Position, []byte) error) (*viewFile, error) {
	f := &viewFile{}
	sealed := holdsSealed(path.Dir(name))
	var err error
	f.File, err = s.journal.Open(name, func(pos journal.Position, body []byte) (err error) {
		if sealed && pos.Offset == 0 {
			f.cipher, err = s.cipherOf(name, body)
			return err
		}
		return f.plain(pos, body, fn)
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// cipherOf reads the first record of a sealed file.
func (s *Store) cipherOf(name string, body []byte) (*seal.Cipher, error) {
	rec, err := parseSealed(body)
	if err != nil {
		return nil, err
	}
	if s.sealKey == nil || rec.By != s.sealKey.ID() {
		return nil, errOtherKey
	}
	c, err := s.sealKey.Cipher(rec.Salt, name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, journal.ErrCorrupt)
	}
	return c, nil
}

func parseSealed(body []byte) (rec sealedRecord, err error) {
	if !bytes.HasPrefix(body, []byte(`"t":"`+recordSealed+`"`)) {
		return rec, fmt.Errorf("not sealed: %w", journal.ErrCorrupt)
	}
	if err := json.Unmarshal(append([]byte{'{'}, body...), &rec); err != nil {
		return rec, fmt.Errorf("decode record: %w: %w", err, journal.ErrCorrupt)
	}
	if rec.Version != formatVersion {
		return rec, fmt.Errorf("format version %d: %w", rec.Version, errFormat)
	}
	return rec, nil
}

const (
	sealedHead = `"s":"`
	sealedTail = `"}`
)

// plain calls fn with a record as it was appended.
func (f *viewFile) plain(pos journal.Position, body []byte, fn func(journal.Position, []byte) error) error {
	if f.cipher == nil {
		return fn(pos, body)
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	opened, err := f.open(buf, pos, body)
	if err != nil {
		return err
	}
	return fn(pos, opened)
}

// open returns what was sealed, in a part of buf, which it makes larger if need be.
func (f *viewFile) open(buf *[]byte, pos journal.Position, body []byte) (plain []byte, err error) {
	if len(body) < len(sealedHead)+len(sealedTail) || string(body[:len(sealedHead)]) != sealedHead {
		return nil, fmt.Errorf("not sealed: %w", journal.ErrCorrupt)
	}
	text := body[len(sealedHead) : len(body)-len(sealedTail)]
	if *buf, err = base64.StdEncoding.AppendDecode((*buf)[:0], text); err == nil {
		plain, err = f.cipher.Open(*buf, pos.Offset)
	}
	if err != nil {
		return nil, fmt.Errorf("open record: %w: %w", err, journal.ErrCorrupt)
	}
	return plain, nil
}

// buffers are for records that are sealed or opened. Nothing that is idle holds
// one.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// Append appends a record.
func (f *viewFile) Append(parts ...[]byte) (journal.Position, error) {
	if f.cipher == nil {
		return f.File.Append(parts...)
	}
	plain, sealed := buffers.Get().(*[]byte), buffers.Get().(*[]byte)
	defer buffers.Put(plain)
	defer buffers.Put(sealed)
	*plain = (*plain)[:0]
	for _, p := range parts {
		*plain = append(*plain, p...)
	}
	at := f.Size()
	*sealed = f.cipher.Seal((*sealed)[:0], *plain, at)
	text := append((*plain)[:0], sealedHead...)
	text = base64.StdEncoding.AppendEncode(text, *sealed)
	text = append(text, sealedTail...)
	*plain = text
	pos, err := f.File.Append(text)
	if err == nil && pos.Offset != at {
		err = fmt.Errorf("append to %s at %d, sealed for %d: %w", f.Name(), pos.Offset, at, errNotLegal)
	}
	return pos, err
}

// Scan calls fn for each of the view's records in order. The body is valid until
// fn returns.
func (f *viewFile) Scan(fn func(journal.Position, []byte) error) error {
	return f.File.Scan(func(pos journal.Position, body []byte) error {
		if f.cipher != nil && pos.Offset == 0 {
			return nil
		}
		return f.plain(pos, body, fn)
	})
}

// Read returns the record at a position, in buf if it is large enough.
func (f *viewFile) Read(pos journal.Position, buf []byte) ([]byte, error) {
	if f.cipher == nil {
		return f.File.Read(pos, buf)
	}
	line := buffers.Get().(*[]byte)
	defer buffers.Put(line)
	if cap(*line) < int(pos.Length) {
		*line = make([]byte, pos.Length)
	}
	body, err := f.File.Read(pos, *line)
	if err != nil {
		return nil, err
	}
	return f.open(&buf, pos, body)
}
