// Package hub runs the real edge-hub in front of a test's control plane, on
// loopback.
package hub

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
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
	"testing"
	"time"

	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/process"
)

// NodeName is the Node that a hub says it runs on.
const NodeName = "edge-1"

// User is whose certificate the hub reads its configuration with.
const User = "edgehub:edge-1"

// Hub is an edge-hub that can be stopped and started again with what it has on
// disk.
type Hub struct {
	Dir    string // holds everything the hub writes
	Listen string // HOST:PORT of the endpoint
	Admin  string // HOST:PORT of health and metrics
	CAFile string

	binary string
	args   []string // without the addresses

	mu      sync.Mutex
	process *process.Process
	output  *process.Output
}

var build struct {
	sync.Mutex
	dir  string
	done map[bool]error // by whether it has the race detector
}

// binary builds edge-hub once for a test program.
func binary(race bool) (path string, err error) {
	build.Lock()
	defer build.Unlock()
	if build.dir == "" {
		if build.dir, err = os.MkdirTemp("", "edge-hub-binary-"); err != nil {
			return "", err
		}
		build.done = map[bool]error{}
	}
	args, name := []string{"build"}, "edge-hub"
	if race {
		args, name = append(args, "-race"), "edge-hub-race"
	}
	path = filepath.Join(build.dir, name)
	if err, ok := build.done[race]; ok {
		return path, err
	}
	cmd := exec.Command("go", append(args, "-o", path, "github.com/edgehub-io/edge-hub/edgehub/cmd/edge-hub")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		build.done[race] = fmt.Errorf("build edge-hub: %w\n%s", err, out)
	} else {
		build.done[race] = nil
	}
	return path, build.done[race]
}

// Cleanup removes the binaries. Call it at the end of TestMain.
func Cleanup() {
	build.Lock()
	defer build.Unlock()
	if build.dir != "" {
		_ = os.RemoveAll(build.dir)
	}
}

// StartT starts a hub that ends with the test. It has the race detector if the
// tests have it. extra are further flags.
func StartT(t testing.TB, c *cluster.Cluster, extra ...string) *Hub {
	t.Helper()
	return startT(t, c, raceEnabled, extra)
}

// StartPlainT is StartT for a hub without the race detector, which costs memory
// and time of its own.
func StartPlainT(t testing.TB, c *cluster.Cluster, extra ...string) *Hub {
	t.Helper()
	return startT(t, c, false, extra)
}

func startT(t testing.TB, c *cluster.Cluster, race bool, extra []string) *Hub {
	t.Helper()
	h, err := prepare(c, t.TempDir(), race, extra)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("edge-hub:\n%s", process.Tail(h.Log(), 60))
		}
		if _, report, found := strings.Cut(h.Log(), "WARNING: DATA RACE"); found {
			t.Errorf("edge-hub has a data race:%s", report[:min(len(report), 16<<10)])
		}
	})
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

// New prepares a hub in front of a cluster. extra are further flags; a --server
// among them replaces the cluster's kube-apiserver.
func New(c *cluster.Cluster, dir string, extra ...string) (*Hub, error) {
	return prepare(c, dir, raceEnabled, extra)
}

func prepare(c *cluster.Cluster, dir string, race bool, extra []string) (*Hub, error) {
	path, err := binary(race)
	if err != nil {
		return nil, err
	}
	h := &Hub{Dir: dir, CAFile: c.CAFile(), binary: path, output: &process.Output{}}
	kubeconfig, err := c.KubeconfigFor(User, "edgehub:hubs")
	if err != nil {
		return nil, err
	}
	certFile, keyFile, err := c.IssueServingCert(dir, "127.0.0.1", "169.254.2.1", "localhost", "kubernetes.default.svc")
	if err != nil {
		return nil, err
	}
	kubelet, err := c.RESTConfigFor("system:node:"+NodeName, "system:nodes")
	if err != nil {
		return nil, err
	}
	nodeFile := filepath.Join(dir, "kubelet-client-current.pem")
	if err := os.WriteFile(nodeFile, slices.Concat(kubelet.CertData, kubelet.KeyData), 0o600); err != nil {
		return nil, err
	}
	h.args = append([]string{
		"run",
		"--kubeconfig=" + kubeconfig,
		"--certificate-authority=" + c.CAFile(),
		"--tls-cert-file=" + certFile,
		"--tls-private-key-file=" + keyFile,
		"--client-ca-file=" + c.ClientCAFile(),
		"--node-client-cert-file=" + nodeFile,
		"--node-client-key-file=" + nodeFile,
		"--node-name=" + NodeName,
		"--cache-dir=" + h.CacheDir(),
		"--state-dir=" + filepath.Join(dir, "state"),
		"-v=3",
	}, extra...)
	if !slices.ContainsFunc(extra, func(flag string) bool { return strings.HasPrefix(flag, "--server=") }) {
		h.args = append(h.args, "--server="+c.URL())
	}
	return h, nil
}

