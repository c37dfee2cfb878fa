package certificates

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

// load reads a key and its certificates. There may be no file yet: then it
// returns nil.
func load(root *os.Root, name string) (*tls.Certificate, error) {
	data, err := root.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: %w", name, err)
	}
	return &pair, nil
}

// LoadClient returns the hub's own client certificate that a Manager has kept in a state
// directory, nil if there is none.
func LoadClient(state *os.Root) (*tls.Certificate, error) { return load(state, clientFile) }

// store replaces the file with a key and its certificates (PEM), durably and in
// one step.
func store(root *os.Root, name string, key *ecdsa.PrivateKey, certificates []byte) error {
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	return journal.WriteFile(root, name, slices.Concat(keyPEM, certificates))
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
