package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// What the node says of itself, and what a Pod of it sees, without the cloud.

// dialFrom makes connections in the network namespace of a process.
func dialFrom(pid int) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			// The thread stays in that namespace and ends with this goroutine.
			runtime.LockOSThread()
			var f *os.File
			if f, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil {
				return
			}
			defer f.Close()
			if err = unix.Setns(int(f.Fd()), syscall.CLONE_NEWNET); err != nil {
				return
			}
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		}()
		<-done
		return conn, err
	}
}

// get reads from an endpoint of the node itself.
func (n *node) get(url string) ([]byte, error) {
	transport := &http.Transport{
		DialContext: dialFrom(n.init.PID()), DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the kubelet has signed its own
	}
	return read(&http.Client{Transport: transport, Timeout: 5 * time.Second}, url, nil)
}

func read(client *http.Client, url string, header http.Header) ([]byte, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header = header
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return body, err
}

// kubeletPods are the Pods as the kubelet knows them now, by namespace/name.
func (n *node) kubeletPods() (map[string]*corev1.Pod, error) {
	body, err := n.get("https://127.0.0.1:10250/pods")
	if err != nil {
		return nil, err
	}
	var list corev1.PodList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	return byName(&list), nil
}

func byName(list *corev1.PodList) map[string]*corev1.Pod {
	pods := map[string]*corev1.Pod{}
	for i := range list.Items {
		pods[list.Items[i].Namespace+"/"+list.Items[i].Name] = &list.Items[i]
	}
	return pods
}

// readyOnNode reports which of the Pods the kubelet does not hold for ready, or whose
// containers don't run.
func (n *node) readyOnNode(names []string) error {
	pods, err := n.kubeletPods()
	if err != nil {
		return err
	}
	tasks, err := n.ctr("tasks", "list", "--quiet")
	if err != nil {
		return err
	}
	var missing []error
	for _, name := range names {
		switch pod := pods[name]; {
		case pod == nil:
			missing = append(missing, fmt.Errorf("the kubelet does not know %s", name))
		case !isReady(pod):
			missing = append(missing, fmt.Errorf("%s is not ready", name))
		default:
			missing = append(missing, running(pod, tasks))
		}
	}
	return errors.Join(missing...)
}

// running reports whether a Pod's containers, as its status has them, are among tasks.
func running(pod *corev1.Pod, tasks string) error {
	for _, container := range pod.Status.ContainerStatuses {
		id := strings.TrimPrefix(container.ContainerID, "containerd://")
		if id == "" || !strings.Contains(tasks, id) {
			return fmt.Errorf("%s/%s has status of a container %q that does not run", pod.Namespace, pod.Name, id)
		}
	}
	return nil
}

func (n *node) kubeletHealthy() error {
	_, err := n.get("http://127.0.0.1:10248/healthz")
	return err
}

// hubReady asks the hub itself.
func (n *node) hubReady() error {
	_, err := n.get("http://127.0.0.1:10267/readyz")
	return err
}

// metric sums the samples of a metric of the hub's that have a label.
func (n *node) metric(name, label string) (sum float64, err error) {
	body, err := n.get("http://127.0.0.1:10267/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(body)) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, name); !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' || !strings.Contains(line, label) {
			continue
		}
		value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			return 0, err
		}
		sum += value
	}
	return sum, nil
}

// A caller asks the hub as a program in a Pod does: from the Pod's network, with its
// token, and with the certificate authority that is mounted there.
type caller struct {
	client    *http.Client
	authority *x509.CertPool
	header    http.Header
}

const serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount/"

// callerIn is a caller in the Pod of a process, with the User-Agent of a program.
func callerIn(pid int, program string) (*caller, error) {
	file := func(name string) ([]byte, error) {
		return os.ReadFile(fmt.Sprintf("/proc/%d/root%s%s", pid, serviceAccountDir, name))
	}
	ca, err := file("ca.crt")
	if err != nil {
		return nil, err
	}
	token, err := file("token")
	if err != nil {
		return nil, err
	}
	c := &caller{authority: x509.NewCertPool(), header: http.Header{}}
	if !c.authority.AppendCertsFromPEM(ca) {
		return nil, errors.New("the Pod's ca.crt has no certificate")
	}
	c.header.Set("Authorization", "Bearer "+string(token))
	c.header.Set("User-Agent", program+"/v0.0.0 (linux/"+runtime.GOARCH+")")
	c.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: dialFrom(pid), ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: c.authority, MinVersion: tls.VersionTLS12},
	}}
	return c, nil
}

// configPath is a ConfigMap that edge-app has read.
const configPath = "/api/v1/namespaces/e2e/configmaps/app-config"

// ask reads that ConfigMap, and reports whether the answer came from the cache.
func (c *caller) ask() (cached bool, err error) {
	req, err := http.NewRequest(http.MethodGet, hubURL+configPath, nil)
	if err != nil {
		return false, err
	}
	req.Header = c.header
	resp, err := c.client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return false, err
	}
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("%s: %s", resp.Status, body)
	}
	return strings.HasPrefix(resp.Header.Get("Cache-Status"), "edge-hub; hit"), nil
}
