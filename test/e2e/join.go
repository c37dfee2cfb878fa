package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
		"/var/lib/kubelet/config.yaml":    fill(kubeletConfig, "CGROUP", cgroupName),
		"/etc/kubernetes/kubelet.conf":    fill(kubeletKubeconfig, "SERVER", c.serverURL()),
	}
	for path, content := range files {
		if err := n.write(path, content); err != nil {
			return err
		}
	}
	for _, path := range []string{"/etc/kubernetes/manifests", "/etc/systemd/system"} {
		if err := os.MkdirAll(filepath.Join(n.dir, path), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// nodeReady reports whether the cloud calls the node ready and has taken back what it
// did when the node was away.
func (c *cloud) nodeReady(ctx context.Context) error {
	node, err := c.client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if len(node.Spec.Taints) > 0 {
		return fmt.Errorf("node %s is tainted: %v", nodeName, node.Spec.Taints)
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("node %s is not ready: %v", nodeName, node.Status.Conditions)
}

// fill replaces words in a manifest, written as $(WORD).
func fill(manifest string, words ...string) string {
	for pair := range slices.Chunk(words, 2) {
		manifest = strings.ReplaceAll(manifest, "$("+pair[0]+")", pair[1])
	}
	return manifest
}
