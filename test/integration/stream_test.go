package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/test/hub"
)

// kubelet answers what kube-apiserver asks a node for: a log that grows, and a
// stream that says back what it hears. It takes the place of a real node, which
// needs root.
type kubelet struct {
	lines chan string
}

func (k *kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasPrefix(r.URL.Path, "/containerLogs/"):
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case line := <-k.lines:
				fmt.Fprintln(w, line)
				_ = http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				return
			}
		}
	case r.Header.Get("Upgrade") != "":
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		_, _ = io.Copy(conn, buffered)
	default:
		http.NotFound(w, r)
	}
}

// runPod makes a Pod on a node whose kubelet is k.
func (w *world) runPod(k *kubelet) {
	w.Helper()
	certFile, keyFile, err := w.cluster.IssueServingCert(w.TempDir(), "127.0.0.1")
	w.Expect(err).NotTo(HaveOccurred())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	w.Expect(err).NotTo(HaveOccurred())
	server := &http.Server{Handler: k}
	go func() { _ = server.ServeTLS(listener, certFile, keyFile) }()
	w.Cleanup(func() { _ = server.Close() })

	ctx := w.Context()
	port := listener.Addr().(*net.TCPAddr).Port
	node, err := w.client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: hub.NodeName}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(port)
	_, err = w.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	_, err = w.client.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "pod"},
		Spec: corev1.PodSpec{NodeName: hub.NodeName, ServiceAccountName: app,
			Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	w.grant("streams", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods/log", "pods/exec", "pods/attach", "pods/portforward"}, Verbs: []string{"get", "create"}},
		rbacv1.Subject{Kind: "ServiceAccount", Namespace: namespace, Name: app})
}

// TestLogsAreFollowedAsTheyGrow: each line passes as soon as it is written.
func TestLogsAreFollowedAsTheyGrow(t *testing.T) {
	w := newWorld(t)
	k := &kubelet{lines: make(chan string)}
	w.runPod(k)
	resp, err := hub.Open(t.Context(), w.http, w.hub.URL(), hub.Request{Path: "/api/v1/namespaces/shop/pods/pod/log?follow=true", Token: w.token, UserAgent: userAgent})
	w.Expect(err).NotTo(HaveOccurred())
	defer resp.Body.Close()
	w.Expect(resp.StatusCode).To(Equal(http.StatusOK))
	reader := bufio.NewReader(resp.Body)
	for i := range 3 {
		line := "line " + strconv.Itoa(i)
		k.lines <- line
		got, err := reader.ReadString('\n')
		w.Expect(err).NotTo(HaveOccurred())
		w.Expect(got).To(Equal(line + "\n"))
	}
}

// TestUpgradesPass: exec, attach and port-forward take over their connection, in
// both protocols that clients use, with bytes in both directions.
func TestUpgradesPass(t *testing.T) {
	w := newWorld(t)
	w.runPod(&kubelet{})
	for _, path := range []string{"exec?command=sh&stdin=true&stdout=true", "attach?stdin=true&stdout=true", "portforward"} {
		conn, err := tls.Dial("tcp", w.hub.Listen, &tls.Config{InsecureSkipVerify: true})
		w.Expect(err).NotTo(HaveOccurred())
		w.Expect(conn.SetDeadline(time.Now().Add(20 * time.Second))).To(Succeed())
		fmt.Fprintf(conn, "POST /api/v1/namespaces/shop/pods/pod/%s HTTP/1.1\r\nHost: hub\r\nUser-Agent: kubectl/v1\r\nAuthorization: Bearer %s\r\n"+
			"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n", path, w.token)
		reader := bufio.NewReader(conn)
		resp, err := http.ReadResponse(reader, nil)
		w.Expect(err).NotTo(HaveOccurred())
		w.Expect(resp.StatusCode).To(Equal(http.StatusSwitchingProtocols), path)
		w.Expect(resp.Header.Get("Upgrade")).To(Equal("SPDY/3.1"))
		for _, message := range []string{"hello", strings.Repeat("x", 100_000)} {
			go func() { _, _ = io.WriteString(conn, message) }()
			got := make([]byte, len(message))
			_, err := io.ReadFull(reader, got)
			w.Expect(err).NotTo(HaveOccurred())
			w.Expect(string(got)).To(Equal(message))
		}
		w.Expect(conn.Close()).To(Succeed())
	}
	w.Eventually(w.hub.Log).WithTimeout(time.Minute).Should(ContainSubstring("kubectl create pods/exec: /api/v1/namespaces/shop/pods/pod/exec?command=...&stdin=true&stdout=true with status code 101"))
}
