package main

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// indexOf is the one image that the layout of p holds.
func indexOf(t *testing.T, bin string, p program) v1.ImageIndex {
	t.Helper()
	images, err := layout.ImageIndexFromPath(filepath.Join(bin, "images", p.name))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := images.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	// crane and ctr take a layout of one entry for what is meant.
	if len(manifest.Manifests) != 1 {
		t.Fatalf("the layout of %s has %d entries, not 1", p.name, len(manifest.Manifests))
	}
	if got, want := manifest.Manifests[0].Annotations["io.containerd.image.name"], "registry.example/edge/"+p.name+":v1.2.3"; got != want {
		t.Errorf("containerd would import the image as %q, not %q", got, want)
	}
	index, err := images.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// imagesOf are p's images, by platform.
func imagesOf(t *testing.T, bin string, p program) map[string]v1.Image {
	t.Helper()
	index := indexOf(t, bin, p)
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	images := map[string]v1.Image{}
	for _, entry := range manifest.Manifests {
		if images[entry.Platform.String()], err = index.Image(entry.Digest); err != nil {
			t.Fatal(err)
		}
	}
	return images
}

func realImage(t *testing.T, p program) v1.Image {
	t.Helper()
	image := imagesOf(t, real.bin, p)[runtime.GOOS+"/"+runtime.GOARCH]
	if image == nil {
		t.Fatalf("no image of %s for this platform", p.name)
	}
	return image
}

func TestImageHoldsNothingButTheProgram(t *testing.T) {
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			if err := validate.Index(indexOf(t, real.bin, p)); err != nil {
				t.Error(err)
			}
			built, err := os.ReadFile(programPath(p))
			if err != nil {
				t.Fatal(err)
			}
			content := mutate.Extract(realImage(t, p))
			defer content.Close()
			files := tar.NewReader(content)
			file, err := files.Next()
			if err != nil {
				t.Fatal(err)
			}
			if file.Name != p.name || file.Mode != 0o755 || file.Uid != 0 || file.Gid != 0 || !file.ModTime.Equal(real.created) {
				t.Errorf("the image holds %+v", file)
			}
			if packed, err := io.ReadAll(files); err != nil || !slices.Equal(packed, built) {
				t.Errorf("the image holds another program than was built (error %v)", err)
			}
			if file, err := files.Next(); !errors.Is(err, io.EOF) {
				t.Errorf("the image holds more: %+v, %v", file, err)
			}
		})
	}
}

func TestImageConfiguration(t *testing.T) {
	want := map[string]v1.Config{
		"edge-hub":          {Entrypoint: []string{"/edge-hub"}, Cmd: []string{"run"}, User: "0:0"},
		"edge-hub-operator": {Entrypoint: []string{"/edge-hub-operator"}, User: "65532:65532"},
	}
	for _, p := range programs {
		image := realImage(t, p)
		file, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		got := file.Config
		if !slices.Equal(got.Entrypoint, want[p.name].Entrypoint) || !slices.Equal(got.Cmd, want[p.name].Cmd) || got.User != want[p.name].User {
			t.Errorf("%s: configuration %+v, want %+v", p.name, got, want[p.name])
		}
		manifest, err := image.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		for key, value := range map[string]string{
			"title": p.name, "version": "v1.2.3", "revision": "0123abc", "created": "2023-11-14T22:13:20Z",
			"licenses": "Apache-2.0", "source": "https://github.com/edgehub-io/edge-hub",
		} {
			key = "org.opencontainers.image." + key
			if got.Labels[key] != value || manifest.Annotations[key] != value {
				t.Errorf("%s: %s is %q as a label and %q as an annotation, want %q", p.name, key, got.Labels[key], manifest.Annotations[key], value)
			}
		}
	}
}

func TestImageIsForAllPlatforms(t *testing.T) {
	r := newRelease(t.TempDir())
	for _, arch := range []string{"amd64", "arm64"} {
		buildTiny(t, r.bin, arch, nil, "-trimpath")
	}
	if err := r.run([]string{"images"}); err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		images := imagesOf(t, r.bin, p)
		for _, platform := range []string{"linux/amd64", "linux/arm64"} {
			if images[platform] == nil {
				t.Errorf("%s: no image for %s", p.name, platform)
				continue
			}
			file, err := images[platform].ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			if got := file.OS + "/" + file.Architecture; got != platform {
				t.Errorf("%s: the image for %s says it is for %s", p.name, platform, got)
			}
		}
	}
}

// TestImageRuns runs each program as the kubelet would: in the image's root
// directory and as the image's user.
func TestImageRuns(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may change the root directory")
	}
	arguments := map[string]string{"edge-hub": "version", "edge-hub-operator": "--version"}
	for _, p := range programs {
		image := realImage(t, p)
		file, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		root := extract(t, image)
		program := exec.Command(file.Config.Entrypoint[0], arguments[p.name])
		program.Env = file.Config.Env
		program.Dir = file.Config.WorkingDir
		program.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: credential(t, file.Config.User)}
		out, err := program.CombinedOutput()
		if want := p.name + " v1.2.3\n"; err != nil || string(out) != want {
			t.Errorf("%s said %q (error %v), want %q", p.name, out, err, want)
		}
	}
}

// extract writes what the image holds to a folder that every user may enter.
func extract(t *testing.T, image v1.Image) string {
	t.Helper()
	root, err := os.MkdirTemp("", "root") // t.TempDir is within one of mode 0700
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	content := mutate.Extract(image)
	defer content.Close()
	for files := tar.NewReader(content); ; {
		file, err := files.Next()
		if errors.Is(err, io.EOF) {
			return root
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(files)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, file.Name), data, file.FileInfo().Mode()); err != nil {
			t.Fatal(err)
		}
	}
}

// credential is that of user, which is a UID and a GID.
func credential(t *testing.T, user string) *syscall.Credential {
	t.Helper()
	uid, gid, _ := strings.Cut(user, ":")
	u, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	g, err := strconv.ParseUint(gid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(u), Gid: uint32(g)}
}
