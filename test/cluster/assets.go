package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const mainModule = "github.com/edgehub-io/edge-hub"

// Binary is the path of a control plane program such as kube-apiserver: in
// KUBEBUILDER_ASSETS if that is set and has it, otherwise in bin/controlplane of
// this repository, where make controlplane builds it.
func Binary(name string) (string, error) {
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		path, err := filepath.Abs(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	root, err := repositoryRoot()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, "bin", "controlplane", name)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is not there: run make controlplane", path)
	} else if err != nil {
		return "", err
	}
	return path, nil
}

// repositoryRoot walks up from the working directory, which go test sets to the
// folder of the package under test.
func repositoryRoot() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		if moduleOf(filepath.Join(dir, "go.mod")) == mainModule {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not in the edge-hub repository: set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver and kubectl", wd)
		}
	}
}

// moduleOf is the module a go.mod declares, or "" when there is none.
func moduleOf(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if module, ok := strings.CutPrefix(strings.TrimSpace(s.Text()), "module "); ok {
			return strings.TrimSpace(module)
		}
	}
	return ""
}