// URL is the hub's endpoint.
func (h *Hub) URL() string { return "https://" + h.Listen }

// CacheDir is the hub's --cache-dir.
func (h *Hub) CacheDir() string { return filepath.Join(h.Dir, "cache") }

// Start starts the hub and waits until it serves. Its first start chooses the
// addresses that later ones keep.
func (h *Hub) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if h.Listen != "" {
		return h.start(ctx)
	}
	for {
		for _, address := range []*string{&h.Listen, &h.Admin} {
			port, err := cluster.FreePort()
			if err != nil {
				return err
			}
			*address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		}
		from := h.output.Len()
		err := h.start(ctx)
		// Somebody else may have taken a port that was free.
		if err == nil || ctx.Err() != nil || !strings.Contains(h.Log()[from:], "address already in use") {
			return err
		}
	}
}

func (h *Hub) start(ctx context.Context) error {
	cmd := exec.Command(h.binary, append(h.args[:len(h.args):len(h.args)], "--listen="+h.Listen, "--admin-listen="+h.Admin)...)
	cmd.Stdout, cmd.Stderr = h.output, h.output
	p, err := process.Start(cmd)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.process = p
	h.mu.Unlock()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", h.Admin)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.Done():
			return fmt.Errorf("edge-hub ended:\n%s", process.Tail(h.Log(), 20))
		case <-ctx.Done():
			return fmt.Errorf("edge-hub does not serve: %w\n%s", err, process.Tail(h.Log(), 20))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (h *Hub) running() *process.Process {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.process
}

// Kill ends the hub as a crash would.
func (h *Hub) Kill() error { return h.running().Kill() }

// Stop ends the hub as its node's shutdown would.
func (h *Hub) Stop() error {
	if p := h.running(); p != nil && p.Running() {
		return p.Stop(15 * time.Second)
	}
	return nil
}

// PID is the hub's process id.
func (h *Hub) PID() int { return h.running().PID() }

// Log is what the hub has logged, over all its starts. Lines of information may
// be a moment late.
func (h *Hub) Log() string { return h.output.String() }

// SettledLogT is the log with the lines of all requests that have ended. It makes
// a request of its own, which the hub refuses and logs behind them.
func (h *Hub) SettledLogT(t testing.TB) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if p := h.running(); p == nil || !p.Running() {
		return h.Log()
	}
	from, mark := h.output.Len(), "/settled-"+rand.Text()
	conn, err := (&tls.Dialer{Config: h.Client().Transport.(*http.Transport).TLSClientConfig}).DialContext(ctx, "tcp", strings.TrimPrefix(h.URL(), "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET http://log.invalid%s HTTP/1.1\r\nHost: log.invalid\r\nConnection: close\r\n\r\n", mark); err != nil {
		t.Fatal(err)
	}
	if _, err := h.output.WaitFor(ctx, from, mark); err != nil {
		t.Fatal(err)
	}
	return h.Log()
}

// Client trusts the hub and the control plane. It opens a connection of its own
// for each request.
func (h *Hub) Client() *http.Client {
	pem, err := os.ReadFile(h.CAFile)
	if err != nil {
		panic(err) // the cluster wrote it
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
}

// Request is a request by curl, so to speak.
type Request struct {
	Method    string // GET if empty
	Path      string
	Token     string // none if empty
	UserAgent string
	Accept    string
	Body      string
	Header    http.Header
}

// Response is what came back.
type Response struct {
	Code   int
	Header http.Header
	Body   []byte
}

// Do sends a request to a server and reads the whole response.
func Do(ctx context.Context, client *http.Client, server string, r Request) (*Response, error) {
	resp, err := Open(ctx, client, server, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return &Response{resp.StatusCode, resp.Header, b}, err
}

// Open sends a request and leaves the response's body to be read.
func Open(ctx context.Context, client *http.Client, server string, r Request) (*http.Response, error) {
	if r.Method == "" {
		r.Method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, server+r.Path, bytes.NewBufferString(r.Body))
	if err != nil {
		return nil, err
	}
	for name, values := range r.Header {
		req.Header[name] = values
	}
	req.Header.Set("User-Agent", r.UserAgent)
	if r.Accept != "" {
		req.Header.Set("Accept", r.Accept)
	}
	if r.Token != "" {
		req.Header.Set("Authorization", "Bearer "+r.Token)
	}
	return client.Do(req)
}
