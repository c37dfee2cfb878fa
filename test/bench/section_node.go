package main

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/edgehub-io/edge-hub/test/cluster"
)

const (
	nodePods      = 110 // the kubelet's default maximum
	nodeNamespace = "bench-node"
	nodeObjects   = 20 // of each resource
	informerCount = 3
)

// node has the Pods of a full node read through each proxy, every one with an
// identity, a connection and three informers of its own.
func node(ctx context.Context, b *bench) error {
	var tokens []string
	if err := b.once(ctx, "110 ServiceAccounts", b.seedNode); err != nil {
		return err
	}
	for i := range nodePods {
		token, err := b.cluster.Token(ctx, namespace, podAccount(i), cluster.WithExpiration(time.Hour))
		if err != nil {
			return err
		}
		tokens = append(tokens, token)
	}
	work := fmt.Sprintf("%d Pods with %d informers each", nodePods, informerCount)
	rss := b.table.add(work + ": RSS before / with")
	busy := b.table.add(work + ": CPU in 10 s")
	for _, c := range []column{plain, uncached, cached} {
		t := b.target(c)
		if err := b.fresh(ctx, t); err != nil {
			return err
		}
		before, _, err := memory(t.program.process.PID())
		if err != nil {
			return err
		}
		now, used, err := b.inform(ctx, t, tokens)
		if err != nil {
			return err
		}
		lost, err := timesLost(ctx, t)
		if err != nil {
			return err
		}
		rss.set(c, "%s / %s%s", megabyte(float64(before)), megabyte(float64(now)), lost)
		busy.set(c, "%s", span(used))
		if c == cached {
			rss.want(c, float64(now), "<=", 40e6, megabyte)
		}
	}
	return nil
}

func podAccount(i int) string { return fmt.Sprintf("pod-%03d", i) }

func (b *bench) seedNode(ctx context.Context) error {
	if err := b.seedNamespace(ctx, nodeNamespace); err != nil {
		return err
	}
	if err := b.seedConfigMaps(ctx, nodeNamespace, "n-", nodeObjects, 1024); err != nil {
		return err
	}
	core := b.client.CoreV1()
	if err := parallel(ctx, 4, nodeObjects, func(ctx context.Context, i int) error {
		meta := metav1.ObjectMeta{Name: fmt.Sprintf("n-%05d", i)}
		if _, err := core.Secrets(nodeNamespace).Create(ctx, &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"key": []byte(payload(512))}}, metav1.CreateOptions{}); err != nil {
			return err
		}
		_, err := core.Services(nodeNamespace).Create(ctx, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
			ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Port: 80}},
		}}, metav1.CreateOptions{})
		return err
	}); err != nil {
		return err
	}
	return parallel(ctx, 8, nodePods, func(ctx context.Context, i int) error {
		_, err := core.ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: podAccount(i)}}, metav1.CreateOptions{})
		return err
	})
}

// inform runs informers as programs do and returns the proxy's memory with
// them, and the processor time that it used while nothing happened.
func (b *bench) inform(ctx context.Context, t target, tokens []string) (rss int64, used time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var factories []informers.SharedInformerFactory
	defer func() {
		cancel()
		for _, f := range factories {
			f.Shutdown()
		}
	}()
	for _, token := range tokens {
		f, err := b.informers(t, token)
		if err != nil {
			return 0, 0, err
		}
		f.Start(ctx.Done())
		factories = append(factories, f)
	}
	synced, giveUp := context.WithTimeout(ctx, time.Minute)
	defer giveUp()
	for _, f := range factories {
		for resource, ok := range f.WaitForCacheSync(synced.Done()) {
			if !ok {
				return 0, 0, fmt.Errorf("informer of %v did not sync", resource)
			}
		}
	}
	// Events, for all views.
	for i := range nodeObjects {
		cm := configMap(fmt.Sprintf("n-%05d", i), 1000)
		if _, err := b.client.CoreV1().ConfigMaps(nodeNamespace).Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
			return 0, 0, err
		}
	}
	if err := wait(ctx, 3*settle); err != nil {
		return 0, 0, err
	}
	if t.column == cached {
		if n, err := b.viewFiles(); err != nil {
			return 0, 0, err
		} else if n < nodePods*informerCount {
			return 0, 0, fmt.Errorf("%d views on disk, want %d", n, nodePods*informerCount)
		}
	}
	return atRest(ctx, t.program)
}

func (b *bench) informers(t target, token string) (informers.SharedInformerFactory, error) {
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: t.url, BearerToken: token, UserAgent: t.agent + "/1.0",
		TLSClientConfig: rest.TLSClientConfig{CAFile: b.cluster.CAFile()},
		// A dialer of its own keeps it from sharing connections with others.
		Dial: (&net.Dialer{}).DialContext,
	})
	if err != nil {
		return nil, err
	}
	f := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(nodeNamespace))
	f.Core().V1().ConfigMaps().Informer()
	f.Core().V1().Secrets().Informer()
	f.Core().V1().Services().Informer()
	return f, nil
}

// viewFiles counts the files in the cache directory.
func (b *bench) viewFiles() (n int, err error) {
	err = filepath.WalkDir(b.cacheDir(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(path, ".jsonl") {
			n++
		}
		return err
	})
	return n, err
}
