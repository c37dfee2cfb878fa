package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var (
	//go:embed manifests/machine.yaml
	machineCRD string
	//go:embed manifests/apps.yaml
	appsManifest string
	//go:embed manifests/kube-proxy.yaml
	kubeProxyManifest string
	//go:embed manifests/policy.yaml
	policyManifest string
)

// A world is a cloud, a node, and the Pods that run on it.
type world struct {
	*cloud
	*node
	pods      []string // namespace/name of all Pods on the node
	lost      loss     // how the cloud was lost last
	installed bool     // edge-hub is
	applied   bool     // the Pods are
	before    []string // files of the node before it was
}

func (w *world) cut(how loss) error {
	w.lost = how
	return cut(how)
}

// A scenario is one thing that happens to an edge node. It begins and ends with the
// link up and every Pod ready.
type scenario struct {
	name string
	run  func(context.Context, *world) (details string, err error)
}

// needed is how many of the first scenarios the others need.
const needed = 1

func scenariosOf(o options) []scenario {
	return []scenario{
		{"policy: applied, restarted, cached", policyStory},
		{"what containers are told", told},
		{"trust", trust},
		{"unplugged: containers crash", failOver(unplugged, (*world).crashContainers)},
		{"unplugged: sandboxes restart", without(unplugged, (*world).crashSandboxes)},
		{"unplugged: kubelet restarts", without(unplugged, restartService("kubelet"))},
		{"unplugged: containerd restarts", without(unplugged, restartService("containerd"))},
		{"unplugged: edge-hub is killed", without(unplugged, (*world).killHub)},
		{"unplugged: node reboots", without(unplugged, reboot(true))},
		{"unplugged: node reboots without the address", without(unplugged, reboot(false))},
		{"unplugged: longer than tokens are said to last", hoursLater},
		{"silent loss: containers crash", failOver(silent, (*world).crashContainers)},
		{"silent loss: edge-hub is killed", without(silent, (*world).killHub)},
		{"silent loss: node reboots without the address", without(silent, reboot(false))},
		{"silent loss: longer than the cloud waits", longOutage},
		{"loud loss: containers crash", failOver(loud, (*world).crashContainers)},
		{"loud loss: edge-hub is killed", without(loud, (*world).killHub)},
		{"loud loss: node reboots", without(loud, reboot(true))},
		{"link flaps 50 times", flap},
		{"return: changes of the cloud arrive", changesArrive},
		{"silent loss: node reboots; requests of the return", returnIsBounded},
		{"one of two apiservers is killed", twoServers(o)},
		{"unplugged before the cache is warm", coldCache},
		{"uninstall", uninstall},
	}
}

// without makes a scenario of something that happens while the cloud is away.
func without(how loss, happens func(*world, context.Context) (string, error)) func(context.Context, *world) (string, error) {
	return func(ctx context.Context, w *world) (string, error) {
		if err := w.cut(how); err != nil {
			return "", err
		}
		return w.afterLoss(ctx, happens)
	}
}

// afterLoss lets something happen, and then the cloud return.
func (w *world) afterLoss(ctx context.Context, happens func(*world, context.Context) (string, error)) (string, error) {
	details, err := happens(w, ctx)
	if err != nil {
		return "", err
	}
	begin := time.Now()
	if err := w.settle(ctx); err != nil {
		return "", fmt.Errorf("after the return: %w", err)
	}
	return fmt.Sprintf("%s; all is well %s after the return", details, seconds(time.Since(begin))), nil
}

func runScenarios(ctx context.Context, o options, c *cloud) error {
	w, err := setUp(ctx, o, c)
	if err != nil {
		return err
	}
	start := time.Now()
	only := regexp.MustCompile(o.only)
	var failed []error
	ran := 0
	for i, s := range scenariosOf(o) {
		if i >= needed && !only.MatchString(s.name) {
			continue
		}
		begin := time.Now()
		details, err := s.run(ctx, w)
		if ctx.Err() != nil {
			say("STOPPED "+s.name, begin, "")
			return errors.Join(append(failed, context.Cause(ctx))...)
		}
		ran++
		if err != nil {
			say("FAIL "+s.name, begin, err.Error())
			failed = append(failed, fmt.Errorf("%s: %w", s.name, err))
			if err := w.settle(ctx); err != nil {
				return errors.Join(append(failed, fmt.Errorf("the rest was not run: %w", err))...)
			}
			continue
		}
		say("ok   "+s.name, begin, details)
	}
	say("scenarios", start, fmt.Sprintf("%d of %d are well", ran-len(failed), ran))
	return errors.Join(failed...)
}

