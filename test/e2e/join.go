package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// hubURL is where everything on the node finds kube-apiserver.
const hubURL = "https://" + hubAddress + ":10268"

var (
	//go:embed manifests/containerd.toml
	containerdConfig string
	//go:embed manifests/cni.json
	cniConfig string
	//go:embed manifests/kubelet.yaml
	kubeletConfig string
	//go:embed manifests/kubelet.conf
	kubeletKubeconfig string
	//go:embed manifests/edge-hub.conf
	hubKubeconfig string
	//go:embed manifests/edge-hub.yaml
	hubPod string
)

const (
	kubeletPEM = "/var/lib/kubelet/pki/kubelet-client-current.pem"
	caFile     = "/etc/kubernetes/pki/ca.crt"
)

// prepare writes what a node needs to join the cluster without edge-hub.
func (n *node) prepare(c *cloud) error {
	ca, err := os.ReadFile(c.CAFile())
	if err != nil {
		return err
	}
	kubelet, err := c.RESTConfigFor("system:node:"+nodeName, "system:nodes")
	if err != nil {
		return err
	}
	files := map[string]string{
		caFile:                            string(ca),
		kubeletPEM:                        string(slices.Concat(kubelet.CertData, kubelet.KeyData)),
		"/etc/kubernetes/containerd.toml": fill(containerdConfig, "PAUSE", reference("pause")),
		"/etc/cni/net.d/10-edge.conflist": cniConfig,
		"/etc/kubernetes/kubelet.yaml":    fill(kubeletConfig, "CGROUP", cgroupName),
		"/etc/kubernetes/kubelet.conf":    fill(kubeletKubeconfig, "SERVER", c.serverURL()),
	}
	for path, content := range files {
		if err := n.write(path, content); err != nil {
			return err
		}
	}
	return os.MkdirAll(filepath.Join(n.dir, "/etc/kubernetes/manifests"), 0o755)
}

// join waits until the cloud calls the node ready.
func (n *node) join(ctx context.Context, c *cloud) error {
	return eventually(ctx, 2*time.Minute, func() error { return c.nodeReady(ctx) })
}

func (c *cloud) nodeReady(ctx context.Context) error {
	node, err := c.client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("node %s is not ready: %v", nodeName, node.Status.Conditions)
}

// installHub does what an administrator does to a node that has joined: edge-hub as a
// static Pod, and a kubelet that knows no other apiserver.
func (n *node) installHub(ctx context.Context, c *cloud) error {
	if err := n.write("/etc/kubernetes/edge-hub.conf", fill(hubKubeconfig, "SERVER", c.serverURL())); err != nil {
		return err
	}
	manifest := fill(hubPod, "IMAGE", reference("edge-hub"), "NODE_NAME", nodeName, "NODE_IP", nodeAddress,
		"SERVER", c.serverURL(), "SECOND_SERVER", c.secondURL())
	if err := n.write("/etc/kubernetes/manifests/edge-hub.yaml", manifest); err != nil {
		return err
	}
	if err := eventually(ctx, 2*time.Minute, n.hubReady); err != nil {
		return fmt.Errorf("edge-hub: %w", err)
	}
	if err := n.write("/etc/kubernetes/kubelet.conf", fill(kubeletKubeconfig, "SERVER", hubURL)); err != nil {
		return err
	}
	return n.kill("kubelet")
}

// hubReady asks the hub itself.
func (n *node) hubReady() error {
	out, err := n.run("curl", "--silent", "--show-error", "--max-time", "2", "--fail-with-body", "http://127.0.0.1:10267/readyz")
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// fill replaces words in a manifest, written as $(WORD).
func fill(manifest string, words ...string) string {
	for pair := range slices.Chunk(words, 2) {
		manifest = strings.ReplaceAll(manifest, "$("+pair[0]+")", pair[1])
	}
	return manifest
}
