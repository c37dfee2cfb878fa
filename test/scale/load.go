package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// writers is how many objects are created at once.
const writers = 16

// inParallel calls fn with 0 to n-1.
func inParallel(ctx context.Context, n int, fn func(i int) error) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
		next = make(chan int)
	)
	for range min(writers, n) {
		wg.Go(func() {
			for i := range next {
				if err := fn(i); err != nil && !apierrors.IsAlreadyExists(err) {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		next <- i
	}
	close(next)
	wg.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

func nodeName(i int) string { return fmt.Sprintf("node-%05d", i) }

// tenants is how many namespaces the policies are spread over.
func (o *options) tenants() int { return max(min(o.policies/10, 20), 2) }

func (o *options) namespace(policy int) string {
	return fmt.Sprintf("tenant-%02d", policy%o.tenants())
}

func agent(policy int) string { return fmt.Sprintf("app-%04d", policy) }

func (w *world) createNodes(ctx context.Context) error {
	if err := inParallel(ctx, w.nodes, func(i int) error {
		return w.client.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), Labels: map[string]string{"edge": "true"}}})
	}); err != nil {
		return err
	}
	return w.poll(ctx, time.Second, "nodes", func() (bool, error) {
		var nodes corev1.NodeList
		if err := w.client.List(ctx, &nodes); err != nil {
			return false, err
		}
		ready := 0
		for i := range nodes.Items {
			for _, c := range nodes.Items[i].Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue && len(nodes.Items[i].Spec.Taints) == 0 {
					ready++
				}
			}
		}
		return ready == w.nodes, nil
	})
}

// createWorkloads makes the workload of each policy: of the first two a DaemonSet,
// of the others a Deployment.
func (w *world) createWorkloads(ctx context.Context) error {
	for i := range w.tenants() {
		if err := w.client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace(i)}}); err != nil {
			return err
		}
	}
	if err := inParallel(ctx, w.policies, func(i int) error {
		labels := map[string]string{"app": agent(i)}
		object := metav1.ObjectMeta{Namespace: w.namespace(i), Name: agent(i)}
		template := corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{
				Containers:                    []corev1.Container{{Name: "app", Image: "app"}},
				TerminationGracePeriodSeconds: ptr.To[int64](1),
				AutomountServiceAccountToken:  ptr.To(false),
			},
		}
		selector := &metav1.LabelSelector{MatchLabels: labels}
		if i < 2 {
			return w.client.Create(ctx, &appsv1.DaemonSet{ObjectMeta: object, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}})
		}
		return w.client.Create(ctx, &appsv1.Deployment{ObjectMeta: object, Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(int32(w.replicas())), Selector: selector, Template: template,
		}})
	}); err != nil {
		return err
	}
	return w.awaitWorkloads(ctx)
}

// awaitWorkloads waits until every workload has all of its Pods.
func (w *world) awaitWorkloads(ctx context.Context) error {
	return w.poll(ctx, time.Second, "Pods", func() (bool, error) {
		var (
			deployments appsv1.DeploymentList
			daemonSets  appsv1.DaemonSetList
			ready       int
		)
		if err := errors.Join(w.client.List(ctx, &deployments), w.client.List(ctx, &daemonSets)); err != nil {
			return false, err
		}
		for i := range deployments.Items {
			ready += int(deployments.Items[i].Status.AvailableReplicas)
		}
		for i := range daemonSets.Items {
			ready += int(daemonSets.Items[i].Status.NumberAvailable)
		}
		return ready == w.allPods(), nil
	})
}

// unselective reports whether a policy has no podSelector: each tenth has none.
func unselective(policy int) bool { return policy%10 == 5 }

// changed is the i-th policy that is changed: one with a Deployment and a podSelector,
// for nobody uses the agents that are added.
func (o *options) changed(i int) int {
	for policy := 2; ; policy++ {
		if unselective(policy) {
			continue
		}
		if i--; i < 0 {
			return policy
		}
	}
}

// createPolicies makes all policies. The last ones restart nothing.
func (w *world) createPolicies(ctx context.Context) error {
	return inParallel(ctx, w.policies, func(i int) error {
		policy := &v1alpha1.EdgeHubPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace(i), Name: agent(i)},
			Spec: v1alpha1.EdgeHubPolicySpec{
				CacheAgents: []string{agent(i)},
				Restart:     v1alpha1.RestartSpec{MaxUnavailable: ptr.To(intstr.FromString("25%")), DebounceSeconds: ptr.To[int32](1)},
			},
		}
		if !unselective(i) {
			policy.Spec.PodSelector = &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": v1alpha1.LabelValue(agent(i))}}
		}
		if i >= w.restarting {
			policy.Spec.Restart.Strategy = v1alpha1.NeverRestart
		}
		return w.client.Create(ctx, policy)
	})
}

// tryOperator waits until the operator has carried out a policy, which is no more
// when all others are made.
func (w *world) tryOperator(ctx context.Context) error {
	first := &v1alpha1.EdgeHubPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "first"},
		Spec:       v1alpha1.EdgeHubPolicySpec{CacheAgents: []string{"first"}, Restart: v1alpha1.RestartSpec{Strategy: v1alpha1.NeverRestart}},
	}
	if err := w.client.Create(ctx, first); err != nil {
		return err
	}
	if err := w.poll(ctx, 100*time.Millisecond, "the first policy", func() (bool, error) {
		err := w.client.Get(ctx, client.ObjectKeyFromObject(first), first)
		return settled(first), err
	}); err != nil {
		return err
	}
	return w.client.Delete(ctx, first)
}

// awaitReady waits until the operator has nothing left to do for any policy, and
// returns the policies.
func (w *world) awaitReady(ctx context.Context) error {
	last := time.Now()
	return w.poll(ctx, time.Second, "policies to be Ready", func() (bool, error) {
		var policies v1alpha1.EdgeHubPolicyList
		if err := w.client.List(ctx, &policies); err != nil {
			return false, err
		}
		ready, restarted, reasons := 0, 0, map[string]int{}
		for i := range policies.Items {
			p := &policies.Items[i]
			if settled(p) {
				ready++
			}
			if p.Status.Pods != nil {
				restarted += int(p.Status.Pods.Restarted)
			}
			if c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady); c != nil {
				reasons[c.Reason]++
			}
		}
		if time.Since(last) > 20*time.Second {
			last = time.Now()
			w.log("  %d of %d policies are Ready, %d Pods restarted %v", ready, w.policies, restarted, reasons)
		}
		return ready == w.policies, nil
	})
}

// settled reports whether a policy is Ready as it stands.
func settled(p *v1alpha1.EdgeHubPolicy) bool {
	c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
	return c != nil && c.Status == metav1.ConditionTrue && c.ObservedGeneration == p.Generation && p.Status.ObservedGeneration == p.Generation
}

// change adds an agent to a policy.
func (w *world) change(ctx context.Context, policy int, agents ...string) error {
	p := &v1alpha1.EdgeHubPolicy{}
	key := client.ObjectKey{Namespace: w.namespace(policy), Name: agent(policy)}
	if err := w.client.Get(ctx, key, p); err != nil {
		return err
	}
	before := p.DeepCopy()
	p.Spec.CacheAgents = append(p.Spec.CacheAgents, agents...)
	return w.client.Patch(ctx, p, client.MergeFrom(before))
}

func objectMeta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}
