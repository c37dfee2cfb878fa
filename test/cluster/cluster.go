// Package cluster runs a real Kubernetes control plane on loopback, without
// root: etcd and kube-apiserver, on request kube-controller-manager and
// kube-scheduler. Its parts can be killed, frozen and started again as the same
// cluster, at the same address and with the same data.
package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Issuer is the ServiceAccount token issuer of every cluster, and the audience
// a token has when none is asked for.
const Issuer = "https://kubernetes.default.svc"

// AdminUser is the member of system:masters that the admin kubeconfig is for.
const AdminUser = "cluster-admin"

const (
	etcd              = "etcd"
	apiServer         = "kube-apiserver"
	controllerManager = "kube-controller-manager"
	scheduler         = "kube-scheduler"
)

// Options say what [Start] starts. The zero value is etcd and kube-apiserver in
// a temporary folder.
type Options struct {
	// Dir holds data, certificates and logs and must be empty or missing. When
	// it is unset, a temporary folder is used, which Stop removes.
	Dir string

	// ControllerManager also runs kube-controller-manager, which, among much
	// else, makes the default ServiceAccount of each namespace.
	ControllerManager bool

	// Scheduler also runs kube-scheduler.
	Scheduler bool

	// ServingNames are DNS names and IP addresses that kube-apiserver's
	// certificate is valid for, besides those on loopback and of its Service.
	ServingNames []string

	// DisablePriorityAndFairness lets kube-apiserver refuse none of many requests.
	DisablePriorityAndFairness bool

	// ExtraAPIServerArgs are appended to kube-apiserver's and win over them.
	ExtraAPIServerArgs []string

	// ExtraControllerManagerArgs are appended to kube-controller-manager's.
	ExtraControllerManagerArgs []string
}

// A Cluster is a control plane started by [Start].
type Cluster struct {
	dir        string
	ownsDir    bool
	url        string
	etcdURL    string
	authority  *authority
	kubeconfig string
	restConfig *rest.Config
	clientset  kubernetes.Interface
	readyHTTP  *http.Client
	fairness   bool

	mu         sync.Mutex
	components []*component // in the order they start
}

// Start starts a control plane and returns when it serves: /readyz is 200, the
// namespaces default and kube-system and the Service default/kubernetes exist,
// and with ControllerManager so does the ServiceAccount default/default. From then
// on kube-apiserver writes only what it is asked to. ctx bounds the start only.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	c, err := prepare(o)
	if err != nil {
		return nil, err
	}
	if err := c.Restart(ctx); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// prepare does everything but starting processes.
func prepare(o Options) (*Cluster, error) {
	c := &Cluster{dir: o.Dir, fairness: !o.DisablePriorityAndFairness}
	if c.dir == "" {
		dir, err := os.MkdirTemp("", "edge-hub-cluster-")
		if err != nil {
			return nil, err
		}
		c.dir, c.ownsDir = dir, true
	}
	if err := c.layOut(o); err != nil {
		if c.ownsDir {
			os.RemoveAll(c.dir)
		}
		return nil, fmt.Errorf("prepare a control plane in %s: %w", c.dir, err)
	}
	return c, nil
}

func (c *Cluster) layOut(o Options) error {
	// Programs run in folders of their own.
	dir, err := filepath.Abs(c.dir)
	if err != nil {
		return err
	}
	c.dir = dir
	if err := os.MkdirAll(filepath.Join(c.dir, "pki"), 0o755); err != nil {
		return err
	}
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	c.url = fmt.Sprintf("https://127.0.0.1:%d", ports[2])
	if err := c.writeCredentials(o.ServingNames); err != nil {
		return err
	}
	return c.describe(o, ports[0], ports[1], ports[2])
}

