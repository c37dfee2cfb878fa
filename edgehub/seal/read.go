package seal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// ReadKey returns the node key that OpenKey would, but makes none, removes none
// and changes nothing: it is for programs that look at what a hub has sealed.
// The error is fs.ErrNotExist if there is no key.
func ReadKey(credentials string, state *os.Root) (*Key, error) {
	if credentials != "" {
		secret, err := readCredential(credentials)
		if err == nil {
			return newKey(secret, "credential "+CredentialName)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read credential %s: %w", CredentialName, err)
		}
	}
	secret, err := state.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read node key: %w", err)
	}
	return newKey(secret, "file "+keyFile+" in the state directory")
}
