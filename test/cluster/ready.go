package cluster

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// waitReady waits until the control plane serves, a component ends, or ctx does.
func (c *Cluster) waitReady(ctx context.Context) error {
	return c.await(ctx, c.components, c.ready)
}

// await waits until ready finds nothing missing, one of the components ends, or ctx
// does.
func (c *Cluster) await(ctx context.Context, components []*component, ready func(context.Context) error) error {
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		for _, p := range components {
			if err := p.crashed(); err != nil {
				return err
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the control plane is not ready: %w (last: %w)\n%s",
				context.Cause(ctx), err, logTail(c.LogFile(apiServer)))
		}
	}
}

// ready reports what is still missing. /readyz alone is not enough: kube-apiserver
// goes on writing in the background, and would move the resourceVersion of what tests
// compare.
func (c *Cluster) ready(ctx context.Context) error {
	if err := c.readyz(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	core := c.clientset.CoreV1()
	for _, namespace := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		if _, err := core.Namespaces().Get(ctx, namespace, metav1.GetOptions{}); err != nil {
			return err
		}
	}
	if _, err := core.Services(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{}); err != nil {
		return err
	}
	for _, name := range []string{"extension-apiserver-authentication", "kube-apiserver-legacy-service-account-token-tracking"} {
		if _, err := core.ConfigMaps(metav1.NamespaceSystem).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
	}
	if c.fairness {
		schemas, err := c.clientset.FlowcontrolV1().FlowSchemas().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, s := range schemas.Items {
			if len(s.Status.Conditions) == 0 {
				return fmt.Errorf("FlowSchema %s has no status yet", s.Name)
			}
		}
	}
	for _, p := range c.components {
		if p.name == controllerManager {
			_, err := core.ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
			return err
		}
	}
	return nil
}

func (c *Cluster) readyz(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := c.readyHTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz: %s\n%s", resp.Status, body)
	}
	return nil
}
