package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
)

// An image is one layer with a program, which is its entrypoint and has the image's
// name, as the name is what the program's User-Agent begins with.
type image struct {
	name    string            // such as edge-app
	program string            // path of a static binary
	links   map[string]string // symbolic links, by path
}

// reference is what a Pod's spec has to say.
func reference(name string) string { return "e2e.invalid/" + name + ":e2e" }

// write makes an archive as docker save does, for ctr images import.
func (i image) write(path string) error {
	layer, err := i.layer()
	if err != nil {
		return fmt.Errorf("pack %s: %w", i.name, err)
	}
	digest := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": []string{"/" + i.name}, "Env": []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(digest[:])}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{
		"Config": "config.json", "RepoTags": []string{reference(i.name)}, "Layers": []string{"layer.tar"},
	}})
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	archive := tar.NewWriter(f)
	for _, file := range []struct {
		name    string
		content []byte
	}{{"manifest.json", manifest}, {"config.json", config}, {"layer.tar", layer}} {
		if err := add(archive, file.name, 0o644, file.content); err != nil {
			return err
		}
	}
	return archive.Close()
}

func (i image) layer() ([]byte, error) {
	program, err := os.ReadFile(i.program)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := add(w, i.name, 0o755, program); err != nil {
		return nil, err
	}
	for path, target := range i.links {
		header := &tar.Header{Typeflag: tar.TypeSymlink, Name: path, Linkname: target, Mode: 0o777}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
	}
	err = w.Close()
	return layer.Bytes(), err
}

func add(w *tar.Writer, name string, mode int64, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
