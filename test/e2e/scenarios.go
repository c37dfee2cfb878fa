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
	"strings"
	"time"
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
	pods []string // namespace/name of all Pods on the node
	lost loss     // how the cloud was lost last
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

var scenarios = []scenario{
	{"policy: applied, restarted, cached", policyStory},
	{"what containers are told", told},
	{"trust", trust},
	{"unplugged: containers crash", without(unplugged, (*world).crashContainers)},
	{"unplugged: sandboxes restart", without(unplugged, (*world).crashSandboxes)},
	{"unplugged: kubelet restarts", without(unplugged, restartService("kubelet"))},
	{"unplugged: containerd restarts", without(unplugged, restartService("containerd"))},
	{"unplugged: edge-hub is killed", without(unplugged, (*world).killHub)},
	{"unplugged: node reboots", without(unplugged, reboot(true))},
	{"unplugged: node reboots without the address", without(unplugged, reboot(false))},
	{"silent loss: containers crash", without(silent, (*world).crashContainers)},
	{"loud loss: containers crash", without(loud, (*world).crashContainers)},
	{"silent loss: node reboots", without(silent, reboot(true))},
	{"silent loss: node reboots without the address", without(silent, reboot(false))},
	{"loud loss: node reboots", without(loud, reboot(true))},
	{"link flaps 50 times", flap},
	{"return: changes of the cloud arrive", changesArrive},
	{"return: requests are bounded", returnIsBounded},
	{"one of two apiservers refuses", twoServers},
	{"unplugged before the cache is warm", coldCache},
}

// without makes a scenario of something that happens while the cloud is away.
func without(how loss, happens func(*world, context.Context) (string, error)) func(context.Context, *world) (string, error) {
	return func(ctx context.Context, w *world) (string, error) {
		if err := w.cut(how); err != nil {
			return "", err
		}
		details, err := happens(w, ctx)
		if err != nil {
			return "", err
		}
		begin := time.Now()
		if err := w.settle(ctx); err != nil {
			return "", fmt.Errorf("after the return: %w", err)
		}
		return fmt.Sprintf("%s; all is well %.1f s after the return", details, time.Since(begin).Seconds()), nil
	}
}

func runScenarios(ctx context.Context, o options, c *cloud) error {
	w, err := setUp(ctx, o, c)
	if err != nil {
		return err
	}
	only := regexp.MustCompile(o.only)
	var failed []error
	for i, s := range scenarios {
		// The others need the policy of the first.
		if i > 0 && !only.MatchString(s.name) {
			continue
		}
		begin := time.Now()
		details, err := s.run(ctx, w)
		if ctx.Err() != nil {
			return ctx.Err()
		}
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
	return errors.Join(failed...)
}

// setUp makes the node join, installs edge-hub and the Pods, and applies the policy.
func setUp(ctx context.Context, o options, c *cloud) (*world, error) {
	w := &world{cloud: c, node: &node{dir: filepath.Join(o.dir, "node"), bin: o.bin}}
	begin := time.Now()
	if err := w.prepare(c); err != nil {
		return nil, err
	}
	if err := w.boot(true, true); err != nil {
		return nil, err
	}
	if err := w.load(ctx, images(o.bin)); err != nil {
		return nil, err
	}
	if err := w.join(ctx, c); err != nil {
		return nil, err
	}
	say("node", begin, "containerd, kubelet; the node is ready")

	begin = time.Now()
	if err := w.installHub(ctx, c); err != nil {
		return nil, err
	}
	if err := eventually(ctx, time.Minute, func() error { return w.nodeReady(ctx) }); err != nil {
		return nil, err
	}
	say("edge-hub", begin, "static Pod with its certificates, in front of the kubelet")

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
	if err := c.apply(fill(appsManifest, "ADVERTISED", advertisedAddress)); err != nil {
		return nil, err
	}
	if err := eventually(ctx, 3*time.Minute, func() error { return c.podsReady(ctx) }); err != nil {
		return nil, err
	}
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

// settle brings the link back and waits until the cloud knows how the node is: every
// Pod is ready with the containers that it has now.
func (w *world) settle(ctx context.Context) error {
	if err := mend(); err != nil {
		return err
	}
	if err := eventually(ctx, 2*time.Minute, func() error {
		return errors.Join(w.nodeReady(ctx), w.podsReady(ctx), w.statusConverged(ctx))
	}); err != nil {
		return err
	}
	pods, err := w.cloud.pods(ctx)
	w.pods = slices.Sorted(maps.Keys(pods))
	return err
}

// statusConverged compares what the cloud says of the Pods' containers with those that
// run on the node.
func (w *world) statusConverged(ctx context.Context) error {
	pods, err := w.cloud.pods(ctx)
	if err != nil {
		return err
	}
	tasks, err := w.node.run("ctr", "--address=/run/containerd/containerd.sock", "--namespace=k8s.io", "tasks", "list", "--quiet")
	if err != nil {
		return err
	}
	for name, pod := range pods {
		for _, container := range pod.Status.ContainerStatuses {
			id := strings.TrimPrefix(container.ContainerID, "containerd://")
			if id == "" || !strings.Contains(tasks, id) {
				return fmt.Errorf("%s has status of a container %q that does not run", name, id)
			}
		}
	}
	return nil
}
