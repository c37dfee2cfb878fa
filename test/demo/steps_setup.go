package main

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/edgehub-io/edge-hub/api/hubidentity"
	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/pod"
)

func (d *demo) startCloud(ctx context.Context) error {
	begin := time.Now()
	c, err := cluster.Start(ctx, cluster.Options{Dir: filepath.Join(d.dir, "cloud")})
	if err != nil {
		return err
	}
	d.cluster = c
	d.say.ok("etcd and kube-apiserver serve %s after %.1f s", c.URL(), time.Since(begin).Seconds())
	d.say.command("export KUBECONFIG=" + c.Kubeconfig())
	for _, args := range [][]string{
		{"create", "serviceaccount", agent},
		{"create", "serviceaccount", "stranger"},
		{"create", "role", agent, "--verb=get,list,watch", "--resource=configmaps,services"},
		{"create", "rolebinding", agent, "--role=" + agent, "--serviceaccount=" + namespace + ":" + agent},
		{"create", "configmap", appConfig, "--from-literal=greeting=hello"},
	} {
		if _, err := d.kubectl(args...); err != nil {
			return err
		}
	}
	version, err := d.kubectl("version")
	if err != nil {
		return err
	}
	if !strings.Contains(version, "Server Version: v1.") {
		return fmt.Errorf("no server version in %q", version)
	}
	return nil
}

func (d *demo) startOperator(ctx context.Context) error {
	if _, err := d.kubectl("apply", "-k", filepath.Join(d.config, "crd")); err != nil {
		return err
	}
	if _, err := d.kubectl("wait", "--for=condition=Established", "--timeout=20s", "crd", "--all"); err != nil {
		return err
	}
	port, err := cluster.FreePort()
	if err != nil {
		return err
	}
	probe := fmt.Sprintf("127.0.0.1:%d", port)
	args := []string{
		"--kubeconfig=" + d.cluster.Kubeconfig(),
		"--leader-elect=false",
		"--metrics-bind-address=0",
		"--health-probe-bind-address=" + probe,
	}
	d.say.command(append(append([]string{"edge-hub-operator"}, args...), "&")...)
	if d.operator, err = d.start("edge-hub-operator", exec.Command(d.binary["edge-hub-operator"], args...)); err != nil {
		return err
	}
	took, err := d.operator.waitReady(ctx, probe)
	if err != nil {
		return err
	}
	d.say.ok("edge-hub-operator is ready after %s", took.Round(time.Millisecond))
	return nil
}

func (d *demo) startHub(ctx context.Context) error {
	if err := d.prepareHub(); err != nil {
		return err
	}
	d.say.command("edge-hub", strings.Join(d.hubArgs, " \\\n          "), "&")
	took, err := d.runHub(ctx)
	if err != nil {
		return err
	}
	d.say.ok("edge-hub is ready after %s", took.Round(time.Millisecond))
	return nil
}

// prepareHub makes what a platform team gives to a node: an identity for the
// hub with the little it needs, a serving certificate, and the flags.
func (d *demo) prepareHub() error {
	if err := d.registerNode(); err != nil {
		return err
	}
	for _, folder := range []string{"rbac/edge-hub", "admission"} {
		if _, err := d.kubectl("apply", "-k", filepath.Join(d.config, folder)); err != nil {
			return err
		}
	}
	kubeconfig, err := d.cluster.KubeconfigFor(hubidentity.User(nodeName), hubidentity.Group)
	if err != nil {
		return err
	}
	// An edge node has 169.254.2.1 for this; adding an address takes root.
	certFile, keyFile, err := d.cluster.IssueServingCert(filepath.Join(d.dir, "tls"), "127.0.0.1", "169.254.2.1",
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
	if err != nil {
		return err
	}
	port, err := cluster.FreePort()
	if err != nil {
		return err
	}
	adminPort, err := cluster.FreePort()
	if err != nil {
		return err
	}
	d.hubAddress, d.adminAddress = fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("127.0.0.1:%d", adminPort)
	d.hubArgs = []string{"run",
		"--kubeconfig=" + kubeconfig,
		"--server=" + d.cluster.URL(),
		"--certificate-authority=" + d.cluster.CAFile(),
		"--listen=" + d.hubAddress,
		"--tls-cert-file=" + certFile,
		"--tls-private-key-file=" + keyFile,
		"--client-ca-file=" + d.cluster.ClientCAFile(),
		"--node-name=" + nodeName,
		"--cache-dir=" + d.cacheDir(),
		"--state-dir=" + filepath.Join(d.dir, "state"),
		"--admin-listen=" + d.adminAddress,
		"--report-period=2s",
		"-v=2",
	}
	return nil
}

// registerNode does what the kubelet does when it starts.
func (d *demo) registerNode() error {
	if err := d.kubectlApply("node.yaml", "apiVersion: v1\nkind: Node\nmetadata:\n  name: "+nodeName+"\n"); err != nil {
		return err
	}
	ready := `{"status":{"conditions":[{"type":"Ready","status":"True","reason":"KubeletReady","lastTransitionTime":"` + time.Now().UTC().Format(time.RFC3339) + `"}]}}`
	_, err := d.kubectl("patch", "node", nodeName, "--subresource=status", "--patch", ready)
	return err
}

func (d *demo) cacheDir() string { return filepath.Join(d.dir, "cache") }

// runHub starts edge-hub and waits until it is ready.
func (d *demo) runHub(ctx context.Context) (time.Duration, error) {
	var err error
	if d.hub, err = d.start("edge-hub", exec.Command(d.binary["edge-hub"], d.hubArgs...)); err != nil {
		return 0, err
	}
	return d.hub.waitReady(ctx, d.adminAddress)
}

// readyz asks for /readyz on a plain HTTP address.
func readyz(ctx context.Context, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := readAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("/readyz: %s: %s", resp.Status, body)
	}
	return body, err
}

// startPod starts edge-app as a Pod behind the hub.
func (d *demo) startPod() (program, error) {
	cmd, err := d.edgePod.Command(d.binary["edge-app"], "--config="+appConfig, "--timeout=20s")
	if err != nil {
		return program{}, err
	}
	host, port, _ := strings.Cut(d.hubAddress, ":")
	d.say.note("the kubelet's part: ServiceAccount %s mounted at %s, and", agent, pod.MountPath)
	d.say.command("KUBERNETES_SERVICE_HOST="+host, "KUBERNETES_SERVICE_PORT="+port, "edge-app", "--config="+appConfig, "&")
	return d.start("edge-app", cmd)
}
