package certificates

import (
	"io"
	"net/http"
	"os"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	program "github.com/edgehub-io/edge-hub/test/hub"
)

func TestMain(m *testing.M) {
	code := m.Run()
	program.Cleanup()
	os.Exit(code)
}

// TestAHubWithoutCertificatesAsksForThem starts the real program with nothing but
// the kubelet's certificate, then without the cloud.
func TestAHubWithoutCertificatesAsksForThem(t *testing.T) {
	w := newWorld(t)
	_, err := w.admin.CoreV1().ConfigMaps(hubconfig.Namespace).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: hubconfig.Name},
		Data:       map[string]string{hubconfig.KeyCacheAgents: "edge-app"},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	h := program.StartT(t, w.cluster, "--tls-cert-file=", "--bootstrap-credential="+w.kubeletPEM(program.NodeName), "--node-ip="+nodeIP)
	ready := func() string {
		resp, err := http.Get("http://" + h.Admin + "/readyz")
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return string(body)
	}
	w.Eventually(ready).Should(And(ContainSubstring("[+]certificate/client until "), ContainSubstring("[+]certificate/serving until "),
		ContainSubstring("[+]config "), ContainSubstring("[+]identity ")), "it reads its configuration and the issuer's keys as edgehub:node:edge-1")
	first, err := w.served(h.Listen, "169.254.2.1")
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(first.VerifyHostname(nodeIP)).To(Succeed())
	w.Expect(w.requesters()).To(Equal([]string{
		"edgehub:node:edge-1 kubernetes.io/kubelet-serving",
		"system:node:edge-1 kubernetes.io/kube-apiserver-client",
	}))

	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	w.Expect(h.Kill()).To(Succeed())
	w.Expect(h.Start(t.Context())).To(Succeed())
	again, err := w.served(h.Listen, "169.254.2.1")
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(again.SerialNumber).To(Equal(first.SerialNumber))
}
