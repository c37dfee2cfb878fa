package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/test/cluster"
)

const (
	configMapCount = 5000
	podCount       = 10_000
	manyCount      = 50_000

	podNamespace  = "bench-pods"
	manyNamespace = "bench-many"
)

// once does what several sections need, and which takes time, once.
func (b *bench) once(ctx context.Context, what string, do func(context.Context) error) error {
	if b.seeded[what] {
		return nil
	}
	start := time.Now()
	if err := do(ctx); err != nil {
		return fmt.Errorf("make %s: %w", what, err)
	}
	b.seeded[what] = true
	fmt.Fprintf(os.Stderr, "made %s in %v\n", what, time.Since(start).Round(100*time.Millisecond))
	return nil
}

// seedBase makes the ServiceAccount that reads, and the hubs' configuration.
func (b *bench) seedBase(ctx context.Context) error {
	if err := b.seedNamespace(ctx, namespace); err != nil {
		return err
	}
	// Whoever is a ServiceAccount of these namespaces may do everything.
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "bench"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "system:serviceaccounts:" + namespace}},
	}
	if _, err := b.client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return err
	}
	var err error
	if b.token, err = b.cluster.Token(ctx, namespace, "default", cluster.WithExpiration(4*time.Hour)); err != nil {
		return err
	}
	_, err = b.client.CoreV1().ConfigMaps(hubconfig.Namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: hubconfig.Namespace, Name: hubconfig.Name},
		Data:       map[string]string{hubconfig.KeyCacheAgents: cachedAgent},
	}, metav1.CreateOptions{})
	return err
}

// seedNamespace makes a namespace and its default ServiceAccount, which the
// controller manager would make.
func (b *bench) seedNamespace(ctx context.Context, name string) error {
	if _, err := b.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := b.client.CoreV1().ServiceAccounts(name).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	return err
}

// payload is text of a length.
func payload(n int) string { return strings.Repeat("0123456789abcdef", n/16+1)[:n] }

func configMap(name string, size int) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "bench"}},
		Data:       map[string]string{"payload": payload(size)},
	}
}

// configMaps makes the 5,000 ConfigMaps of 1.5 KB.
func (b *bench) configMaps(ctx context.Context) error {
	return b.once(ctx, "5,000 ConfigMaps of 1.5 KB", func(ctx context.Context) error {
		return b.seedConfigMaps(ctx, namespace, "cm-", configMapCount, 1280)
	})
}

// manyConfigMaps makes 50,000 small ConfigMaps.
func (b *bench) manyConfigMaps(ctx context.Context) error {
	return b.once(ctx, "50,000 ConfigMaps of 0.5 KB", func(ctx context.Context) error {
		if err := b.seedNamespace(ctx, manyNamespace); err != nil {
			return err
		}
		return b.seedConfigMaps(ctx, manyNamespace, "m-", manyCount, 128)
	})
}

func (b *bench) seedConfigMaps(ctx context.Context, namespace, prefix string, n, size int) error {
	return parallel(ctx, 16, n, func(ctx context.Context, i int) error {
		_, err := b.client.CoreV1().ConfigMaps(namespace).Create(ctx, configMap(fmt.Sprintf("%s%05d", prefix, i), size), metav1.CreateOptions{})
		return err
	})
}

// pods makes 10,000 Pods that are bound to a node, without one.
func (b *bench) pods(ctx context.Context) error {
	return b.once(ctx, "10,000 Pods of 4 KB", func(ctx context.Context) error {
		if err := b.seedNamespace(ctx, podNamespace); err != nil {
			return err
		}
		return parallel(ctx, 16, podCount, func(ctx context.Context, i int) error {
			_, err := b.client.CoreV1().Pods(podNamespace).Create(ctx, pod(i), metav1.CreateOptions{})
			return err
		})
	})
}

// pod is of about 4 KB as JSON, once kube-apiserver has added its defaults.
func pod(i int) *corev1.Pod {
	no := false
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:         fmt.Sprintf("edge-app-6d4cf56db6-%05d", i),
			GenerateName: "edge-app-6d4cf56db6-",
			Labels:       map[string]string{"app": "edge-app", "pod-template-hash": "6d4cf56db6"},
			Annotations:  map[string]string{"checksum/config": payload(400)},
		},
		Spec: corev1.PodSpec{
			NodeName:                     "edge-node-" + strconv.Itoa(i%100),
			AutomountServiceAccountToken: &no,
			Volumes:                      []corev1.Volume{{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		},
	}
	for c := range 2 {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{
			Name: fmt.Sprintf("app-%d", c), Image: "registry.example.com/edge/app:v1.18.8",
			Command: []string{"/bin/app", "--listen=:8080", "--config=/etc/app/config.yaml"},
			Env: []corev1.EnvVar{{Name: "GREETING", Value: "hello"}, {Name: "MODE", Value: "edge"},
				{Name: "NODE", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}}},
			VolumeMounts: []corev1.VolumeMount{{Name: "cache", MountPath: "/var/cache/app"}},
		})
	}
	return p
}

// parallel calls f for 0 to n-1 from several goroutines.
func parallel(ctx context.Context, workers, n int, f func(context.Context, int) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	next := 0
	for range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= n {
					return
				}
				if err := f(ctx, i); err != nil {
					cancel()
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if len(errs) > 0 {
		return errs[0]
	}
	return ctx.Err()
}

// churn updates ConfigMaps at a rate per second until it is stopped, each
// update at its time or as soon after it as may be. Stop returns the highest
// resourceVersion and how many updates there were.
func (b *bench) churn(ctx context.Context, namespace, prefix string, objects, size, rate int) (stop func() (version uint64, updates int, err error)) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	var mu sync.Mutex
	var version uint64
	updates := 0
	start := time.Now()
	go func() {
		err := parallel(ctx, 8, 1<<30, func(ctx context.Context, i int) error {
			select {
			case <-time.After(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(rate)))):
			case <-ctx.Done():
				return nil
			}
			cm := configMap(fmt.Sprintf("%s%05d", prefix, i%objects), size)
			cm.Data["update"] = strconv.Itoa(i)
			// Not with ctx: what was sent counts.
			cm, err := b.client.CoreV1().ConfigMaps(namespace).Update(context.WithoutCancel(ctx), cm, metav1.UpdateOptions{})
			if err != nil {
				return err
			}
			v, err := strconv.ParseUint(cm.ResourceVersion, 10, 64)
			mu.Lock()
			defer mu.Unlock()
			version = max(version, v)
			updates++
			return err
		})
		if errors.Is(err, context.Canceled) {
			err = nil
		}
		done <- err
	}()
	return func() (uint64, int, error) {
		cancel()
		err := <-done
		return version, updates, err
	}
}
