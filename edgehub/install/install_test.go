package install

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

const (
	server   = "https://203.0.113.1:6443"
	certFile = "/var/lib/kubelet/pki/kubelet-client-current.pem"
)

const kubeletConf = `apiVersion: v1
kind: Config
clusters:
- name: c
  cluster: {server: "https://203.0.113.1:6443", certificate-authority: pki/ca.crt}
users:
- name: u
  user: {client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem, client-key: /var/lib/kubelet/pki/kubelet-client-current.pem}
contexts:
- name: x
  context: {cluster: c, user: u}
current-context: x
`

// newRoot is the file system of a node that has joined its cluster.
func newRoot(t *testing.T, commonName string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range map[string]string{
		DefaultKubeletKubeconfig:         kubeletConf,
		"/etc/kubernetes/pki/ca.crt":     "the authority",
		certFile:                         certificate(t, commonName),
		DefaultManifests + "/other.yaml": "another static Pod",
		systemdDir + "/kubelet.service":  "the kubelet's unit",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func certificate(t *testing.T, commonName string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: commonName}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}))
}

// optionsFor is for a node whose hub answers as soon as its manifest is there.
func optionsFor(root string) Options {
	o := Options{Image: "example.com/edge-hub:v1", NodeIPs: []string{"192.0.2.7"}, root: root}
	o.answers = func(_ context.Context, o Options) error {
		if !o.exists(o.manifest()) || !o.exists(hubKubeconfig) || !o.exists(authorityFile) || !o.exists(stateDir) || !o.exists(cacheDir) {
			return errors.New("the hub lacks what it needs")
		}
		return nil
	}
	o.ended = func(context.Context) error {
		if o.defaults(); o.exists(o.manifest()) {
			return errors.New("the kubelet still runs it")
		}
		return nil
	}
	o.release = func() error { return nil }
	return o
}

// tree is every file below a directory with its mode and content.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		if !d.IsDir() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += "\n" + string(content)
		}
		files[strings.TrimPrefix(path, root)] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func serverOf(t *testing.T, file string) string {
	t.Helper()
	config, err := clientcmd.LoadFromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return config.Clusters[config.Contexts[config.CurrentContext].Cluster].Server
}

func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: only root installs")
	}
}

func TestWhatIsInstalled(t *testing.T) {
	asRoot(t)
	root := newRoot(t, "system:node:edge-1")
	if err := Install(t.Context(), optionsFor(root)); err != nil {
		t.Fatal(err)
	}
	if got := serverOf(t, filepath.Join(root, DefaultKubeletKubeconfig)); got != "https://169.254.2.1:10268" {
		t.Errorf("the kubelet speaks to %s", got)
	}
	if got := serverOf(t, filepath.Join(root, hubKubeconfig)); got != server {
		t.Errorf("the hub speaks to %s", got)
	}
	content, err := os.ReadFile(filepath.Join(root, DefaultManifests, manifestName))
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict(content, &pod); err != nil {
		t.Fatal(err)
	}
	if unit, err := os.ReadFile(filepath.Join(root, dropInFile)); err != nil || !strings.Contains(string(unit), "ExecStartPre=-+/bin/sh -c 'ip address replace 169.254.2.1/32 dev lo'") {
		t.Errorf("the kubelet's unit: %s, %v", unit, err)
	}
	if pod.Spec.Priority == nil || *pod.Spec.Priority != 2000001000 {
		t.Errorf("priority %v", pod.Spec.Priority)
	}
	args := pod.Spec.Containers[0].Args
	for _, want := range []string{"--node-name=edge-1", "--server=" + server, "--node-ip=192.0.2.7", "--node-client-cert-file=" + certFile, "--bootstrap-credential=" + certFile} {
		if !slices.Contains(args, want) {
			t.Errorf("%s is missing in %v", want, args)
		}
	}
	mounted := func(path string) bool {
		return slices.ContainsFunc(pod.Spec.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == path && path != "" })
	}
	for _, path := range []string{cacheDir, stateDir, configDir, filepath.Dir(certFile)} {
		if !mounted(path) {
			t.Errorf("%s is not mounted", path)
		}
	}
}

