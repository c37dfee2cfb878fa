package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/process"
)

const (
	cachedAgent   = "bench-cached"
	uncachedAgent = "bench-plain"
	namespace     = "bench"
)

// bench is a control plane, the two proxies in front of it, and the table.
type bench struct {
	options
	dir     string
	cluster *cluster.Cluster
	client  kubernetes.Interface // direct, as administrator, protobuf
	token   string
	pool    *x509.CertPool
	hub     *program
	plain   *program
	seeded  map[string]bool
	table   table
}

// program is a proxy. It may be started several times.
type program struct {
	process *process.Process
	command func() *exec.Cmd
	listen  string // HOST:PORT
	metrics string // URL
	log     string
}

// target is a way to kube-apiserver.
type target struct {
	column  column
	url     string
	agent   string
	program *program // in between, nil for none
}

func newBench(ctx context.Context, o options) (b *bench, err error) {
	b = &bench{options: o, seeded: map[string]bool{}}
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
	config.ContentType = asProtobuf
	if b.client, err = kubernetes.NewForConfig(config); err != nil {
		return b, err
	}
	pem, err := os.ReadFile(b.cluster.CAFile())
	if err != nil {
		return b, err
	}
	b.pool = x509.NewCertPool()
	b.pool.AppendCertsFromPEM(pem)
	if err := b.seedBase(ctx); err != nil {
		return b, err
	}
	if err := b.preparePlain(ctx); err != nil {
		return b, err
	}
	if err := b.prepareHub(); err != nil {
		return b, err
	}
	if err := b.start(ctx, b.plain); err != nil {
		return b, err
	}
	return b, b.freshHub(ctx)
}

func (b *bench) stop() {
	for _, p := range []*program{b.hub, b.plain} {
		if p != nil && p.process != nil && p.process.Running() {
			_ = p.process.Kill()
		}
	}
	if b.cluster != nil {
		_ = b.cluster.Stop()
	}
	_ = os.RemoveAll(b.dir)
}

// target returns a way to kube-apiserver by its column.
func (b *bench) target(c column) target {
	switch c {
	case direct:
		return target{column: c, url: b.cluster.URL(), agent: uncachedAgent}
	case plain:
		return target{c, "https://" + b.plain.listen, uncachedAgent, b.plain}
	case uncached:
		return target{c, "https://" + b.hub.listen, uncachedAgent, b.hub}
	default:
		return target{c, "https://" + b.hub.listen, cachedAgent, b.hub}
	}
}

// all are the four ways.
func (b *bench) all() []target {
	return []target{b.target(direct), b.target(plain), b.target(uncached), b.target(cached)}
}

func (b *bench) hubBinary() string { return filepath.Join(b.bin, "edge-hub") }

func (b *bench) newProgram(name string) (*program, error) {
	p := &program{log: filepath.Join(b.dir, name+".log")}
	for _, address := range []*string{&p.listen, &p.metrics} {
		port, err := cluster.FreePort()
		if err != nil {
			return nil, err
		}
		*address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	return p, nil
}

func (b *bench) preparePlain(ctx context.Context) error {
	path := filepath.Join(b.dir, "plainproxy")
	build := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-trimpath", "-o", path, "github.com/edgehub-io/edge-hub/test/bench/plainproxy")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build plainproxy: %w\n%s", err, out)
	}
	certFile, keyFile, err := b.cluster.IssueServingCert(b.dir, "127.0.0.1", "localhost")
	if err != nil {
		return err
	}
	if b.plain, err = b.newProgram("plainproxy"); err != nil {
		return err
	}
	args := []string{"-server", b.cluster.URL(), "-ca", b.cluster.CAFile(), "-listen", b.plain.listen,
		"-metrics", b.plain.metrics, "-cert", certFile, "-key", keyFile}
	b.plain.metrics = "http://" + b.plain.metrics + "/metrics"
	b.plain.command = func() *exec.Cmd { return exec.Command(path, args...) }
	return nil
}

func (b *bench) prepareHub() error {
	certFile, keyFile, err := b.cluster.IssueServingCert(b.dir, "127.0.0.1", "localhost")
	if err != nil {
		return err
	}
	if b.hub, err = b.newProgram("edge-hub"); err != nil {
		return err
	}
	args := []string{"run", "--kubeconfig=" + b.cluster.Kubeconfig(), "--listen=" + b.hub.listen,
		"--tls-cert-file=" + certFile, "--tls-private-key-file=" + keyFile, "--node-name=bench",
		"--cache-dir=" + b.cacheDir(), "--state-dir=" + filepath.Join(b.dir, "state"), "--admin-listen=" + b.hub.metrics}
	if b.profile != "" {
		args = append(args, "--profiling")
	}
	b.hub.metrics = "http://" + b.hub.metrics + "/metrics"
	b.hub.command = func() *exec.Cmd { return exec.Command(b.hubBinary(), args...) }
	return nil
}

func (b *bench) cacheDir() string { return filepath.Join(b.dir, "cache") }

// start starts a program and waits until it serves.
func (b *bench) start(ctx context.Context, p *program) error {
	if err := b.launch(p); err != nil {
		return err
	}
	return b.await(ctx, p, func(metrics) bool { return true })
}

// launch starts a program.
func (b *bench) launch(p *program) error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own descriptor
	cmd := p.command()
	cmd.Stdout, cmd.Stderr = log, log
	p.process, err = process.Start(cmd)
	return err
}

// await polls a program's metrics until they are as wanted.
func (b *bench) await(ctx context.Context, p *program, wanted func(metrics) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		m, err := scrape(ctx, p.metrics)
		if err == nil && wanted(m) {
			return nil
		}
		select {
		case <-p.process.Done():
			log, _ := os.ReadFile(p.log)
			return fmt.Errorf("ended: %s", process.Tail(string(log), 5))
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s is not as wanted", p.metrics), err, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// awaitCloud waits until the hub has its configuration and holds
// kube-apiserver for reachable.
func (b *bench) awaitCloud(ctx context.Context) error {
	return b.await(ctx, b.hub, func(m metrics) bool {
		return m["edgehub_upstream_up"] == 1 && m["edgehub_config_applied_timestamp_seconds"] > 0
	})
}

// freshHub starts the hub with an empty cache, ending the one that runs.
func (b *bench) freshHub(ctx context.Context) error {
	if b.hub.process != nil {
		if err := b.hub.process.Kill(); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(b.cacheDir()); err != nil {
		return err
	}
	if err := b.start(ctx, b.hub); err != nil {
		return err
	}
	return b.awaitCloud(ctx)
}

// fresh starts a target's program anew, so that its memory tells of what
// follows only.
func (b *bench) fresh(ctx context.Context, t target) error {
	switch t.program {
	case nil:
		return nil
	case b.hub:
		return b.freshHub(ctx)
	}
	if err := t.program.process.Kill(); err != nil {
		return err
	}
	return b.start(ctx, t.program)
}

// returnCloud starts kube-apiserver again and waits for the hub to notice.
func (b *bench) returnCloud(ctx context.Context) error {
	if err := b.cluster.RestartAPIServer(ctx); err != nil {
		return err
	}
	if !b.hub.process.Running() {
		if err := b.start(ctx, b.hub); err != nil {
			return err
		}
	}
	return b.awaitCloud(ctx)
}
