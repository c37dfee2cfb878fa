package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/google/licensecheck"
	"golang.org/x/mod/module"
)

// noAssertion is what SPDX says of what nobody found out.
const noAssertion = "NOASSERTION"

// licenseFile matches the names that licences usually have.
var licenseFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense)([-._].*)?$`)

// enoughOfALicense is the percentage of a file's words that known licences must
// make up, for a file that has more than that to say may change their meaning.
const enoughOfALicense = 75

// modules knows where the source of what a program is linked from lies.
type modules struct {
	cache  string // the module cache (go.dev/ref/mod#module-cache)
	goroot string
}

func findModules() (modules, error) {
	out, err := exec.Command("go", "env", "-json", "GOMODCACHE", "GOROOT").Output()
	if err != nil {
		return modules{}, fmt.Errorf("ask go for its folders: %w", err)
	}
	var env struct{ GOMODCACHE, GOROOT string }
	if err := json.Unmarshal(out, &env); err != nil {
		return modules{}, fmt.Errorf("ask go for its folders: %w", err)
	}
	return modules{cache: env.GOMODCACHE, goroot: env.GOROOT}, nil
}

// linked is the module that was linked in the place of m, which may be another
// by a replace directive. A folder has no version and so can't be in a release.
func linked(m *debug.Module) (*debug.Module, error) {
	if m.Replace != nil {
		m = m.Replace
	}
	if m.Version == "" || m.Sum == "" {
		return nil, fmt.Errorf("module %s comes from a folder: nobody else has it", m.Path)
	}
	return m, nil
}

// license is the SPDX expression of all licences in m's root folder, NOASSERTION
// if there are none or if they are not among those that are known. A module that
// is not in the module cache is an error: the answer must not depend on what
// happens to be there.
func (m modules) license(of *debug.Module) (string, error) {
	path, err := module.EscapePath(of.Path)
	if err != nil {
		return "", err
	}
	version, err := module.EscapeVersion(of.Version)
	if err != nil {
		return "", err
	}
	return licenseIn(filepath.Join(m.cache, path+"@"+version))
}

// standardLicense is the licence of the Go standard library.
func (m modules) standardLicense() (string, error) { return licenseIn(m.goroot) }

func licenseIn(folder string) (string, error) {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("look for a licence (go mod download helps): %w", err)
	}
	if err != nil {
		return "", fmt.Errorf("look for a licence: %w", err)
	}
	var found []string
	for _, entry := range entries {
		if !entry.Type().IsRegular() || !licenseFile.MatchString(entry.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(folder, entry.Name()))
		if err != nil {
			return "", fmt.Errorf("read a licence: %w", err)
		}
		coverage := licensecheck.Scan(text)
		if coverage.Percent < enoughOfALicense {
			return noAssertion, nil
		}
		for _, match := range coverage.Match {
			if !match.IsURL {
				found = append(found, match.ID)
			}
		}
	}
	if len(found) == 0 {
		return noAssertion, nil
	}
	slices.Sort(found)
	return strings.Join(slices.Compact(found), " AND "), nil
}
