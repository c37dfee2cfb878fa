package main

import (
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A program is one of those that a release consists of.
type program struct {
	name        string
	description string
	// user is who the image runs as, as numbers, for an image of one file has
	// no /etc/passwd.
	user string
	// args are the entrypoint's arguments unless the Pod has others.
	args []string
}

var programs = []program{
	{
		name:        "edge-hub",
		description: "Answers for kube-apiserver on an edge node, also while the cloud is unreachable",
		// The cache and the state are directories of the node that belong to root.
		user: "0:0",
		args: []string{"run"},
	},
	{
		name:        "edge-hub-operator",
		description: "Reconciles EdgeHubPolicy objects into the configuration of the edge hubs",
		user:        "65532:65532",
	},
}

// A build is a program for one platform.
type build struct {
	platform v1.Platform
	content  []byte
	info     *debug.BuildInfo // what the linker wrote into it
	image    v1.Image
}

// builds reads what was built of p and packs each as an image.
func (r *release) builds(p program, platforms []v1.Platform) ([]build, error) {
	var builds []build
	for _, platform := range platforms {
		path := filepath.Join(r.bin, "programs", platform.OS+"_"+platform.Architecture, p.name)
		b, err := readBuild(path, platform)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if b.image, err = r.newImage(p, b); err != nil {
			return nil, fmt.Errorf("pack %s: %w", path, err)
		}
		builds = append(builds, b)
	}
	return builds, nil
}

// readBuild reads the program at path and refuses one that is for another
// platform, needs shared libraries, or was built so that nobody else can build
// the same.
func readBuild(path string, platform v1.Platform) (build, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return build{}, err
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return build{}, err
	}
	settings := map[string]string{}
	for _, setting := range info.Settings {
		settings[setting.Key] = setting.Value
	}
	for key, want := range map[string]string{
		"GOOS": platform.OS, "GOARCH": platform.Architecture, "CGO_ENABLED": "0", "-trimpath": "true",
		"vcs.modified": "", // vcs.* depends on more than the source
	} {
		if settings[key] != want {
			return build{}, fmt.Errorf("was built with %s=%q, not %q", key, settings[key], want)
		}
	}
	if err := checkStatic(path); err != nil {
		return build{}, err
	}
	return build{platform: platform, content: content, info: info}, nil
}

// checkStatic fails if the program at path can't run without other files.
func checkStatic(path string) error {
	file, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP || segment.Type == elf.PT_DYNAMIC {
			return fmt.Errorf("is not static: it has a segment %s", segment.Type)
		}
	}
	return nil
}
