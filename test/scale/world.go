package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/process"
)

var (
	//go:embed kwok.yaml
	kwokConfig []byte
	//go:embed audit.yaml
	auditPolicy []byte
)

const operatorNamespace = "edge-hub-system"

// world is a control plane with nodes that kwok plays, and an operator.
type world struct {
	options
	dir     string
	cluster *cluster.Cluster
	client  client.Client // may do everything
	audit   *auditLog

	processes []*process.Process
	operator  *process.Process
	restarts  int // of the operator
	stopHubs  func()
}

// newWorld starts the control plane, installs config/default, and starts the
// scheduler and kwok.
func newWorld(ctx context.Context, o options) (_ *world, err error) {
	w := &world{options: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.dir, err = os.MkdirTemp("", "edge-hub-scale-"); err != nil {
		return w, err
	}
	policy := filepath.Join(w.dir, "audit.yaml")
	if err := os.WriteFile(policy, auditPolicy, 0o600); err != nil {
		return w, err
	}
	w.audit = &auditLog{path: filepath.Join(w.dir, "audit.log")}
	w.cluster, err = cluster.Start(ctx, cluster.Options{
		Dir:               filepath.Join(w.dir, "cluster"),
		ControllerManager: true,
		ExtraControllerManagerArgs: []string{
			"--kube-api-qps=2000", "--kube-api-burst=4000",
			"--concurrent-replicaset-syncs=20", "--concurrent-deployment-syncs=20",
			// A machine that is busy is late with heartbeats.
			"--node-monitor-grace-period=10m",
		},
		ExtraAPIServerArgs: []string{
			"--audit-policy-file=" + policy, "--audit-log-path=" + w.audit.path, "--audit-log-mode=blocking",
			"--audit-log-maxsize=0",
		},
	})
	if err != nil {
		return w, err
	}
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	if err := w.install(); err != nil {
		return w, err
	}
	if w.client, err = client.New(w.cluster.RESTConfig(), client.Options{Scheme: scheme}); err != nil {
		return w, err
	}
	return w, errors.Join(w.startScheduler(), w.startKwok())
}

// install applies config/default, less the operator, which runs here.
func (w *world) install() error {
	root, err := repositoryRoot()
	if err != nil {
		return err
	}
	if _, err := w.kubectl("apply", "-k", filepath.Join(root, "config", "default")); err != nil {
		return err
	}
	if _, err := w.kubectl("delete", "-n", operatorNamespace, "deployment", "edge-hub-operator"); err != nil {
		return err
	}
	_, err = w.kubectl("wait", "--for=condition=Established", "--timeout=1m", "crd/edgehubpolicies.edgehub.io", "crd/edgehubnodes.edgehub.io")
	return err
}

func (w *world) kubectl(args ...string) (string, error) {
	out, err := w.cluster.Kubectl(args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// repositoryRoot is the folder above that has go.mod.
func repositoryRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "config", "default")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("not in the edge-hub repository")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

func (w *world) startScheduler() error {
	config, err := yaml.Marshal(map[string]any{
		"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
		"leaderElection":   map[string]any{"leaderElect": false},
		"clientConnection": map[string]any{"kubeconfig": w.cluster.Kubeconfig(), "qps": 2000, "burst": 4000},
	})
	if err != nil {
		return err
	}
	path := filepath.Join(w.dir, "scheduler.yaml")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return err
	}
	_, err = w.start("kube-scheduler", "--config="+path, "--secure-port=0")
	return err
}

func (w *world) startKwok() error {
	path := filepath.Join(w.dir, "kwok.yaml")
	if err := os.WriteFile(path, kwokConfig, 0o600); err != nil {
		return err
	}
	_, err := w.start("kwok", "--kubeconfig="+w.cluster.Kubeconfig(), "--manage-all-nodes", "--config="+path,
		"--node-lease-duration-seconds=240")
	return err
}

// start starts a program of the control plane.
func (w *world) start(name string, args ...string) (*process.Process, error) {
	binary, err := cluster.Binary(name)
	if err != nil {
		return nil, err
	}
	return w.startBinary(name, binary, args...)
}

func (w *world) startBinary(name, binary string, args ...string) (*process.Process, error) {
	log, err := os.Create(w.logFile(name))
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own descriptor
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := process.Start(cmd)
	if err == nil {
		w.processes = append(w.processes, p)
	}
	return p, err
}

func (w *world) logFile(name string) string { return filepath.Join(w.dir, name+".log") }

// prepareOperator writes a kubeconfig of the ServiceAccount that config/default
// gives the operator.
func (w *world) prepareOperator(ctx context.Context) error {
	token, err := w.cluster.Token(ctx, operatorNamespace, "edge-hub-operator", cluster.WithExpiration(6*time.Hour))
	if err != nil {
		return err
	}
	return clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: w.cluster.URL(), CertificateAuthority: w.cluster.CAFile()}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {Token: token}},
		Contexts:       map[string]*clientcmdapi.Context{"c": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "c",
	}, w.operatorKubeconfig())
}

func (w *world) operatorKubeconfig() string { return filepath.Join(w.dir, "operator.kubeconfig") }

// startOperator starts the operator.
func (w *world) startOperator() (err error) {
	w.operator, err = w.startBinary("operator", w.options.operator, "--kubeconfig="+w.operatorKubeconfig(),
		fmt.Sprintf("--leader-elect=%v", w.leaderElect), "--leader-election-namespace="+operatorNamespace,
		"--metrics-bind-address=0", "--health-probe-bind-address=0")
	return err
}

// maxRestarts is how often the operator may end. It does when it can't renew its
// Lease in time, because the machine is too busy.
const maxRestarts = 5

// keepOperator starts the operator again if it has ended, as its kubelet would.
func (w *world) keepOperator() error {
	if w.operator == nil || w.operator.Running() {
		return nil
	}
	if w.restarts++; w.restarts > maxRestarts {
		return errors.New("the operator ends again and again")
	}
	w.log("  the operator has ended, it is started again:\n%s", tail(w.logFile("operator"), 3))
	return w.startOperator()
}

// poll waits until done.
func (w *world) poll(ctx context.Context, interval time.Duration, what string, done func() (bool, error)) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if err := w.keepOperator(); err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		ok, err := done()
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case err == nil && ok:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

func (w *world) close() error {
	if w.stopHubs != nil {
		w.stopHubs()
	}
	var errs []error
	for _, p := range w.processes {
		errs = append(errs, p.Stop(5*time.Second))
	}
	if w.cluster != nil {
		errs = append(errs, w.cluster.Stop())
	}
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}
