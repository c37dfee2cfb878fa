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
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
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
	ca, _ := signer()
	for name, content := range map[string]string{
		DefaultKubeletKubeconfig:         kubeletConf,
		"/etc/kubernetes/pki/ca.crt":     pemOf(ca),
		certFile:                         certificate(t, commonName),
		DefaultManifests + "/other.yaml": "another static Pod",
		systemdDir + "/kubelet.service":  "the kubelet's unit",
		DefaultKubeletConfig:             "kind: KubeletConfiguration\nstaticPodPath: /etc/kubernetes/manifests/\n",
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

// signer is the cluster's authority.
var signer = sync.OnceValues(newAuthority)

func newAuthority() (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return ca, key
}

func pemOf(ca *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}))
}

func certificate(t *testing.T, commonName string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: commonName}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	ca, caKey := signer()
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}))
}

// optionsFor is for a node whose hub answers as soon as its manifest is there, and has
// just started whenever it is asked.
func optionsFor(root string) Options {
	o := Options{Image: "example.com/edge-hub:v1", NodeIPs: []string{"192.0.2.7"}, root: root}
	o.answers = func(_ context.Context, o Options) error {
		if !o.exists(o.manifest()) || !o.exists(hubKubeconfig) || !o.exists(authorityFile) || !o.exists(stateDir) || !o.exists(cacheDir) {
			return errors.New("the hub lacks what it needs")
		}
		return nil
	}
	o.started = func(context.Context) (time.Time, error) { return time.Now(), nil }
	o.ended = func(context.Context) error {
		if o.defaults(); o.exists(o.manifest()) {
			return errors.New("the kubelet still runs it")
		}
		return nil
	}
	o.release = func() error { return nil }
	o.shell = func(context.Context, string) error { return nil }
	o.addresses = func(*Options, *kubelet, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.8")}, nil
	}
	return o
}

// TestThePodMayDoLittle, and has the credential that it is told of.
func TestThePodMayDoLittle(t *testing.T) {
	o := optionsFor(t.TempDir())
	o.defaults()
	o.CredentialsDir = "/run/credentials/kubelet.service"
	manifest, err := o.pod(&kubelet{node: "edge-1", certFile: "/pki/c", keyFile: "/pki/c", origin: way{server: "https://192.0.2.1"}})
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict(manifest, &pod); err != nil {
		t.Fatal(err)
	}
	c := pod.Spec.Containers[0]
	s := c.SecurityContext
	if *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || s.Privileged != nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault ||
		!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || !slices.Equal(s.Capabilities.Add, []corev1.Capability{"NET_ADMIN"}) {
		t.Errorf("it may do more: %+v", s)
	}
	if c.Resources.Limits.Memory().IsZero() {
		t.Error("it may take any memory")
	}
	writable := map[string]bool{cacheDir: true, stateDir: true}
	credentials := false
	for _, m := range c.VolumeMounts {
		if !m.ReadOnly && !writable[m.MountPath] {
			t.Errorf("it may write to %s", m.MountPath)
		}
		credentials = credentials || m.MountPath == o.CredentialsDir && m.ReadOnly
	}
	if !credentials || len(c.Env) != 1 || c.Env[0].Value != o.CredentialsDir {
		t.Errorf("it has no credential: %+v, %+v", c.VolumeMounts, c.Env)
	}
}

