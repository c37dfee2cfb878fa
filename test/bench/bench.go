package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/process"
)

const (
	cachedAgent   = "bench-cached/1.0"
	uncachedAgent = "bench-plain/1.0"
	namespace     = "bench"
)

// target is a way to kube-apiserver.
type target struct {
	name  string
	url   string
	agent string
	pid   int // of the process in between, 0 for none
}

type bench struct {
	options
	dir     string
	cluster *cluster.Cluster
	client  kubernetes.Interface
	token   string
	pool    *x509.CertPool
	hub     *process.Process
	hubURL  string
	admin   string
	hubArgs []string
	plain   *process.Process

	direct, proxy, uncached, cached target
}

func newBench(ctx context.Context, o options) (b *bench, err error) {
	b = &bench{options: o}
	defer func() {
		if err != nil {
			b.stop()
		}
	}()
	if b.dir, err = os.MkdirTemp("", "edge-hub-bench-"); err != nil {
		return b, err
	}
	if b.cluster, err = cluster.Start(ctx, cluster.Options{}); err != nil {
		return b, err
	}
	config := b.cluster.RESTConfig()
	config.QPS = -1
	if b.client, err = kubernetes.NewForConfig(config); err != nil {
		return b, err
	}
	pem, err := os.ReadFile(b.cluster.CAFile())
	if err != nil {
		return b, err
	}
	b.pool = x509.NewCertPool()
	b.pool.AppendCertsFromPEM(pem)
	if err := b.seed(ctx); err != nil {
		return b, err
	}
	if err := b.startPlain(ctx); err != nil {
		return b, err
	}
	if err := b.prepareHub(); err != nil {
		return b, err
	}
	b.direct = target{name: "direct", url: b.cluster.URL(), agent: uncachedAgent}
	b.proxy = target{name: "plain ReverseProxy", url: b.proxy.url, agent: uncachedAgent, pid: b.plain.PID()}
	return b, b.startHub(ctx)
}

func (b *bench) stop() {
	for _, p := range []*process.Process{b.hub, b.plain} {
		if p != nil && p.Running() {
			_ = p.Kill()
		}
	}
	if b.cluster != nil {
		_ = b.cluster.Stop()
	}
	_ = os.RemoveAll(b.dir)
}

func (b *bench) selected(name string) bool {
	return b.only == "" || strings.Contains(name, b.only)
}

func (b *bench) seed(ctx context.Context) error {
	if _, err := b.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if _, err := b.client.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "bench"}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "bench"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: "bench"}},
	}
	if _, err := b.client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return err
	}
	var err error
	if b.token, err = b.cluster.Token(ctx, namespace, "bench", cluster.WithExpiration(4*time.Hour)); err != nil {
		return err
	}
	_, err = b.client.CoreV1().ConfigMaps(hubconfig.Namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: hubconfig.Namespace, Name: hubconfig.Name},
		Data:       map[string]string{hubconfig.KeyCacheAgents: "bench-cached"},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	payload := strings.Repeat("0123456789abcdef", 80)
	fmt.Fprintln(os.Stderr, "making 5,000 ConfigMaps of 1.5 KB")
	return parallel(ctx, 16, 5000, func(ctx context.Context, i int) error {
		_, err := b.client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("cm-%05d", i), Labels: map[string]string{"app": "bench", "shard": strconv.Itoa(i % 10)}},
			Data:       map[string]string{"payload": payload, "index": strconv.Itoa(i)},
		}, metav1.CreateOptions{})
		return err
	})
}

// parallel calls f for 0 to n-1 from several goroutines.
func parallel(ctx context.Context, workers, n int, f func(context.Context, int) error) error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	next := 0
	for range workers {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				failed := len(errs) > 0
				mu.Unlock()
				if i >= n || failed || ctx.Err() != nil {
					return
				}
				if err := f(ctx, i); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

func (b *bench) servingCert() (certFile, keyFile string, err error) {
	return b.cluster.IssueServingCert(b.dir, "127.0.0.1", "localhost")
}

func (b *bench) startPlain(ctx context.Context) error {
	path := filepath.Join(b.dir, "plainproxy")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/edgehub-io/edge-hub/test/bench/plainproxy").CombinedOutput(); err != nil {
		return fmt.Errorf("build plainproxy: %w\n%s", err, out)
	}
	certFile, keyFile, err := b.servingCert()
	if err != nil {
		return err
	}
	port, err := cluster.FreePort()
	if err != nil {
		return err
	}
	listen := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	b.proxy.url = "https://" + listen
	b.plain, err = process.Start(exec.Command(path, "-server", b.cluster.URL(), "-ca", b.cluster.CAFile(), "-listen", listen, "-cert", certFile, "-key", keyFile))
	if err != nil {
		return err
	}
	return b.awaitServer(ctx, listen)
}

func (b *bench) prepareHub() error {
	certFile, keyFile, err := b.servingCert()
	if err != nil {
		return err
	}
	var ports [2]int
	for i := range ports {
		if ports[i], err = cluster.FreePort(); err != nil {
			return err
		}
	}
	listen := net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0]))
	b.admin = net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[1]))
	b.hubURL = "https://" + listen
	b.hubArgs = []string{"run", "--kubeconfig=" + b.cluster.Kubeconfig(), "--listen=" + listen,
		"--tls-cert-file=" + certFile, "--tls-private-key-file=" + keyFile, "--node-name=bench",
		"--cache-dir=" + b.cacheDir(), "--state-dir=" + filepath.Join(b.dir, "state"), "--admin-listen=" + b.admin}
	return nil
}

func (b *bench) cacheDir() string { return filepath.Join(b.dir, "cache") }

// startHub starts the hub, anew if it ran before.
func (b *bench) startHub(ctx context.Context) error {
	log, err := os.Create(filepath.Join(b.dir, "edge-hub.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(b.bin, "edge-hub"), b.hubArgs...)
	cmd.Stdout, cmd.Stderr = log, log
	if b.hub, err = process.Start(cmd); err != nil {
		return err
	}
	b.uncached = target{name: "edge-hub, not cached", url: b.hubURL, agent: uncachedAgent, pid: b.hub.PID()}
	b.cached = target{name: "edge-hub, cached", url: b.hubURL, agent: cachedAgent, pid: b.hub.PID()}
	return b.awaitServer(ctx, b.admin)
}

func (b *bench) awaitServer(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		if ctx.Err() != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// newClient is a client with connections of its own, as every Pod has.
func (b *bench) newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: b.pool}, ForceAttemptHTTP2: true, DisableCompression: true,
	}}
}

// get reads a path through a target and returns how many bytes came.
func (b *bench) get(ctx context.Context, c *http.Client, t target, path, accept string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url+path, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("User-Agent", t.agent)
	req.Header.Set("Authorization", "Bearer "+b.token)
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s through %s: %s", path, t.name, resp.Status)
	}
	return n, err
}

func median[T int64 | float64 | time.Duration](values []T) T {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func percentile(values []time.Duration, p float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[min(len(values)-1, int(p*float64(len(values))))]
}
