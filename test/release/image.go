package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// writeImage writes p's image for all platforms to the layout bin/images/PROGRAM
// (OCI image layout, github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md).
func (r *release) writeImage(p program, builds []build) error {
	reference, err := r.reference(p)
	if err != nil {
		return err
	}
	index, err := r.newIndex(p, builds)
	if err != nil {
		return err
	}
	folder := filepath.Join(r.bin, "images", p.name)
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	images, err := layout.Write(folder, empty.Index)
	if err != nil {
		return err
	}
	if err := images.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": r.version,
		// What containerd names the image that it imports.
		"io.containerd.image.name": reference.Name(),
	})); err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Printf("%s  %s\n", digest, reference)
	return nil
}

// newIndex is p's image for all platforms.
func (r *release) newIndex(p program, builds []build) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, b := range builds {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        b.image,
			Descriptor: v1.Descriptor{Platform: &b.platform},
		})
	}
	annotated, ok := mutate.Annotations(index, r.annotations(p)).(v1.ImageIndex)
	if !ok {
		return nil, fmt.Errorf("annotate the index: it became a %T", annotated)
	}
	return annotated, nil
}

// newImage is p's image for one platform: nothing but the program.
func (r *release) newImage(p program, b build) (v1.Image, error) {
	archive, err := archiveOf(p.name, b.content, r.created)
	if err != nil {
		return nil, err
	}
	opener := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }
	layer, err := tarball.LayerFromOpener(opener, tarball.WithCompressedCaching,
		tarball.WithCompressionLevel(gzip.BestCompression), tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	created := v1.Time{Time: r.created}
	image, err := mutate.Append(base, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: created, CreatedBy: "make images"},
	})
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = b.platform.OS, b.platform.Architecture, created
	file.Config = v1.Config{
		Entrypoint: []string{"/" + p.name},
		Cmd:        p.args,
		User:       p.user,
		WorkingDir: "/",
		Labels:     r.annotations(p),
	}
	if image, err = mutate.ConfigFile(image, file); err != nil {
		return nil, err
	}
	annotated, ok := mutate.Annotations(image, r.annotations(p)).(v1.Image)
	if !ok {
		return nil, fmt.Errorf("annotate the image: it became a %T", annotated)
	}
	return annotated, nil
}

// annotations of p's image, which are its labels too
// (github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md).
func (r *release) annotations(p program) map[string]string {
	annotations := map[string]string{
		"org.opencontainers.image.title":       p.name,
		"org.opencontainers.image.description": p.description,
		"org.opencontainers.image.version":     r.version,
		"org.opencontainers.image.created":     r.created.Format(time.RFC3339),
		"org.opencontainers.image.source":      source,
		"org.opencontainers.image.licenses":    license,
	}
	if r.revision != "" {
		annotations["org.opencontainers.image.revision"] = r.revision
	}
	return annotations
}

// archiveOf is a tar archive of one program in the root directory.
func archiveOf(name string, content []byte, modified time.Time) ([]byte, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content)),
		ModTime: modified, Format: tar.FormatUSTAR,
	}); err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return archive.Bytes(), nil
}
