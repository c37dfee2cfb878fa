package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

const (
	// SaltSize is how many random bytes a file's salt has.
	SaltSize = 32

	nonceSize = 12
	tagSize   = 16
	// Overhead is by how many bytes a sealed record is longer than it was.
	Overhead = nonceSize + tagSize
)

// ErrNotSealed says that bytes were not sealed with this key for this place.
var ErrNotSealed = errors.New("not sealed for this place")

// Cipher seals the records of one file. It is safe for concurrent use.
type Cipher struct {
	aead cipher.AEAD
	file [sha256.Size]byte // digest of the file's identity
}

// NewSalt returns the salt of a new file, which is no secret.
func NewSalt() []byte {
	salt := make([]byte, SaltSize)
	rand.Read(salt) // never fails: see crypto/rand
	return salt
}

// Cipher returns the cipher of the file that has a salt, and an identity by
// which no other file goes.
func (k *Key) Cipher(salt []byte, file string) (*Cipher, error) {
	if len(salt) != SaltSize {
		return nil, fmt.Errorf("salt of %d bytes: %w", len(salt), ErrNotSealed)
	}
	key, err := hkdf.Key(sha256.New, k.secret, salt, "edge-hub sealed file 1", 32)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return &Cipher{aead, sha256.Sum256([]byte(file))}, nil
}

// Seal appends to dst the sealed form of a record at a position of its file.
// plain and dst must not overlap.
func (c *Cipher) Seal(dst, plain []byte, position int64) []byte {
	dst = slices.Grow(dst, len(plain)+Overhead)
	nonce := dst[len(dst) : len(dst)+nonceSize]
	rand.Read(nonce) // never fails: see crypto/rand
	return c.aead.Seal(dst[:len(dst)+nonceSize], nonce, plain, c.place(position))
}

// Open returns the record that was sealed for a position, in the place of its
// sealed form. The error is ErrNotSealed.
func (c *Cipher) Open(sealed []byte, position int64) ([]byte, error) {
	if len(sealed) < Overhead {
		return nil, ErrNotSealed
	}
	nonce, text := sealed[:nonceSize], sealed[nonceSize:]
	plain, err := c.aead.Open(text[:0], nonce, text, c.place(position))
	if err != nil {
		return nil, ErrNotSealed
	}
	return plain, nil
}

// place is the additional data of a record.
func (c *Cipher) place(position int64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, len(c.file)+8), c.file[:]...), uint64(position))
}
