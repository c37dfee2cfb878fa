package tokens

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/seal"
)

// fileName is where tokens are kept, in the state directory. Its first record says
// which key it was sealed with, each other one is a token:
//
//	{"crc":"…","t":"TOKENS","v":1,"key":"…","salt":"…"}
//	{"crc":"…","t":"TOKEN","sealed":"…"}
const fileName = "tokens/kubelet.jsonl"

const version = 1

// line is a record of the file.
type line struct {
	Type   string `json:"t"`
	V      int    `json:"v,omitempty"`
	Key    string `json:"key,omitempty"`
	Salt   []byte `json:"salt,omitempty"`
	Sealed []byte `json:"sealed,omitempty"`
}

// record is what is sealed of a token.
type record struct {
	Request string `json:"request"` // hexadecimal
	Subject string `json:"subject"`
	Answer  Answer `json:"answer"`
}

func recordOf(q Request, a Answer) record {
	return record{hex.EncodeToString(q.digest[:]), q.subject, a}
}

// request is the Request that the record is the answer to.
func (r *record) request() (q Request) {
	_, _ = hex.Decode(q.digest[:], []byte(r.Request)) // it was sealed as it is
	q.subject = r.Subject
	return q
}

// file is a journal of sealed tokens.
type file struct {
	*journal.File
	cipher *seal.Cipher
	next   int64 // number of the next record
	dead   int   // how many tokens of it are not wanted any more
}

// place is where a token is: at which position, sealed as which record.
type place struct {
	position journal.Position
	number   int64
}

var errOtherKey = errors.New("they were sealed with another key, or by another version")

// openFile reads the published file and calls found for each token that can be
// read.
func openFile(store *journal.Store, key *seal.Key, found func(place, record)) (*file, error) {
	f := &file{}
	var err error
	f.File, err = store.Open(fileName, func(position journal.Position, body []byte) error {
		var l line
		if err := json.Unmarshal(append([]byte{'{'}, body...), &l); err != nil {
			return journal.ErrCorrupt
		}
		if f.cipher == nil {
			if l.Type != "TOKENS" || l.V != version || l.Key != key.ID() {
				return errOtherKey
			}
			cipher, err := key.Cipher(l.Salt, fileName)
			f.cipher = cipher
			return err
		}
		p := place{position, f.next}
		f.next++
		if r, err := f.open(l, p.number); err == nil {
			found(p, r)
		} else {
			f.dead++
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if f.cipher == nil {
		return nil, errors.Join(errors.New("the file is empty"), f.Close())
	}
	return f, nil
}

// stageFile returns a file that takes the place of the published one once it is
// published itself.
func stageFile(store *journal.Store, key *seal.Key) (*file, error) {
	salt := seal.NewSalt()
	cipher, err := key.Cipher(salt, fileName)
	if err != nil {
		return nil, err
	}
	staged, err := store.Stage(fileName)
	if err != nil {
		return nil, err
	}
	f := &file{File: staged, cipher: cipher}
	if _, err := f.write(line{Type: "TOKENS", V: version, Key: key.ID(), Salt: salt}); err != nil {
		return nil, errors.Join(err, f.Discard())
	}
	return f, nil
}

func (f *file) write(l line) (journal.Position, error) {
	text, err := json.Marshal(l)
	if err != nil {
		return journal.Position{}, err
	}
	return f.Append(text[1:]) // the brace is the journal's
}

// append seals a token and appends it.
func (f *file) append(r record) (place, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return place{}, err
	}
	position, err := f.write(line{Type: "TOKEN", Sealed: f.cipher.Seal(nil, text, f.next)})
	if err != nil {
		return place{}, err
	}
	p := place{position, f.next}
	f.next++
	// It is on its way, and tried again if that fails.
	_ = f.Flush()
	return p, nil
}

// read returns the token at a place.
func (f *file) read(p place) (record, error) {
	body, err := f.Read(p.position, nil)
	if err != nil {
		return record{}, err
	}
	var l line
	if err := json.Unmarshal(append([]byte{'{'}, body...), &l); err != nil {
		return record{}, fmt.Errorf("read token: %w", err)
	}
	return f.open(l, p.number)
}

func (f *file) open(l line, number int64) (r record, err error) {
	text, err := f.cipher.Open(l.Sealed, number)
	if err != nil {
		return r, fmt.Errorf("open token: %w", err)
	}
	err = json.Unmarshal(text, &r)
	return r, err
}
