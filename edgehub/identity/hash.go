package identity

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"hash"
	"os"
	"sync"

	"k8s.io/klog/v2"
)

// digest is an HMAC-SHA256 made with the node key.
//
// Digests are map keys and are not compared in constant time: what a caller could
// learn from the timing of a lookup is about a value it cannot compute without
// the node key.
type digest [sha256.Size]byte

// A domain keeps digests made for different purposes apart.
type domain byte

const (
	tokenDomain   domain = 't' // of a whole token, as sent
	payloadDomain domain = 'p' // of a verified token's payload
)

// hasher computes digests without allocating.
type hasher struct {
	states sync.Pool // *hashState
}

type hashState struct {
	mac hash.Hash
	buf []byte
}

func newHasher(key []byte) *hasher {
	h := &hasher{}
	h.states.New = func() any { return &hashState{mac: hmac.New(sha256.New, key)} }
	return h
}

func (h *hasher) sum(d domain, s string) (out digest) {
	st := h.states.Get().(*hashState)
	defer h.states.Put(st)
	st.mac.Reset()
	st.buf = append(append(st.buf[:0], byte(d)), s...)
	st.mac.Write(st.buf)
	clear(st.buf)
	copy(out[:], st.mac.Sum(st.buf[:0]))
	return out
}

// openNodeKey returns the key that opaque tokens are hashed with, making one if
// there is none or if what is there cannot be one.
func openNodeKey(dir *os.Root) ([]byte, error) {
	key, err := readState(dir, nodeKeyFile)
	if err != nil {
		return nil, fmt.Errorf("read node key: %w", err)
	}
	if usableNodeKey(key) {
		return key, nil
	}
	if key != nil {
		klog.ErrorS(nil, "The node key is damaged: making a new one. What is cached for opaque tokens is lost to them until they list again",
			"file", nodeKeyFile, "bytes", len(key), "setAside", nodeKeyFile+".damaged")
		if err := dir.Rename(nodeKeyFile, nodeKeyFile+".damaged"); err != nil {
			return nil, fmt.Errorf("set damaged node key aside: %w", err)
		}
	}
	key = make([]byte, sha256.Size)
	rand.Read(key) // never fails: see crypto/rand
	if err := writeState(dir, nodeKeyFile, key); err != nil {
		return nil, fmt.Errorf("write node key: %w", err)
	}
	return key, nil
}

// usableNodeKey refuses the wrong length and the zeros that some file systems
// leave in a file whose blocks were never written.
func usableNodeKey(key []byte) bool {
	if len(key) != sha256.Size {
		return false
	}
	for _, b := range key {
		if b != 0 {
			return true
		}
	}
	return false
}
