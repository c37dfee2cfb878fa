package main

import (
	"debug/buildinfo"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/package-url/packageurl-go"
	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
	"github.com/spdx/tools-golang/spdxlib"
)

// readSBOM reads the document of the real p by SPDX's own parser.
func readSBOM(t *testing.T, p program) *spdx.Document {
	t.Helper()
	file, err := os.Open(filepath.Join(real.bin, "sbom", p.name+"_"+runtime.GOOS+"_"+runtime.GOARCH+".spdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var document spdx.Document
	if err := json.ReadInto(file, &document); err != nil {
		t.Fatal(err)
	}
	// The parser puts up with unknown identifiers; this does not.
	if err := spdxlib.ValidateDocument(&document); err != nil {
		t.Fatal(err)
	}
	return &document
}

// related are the identifiers that from has the relationship kind to.
func related(d *spdx.Document, from, kind string) []string {
	var to []string
	for _, r := range d.Relationships {
		if string(r.RefA.ElementRefID) == from && r.Relationship == kind {
			to = append(to, string(r.RefB.ElementRefID))
		}
	}
	return to
}

func TestSBOMDescribesTheImage(t *testing.T) {
	for _, p := range programs {
		d := readSBOM(t, p)
		if got := related(d, "DOCUMENT", common.TypeRelationshipDescribe); !slices.Equal(got, []string{"Image"}) {
			t.Errorf("%s: the document describes %q", p.name, got)
		}
		if got := related(d, "Image", common.TypeRelationshipContains); !slices.Equal(got, []string{"Program"}) {
			t.Errorf("%s: the image contains %q", p.name, got)
		}
		digest, err := realImage(t, p).Digest()
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(programPath(p))
		if err != nil {
			t.Fatal(err)
		}
		for id, want := range map[common.ElementID]string{"Image": digest.Hex, "Program": sha256Of(content)} {
			if got := packageOf(t, d, id).PackageChecksums; len(got) != 1 || got[0].Value != want || got[0].Algorithm != common.SHA256 {
				t.Errorf("%s: checksums of %s are %v, want SHA256 %s", p.name, id, got, want)
			}
		}
	}
}

func packageOf(t *testing.T, d *spdx.Document, id common.ElementID) *spdx.Package {
	t.Helper()
	for _, p := range d.Packages {
		if p.PackageSPDXIdentifier == id {
			return p
		}
	}
	t.Fatalf("no package %s", id)
	return nil
}

// TestSBOMNamesEveryModule asks the program itself what is in it.
func TestSBOMNamesEveryModule(t *testing.T) {
	for _, p := range programs {
		info, err := buildinfo.ReadFile(programPath(p))
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"pkg:golang/stdlib@" + strings.TrimPrefix(info.GoVersion, "go")}
		for _, m := range info.Deps {
			want = append(want, "pkg:golang/"+m.Path+"@"+m.Version)
		}
		if len(want) < 20 {
			t.Fatalf("%s has no more than the modules %v", p.name, want)
		}
		d := readSBOM(t, p)
		var got []string
		for _, id := range related(d, "Program", common.TypeRelationshipDependsOn) {
			library := packageOf(t, d, common.ElementID(id))
			locator := library.PackageExternalReferences[0].Locator
			if _, err := packageurl.FromString(locator); err != nil {
				t.Errorf("%s: %q is no package URL: %v", p.name, locator, err)
			}
			got = append(got, locator)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: the program depends on\n%q, and was linked from\n%q", p.name, got, want)
		}
		if len(d.Packages) != len(got)+2 {
			t.Errorf("%s: %d packages, %d of them libraries", p.name, len(d.Packages), len(got))
		}
	}
}

// TestLicensesAreKnownAndPermissive fails when a new module has a licence that
// somebody should look at first.
func TestLicensesAreKnownAndPermissive(t *testing.T) {
	permissive := []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT"}
	for _, p := range programs {
		for _, library := range readSBOM(t, p).Packages {
			for declared := range strings.SplitSeq(library.PackageLicenseDeclared, " AND ") {
				if !slices.Contains(permissive, declared) {
					t.Errorf("%s: %s has licence %s", p.name, library.PackageName, declared)
				}
			}
		}
	}
}

func TestEveryChangeChangesTheSBOM(t *testing.T) {
	type inputs struct {
		build build
		r     release
	}
	newInputs := func() inputs {
		r := newRelease(t.TempDir())
		r.modules = modules{cache: t.TempDir(), goroot: t.TempDir()}
		for _, version := range []string{"v1.0.0", "v1.0.1"} {
			write(t, filepath.Join(r.modules.cache, "example.com/!a@"+version, "LICENSE"), mit)
		}
		write(t, filepath.Join(r.modules.cache, "example.com/b@v2.0.0", "README"), "none")
		return inputs{r: r, build: build{
			platform: v1.Platform{OS: "linux", Architecture: "amd64"},
			content:  []byte("program"),
			image:    empty.Image,
			info: &debug.BuildInfo{
				GoVersion: "go1.26.8",
				Main:      debug.Module{Path: "example.com/main"},
				Deps: []*debug.Module{
					{Path: "example.com/A", Version: "v1.0.0", Sum: "h1:a"},
					{Path: "example.com/b", Version: "v2.0.0", Sum: "h1:b"},
				},
			},
		}}
	}
	document := func(i inputs) (string, string) {
		d, err := i.r.newSBOM(programs[0], i.build)
		if err != nil {
			t.Fatal(err)
		}
		content, err := encode(d)
		if err != nil {
			t.Fatal(err)
		}
		return string(content), d.DocumentNamespace
	}
	content, namespace := document(newInputs())
	if again, _ := document(newInputs()); again != content {
		t.Errorf("nothing changed but the document:\n%s\n%s", content, again)
	}
	for name, change := range map[string]func(*inputs){
		"version of a module":  func(i *inputs) { i.build.info.Deps[0].Version = "v1.0.1" },
		"checksum of a module": func(i *inputs) { i.build.info.Deps[0].Sum = "h1:c" },
		"module replaced": func(i *inputs) {
			i.build.info.Deps[1].Replace = &debug.Module{Path: "example.com/A", Version: "v1.0.1", Sum: "h1:c"}
		},
		"module removed": func(i *inputs) { i.build.info.Deps = i.build.info.Deps[:1] },
		"licence of a module": func(i *inputs) {
			write(t, filepath.Join(i.r.modules.cache, "example.com/b@v2.0.0", "LICENSE.md"), mit)
		},
		"Go":       func(i *inputs) { i.build.info.GoVersion = "go1.26.9" },
		"program":  func(i *inputs) { i.build.content = []byte("other") },
		"revision": func(i *inputs) { i.r.revision = "4567def" },
	} {
		changed := newInputs()
		change(&changed)
		if got, gotNamespace := document(changed); got == content || gotNamespace == namespace {
			t.Errorf("%s changed, but not the document or its namespace %s", name, gotNamespace)
		}
	}
}

func TestSBOMRefusesAModuleThatNobodyElseHas(t *testing.T) {
	r := newRelease(t.TempDir())
	for name, m := range map[string]*debug.Module{
		"folder":       {Path: "example.com/a", Version: "v1.0.0", Sum: "h1:a", Replace: &debug.Module{Path: "../a"}},
		"not in cache": {Path: "example.com/a", Version: "v1.0.0", Sum: "h1:a"},
	} {
		r.modules.cache = t.TempDir()
		if p, err := r.modulePackage(m); err == nil {
			t.Errorf("%s: got %+v", name, p)
		}
	}
}

func TestLicenseIn(t *testing.T) {
	for _, test := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"none", map[string]string{"README.md": mit}, "NOASSERTION"},
		{"one", map[string]string{"LICENSE": mit}, "MIT"},
		{"British", map[string]string{"licence.txt": mit}, "MIT"},
		{"two files", map[string]string{"LICENSE-MIT": mit, "COPYING": isc}, "ISC AND MIT"},
		{"two in one file", map[string]string{"LICENSE": mit + "\n" + isc}, "ISC AND MIT"},
		{"one twice", map[string]string{"LICENSE": mit, "LICENSE.md": mit}, "MIT"},
		{"unknown", map[string]string{"LICENSE": "You may use this on Sundays."}, "NOASSERTION"},
		{"one known, one not", map[string]string{"LICENSE": mit, "LICENSE.more": "Not on Sundays."}, "NOASSERTION"},
		{"code", map[string]string{"license.go": "package license"}, "NOASSERTION"},
	} {
		folder := t.TempDir()
		for name, text := range test.files {
			write(t, filepath.Join(folder, name), text)
		}
		if got, err := licenseIn(folder); err != nil || got != test.want {
			t.Errorf("%s: got %s (error %v), want %s", test.name, got, err, test.want)
		}
	}
	if got, err := licenseIn(repository); err != nil || got != license {
		t.Errorf("the repository's own licence is %s (error %v), and images say %s", got, err, license)
	}
}

const (
	mit = `Copyright (c) 2020 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
`
	isc = `Copyright (c) 2020 Somebody

Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted, provided that the above copyright notice and this permission notice appear in all copies.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
`
)
