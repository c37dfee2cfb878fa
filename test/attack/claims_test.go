package attack

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	// namedTest is how the documents name a test; an ellipsis stands for the rest of
	// several names.
	namedTest   = regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z0-9]\w*(?:…)?`)
	definedTest = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z0-9]\w*)\(`)
)

// definedTests returns the names of all tests of the repository, with the folders
// that they are in.
func definedTests(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "bin" || strings.HasPrefix(d.Name(), ".") && path != root):
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range definedTest.FindAllSubmatch(text, -1) {
			all[string(m[1])] = filepath.Dir(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestEveryTestThatTheDocumentsNameExists, so that no claim outlives its test; and
// every promise that is tested here is made in docs/security.md.
func TestEveryTestThatTheDocumentsNameExists(t *testing.T) {
	root := filepath.Join("..", "..")
	defined := definedTests(t, root)
	documents, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{} // in docs/security.md
	for _, document := range documents {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range namedTest.FindAllString(string(text), -1) {
			if filepath.Base(document) == "security.md" {
				named[name] = true
			}
			if name == "TestCase" {
				continue // how all of a group are called
			}
			if prefix, ok := strings.CutSuffix(name, "…"); ok {
				if !anyBegins(defined, prefix) {
					t.Errorf("%s names %s, and no test begins so", document, name)
				}
			} else if defined[name] == "" {
				t.Errorf("%s names %s, which does not exist", document, name)
			}
		}
	}
	if len(named) < 10 {
		t.Fatalf("only %d tests are named in docs/security.md", len(named))
	}
	for name, folder := range defined {
		if folder == filepath.Join(root, "test", "attack") && name != t.Name() && name != "TestMain" && !named[name] {
			t.Errorf("docs/security.md does not name %s", name)
		}
	}
}

func anyBegins(names map[string]string, prefix string) bool {
	for name := range names {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