// describe fills in which components there are and how each is started.
func (c *Cluster) describe(o Options, etcdPort, etcdPeerPort, port int) error {
	c.etcdURL = fmt.Sprintf("http://127.0.0.1:%d", etcdPort)
	peerURL := fmt.Sprintf("http://127.0.0.1:%d", etcdPeerPort)
	specs := []component{
		{name: etcd, args: []string{
			"--name=default",
			"--data-dir=" + filepath.Join(c.dir, "etcd"),
			"--listen-client-urls=" + c.etcdURL,
			"--advertise-client-urls=" + c.etcdURL,
			"--listen-peer-urls=" + peerURL,
			"--initial-advertise-peer-urls=" + peerURL,
			"--initial-cluster=default=" + peerURL,
			"--log-level=warn",
			// Survives kill -9, not a power loss, which no test makes.
			"--unsafe-no-fsync",
		}},
		{name: apiServer, args: append([]string{
			"--etcd-servers=" + c.etcdURL,
			"--bind-address=127.0.0.1",
			fmt.Sprintf("--secure-port=%d", port),
			// kube-apiserver refuses to publish a loopback address as an
			// endpoint of the kubernetes Service.
			"--endpoint-reconciler-type=none",
			// Left alone it writes by itself: leases every ten seconds, marks of
			// compaction every five minutes. Each write moves the resourceVersion of
			// all lists, which tests compare byte for byte.
			"--feature-gates=APIServerIdentity=false,UnknownVersionInteroperabilityProxy=false",
			"--etcd-compaction-interval=0",
			fmt.Sprintf("--enable-priority-and-fairness=%t", c.fairness),
			"--service-cluster-ip-range=10.96.0.0/16",
			"--tls-cert-file=" + c.pki("apiserver.crt"),
			"--tls-private-key-file=" + c.pki("apiserver.key"),
			"--client-ca-file=" + c.ClientCAFile(),
			"--service-account-issuer=" + Issuer,
			"--service-account-key-file=" + c.pki("sa.pub"),
			"--service-account-signing-key-file=" + c.pki("sa.key"),
			"--authorization-mode=Node,RBAC",
			"--enable-admission-plugins=NodeRestriction",
			"--allow-privileged=true",
		}, o.ExtraAPIServerArgs...)},
	}
	if o.ControllerManager {
		specs = append(specs, component{name: controllerManager, args: append([]string{
			"--kubeconfig=" + c.kubeconfig,
			"--leader-elect=false",
			"--secure-port=0",
			"--use-service-account-credentials=true",
			"--service-account-private-key-file=" + c.pki("sa.key"),
			"--root-ca-file=" + c.CAFile(),
			"--cluster-signing-cert-file=" + c.CAFile(),
			"--cluster-signing-key-file=" + c.pki("ca.key"),
		}, o.ExtraControllerManagerArgs...)})
	}
	if o.Scheduler {
		specs = append(specs, component{name: scheduler, args: []string{
			"--kubeconfig=" + c.kubeconfig,
			"--leader-elect=false",
			"--secure-port=0",
		}})
	}
	for _, spec := range specs {
		binary, err := Binary(spec.name)
		if err != nil {
			return err
		}
		spec.binary, spec.log = binary, c.LogFile(spec.name)
		c.components = append(c.components, &spec)
	}
	return nil
}

// URL is the address of kube-apiserver, https://127.0.0.1:port, the same after a restart.
func (c *Cluster) URL() string { return c.url }

// EtcdURL is the address of etcd, http://127.0.0.1:port, the same after a restart.
func (c *Cluster) EtcdURL() string { return c.etcdURL }

// Dir is the cluster's folder.
func (c *Cluster) Dir() string { return c.dir }

// LogFile is the path of a component's log, such as kube-apiserver's. It goes on
// across restarts.
func (c *Cluster) LogFile(component string) string {
	return filepath.Join(c.dir, component+".log")
}

func (c *Cluster) component(name string) *component {
	i := slices.IndexFunc(c.components, func(p *component) bool { return p.name == name })
	return c.components[i]
}

// FreezeAPIServer stops kube-apiserver with SIGSTOP: connections are accepted
// by the kernel and nothing answers.
func (c *Cluster) FreezeAPIServer() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.component(apiServer).freeze()
}

// ThawAPIServer lets a frozen kube-apiserver go on.
func (c *Cluster) ThawAPIServer() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.component(apiServer).thaw()
}

// KillAPIServer ends kube-apiserver with SIGKILL and returns when it is gone:
// from then on connections are refused.
func (c *Cluster) KillAPIServer() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.component(apiServer).kill()
}

// RestartAPIServer starts kube-apiserver again, killing it first if it runs,
// and waits until it is ready.
func (c *Cluster) RestartAPIServer(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.component(apiServer)
	if err := p.kill(); err != nil {
		return err
	}
	if err := p.start(); err != nil {
		return err
	}
	return c.waitReady(ctx)
}

// Kill ends every component with SIGKILL, kube-apiserver before etcd.
func (c *Cluster) Kill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, p := range slices.Backward(c.components) {
		errs = append(errs, p.kill())
	}
	return errors.Join(errs...)
}

// Restart starts every component that does not run and waits until the control
// plane serves.
func (c *Cluster) Restart(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, p := range c.components {
		if p.running() {
			continue
		}
		if p.name == controllerManager || p.name == scheduler {
			// They end if kube-apiserver is not there within ten seconds.
			if err := c.await(ctx, c.components[:i], c.readyz); err != nil {
				return err
			}
		}
		if err := p.start(); err != nil {
			return err
		}
	}
	return c.waitReady(ctx)
}

// Stop stops everything, gracefully for a second and then with SIGKILL, and
// removes the folder if Start made it.
func (c *Cluster) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, p := range slices.Backward(c.components) {
		errs = append(errs, p.stop(time.Second))
	}
	if c.ownsDir {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}

func newReadyHTTP(tlsConfig *tls.Config) *http.Client {
	// One connection per probe: a kept one would say nothing about a new process.
	return &http.Client{
		Timeout:   2 * time.Second,
		Transport: &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true},
	}
}
