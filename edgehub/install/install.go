// Package install puts edge-hub on a node that has joined its cluster, and takes it
// away again: a static Pod, its directories, and the server in the kubelet's
// kubeconfig.
//
// Each step looks at what is there and leaves it as it is to be, so that a run which
// was killed, anywhere, is finished by the next one. Files are replaced in one move.
// The kubelet is led to the hub last, once the hub answers for kube-apiserver. It is
// led away from it first, but for what the kubelet's own start does for the hub:
// whenever it starts again, that is gone.
package install

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/netif"
)

// Where things are on a node.
const (
	DefaultKubeletKubeconfig = "/etc/kubernetes/kubelet.conf"
	DefaultKubeletConfig     = "/var/lib/kubelet/config.yaml"
	DefaultManifests         = "/etc/kubernetes/manifests"
	// Listen is where Pods and the kubelet reach the hub.
	Listen = "169.254.2.1:10268"
	// Admin is where the hub tells how it is.
	Admin = "127.0.0.1:10267"

	configDir     = "/etc/kubernetes"
	hubKubeconfig = configDir + "/edge-hub.conf"
	authorityFile = configDir + "/edge-hub-ca.crt"
	beforeFile    = configDir + "/edge-hub-before.yaml" // the manifest before an upgrade, until that ends
	cacheDir      = configDir + "/cache"
	stateDir      = "/var/lib/edge-hub"
	manifestName  = "edge-hub.yaml"
	hubAddress    = "169.254.2.1"
	hubURL        = "https://" + Listen
)

const (
	// patience is how long the hub may take to answer, or to end.
	patience = 5 * time.Minute
	// quiet is for how long nobody must answer in the hub's place until the hub has
	// ended: longer than the kubelet may take to find that a manifest is gone
	// (fileCheckFrequency, 20 s), for it might start a hub that has crashed again.
	quiet = 25 * time.Second
)

// Options say what to install. The zero value of a field that is not required has
// the default that its comment names.
type Options struct {
	// Image is the hub's image. It is required to install.
	Image string
	// Servers are kube-apiserver's URLs. If it is nil they are as the hub is
	// installed; if there are none the kubelet's server is.
	Servers []string
	// NodeIPs are addresses of the node. If it is nil they are as the hub is
	// installed; if there are none the one is that the node reaches the first server
	// from, or where its Node does not have that one, those that it has.
	NodeIPs []string
	// KubeletKubeconfig is DefaultKubeletKubeconfig if it is empty.
	KubeletKubeconfig string
	// KubeletConfig is the kubelet's configuration, DefaultKubeletConfig if it is
	// empty. There may be none.
	KubeletConfig string
	// Manifests is KubeletConfig's staticPodPath if it is empty, and
	// DefaultManifests if that says none.
	Manifests string
	// CredentialsDir is a directory with the key that Secrets are sealed with, as
	// systemd puts it there for a service (systemd.exec(5), LoadCredentialEncrypted),
	// usually /run/credentials/kubelet.service. It must be there whenever the hub
	// starts. If it is empty it is as the hub is installed, unless DropCredentials says
	// that there is none. Without one the key is a file in the hub's state directory.
	CredentialsDir  string
	DropCredentials bool
	// Out is told what was done.
	Out io.Writer

	root    string                                   // of the file system, for tests
	answers func(context.Context, Options) error     // nil if the hub answers
	started func(context.Context) (time.Time, error) // when the hub's process has started
	ended   func(context.Context) error              // nil if the hub has ended
	release func() error                             // takes the address from the node
	shell   func(context.Context, string) error      // runs a script on the node
	step    func(string)                             // is called after each step
	source  func(host string) (netip.Addr, error)    // is what the node reaches a server from
	// addresses are those of the kubelet's Node, as a server has them.
	addresses func(o *Options, k *kubelet, server string) ([]netip.Addr, error)
}

