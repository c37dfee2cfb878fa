package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/package-url/packageurl-go"
	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
	"golang.org/x/mod/module"
)

// writeSBOMs writes what is in p's images to bin/sbom/PROGRAM_OS_ARCH.spdx.json
// (SPDX 2.3, spdx.github.io/spdx-spec/v2.3).
func (r *release) writeSBOMs(p program, builds []build) error {
	folder := filepath.Join(r.bin, "sbom")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for _, b := range builds {
		document, err := r.newSBOM(p, b)
		if err != nil {
			return err
		}
		file := filepath.Join(folder, document.DocumentName+".spdx.json")
		content, err := encode(document)
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// newSBOM says: the image contains the program, which depends on each module
// that the linker found a package of in it, and on the standard library.
func (r *release) newSBOM(p program, b build) (*spdx.Document, error) {
	container, err := r.containerPackage(p, b)
	if err != nil {
		return nil, err
	}
	application := r.applicationPackage(p, b)
	libraries, err := r.libraryPackages(b.info)
	if err != nil {
		return nil, err
	}
	const document = "DOCUMENT"
	d := &spdx.Document{
		SPDXVersion:    spdx.Version,
		DataLicense:    spdx.DataLicense,
		SPDXIdentifier: document,
		DocumentName:   p.name + "_" + b.platform.OS + "_" + b.platform.Architecture,
		CreationInfo: &spdx.CreationInfo{
			Created: r.created.Format(time.RFC3339),
			Creators: []common.Creator{
				{CreatorType: "Organization", Creator: "edgehub-io"},
				{CreatorType: "Tool", Creator: "edge-hub-release-" + r.version},
			},
		},
		Packages: append([]*spdx.Package{container, application}, libraries...),
		Relationships: []*spdx.Relationship{
			relation(document, common.TypeRelationshipDescribe, container.PackageSPDXIdentifier),
			relation(container.PackageSPDXIdentifier, common.TypeRelationshipContains, application.PackageSPDXIdentifier),
		},
	}
	seen := map[common.ElementID]bool{}
	for _, library := range libraries {
		id := library.PackageSPDXIdentifier
		if seen[id] {
			return nil, fmt.Errorf("two packages have the identifier %s", id)
		}
		seen[id] = true
		d.Relationships = append(d.Relationships,
			relation(application.PackageSPDXIdentifier, common.TypeRelationshipDependsOn, id))
	}
	// The namespace must be another for each document that says something else.
	content, err := encode(d)
	if err != nil {
		return nil, err
	}
	d.DocumentNamespace = source + "/sbom/" + d.DocumentName + "/" + sha256Of(content)
	return d, nil
}

// containerPackage is the image.
func (r *release) containerPackage(p program, b build) (*spdx.Package, error) {
	digest, err := b.image.Digest()
	if err != nil {
		return nil, err
	}
	reference, err := r.reference(p)
	if err != nil {
		return nil, err
	}
	purl := packageurl.NewPackageURL(packageurl.TypeOCI, "", p.name, digest.String(), packageurl.QualifiersFromMap(map[string]string{
		"arch": b.platform.Architecture, "os": b.platform.OS, "repository_url": reference.Context().Name(), "tag": r.version,
	}), "")
	image := newPackage("Image", reference.Context().Name(), r.version, purl)
	image.PrimaryPackagePurpose = "CONTAINER"
	image.PackageSupplier = ourselves()
	image.PackageLicenseDeclared = license
	image.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: digest.Hex}}
	image.PackageComment = "The checksum is the digest of the image's manifest."
	return image, nil
}

// applicationPackage is the program in the image.
func (r *release) applicationPackage(p program, b build) *spdx.Package {
	application := newPackage("Program", b.info.Main.Path, r.version, golangPURL(b.info.Main.Path, r.version))
	application.PrimaryPackagePurpose = "APPLICATION"
	application.PackageSupplier = ourselves()
	application.PackageFileName = "/" + p.name
	application.PackageLicenseDeclared = license
	application.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: sha256Of(b.content)}}
	application.PackageSourceInfo = "package " + b.info.Path
	if r.revision != "" {
		application.PackageDownloadLocation = "git+" + source + ".git@" + r.revision
		application.PackageSourceInfo += ", commit " + r.revision
	}
	return application
}

