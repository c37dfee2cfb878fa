package seal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/edgehub-io/edge-hub/test/report"
)

func mustKey(t testing.TB, text string) *Key {
	t.Helper()
	k, err := NewKey([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustCipher(t testing.TB, k *Key, salt []byte, file string) *Cipher {
	t.Helper()
	c, err := k.Cipher(salt, file)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const (
	oneKey     = "one key of more than 32 bytes, for tests"
	anotherKey = "another key of more than 32 bytes, for tests"
)

func TestARecordOpensInItsPlaceOnly(t *testing.T) {
	salt, otherSalt := NewSalt(), NewSalt()
	key := mustKey(t, oneKey)
	c := mustCipher(t, key, salt, "a/b")
	for _, plain := range []string{"", "x", strings.Repeat("canary", 100_000)} {
		sealed := c.Seal(nil, []byte(plain), 7)
		if len(sealed) != len(plain)+Overhead || len(plain) > 6 && bytes.Contains(sealed, []byte("canary")) {
			t.Fatalf("%d bytes became %d", len(plain), len(sealed))
		}
		if got, err := mustCipher(t, key, salt, "a/b").Open(bytes.Clone(sealed), 7); err != nil || string(got) != plain {
			t.Fatalf("got %.20q, %v", got, err)
		}
		for place, elsewhere := range map[string]struct {
			*Cipher
			position int64
		}{
			"another position": {c, 8},
			"another file":     {mustCipher(t, key, salt, "a/c"), 7},
			"another salt":     {mustCipher(t, key, otherSalt, "a/b"), 7},
			"another node":     {mustCipher(t, mustKey(t, anotherKey), salt, "a/b"), 7},
		} {
			if got, err := elsewhere.Open(bytes.Clone(sealed), elsewhere.position); !errors.Is(err, ErrNotSealed) || got != nil {
				t.Errorf("%s: %.20q, %v", place, got, err)
			}
		}
		for i := range min(len(sealed), 100) {
			damaged := bytes.Clone(sealed)
			damaged[i] ^= 1
			if _, err := c.Open(damaged, 7); !errors.Is(err, ErrNotSealed) {
				t.Errorf("byte %d changed: %v", i, err)
			}
			if _, err := c.Open(bytes.Clone(sealed[:len(sealed)-i-1]), 7); !errors.Is(err, ErrNotSealed) {
				t.Errorf("%d bytes cut off: %v", i+1, err)
			}
		}
	}
}

// TestAPositionMayBeWrittenTwice: after a crash a record takes the place of a torn
// one, under the same key.
func TestAPositionMayBeWrittenTwice(t *testing.T) {
	c := mustCipher(t, mustKey(t, oneKey), NewSalt(), "a")
	nonces := map[string]bool{}
	for range 10_000 {
		nonces[string(c.Seal(nil, nil, 0)[:nonceSize])] = true
	}
	if len(nonces) != 10_000 {
		t.Errorf("%d nonces for 10,000 records", len(nonces))
	}
}

func TestSealAppends(t *testing.T) {
	c := mustCipher(t, mustKey(t, oneKey), NewSalt(), "a")
	buf := append(make([]byte, 0, 200), "head"...)
	out := c.Seal(buf, []byte("text"), 1)
	if string(out[:4]) != "head" || &out[0] != &buf[0] {
		t.Fatalf("%q", out)
	}
	if got, err := c.Open(out[4:], 1); err != nil || string(got) != "text" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestSaltsOfAnotherLengthAreRefused(t *testing.T) {
	for _, salt := range [][]byte{nil, make([]byte, SaltSize-1), make([]byte, SaltSize+1)} {
		if _, err := mustKey(t, oneKey).Cipher(salt, "a"); !errors.Is(err, ErrNotSealed) {
			t.Errorf("%d bytes: %v", len(salt), err)
		}
	}
}

// keys is a node with a state directory and a directory of credentials.
type keys struct {
	*testing.T
	state, credentials string
	root               *os.Root
}

func newKeys(t *testing.T) *keys {
	k := &keys{T: t, state: t.TempDir(), credentials: t.TempDir()}
	var err error
	if k.root, err = os.OpenRoot(k.state); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.root.Close() })
	return k
}

func (k *keys) open() *Key {
	k.Helper()
	key, err := OpenKey(k.credentials, k.root)
	if err != nil {
		k.Fatal(err)
	}
	return key
}

func (k *keys) file() string { return filepath.Join(k.state, keyFile) }

func (k *keys) write(file, content string, mode os.FileMode) {
	k.Helper()
	if err := os.WriteFile(file, []byte(content), mode); err != nil {
		k.Fatal(err)
	}
}

func TestTheKeyIsMadeOnce(t *testing.T) {
	k := newKeys(t)
	first := k.open()
	info, err := os.Stat(k.file())
	if err != nil || info.Mode() != 0o600 || info.Size() != keySize {
		t.Fatalf("%v, %v", info, err)
	}
	if err := os.Chmod(k.file(), 0o644); err != nil {
		t.Fatal(err)
	}
	if second := k.open(); second.ID() != first.ID() || !strings.HasPrefix(second.Origin(), "file ") {
		t.Errorf("%s, then %s from the %s", first, second, second.Origin())
	}
	if info, _ := os.Stat(k.file()); info.Mode() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if other := newKeys(t).open(); other.ID() == first.ID() {
		t.Error("two nodes have one key")
	}
}

func TestADamagedKeyIsReplaced(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "short": oneKey[:keySize-1], "long": oneKey[:keySize] + "x", "zeros": strings.Repeat("\x00", keySize),
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeys(t)
			first := k.open()
			k.write(k.file(), content, 0o600)
			second := k.open()
			if second.ID() == first.ID() || second.ID() != k.open().ID() {
				t.Errorf("%s, then %s, then %s", first, second, k.open())
			}
		})
	}
}

