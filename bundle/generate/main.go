// Command generate writes the OLM bundle, format registry+v1, of
// edge-hub-operator: bundle/manifests and bundle/Dockerfile. It reads what
// kustomize builds from config/default on standard input, the objects in
// config/samples, and what a person wrote: bundle/base.yaml, bundle/icon.svg and
// bundle/metadata/annotations.yaml. The same input gives the same bytes.
//
// It fails rather than leave out what a bundle cannot carry.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	bundle := flag.String("bundle", "bundle", "folder of the bundle")
	samples := flag.String("samples", "config/samples", "folder of the sample objects")
	flag.Parse()
	if err := generate(os.Stdin, *samples, *bundle); err != nil {
		fmt.Fprintln(os.Stderr, "generate the bundle:", err)
		os.Exit(1)
	}
}

// generate reads manifests, the output of kustomize, and writes the bundle.
func generate(manifests io.Reader, samples, bundle string) error {
	c, err := readConfig(manifests)
	if err != nil {
		return err
	}
	if c.samples, err = readSamples(samples); err != nil {
		return err
	}
	base, err := readBase(bundle)
	if err != nil {
		return err
	}
	permissions, err := c.permissions()
	if err != nil {
		return err
	}
	csv, err := newCSV(base, c, permissions.cluster)
	if err != nil {
		return err
	}
	objects := append(permissions.objects, c.crds...)
	objects = append(objects, c.others...)
	if err := writeManifests(filepath.Join(bundle, "manifests"), csv, objects); err != nil {
		return err
	}
	return writeDockerfile(bundle)
}