// TestARunThatWasKilledIsFinishedByTheNext, wherever it was.
func TestARunThatWasKilledIsFinishedByTheNext(t *testing.T) {
	asRoot(t)
	whole := newRoot(t, "system:node:edge-1")
	pristine := tree(t, whole)
	steps := 0
	o := optionsFor(whole)
	o.step = func(string) { steps++ }
	if err := Install(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	installed := tree(t, whole)
	if err := Install(t.Context(), optionsFor(whole)); err != nil {
		t.Fatal(err)
	}
	expectTree(t, "a second run", whole, installed)
	if steps < 6 {
		t.Errorf("only %d steps", steps)
	}
	for at := range steps {
		root := newRoot(t, "system:node:edge-1")
		copyFile(t, whole, root, certFile)
		killed(t, at, optionsFor(root), func(o Options) error { return Install(t.Context(), o) })
		if err := Install(t.Context(), optionsFor(root)); err != nil {
			t.Fatal(err)
		}
		expectTree(t, fmt.Sprint("killed after step ", at), root, installed)
	}
	for at := range 9 {
		root := newRoot(t, "system:node:edge-1")
		copyFile(t, whole, root, certFile)
		if err := Install(t.Context(), optionsFor(root)); err != nil {
			t.Fatal(err)
		}
		if err := Uninstall(t.Context(), optionsFor(root), false); !errors.Is(err, ErrRestart) {
			t.Fatal(err)
		}
		killed(t, at, optionsFor(root), func(o Options) error { return Uninstall(t.Context(), o, true) })
		for range 2 {
			if err := Uninstall(t.Context(), optionsFor(root), true); err != nil {
				t.Fatal(err)
			}
		}
		if got := serverOf(t, filepath.Join(root, DefaultKubeletKubeconfig)); got != server {
			t.Errorf("the kubelet speaks to %s", got)
		}
		left := slices.Sorted(maps.Keys(tree(t, root)))
		if want := slices.Sorted(maps.Keys(pristine)); !slices.Equal(left, want) {
			t.Errorf("after step %d there is %v, want %v", at, left, want)
		}
	}
}

// killed runs until a step has been done.
func killed(t *testing.T, at int, o Options, run func(Options) error) {
	t.Helper()
	type kill struct{}
	o.step = func(string) {
		if at--; at < 0 {
			panic(kill{})
		}
	}
	defer func() {
		if r := recover(); r != nil && r != any(kill{}) {
			panic(r)
		}
	}()
	if err := run(o); err != nil {
		t.Error(err)
	}
}

func copyFile(t *testing.T, from, to, name string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(from, name))
	if err == nil {
		err = os.WriteFile(filepath.Join(to, name), content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func expectTree(t *testing.T, what, root string, want map[string]string) {
	t.Helper()
	got := tree(t, root)
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s: %s is\n%s\nwant\n%s", what, name, got[name], want[name])
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("%s: %s is there", what, name)
	}
}

// TestAHubThatDoesNotAnswerGetsNoKubelet.
func TestAHubThatDoesNotAnswerGetsNoKubelet(t *testing.T) {
	asRoot(t)
	root := newRoot(t, "system:node:edge-1")
	o := optionsFor(root)
	o.answers = func(context.Context, Options) error { return errors.New("no certificate yet") }
	if err := Install(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no certificate yet") {
		t.Errorf("error %v", err)
	}
	if got := serverOf(t, filepath.Join(root, DefaultKubeletKubeconfig)); got != server {
		t.Errorf("the kubelet speaks to %s", got)
	}
}

func TestPreflightSaysWhatIsMissing(t *testing.T) {
	asRoot(t)
	root := newRoot(t, "system:node:edge-1")
	if problems := failed(Preflight(optionsFor(root))); len(problems) > 0 {
		t.Errorf("a node that is as it should be: %v", problems)
	}
	for name, tc := range map[string]struct {
		spoil func(root string, o *Options)
		want  string
	}{
		"no kubeconfig":    {func(root string, _ *Options) { _ = os.Remove(root + DefaultKubeletKubeconfig) }, "kubelet's kubeconfig"},
		"no certificate":   {func(root string, _ *Options) { _ = os.Remove(root + certFile) }, "client certificate"},
		"no authority":     {func(root string, _ *Options) { _ = os.Remove(root + "/etc/kubernetes/pki/ca.crt") }, "authority: "},
		"no manifests":     {func(root string, _ *Options) { _ = os.RemoveAll(root + DefaultManifests) }, "manifests: "},
		"a file for them":  {func(_ string, o *Options) { o.Manifests = DefaultKubeletKubeconfig }, "is no directory"},
		"not a node":       {func(root string, _ *Options) { _ = os.WriteFile(root+certFile, []byte(certificate(t, "admin")), 0o600) }, `of "admin"`},
		"an odd server":    {func(_ string, o *Options) { o.Servers = []string{"http://x"} }, "https://"},
		"not a kubeconfig": {func(root string, _ *Options) { _ = os.WriteFile(root+DefaultKubeletKubeconfig, []byte("x: y"), 0o600) }, "kubeconfig"},
	} {
		root := newRoot(t, "system:node:edge-1")
		o := optionsFor(root)
		tc.spoil(root, &o)
		before := tree(t, root)
		problems := strings.Join(failed(Preflight(o)), "; ")
		if !strings.Contains(problems, tc.want) {
			t.Errorf("%s: %q", name, problems)
		}
		if err := Install(t.Context(), o); err == nil {
			t.Errorf("%s: installed all the same", name)
		}
		if !maps.Equal(before, tree(t, root)) {
			t.Errorf("%s: something was changed", name)
		}
	}
}

// TestANodeWithoutSystemdIsInstalledToo: its address is for its owner to set before
// the kubelet starts.
func TestANodeWithoutSystemdIsInstalledToo(t *testing.T) {
	asRoot(t)
	root := newRoot(t, "system:node:edge-1")
	if err := os.RemoveAll(filepath.Join(root, systemdDir)); err != nil {
		t.Fatal(err)
	}
	if err := Install(t.Context(), optionsFor(root)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, systemdDir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
