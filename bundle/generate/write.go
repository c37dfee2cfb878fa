package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

const header = "# Written by make bundle from config/ and bundle/base.yaml.\n"

// writeManifests writes each object to a file and removes all others.
func writeManifests(folder string, csv *object, objects []object) error {
	files := map[string]object{strings.Split(csv.GetName(), ".")[0] + ".clusterserviceversion.yaml": *csv}
	for _, o := range objects {
		name := fileName(o)
		if _, ok := files[name]; ok {
			return fmt.Errorf("two objects in %s", name)
		}
		files[name] = o
	}
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for name, o := range files {
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(folder, name), append([]byte(header), text...), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// fileName follows operator-sdk: <group>_<plural>.yaml for a CRD, otherwise
// <name>_<group>_<version>_<kind>.yaml.
func fileName(o object) string {
	gvk := o.GroupVersionKind()
	if gvk.Kind == "CustomResourceDefinition" {
		plural, group, _ := strings.Cut(o.GetName(), ".")
		return group + "_" + plural + ".yaml"
	}
	parts := slices.DeleteFunc([]string{o.GetName(), gvk.Group, gvk.Version, strings.ToLower(gvk.Kind)},
		func(s string) bool { return s == "" })
	return strings.ReplaceAll(strings.Join(parts, "_"), ":", "-") + ".yaml"
}

// writeDockerfile writes the image of the bundle. Its labels are the annotations
// of metadata/annotations.yaml, as the format demands.
func writeDockerfile(bundle string) error {
	text, err := os.ReadFile(filepath.Join(bundle, "metadata", "annotations.yaml"))
	if err != nil {
		return err
	}
	var metadata struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := yaml.UnmarshalStrict(text, &metadata); err != nil {
		return fmt.Errorf("read metadata/annotations.yaml: %w", err)
	}
	var b strings.Builder
	b.WriteString("# Written by make bundle from metadata/annotations.yaml.\n" +
		"# docker build -t ghcr.io/edgehub-io/edge-hub-operator-bundle bundle\n" +
		"FROM scratch\n\n")
	for _, name := range slices.Sorted(maps.Keys(metadata.Annotations)) {
		fmt.Fprintf(&b, "LABEL %s=%s\n", name, metadata.Annotations[name])
	}
	b.WriteString("\nCOPY manifests /manifests/\nCOPY metadata /metadata/\n")
	return os.WriteFile(filepath.Join(bundle, "Dockerfile"), []byte(b.String()), 0o644)
}