// libraryPackages are the standard library and the modules that info names.
func (r *release) libraryPackages(info *debug.BuildInfo) ([]*spdx.Package, error) {
	declared, err := r.modules.standardLicense()
	if err != nil {
		return nil, fmt.Errorf("standard library: %w", err)
	}
	// As vulnerability databases name it (go.dev/security/vuln/database).
	version := strings.TrimPrefix(info.GoVersion, "go")
	standard := newPackage("Module-stdlib-"+version, "stdlib", version, golangPURL("stdlib", version))
	standard.PrimaryPackagePurpose = "LIBRARY"
	standard.PackageLicenseDeclared = declared
	standard.PackageDownloadLocation = "https://go.dev/dl/" + info.GoVersion + ".src.tar.gz"
	libraries := []*spdx.Package{standard}
	for _, dependency := range info.Deps {
		library, err := r.modulePackage(dependency)
		if err != nil {
			return nil, err
		}
		libraries = append(libraries, library)
	}
	return libraries, nil
}

func (r *release) modulePackage(dependency *debug.Module) (*spdx.Package, error) {
	m, err := linked(dependency)
	if err != nil {
		return nil, err
	}
	declared, err := r.modules.license(m)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", m.Path, err)
	}
	location, err := downloadLocation(m)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", m.Path, err)
	}
	library := newPackage("Module-"+m.Path+"-"+m.Version, m.Path, m.Version, golangPURL(m.Path, m.Version))
	library.PrimaryPackagePurpose = "LIBRARY"
	library.PackageLicenseDeclared = declared
	library.PackageDownloadLocation = location
	// Not among the checksums: it is one of the names and digests of the
	// module's files, which SPDX has no algorithm for.
	library.PackageSourceInfo = "go.sum " + m.Sum
	return library, nil
}

// newPackage has what SPDX asks of every package.
func newPackage(id, name, version string, purl *packageurl.PackageURL) *spdx.Package {
	return &spdx.Package{
		PackageSPDXIdentifier:   common.ElementID(notInIDs.ReplaceAllString(id, "-")),
		PackageName:             name,
		PackageVersion:          version,
		PackageSupplier:         &common.Supplier{Supplier: noAssertion},
		PackageDownloadLocation: noAssertion,
		PackageLicenseConcluded: noAssertion, // nobody but a lawyer concludes
		PackageLicenseDeclared:  noAssertion,
		PackageCopyrightText:    noAssertion,
		PackageExternalReferences: []*spdx.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl.ToString(),
		}},
	}
}

// notInIDs matches what an SPDX identifier can't hold.
var notInIDs = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func ourselves() *common.Supplier {
	return &common.Supplier{SupplierType: "Organization", Supplier: "edgehub-io"}
}

// golangPURL is the package URL of a module (type golang of the purl specification).
func golangPURL(modulePath, version string) *packageurl.PackageURL {
	namespace, base := path.Split(modulePath)
	return packageurl.NewPackageURL(packageurl.TypeGolang, strings.TrimSuffix(namespace, "/"), base, version, nil, "")
}

// downloadLocation is the module's archive (go.dev/ref/mod#goproxy-protocol).
func downloadLocation(m *debug.Module) (string, error) {
	escaped, err := module.EscapePath(m.Path)
	if err != nil {
		return "", err
	}
	version, err := module.EscapeVersion(m.Version)
	if err != nil {
		return "", err
	}
	return "https://proxy.golang.org/" + escaped + "/@v/" + version + ".zip", nil
}

func relation(from common.ElementID, kind string, to common.ElementID) *spdx.Relationship {
	return &spdx.Relationship{
		RefA:         common.MakeDocElementID("", string(from)),
		RefB:         common.MakeDocElementID("", string(to)),
		Relationship: kind,
	}
}

func encode(d *spdx.Document) ([]byte, error) {
	var content bytes.Buffer
	if err := json.Write(d, &content, json.Indent("  "), json.EscapeHTML(false)); err != nil {
		return nil, fmt.Errorf("encode the document: %w", err)
	}
	return content.Bytes(), nil
}

func sha256Of(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
