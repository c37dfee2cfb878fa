// Command release packs the programs that `make programs` built: as OCI image
// layouts, and with an SPDX document each that says what is in them.
//
//	go run . -bin ../../bin -version v0.1.0 images sbom
//
// It reads bin/programs/OS_ARCH/PROGRAM and writes bin/images/PROGRAM, a
// multi-platform OCI image layout, and bin/sbom/PROGRAM_OS_ARCH.spdx.json.
// What it writes depends on the programs, the flags and SOURCE_DATE_EPOCH only.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	// source is where the project lives; its module path follows from it.
	source = "https://github.com/edgehub-io/edge-hub"
	// license is the SPDX identifier of the repository's LICENSE.
	license = "Apache-2.0"
)

// A release is what is the same for all of its programs and platforms.
type release struct {
	bin      string // folder of programs, images and sbom
	registry string // registry and path that the images are named after
	version  string
	revision string    // commit the programs were built from; may be empty
	created  time.Time // of that commit, not of the build
	modules  modules
}

func main() {
	var r release
	flag.StringVar(&r.bin, "bin", "../../bin", "folder with programs/, and for images/ and sbom/")
	flag.StringVar(&r.registry, "registry", "ghcr.io/edgehub-io", "registry and path of the images")
	flag.StringVar(&r.version, "version", "", "version of the release, as the programs were built with")
	flag.StringVar(&r.revision, "revision", "", "commit the programs were built from")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: release [flags] images|sbom ...")
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := r.run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// run writes what it is asked for: "images", "sbom" or both.
func (r *release) run(outputs []string) error {
	if len(outputs) == 0 {
		return errors.New("say what to write: images, sbom or both")
	}
	var err error
	if r.created, err = sourceDate(os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
		return err
	}
	if r.modules, err = findModules(); err != nil {
		return err
	}
	platforms, err := platformsIn(filepath.Join(r.bin, "programs"))
	if err != nil {
		return err
	}
	write := map[string]func(program, []build) error{"images": r.writeImage, "sbom": r.writeSBOMs}
	for _, p := range programs {
		builds, err := r.builds(p, platforms)
		if err != nil {
			return err
		}
		for _, output := range outputs {
			if write[output] == nil {
				return fmt.Errorf("%q is neither images nor sbom", output)
			}
			if err := write[output](p, builds); err != nil {
				return fmt.Errorf("write %s of %s: %w", output, p.name, err)
			}
		}
	}
	return nil
}

// reference is the name of p's image.
func (r *release) reference(p program) (name.Tag, error) {
	return name.NewTag(r.registry+"/"+p.name+":"+r.version, name.StrictValidation)
}

// sourceDate parses SOURCE_DATE_EPOCH, seconds since 1970
// (reproducible-builds.org/specs/source-date-epoch).
func sourceDate(epoch string) (time.Time, error) {
	if epoch == "" {
		return time.Time{}, errors.New("SOURCE_DATE_EPOCH must be set: the time of the build is no part of a release")
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// platformsIn are the platforms that folder has programs for, in order of name.
func platformsIn(folder string) ([]v1.Platform, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("find platforms: %w", err)
	}
	var platforms []v1.Platform
	for _, entry := range entries {
		system, architecture, ok := strings.Cut(entry.Name(), "_")
		if !ok || !entry.IsDir() {
			return nil, fmt.Errorf("%s is no folder named after a platform, as linux_amd64 is", filepath.Join(folder, entry.Name()))
		}
		platforms = append(platforms, v1.Platform{OS: system, Architecture: architecture})
	}
	if len(platforms) == 0 {
		return nil, fmt.Errorf("no platforms in %s", folder)
	}
	return platforms, nil
}
