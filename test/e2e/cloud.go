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

	"k8s.io/client-go/kubernetes"

	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/process"
)

// A cloud is everything on the far side of the link.
type cloud struct {
	*cluster.Cluster

	client   *kubernetes.Clientset
	operator *process.Process
}

// startCloud runs the control plane in this process's network namespace.
func startCloud(ctx context.Context, o options) (*cloud, error) {
	c, err := cluster.Start(ctx, cluster.Options{
		Dir:               filepath.Join(o.dir, "cloud"),
		ControllerManager: true,
		Scheduler:         true,
		ServingNames:      []string{cloudAddress},
		ExtraAPIServerArgs: []string{
			"--bind-address=0.0.0.0",
			"--advertise-address=" + advertisedAddress,
			"--endpoint-reconciler-type=lease",
		},
		ExtraControllerManagerArgs: []string{"--node-monitor-grace-period=20s"},
	})
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		return nil, err
	}
	return &cloud{Cluster: c, client: client}, nil
}

// serverURL is kube-apiserver as the edge reaches it.
func (c *cloud) serverURL() string { return "https://" + cloudAddress + ":" + c.port() }

// secondURL is another way to it.
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
		{"wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"},
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
	cmd := c.Kubectl(args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// apply applies a manifest.
func (c *cloud) apply(manifest string) error {
	cmd := c.Kubectl("apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w\n%s", err, out)
	}
	return nil
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
		return err
	}
	defer c.Stop()
	if err := openSecondPort(c.port()); err != nil {
		return err
	}
	if err := c.startOperator(o); err != nil {
		return err
	}
	say("cloud", begin, "etcd, kube-apiserver, kube-controller-manager, kube-scheduler, edge-hub-operator")
	return runScenarios(ctx, o, c)
}

// say prints one line about what took how long.
func say(what string, begin time.Time, details string) {
	fmt.Printf("%-42s %6.1f s  %s\n", what, time.Since(begin).Seconds(), details)
}