// TestALoopbackAddressIsNotTheNodes: a load balancer on the node is reached from one, and
// no serving certificate is approved for ::1.
func TestALoopbackAddressIsNotTheNodes(t *testing.T) {
	source, err := sourceOf("127.0.0.1:6443")
	if err != nil || !source.IsLoopback() {
		t.Fatalf("a loopback address is reached from %v, %v", source, err)
	}
	for _, host := range []string{"[::1]", "127.0.0.1"} {
		o := optionsFor(t.TempDir())
		o.source = func(string) (netip.Addr, error) { return netip.MustParseAddr(strings.Trim(host, "[]")), nil }
		o.defaults()
		o.NodeIPs = nil
		manifest, err := o.pod(&kubelet{node: "edge-1", certFile: "/pki/c", keyFile: "/pki/c", origin: way{server: "https://" + host + ":6443"}})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(manifest), "--node-ip") {
			t.Errorf("%s: the hub asks for a certificate for a loopback address:\n%s", host, manifest)
		}
	}
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
	pod := readPod(t, root)
	if unit, err := os.ReadFile(filepath.Join(root, dropInFile)); err != nil || !strings.Contains(string(unit), "ExecStartPre=-+/bin/sh -c 'test ! -e /etc/kubernetes/manifests/edge-hub.yaml || ip address replace 169.254.2.1/32 dev lo scope host'\n") {
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
}