// setUp makes the node join, installs edge-hub and the Pods, and applies the policy.
func setUp(ctx context.Context, o options, c *cloud) (*world, error) {
	w := &world{cloud: c, node: &node{dir: filepath.Join(o.dir, "node"), bin: o.bin}}
	begin := time.Now()
	if err := w.prepare(c); err != nil {
		return nil, err
	}
	if err := w.boot(true); err != nil {
		return nil, err
	}
	if err := w.load(ctx, images(o.bin)); err != nil {
		return nil, err
	}
	if err := eventually(ctx, 2*time.Minute, func() error { return c.nodeReady(ctx) }); err != nil {
		return nil, err
	}
	say("node", begin, "containerd, kubelet; the node is ready")

	begin = time.Now()
	var err error
	if w.before, err = w.files(); err != nil {
		return nil, err
	}
	details, err := w.install(ctx)
	if err != nil {
		return nil, err
	}
	say("ok   install", begin, details)

	begin = time.Now()
	if err := c.apply(machineCRD); err != nil {
		return nil, err
	}
	if err := c.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd/machines.e2e.edgehub.io"); err != nil {
		return nil, err
	}
	if err := c.apply(fill(kubeProxyManifest, "SERVER", c.serverURL())); err != nil {
		return nil, err
	}
	// A program that finds no way to the Service waits half a minute for a connection.
	if err := c.kubectl("-n", "kube-system", "rollout", "status", "daemonset/kube-proxy", "--timeout=60s"); err != nil {
		return nil, err
	}
	if err := c.apply(fill(appsManifest, "ADVERTISED", advertisedAddress, "PORT", c.port())); err != nil {
		return nil, err
	}
	w.applied = true
	if err := w.settle(ctx); err != nil {
		return nil, err
	}
	say("apps", begin, "every Pod is ready")

	return w, nil
}

func images(bin string) []image {
	// Debian has /usr merged; iptables is run from there.
	machine := map[string]string{"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
	apps := filepath.Join(bin, "apps")
	return []image{
		{name: "pause", program: filepath.Join(apps, "pause")},
		{name: "edge-hub", program: filepath.Join(bin, "edge-hub")},
		{name: "kube-proxy", program: filepath.Join(bin, "controlplane", "kube-proxy"), links: machine},
		{name: "edge-app", program: filepath.Join(apps, "edge-app")},
		{name: "controller-app", program: filepath.Join(apps, "controller-app")},
		{name: "volume-app", program: filepath.Join(apps, "volume-app")},
	}
}

// settle brings the link back and waits until the node is really back: the hub reaches
// kube-apiserver, the kubelet has renewed its Lease since, and the cloud knows of the Pods
// what the kubelet knows.
func (w *world) settle(ctx context.Context) error {
	if err := mend(); err != nil {
		return err
	}
	mended := time.Now()
	if err := eventually(ctx, 2*time.Minute, func() error { return w.back(ctx, mended) }); err != nil {
		return err
	}
	pods, err := w.cloud.pods(ctx)
	w.pods = slices.Sorted(maps.Keys(pods))
	return err
}

// back reports what is missing until a node is back that was away before a time.
func (w *world) back(ctx context.Context, mended time.Time) error {
	if up, err := w.metric("edgehub_upstream_up", ""); w.installed && (err != nil || up != 1) {
		return errors.Join(fmt.Errorf("edgehub_upstream_up is %v", up), err)
	}
	if err := errors.Join(w.leaseRenewedSince(ctx, mended), w.nodeReady(ctx)); err != nil {
		return err
	}
	if w.applied {
		if err := w.podsReady(ctx); err != nil {
			return err
		}
	}
	return w.statusConverged(ctx)
}

// leaseRenewedSince reports whether the kubelet has reached the cloud since.
func (c *cloud) leaseRenewedSince(ctx context.Context, since time.Time) error {
	lease, err := c.client.CoordinationV1().Leases("kube-node-lease").Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if renewed := lease.Spec.RenewTime; renewed == nil || !renewed.After(since) {
		return fmt.Errorf("the Lease was renewed at %v, and not since %v", renewed, since)
	}
	return nil
}

// statusConverged compares what the cloud says of the Pods with what the kubelet says of
// them, and with the containers that run.
func (w *world) statusConverged(ctx context.Context) error {
	pods, err := w.cloud.pods(ctx)
	if err != nil {
		return err
	}
	kubelet, err := w.kubeletPods()
	if err != nil {
		return err
	}
	tasks, err := w.ctr("tasks", "list", "--quiet")
	if err != nil {
		return err
	}
	for name, pod := range pods {
		known := kubelet[name]
		switch {
		case known == nil:
			return fmt.Errorf("the kubelet does not know %s", name)
		case isReady(known) != isReady(pod):
			return fmt.Errorf("%s is ready: %t for the kubelet, %t for the cloud", name, isReady(known), isReady(pod))
		}
		if err := errors.Join(running(pod, tasks), running(known, tasks)); err != nil {
			return err
		}
	}
	for name := range kubelet {
		if pods[name] == nil {
			return fmt.Errorf("%s has gone from the cloud, and not from the node", name)
		}
	}
	return nil
}