func (o *Options) defaults() {
	if o.KubeletKubeconfig == "" {
		o.KubeletKubeconfig = DefaultKubeletKubeconfig
	}
	if o.KubeletConfig == "" {
		o.KubeletConfig = DefaultKubeletConfig
	}
	if o.root == "" {
		o.root = "/"
	}
	if o.Manifests == "" {
		config, _ := o.kubeletConfig() // Preflight tells of the error
		if o.Manifests = config.StaticPodPath; o.Manifests == "" {
			o.Manifests = DefaultManifests
		}
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	if o.answers == nil {
		o.answers = answers
	}
	if o.started == nil {
		o.started = func(ctx context.Context) (time.Time, error) { return started(ctx, Admin) }
	}
	if o.ended == nil {
		o.ended = ended
	}
	if o.release == nil {
		o.release = func() error {
			return netif.Remove(netif.DefaultDevice, netif.LinkLocal([]string{Listen}))
		}
	}
	if o.shell == nil {
		o.shell = shell
	}
	if o.source == nil {
		o.source = sourceOf
	}
	if o.addresses == nil {
		o.addresses = addresses
	}
	if o.step == nil {
		o.step = func(string) {}
	}
}

// path is where a file is in the file system of the node.
func (o *Options) path(name string) string { return filepath.Join(o.root, name) }

func (o *Options) manifest() string { return filepath.Join(o.Manifests, manifestName) }

// say tells what was done.
func (o *Options) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	fmt.Fprintln(o.Out, line)
	o.step(line)
}

// Install puts the hub on the node, or finishes what an earlier run has begun, or has
// a hub that is installed replaced by another. After it the kubelet has to be restarted,
// unless it was led to the hub before.
//
// If the other hub does not answer, or ctx ends before it does, the manifest is as it was
// before, and the error says so.
func Install(ctx context.Context, o Options) error {
	o.defaults()
	if o.Image == "" {
		return errors.New("install: an image is required")
	}
	if problems := failed(Preflight(o)); len(problems) > 0 {
		return fmt.Errorf("install: %s", strings.Join(problems, "; "))
	}
	if err := o.keep(); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	k, err := o.kubelet()
	if err == nil {
		err = k.identify(&o)
	}
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	authority, err := k.authority(&o)
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	config, err := k.hubConfig()
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	pod, err := o.pod(k)
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	if err := o.removeTorn(); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	for _, dir := range []string{cacheDir, stateDir} {
		if err := os.MkdirAll(o.path(dir), 0o700); err != nil {
			return fmt.Errorf("install: %w", err)
		}
		o.say("%s is there", dir)
	}
	if o.exists(systemdDir) {
		if err := os.MkdirAll(o.path(dropInDir), 0o755); err != nil {
			return fmt.Errorf("install: %w", err)
		}
		if err := o.write(dropInFile, []byte(o.dropIn())); err != nil {
			return fmt.Errorf("install: %w", err)
		}
		o.say("%s is written", dropInFile)
	}
	if o.shell(ctx, openFirewall) == nil {
		o.say("iptables lets Pods reach %s", Listen)
	}
	// Who reads these files finds them whole: the manifest comes last.
	for _, f := range []struct {
		name    string
		content []byte
	}{{authorityFile, authority}, {hubKubeconfig, config}} {
		if err := o.write(f.name, f.content); err != nil {
			return fmt.Errorf("install: %w", err)
		}
		o.say("%s is written", f.name)
	}
	if err := o.replace(ctx, pod); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	o.say("the hub answers at %s", hubURL)
	if err := k.leadTo(&o, way{server: hubURL}); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	o.say("%s names the hub: restart the kubelet", o.KubeletKubeconfig)
	return nil
}