func TestACredentialTakesThePlaceOfTheFile(t *testing.T) {
	k := newKeys(t)
	first := k.open()
	credential := filepath.Join(k.credentials, CredentialName)
	k.write(credential, oneKey, 0o400)
	second := k.open()
	if second.ID() == first.ID() || second.ID() != mustKey(t, oneKey).ID() || !strings.HasPrefix(second.Origin(), "credential ") {
		t.Fatalf("%s, then %s from the %s", first, second, second.Origin())
	}
	if _, err := os.Stat(k.file()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is left: %v", err)
	}
	if err := os.Remove(credential); err != nil {
		t.Fatal(err)
	}
	if third := k.open(); third.ID() == first.ID() || third.ID() == second.ID() {
		t.Error("a key came back")
	}
}

// TestABadCredentialIsNotReplacedByAFile: somebody meant the key to be protected
// better.
func TestABadCredentialIsNotReplacedByAFile(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "short": oneKey[:keySize-1], "long": oneKey + strings.Repeat("x", maxKeySize), "zeros": strings.Repeat("\x00", keySize),
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeys(t)
			k.write(filepath.Join(k.credentials, CredentialName), content, 0o400)
			if key, err := OpenKey(k.credentials, k.root); err == nil || key != nil {
				t.Errorf("%v, %v", key, err)
			}
			if _, err := os.Stat(k.file()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a file was made: %v", err)
			}
		})
	}
	k := newKeys(t)
	if err := os.Mkdir(filepath.Join(k.credentials, CredentialName), 0o700); err != nil {
		t.Fatal(err)
	}
	if key, err := OpenKey(k.credentials, k.root); err == nil {
		t.Errorf("a directory is the key %v", key)
	}
}

// TestAReadOnlyDiskKeepsItsKey: what is sealed has to be opened on a node whose disk
// was remounted read-only, as file systems are that meet an error.
func TestAReadOnlyDiskKeepsItsKey(t *testing.T) {
	for name, credential := range map[string]string{"file": "", "credential": oneKey} {
		t.Run(name, func(t *testing.T) {
			k := newKeys(t)
			before := k.open()
			if credential != "" { // which takes the file's place
				k.write(filepath.Join(k.credentials, CredentialName), credential, 0o400)
				before = k.open()
			}
			k.mountReadOnly()
			if after := k.open(); after.ID() != before.ID() || after.Origin() != before.Origin() {
				t.Errorf("%s from %s, then %s from %s", before, before.Origin(), after, after.Origin())
			}
		})
	}
}

// mountReadOnly puts a read-only mount of the state directory in its place.
func (k *keys) mountReadOnly() {
	k.Helper()
	if err := syscall.Mount(k.state, k.state, "", syscall.MS_BIND, ""); err != nil {
		report.Line(k.T, "SKIPPED: no read-only file system: %v", err)
		k.Skipf("a file system can be mounted by root only: %v", err)
	}
	k.Cleanup(func() {
		if err := syscall.Unmount(k.state, syscall.MNT_DETACH); err != nil {
			k.Error(err)
		}
	})
	if err := syscall.Mount("", k.state, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""); err != nil {
		k.Fatal(err)
	}
	root, err := os.OpenRoot(k.state)
	if err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() { root.Close() })
	k.root = root
}

func TestAKeyPrintsWithoutItsSecret(t *testing.T) {
	key := mustKey(t, oneKey)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		out := fmt.Sprintf(verb, key)
		if strings.Contains(out, "one key") || strings.Contains(out, "111") || strings.Contains(out, fmt.Sprintf("%x", oneKey[:4])) {
			t.Errorf("%s prints %s", verb, out)
		}
	}
}

// FuzzOpen: what was not sealed by this key for this place is never opened.
func FuzzOpen(f *testing.F) {
	c := mustCipher(f, mustKey(f, oneKey), NewSalt(), "a/b")
	f.Add([]byte(`"t":"OBJECT","k":"a/b","rv":"1","o":{}}`), int64(0), 0, []byte(nil), 0)
	f.Add([]byte("x"), int64(1), 3, []byte("abc"), 3)
	f.Add([]byte{}, int64(-1), 20, []byte(nil), 100)
	f.Fuzz(func(t *testing.T, plain []byte, position int64, at int, text []byte, cut int) {
		if got, err := c.Open(bytes.Clone(plain), position); err == nil || got != nil {
			t.Fatalf("%q was opened as %q", plain, got)
		}
		sealed := c.Seal(nil, plain, position)
		at = int(uint(at) % uint(len(sealed)+1))
		cut = int(uint(cut) % uint(len(sealed)-at+1))
		changed := slices.Concat(sealed[:at], text, sealed[at+cut:])
		got, err := c.Open(bytes.Clone(changed), position)
		if bytes.Equal(changed, sealed) {
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("%q was opened as %q, %v", plain, got, err)
			}
		} else if err == nil || got != nil {
			t.Fatalf("%q was opened as %q, though %q took the place of %d bytes at %d", plain, got, text, cut, at)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	for _, size := range []int{100, 2 << 10, 64 << 10} {
		c := mustCipher(b, mustKey(b, oneKey), NewSalt(), "a")
		plain, buf := make([]byte, size), []byte(nil)
		b.Run(fmt.Sprint("seal ", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				buf = c.Seal(buf[:0], plain, 1)
			}
		})
		sealed := c.Seal(nil, plain, 1)
		b.Run(fmt.Sprint("open ", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				buf = append(buf[:0], sealed...)
				if _, err := c.Open(buf, 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
