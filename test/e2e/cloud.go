package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/process"
)

// A cloud is everything on the far side of the link.
type cloud struct {
	*cluster.Cluster

	client *kubernetes.Clientset
	reader client.Client // of the product's own resources

	audits     [2]auditLog // of the two kube-apiservers
	second     *process.Process
	secondArgs []string
	operator   *process.Process
}

// startCloud runs the control plane in this process's network namespace.
func startCloud(ctx context.Context, o options) (*cloud, error) {
	dir := filepath.Join(o.dir, "cloud")
	policy := filepath.Join(o.dir, "audit.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return nil, err
	}
	c := &cloud{audits: [2]auditLog{{filepath.Join(o.dir, "audit-first.log")}, {filepath.Join(o.dir, "audit-second.log")}}}
	cluster, err := cluster.Start(ctx, cluster.Options{
		Dir:               dir,
		ControllerManager: true,
		Scheduler:         true,
		ServingNames:      []string{cloudAddress, advertisedAddress},
		ExtraAPIServerArgs: []string{
			"--bind-address=0.0.0.0",
			"--advertise-address=" + advertisedAddress,
			"--endpoint-reconciler-type=lease",
			"--audit-policy-file=" + policy,
			"--audit-log-path=" + c.audits[0].path,
		},
		ExtraControllerManagerArgs: []string{
			"--node-monitor-grace-period=20s",
			"--flex-volume-plugin-dir=" + filepath.Join(o.dir, "volumeplugins"), // which it makes
		},
	})
	if err != nil {
		return nil, err
	}
	c.Cluster = cluster
	config := c.RESTConfig()
	config.Timeout = 20 * time.Second
	if c.client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	scheme := newScheme()
	if c.reader, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
		return nil, err
	}
	c.secondArgs = append(c.APIServerCommand(), "--secure-port="+secondPort, "--endpoint-reconciler-type=none", "--audit-log-path="+c.audits[1].path)
	return c, c.startSecond(ctx, o)
}

// startSecond starts a second kube-apiserver on the same etcd.
func (c *cloud) startSecond(ctx context.Context, o options) error {
	log, err := os.OpenFile(filepath.Join(o.dir, "cloud", "kube-apiserver-second.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	// A kube-apiserver's identity, and its Lease, comes from the host's name.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `echo second >/proc/sys/kernel/hostname && exec "$@"`, "sh"}, c.secondArgs...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS}
	cmd.Stdout, cmd.Stderr = log, log
	if c.second, err = process.Start(cmd); err != nil {
		return err
	}
	return eventually(ctx, time.Minute, func() error {
		return c.kubectl("--server=https://127.0.0.1:"+secondPort, "get", "--raw=/readyz")
	})
}

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	return scheme
}

// serverURL is the first kube-apiserver as the edge reaches it.
func (c *cloud) serverURL() string { return "https://" + cloudAddress + ":" + c.port() }

// secondURL is the other one.
func (c *cloud) secondURL() string { return "https://" + cloudAddress + ":" + secondPort }

func (c *cloud) port() string {
	u, err := url.Parse(c.URL())
	if err != nil {
		panic(err) // the cluster made it
	}
	return u.Port()
}

// startOperator installs what edge-hub needs in a cluster, as make manifests prints
// it, and runs the operator beside the control plane: the cloud has no node.
func (c *cloud) startOperator(o options) error {
	for _, args := range [][]string{
		{"apply", "-k", "config/default"},
		{"-n", "edge-hub-system", "delete", "deployment", "--all"},
		{"wait", "--for=condition=Established", "--timeout=50s", "crd", "--all"},
	} {
		if err := c.kubectl(args...); err != nil {
			return err
		}
	}
	log, err := os.Create(filepath.Join(o.dir, "operator.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(o.bin, "edge-hub-operator"), "--kubeconfig="+c.Kubeconfig(),
		"--leader-elect=false", "--metrics-bind-address=0", "--health-probe-bind-address=0")
	cmd.Stdout, cmd.Stderr = log, log
	c.operator, err = process.Start(cmd)
	return err
}

func (c *cloud) kubectl(args ...string) error {
	_, err := output(c.Kubectl(args...))
	return err
}

// apply applies a manifest.
func (c *cloud) apply(manifest string) error {
	cmd := c.Kubectl("apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	_, err := output(cmd)
	return err
}

// runCloud is the first process of the namespaces: when it ends, so does everything.
func runCloud(ctx context.Context, o options) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	if err := setUpCloudNetwork(); err != nil {
		return err
	}
	begin := time.Now()
	c, err := startCloud(ctx, o)
	if err != nil {
		return fmt.Errorf("the cloud: %w", err)
	}
	if err := c.startOperator(o); err != nil {
		return err
	}
	say("cloud", begin, "etcd, 2 kube-apiservers, kube-controller-manager, kube-scheduler, edge-hub-operator")
	return runScenarios(ctx, o, c)
}