// Uninstall takes the hub away with all that it has cached. The kubelet has to be
// restarted between its two halves: Uninstall does the first one and returns
// ErrRestart as long as restarted is false, or if it had to do something of the
// first one. Pods that were given the hub's address have to be made anew.
func Uninstall(ctx context.Context, o Options, restarted bool) error {
	o.defaults()
	k, err := o.kubelet()
	if err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	if err := o.removeTorn(); err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	// Before the kubelet is led away: it is restarted after that, and nothing must
	// be left that it does for the hub when it starts.
	if err := o.remove(dropInFile); err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	_ = os.Remove(o.path(dropInDir)) // unless others have something there
	if k.cluster.Server == hubURL {
		if err := k.leadTo(&o, k.origin); err != nil {
			return fmt.Errorf("uninstall: %w", err)
		}
		restarted = false // not since it is to be
	}
	o.say("%s names %s", o.KubeletKubeconfig, k.origin.server)
	if !restarted {
		return ErrRestart
	}
	if err := o.remove(o.manifest()); err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	if err := o.ended(ctx); err != nil {
		return fmt.Errorf("uninstall: the hub still runs: %w", err)
	}
	o.say("the hub has ended")
	o.unreport(ctx, k)
	if err := o.release(); err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	_ = o.shell(ctx, closeFirewall) // there may be no iptables
	o.say("the node does not have the hub's address")
	for _, name := range []string{cacheDir, stateDir, authorityFile, hubKubeconfig, beforeFile} {
		if err := o.remove(name); err != nil {
			return fmt.Errorf("uninstall: %w", err)
		}
	}
	return nil
}

// ErrRestart says that the kubelet has to be restarted before the hub can go.
var ErrRestart = errors.New("restart the kubelet, then run this again with --kubelet-restarted")

// write replaces a file in one move, unless it is as it should be.
func (o *Options) write(name string, content []byte) error {
	if was, err := os.ReadFile(o.path(name)); err == nil && string(was) == string(content) {
		return nil
	}
	root, err := os.OpenRoot(filepath.Dir(o.path(name)))
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer root.Close()
	return journal.WriteFile(root, filepath.Base(name), content)
}

// torn is the name of a file that write was killed in the middle of.
var torn = regexp.MustCompile("^" + regexp.QuoteMeta(journal.TempPrefix) + "[A-Z2-7]{26}$") // see rand.Text

// removeTorn removes what runs that were killed have left half written.
func (o *Options) removeTorn() error {
	kubeconfig, err := o.resolve(o.KubeletKubeconfig)
	if err != nil {
		return err
	}
	for _, dir := range []string{configDir, o.Manifests, dropInDir, filepath.Dir(kubeconfig)} {
		entries, err := os.ReadDir(o.path(dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if !torn.MatchString(e.Name()) {
				continue
			}
			if err := os.Remove(filepath.Join(o.path(dir), e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (o *Options) remove(name string) error {
	if err := os.RemoveAll(o.path(name)); err != nil {
		return err
	}
	o.say("%s is gone", name)
	return nil
}

// answers waits until the hub answers with a certificate that the cluster's
// authority has signed.
func answers(ctx context.Context, o Options) error {
	pem, err := os.ReadFile(o.path(authorityFile))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return eventually(ctx, func(ctx context.Context) error {
		dialer := tls.Dialer{Config: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
		conn, err := dialer.DialContext(ctx, "tcp", Listen)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
}

// ended waits until the hub is gone.
func ended(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return silent(ctx, func(ctx context.Context) error {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", Admin)
		if err == nil {
			return conn.Close()
		}
		return err
	})
}

// silent waits until connections have been refused for some time.
func silent(ctx context.Context, dial func(context.Context) error) error {
	since := time.Now()
	for time.Since(since) < quiet {
		if err := dial(ctx); !errors.Is(err, syscall.ECONNREFUSED) {
			since = time.Now()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not silent: %w", Admin, ctx.Err())
		case <-time.After(time.Second):
		}
	}
	return nil
}

func eventually(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		try, stop := context.WithTimeout(ctx, 5*time.Second)
		err := f(try)
		stop()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

// sourceOf is the address that the node reaches a server from. Nothing is sent.
func sourceOf(host string) (netip.Addr, error) {
	conn, err := net.Dial("udp", host)
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = conn.Close() }()
	address, err := netip.ParseAddrPort(conn.LocalAddr().String())
	return address.Addr().Unmap(), err
}

// exists reports whether a file is there.
func (o *Options) exists(name string) bool {
	_, err := os.Stat(o.path(name))
	return !errors.Is(err, fs.ErrNotExist)
}