// TestARemovalThatWasKilledIsFinishedByTheNext, in either half. Between two runs the
// kubelet is restarted, as the documentation says.
func TestARemovalThatWasKilledIsFinishedByTheNext(t *testing.T) {
	asRoot(t)
	for _, half := range []bool{false, true} {
		for at := 0; ; at++ {
			root := newRoot(t, "system:node:edge-1")
			pristine := tree(t, root)
			if err := Install(t.Context(), optionsFor(root)); err != nil {
				t.Fatal(err)
			}
			if half {
				if err := Uninstall(t.Context(), optionsFor(root), false); !errors.Is(err, ErrRestart) {
					t.Fatal(err)
				}
			}
			ended := !killed(t, at, optionsFor(root), func(o Options) error {
				err := Uninstall(t.Context(), o, half)
				if errors.Is(err, ErrRestart) {
					return nil
				}
				return err
			})
			// The hub must not go before the kubelet was restarted.
			err := Uninstall(t.Context(), optionsFor(root), true)
			if errors.Is(err, ErrRestart) {
				if installed := serverOf(t, filepath.Join(root, hubKubeconfig)); installed != server {
					t.Errorf("killed after step %d: the hub speaks to %s", at, installed)
				}
				if _, err := os.Stat(filepath.Join(root, DefaultManifests, manifestName)); err != nil {
					t.Errorf("killed after step %d: the hub is gone: %v", at, err)
				}
				err = Uninstall(t.Context(), optionsFor(root), true)
			}
			if err == nil {
				err = Uninstall(t.Context(), optionsFor(root), true) // once more does no harm
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := serverOf(t, filepath.Join(root, DefaultKubeletKubeconfig)); got != server {
				t.Errorf("the kubelet speaks to %s", got)
			}
			left := slices.Sorted(maps.Keys(tree(t, root)))
			if want := slices.Sorted(maps.Keys(pristine)); !slices.Equal(left, want) {
				t.Errorf("after step %d there is %v, want %v", at, left, want)
			}
			if ended {
				break
			}
		}
	}
}

// TestTheManifestIsWhereTheKubeletLooks, as its configuration says.
func TestTheManifestIsWhereTheKubeletLooks(t *testing.T) {
	asRoot(t)
	root := newRoot(t, "system:node:edge-1")
	manifest := root + "/etc/kubelet.d/" + manifestName
	if err := errors.Join(os.WriteFile(root+DefaultKubeletConfig, []byte("staticPodPath: /etc/kubelet.d"), 0o600), os.Mkdir(root+"/etc/kubelet.d", 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := Install(t.Context(), optionsFor(root)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(manifest); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := Uninstall(t.Context(), optionsFor(root), true); err != nil && !errors.Is(err, ErrRestart) {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(manifest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the manifest is still there: %v", err)
	}
}

// TestTheHubKnowsTheClustersDomain as the kubelet does: the operator approves no
// certificate for the Service's name in another one.
func TestTheHubKnowsTheClustersDomain(t *testing.T) {
	asRoot(t)
	for _, domain := range []string{"corp.example", "corp.example."} {
		root := newRoot(t, "system:node:edge-1")
		if err := os.WriteFile(root+DefaultKubeletConfig, []byte("staticPodPath: /etc/kubernetes/manifests\nclusterDomain: "+domain+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Install(t.Context(), optionsFor(root)); err != nil {
			t.Fatal(err)
		}
		if args := readPod(t, root).Spec.Containers[0].Args; !slices.Contains(args, "--cluster-domain=corp.example") {
			t.Errorf("%s: the hub is run with %v", domain, args)
		}
	}
}

// TestAStaticPodPathMayBeRelative: the kubelet takes it from where its configuration is
// (pkg/kubelet/kubeletconfig/configfiles, Load).
func TestAStaticPodPathMayBeRelative(t *testing.T) {
	asRoot(t)
	root := newRoot(t, "system:node:edge-1")
	if err := errors.Join(os.WriteFile(root+DefaultKubeletConfig, []byte("staticPodPath: static"), 0o600), os.Mkdir(root+"/var/lib/kubelet/static", 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := Install(t.Context(), optionsFor(root)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root + "/var/lib/kubelet/static/" + manifestName); err != nil {
		t.Error(err)
	}
}

// TestTheKubeletIsRestartedBeforeTheHubGoes, whatever was said to be done.
func TestTheKubeletIsRestartedBeforeTheHubGoes(t *testing.T) {
	asRoot(t)
	root := newRoot(t, "system:node:edge-1")
	if err := Install(t.Context(), optionsFor(root)); err != nil {
		t.Fatal(err)
	}
	if err := Uninstall(t.Context(), optionsFor(root), true); !errors.Is(err, ErrRestart) {
		t.Errorf("error %v", err)
	}
	if got := serverOf(t, filepath.Join(root, DefaultKubeletKubeconfig)); got != server {
		t.Errorf("the kubelet speaks to %s", got)
	}
	for name, want := range map[string]bool{DefaultManifests + "/" + manifestName: true, stateDir: true, dropInFile: false} {
		if _, err := os.Stat(root + name); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestKilledAtAnyMoment: with SIGKILL, within a step too.
func TestKilledAtAnyMoment(t *testing.T) {
	asRoot(t)
	if root := os.Getenv("EDGE_HUB_TEST_ROOT"); root != "" {
		for { // until it is killed
			if err := Install(t.Context(), optionsFor(root)); err != nil {
				t.Fatal(err)
			}
			for _, restarted := range []bool{false, true} {
				if err := Uninstall(t.Context(), optionsFor(root), restarted); err != nil && !errors.Is(err, ErrRestart) {
					t.Fatal(err)
				}
			}
		}
	}
	root := newRoot(t, "system:node:edge-1")
	if err := Install(t.Context(), optionsFor(root)); err != nil {
		t.Fatal(err)
	}
	installed := tree(t, root)
	gone := func() {
		for range 2 {
			if err := Uninstall(t.Context(), optionsFor(root), true); err != nil && !errors.Is(err, ErrRestart) {
				t.Fatal(err)
			}
		}
	}
	gone()
	pristine := tree(t, root)
	for range 25 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledAtAnyMoment$")
		cmd.Env = append(os.Environ(), "EDGE_HUB_TEST_ROOT="+root)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30*time.Millisecond + mathrand.N(50*time.Millisecond))
		_ = cmd.Process.Kill()
		if err := cmd.Wait(); cmd.ProcessState.Exited() {
			t.Fatalf("it was not killed: %v", err)
		}
		if mathrand.N(2) == 0 {
			gone()
			expectTree(t, "killed, then removed", root, pristine)
		}
		if err := Install(t.Context(), optionsFor(root)); err != nil {
			t.Fatal(err)
		}
		expectTree(t, "killed, then installed", root, installed)
	}
}

// TestAHubThatIsNotSilentForLongHasNotEnded: it may have crashed, and the kubelet not
// know yet that its manifest is gone.
func TestAHubThatIsNotSilentForLongHasNotEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := silent(t.Context(), func(context.Context) error {
			switch at := time.Since(start); {
			case at < 10*time.Second, at > 30*time.Second && at < 32*time.Second:
				return nil
			case at > 40*time.Second && at < 42*time.Second:
				return context.DeadlineExceeded
			}
			return &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
		})
		if took := time.Since(start); err != nil || took < 40*time.Second+quiet {
			t.Errorf("ended after %v, %v", took, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := silent(ctx, func(context.Context) error { return nil }); err == nil {
			t.Error("a hub that answers has ended")
		}
	})
}

// TestTheKubeletIsLedBackAsItCame: a name that its server is verified by, or a proxy,
// is not for the hub, and there again afterwards.
func TestTheKubeletIsLedBackAsItCame(t *testing.T) {
	asRoot(t)
	root := newRoot(t, "system:node:edge-1")
	file := filepath.Join(root, DefaultKubeletKubeconfig)
	conf := strings.Replace(kubeletConf, "certificate-authority:", `tls-server-name: kube.example.com, proxy-url: "http://proxy:3128", certificate-authority:`, 1)
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	clusterOf := func(file string) way {
		config, err := clientcmd.LoadFromFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return wayOf(config.Clusters[config.Contexts[config.CurrentContext].Cluster])
	}
	origin := clusterOf(file)
	for range 2 { // the second time it is led to the hub already
		if err := Install(t.Context(), optionsFor(root)); err != nil {
			t.Fatal(err)
		}
		if got := clusterOf(file); got != (way{server: hubURL}) {
			t.Errorf("the kubelet goes %+v", got)
		}
		if got := clusterOf(filepath.Join(root, hubKubeconfig)); got != origin {
			t.Errorf("the hub goes %+v, want %+v", got, origin)
		}
	}
	if err := Uninstall(t.Context(), optionsFor(root), false); !errors.Is(err, ErrRestart) {
		t.Error(err)
	}
	if got := clusterOf(file); got != origin || origin.proxyURL == "" || origin.tlsServerName == "" {
		t.Errorf("the kubelet goes %+v, want %+v", got, origin)
	}
}

// TestACertificateApartFromItsKey is asked with by the hub too, from wherever it is.
func TestACertificateApartFromItsKey(t *testing.T) {
	asRoot(t)
	for name, tc := range map[string]struct {
		cert, key string
		mounted   []string // beside those of the hub itself
	}{
		"two directories":  {"/opt/pki/node.crt", "/opt/private/node.key", []string{"/opt/pki", "/opt/private"}},
		"one":              {"/opt/pki/node.crt", "/opt/pki/node.key", []string{"/opt/pki"}},
		"mounted already":  {"/etc/kubernetes/node.crt", "/etc/kubernetes/pki/node.key", nil},
		"one in the other": {"/opt/pki/node.crt", "/opt/pki/private/node.key", []string{"/opt/pki"}},
	} {
		root := newRoot(t, "system:node:edge-1")
		pem := certificate(t, "system:node:edge-1")
		at := strings.Index(pem, "-----BEGIN EC")
		for name, content := range map[string]string{
			tc.cert: pem[:at], tc.key: pem[at:],
			DefaultKubeletKubeconfig: strings.NewReplacer("client-certificate: "+certFile, "client-certificate: "+tc.cert, "client-key: "+certFile, "client-key: "+tc.key).Replace(kubeletConf),
		} {
			if err := os.MkdirAll(filepath.Dir(root+name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(root+name, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := Install(t.Context(), optionsFor(root)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		pod := readPod(t, root)
		var dirs []string
		for _, m := range pod.Spec.Containers[0].VolumeMounts {
			if m.MountPath != configDir && m.MountPath != cacheDir && m.MountPath != stateDir {
				dirs = append(dirs, m.MountPath)
			}
		}
		if !slices.Equal(dirs, tc.mounted) {
			t.Errorf("%s: %v are mounted, want %v", name, dirs, tc.mounted)
		}
		args := pod.Spec.Containers[0].Args
		if slices.ContainsFunc(args, func(s string) bool { return strings.HasPrefix(s, "--bootstrap-credential") }) ||
			!slices.Contains(args, "--node-client-cert-file="+tc.cert) || !slices.Contains(args, "--node-client-key-file="+tc.key) {
			t.Errorf("%s: %v", name, args)
		}
		// As the hub reads it on the node.
		config, err := clientcmd.LoadFromFile(root + hubKubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		user := config.AuthInfos[config.Contexts[config.CurrentContext].AuthInfo]
		if user.ClientCertificate != tc.cert || user.ClientKey != tc.key {
			t.Errorf("%s: the hub asks with %s and %s", name, user.ClientCertificate, user.ClientKey)
		}
	}
}

// TestALinkToTheKubeconfigStays, and what it leads to is changed.
func TestALinkToTheKubeconfigStays(t *testing.T) {
	asRoot(t)
	root := newRoot(t, "system:node:edge-1")
	link, file := root+DefaultKubeletKubeconfig, root+"/opt/kubelet/config"
	conf := strings.Replace(kubeletConf, "pki/ca.crt", "/etc/kubernetes/pki/ca.crt", 1)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(conf), 0o600), os.Remove(link), os.Symlink("../../opt/kubelet/config", link)); err != nil {
		t.Fatal(err)
	}
	if err := Install(t.Context(), optionsFor(root)); err != nil {
		t.Fatal(err)
	}
	torn := filepath.Join(filepath.Dir(file), journal.TempPrefix+"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
	if err := os.WriteFile(torn, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{hubURL, server} {
		if info, err := os.Lstat(link); err != nil || info.Mode().Type() != fs.ModeSymlink {
			t.Errorf("the link is %v, %v", info, err)
		}
		if got := serverOf(t, file); got != want {
			t.Errorf("the kubelet speaks to %s, want %s", got, want)
		}
		if err := Uninstall(t.Context(), optionsFor(root), false); !errors.Is(err, ErrRestart) {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(torn); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a run that was killed left is there: %v", err)
	}
}

// TestWhatALinkLeadsToIsMounted beside the link.
func TestWhatALinkLeadsToIsMounted(t *testing.T) {
	asRoot(t)
	root := newRoot(t, "system:node:edge-1")
	if err := errors.Join(os.Mkdir(root+"/opt", 0o755), os.Rename(root+certFile, root+"/opt/node.pem"), os.Symlink("../../../../opt/node.pem", root+certFile)); err != nil {
		t.Fatal(err)
	}
	if err := Install(t.Context(), optionsFor(root)); err != nil {
		t.Fatal(err)
	}
	mounts := readPod(t, root).Spec.Containers[0].VolumeMounts
	for _, dir := range []string{filepath.Dir(certFile), "/opt"} {
		if !slices.ContainsFunc(mounts, func(m corev1.VolumeMount) bool { return m.MountPath == dir && m.ReadOnly }) {
			t.Errorf("%s is not mounted: %v", dir, mounts)
		}
	}
}

func readPod(t *testing.T, root string) (pod corev1.Pod) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, DefaultManifests, manifestName))
	if err == nil {
		err = yaml.UnmarshalStrict(content, &pod)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// killed runs until a step has been done, and tells whether there were so many.
func killed(t *testing.T, at int, o Options, run func(Options) error) (yes bool) {
	t.Helper()
	type kill struct{}
	o.step = func(string) {
		if at--; at < 0 {
			panic(kill{})
		}
	}
	defer func() {
		r := recover()
		if yes = r == any(kill{}); r != nil && !yes {
			panic(r)
		}
	}()
	if err := run(o); err != nil {
		t.Error(err)
	}
	return false
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
		"no kubeconfig":  {func(root string, _ *Options) { _ = os.Remove(root + DefaultKubeletKubeconfig) }, "kubelet's kubeconfig"},
		"no certificate": {func(root string, _ *Options) { _ = os.Remove(root + certFile) }, "client certificate"},
		"no authority":   {func(root string, _ *Options) { _ = os.Remove(root + "/etc/kubernetes/pki/ca.crt") }, "authority: "},
		"an authority for servers alone": {func(root string, _ *Options) {
			servers, _ := newAuthority()
			_ = os.WriteFile(root+"/etc/kubernetes/pki/ca.crt", []byte(pemOf(servers)), 0o600)
		}, "authority: the hub would not recognise the kubelet"},
		"no manifests":    {func(root string, _ *Options) { _ = os.RemoveAll(root + DefaultManifests) }, "manifests: "},
		"a file for them": {func(_ string, o *Options) { o.Manifests = DefaultKubeletKubeconfig }, "is no directory"},
		"not a node":      {func(root string, _ *Options) { _ = os.WriteFile(root+certFile, []byte(certificate(t, "admin")), 0o600) }, `of "admin"`},
		"an odd server":   {func(_ string, o *Options) { o.Servers = []string{"http://x"} }, "https://"},
		"not the kubelet's": {func(root string, o *Options) {
			o.Manifests = "/etc/kubelet.d"
			_ = os.Mkdir(root+"/etc/kubelet.d", 0o755)
		}, "staticPodPath, which is /etc/kubernetes/manifests"},
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

// TestPreflightSaysWhatIsDoubtful, and installs all the same.
func TestPreflightSaysWhatIsDoubtful(t *testing.T) {
	asRoot(t)
	doubts := func(o Options) (found []string) {
		for _, f := range Preflight(o) {
			if f.Doubtful {
				found = append(found, f.String())
			}
		}
		return found
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("NOT TESTED: ip is not in $PATH")
	}
	if found := doubts(optionsFor(newRoot(t, "system:node:edge-1"))); len(found) > 0 {
		t.Errorf("a node that is as it should be: %v", found)
	}
	for name, tc := range map[string]struct {
		spoil func(root string)
		want  string
	}{
		"a static Pod that goes its own way": {func(root string) {
			_ = os.WriteFile(root+DefaultManifests+"/other.yaml", []byte("env: [{name: KUBERNETES_SERVICE_HOST, value: 10.0.0.1}]"), 0o600)
		}, "[?]static Pod /etc/kubernetes/manifests/other.yaml"},
		"a proxy": {func(root string) {
			_ = os.WriteFile(root+DefaultKubeletKubeconfig, []byte(strings.Replace(kubeletConf, "server:", "proxy-url: http://proxy:3128, server:", 1)), 0o600)
		}, "[?]proxy-url the kubelet reaches kube-apiserver through http://proxy:3128"},
		"no configuration": {func(root string) { _ = os.Remove(root + DefaultKubeletConfig) }, "[?]manifests /etc/kubernetes/manifests must be"},
		"no staticPodPath": {func(root string) { _ = os.WriteFile(root+DefaultKubeletConfig, nil, 0o600) }, "[?]manifests /etc/kubernetes/manifests must be"},
		"not even YAML":    {func(root string) { _ = os.WriteFile(root+DefaultKubeletConfig, []byte("{"), 0o600) }, "[?]manifests /etc/kubernetes/manifests must be"},
	} {
		root := newRoot(t, "system:node:edge-1")
		tc.spoil(root)
		found := doubts(optionsFor(root))
		if len(found) != 1 || !strings.HasPrefix(found[0], tc.want) {
			t.Errorf("%s: %v", name, found)
		}
		if err := Install(t.Context(), optionsFor(root)); err != nil {
			t.Errorf("%s: %v", name, err)
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
