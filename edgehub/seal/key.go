package seal

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

const (
	// CredentialName is the name of the node key among systemd's credentials.
	CredentialName = "edge-hub.key"

	// keyFile is the node key in the state directory, if there is no credential.
	keyFile = "seal/node.key"

	// keySize is the size of a key that this package makes, in bytes, and the
	// least that it takes from others.
	keySize = 32
	// maxKeySize is the most; systemd takes as much for a credential.
	maxKeySize = 1 << 20
)

// Key is a node's key. It is safe for concurrent use, and prints without what is
// secret.
type Key struct {
	secret []byte
	id     string
	origin string
}

// OpenKey returns the node key. It is the file edge-hub.key in the directory of
// systemd's credentials (systemd.exec(5), $CREDENTIALS_DIRECTORY), if there is
// one: at least 32 random bytes, in whatever form. Else it is a file of mode 0600
// in the state directory, which is made if there is none, or none that can be a
// key. A credential takes the place of such a file for good: what the file's key
// protects must not be readable by whoever has the disk, and so it is removed.
//
// An error says that there is no key, because the credential can't be one or the
// state directory can't be used. Nothing should be written then that is to be
// sealed: a key that somebody meant to protect better is not replaced by a file.
func OpenKey(credentials string, state *os.Root) (*Key, error) {
	if credentials != "" {
		secret, err := readCredential(credentials)
		if err == nil {
			if err := state.Remove(keyFile); err == nil {
				klog.InfoS("Removed the node key from the state directory: a credential has taken its place", "file", keyFile)
			} else if _, left := state.Lstat(keyFile); !errors.Is(left, fs.ErrNotExist) { // which a read-only disk does not say
				return nil, fmt.Errorf("remove the node key that a credential replaces: %w", err)
			}
			return newKey(secret, "credential "+CredentialName)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read credential %s: %w", CredentialName, err)
		}
	}
	secret, err := openFile(state)
	if err != nil {
		return nil, err
	}
	return newKey(secret, "file "+keyFile+" in the state directory")
}

// NewKey returns a key of at least 32 random bytes.
func NewKey(secret []byte) (*Key, error) { return newKey(secret, "given") }

func newKey(secret []byte, origin string) (*Key, error) {
	if err := check(secret); err != nil {
		return nil, fmt.Errorf("use node key: %w", err)
	}
	id, err := hkdf.Key(sha256.New, secret, nil, "edge-hub node key id", 8)
	if err != nil {
		return nil, fmt.Errorf("use node key: %w", err)
	}
	return &Key{secret: secret, id: hex.EncodeToString(id), origin: origin}, nil
}

// ID tells keys apart, and nothing about them.
func (k *Key) ID() string { return k.id }

// Origin says, for people, where the key is kept.
func (k *Key) Origin() string { return k.origin }

// String returns the key's ID.
func (k *Key) String() string { return k.id }

// GoString returns the key's ID as well.
func (k *Key) GoString() string { return k.id }

// check refuses what is too short to be secret, and the zeros that some file
// systems leave in a file whose blocks were never written.
func check(secret []byte) error {
	if len(secret) < keySize || len(secret) > maxKeySize {
		return fmt.Errorf("it has %d bytes, must have %d to %d", len(secret), keySize, maxKeySize)
	}
	for _, b := range secret {
		if b != secret[0] {
			return nil
		}
	}
	return errors.New("all its bytes are the same")
}

func readCredential(dir string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(CredentialName)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	secret, err := io.ReadAll(io.LimitReader(f, maxKeySize+1))
	if err == nil {
		err = check(secret)
	}
	return secret, err
}

// openFile returns the key in the state directory, and makes it if need be.
func openFile(state *os.Root) ([]byte, error) {
	secret, err := state.ReadFile(keyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read node key: %w", err)
	case len(secret) == keySize && check(secret) == nil:
		// It may have been touched by hand.
		if info, err := state.Stat(keyFile); err == nil && info.Mode().Perm()&0o077 == 0 {
			return secret, nil // also on a read-only disk
		}
		if err := state.Chmod(keyFile, 0o600); err != nil {
			return nil, fmt.Errorf("close node key to others: %w", err)
		}
		return secret, nil
	default:
		klog.ErrorS(check(secret), "The node key is damaged: making a new one. What was sealed with it is cached again once it is read again", "file", keyFile)
	}
	secret = make([]byte, keySize)
	rand.Read(secret) // never fails: see crypto/rand
	if err := journal.WriteFile(state, keyFile, secret); err != nil {
		return nil, fmt.Errorf("make node key: %w", err)
	}
	return secret, nil
}
