package policy

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/fleet"
	"github.com/edgehub-io/edge-hub/controllers/rollout"
)

// reportInterval is how long reports of hubs, and what else matters to every policy,
// are collected before these are looked at.
const reportInterval = 2 * time.Second

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// enqueuer finds the policies an object matters to.
type enqueuer struct {
	reader client.Reader
	// changed says that a policy or the ConfigMap changed.
	changed func()
	view    *fleet.View
	// after calls a function later, in a goroutine of its own.
	after func(time.Duration, func())

	mu      sync.Mutex
	pending bool // every policy is about to be enqueued
}

// on returns a handler that calls f for each creation, deletion, with one object
// twice, and update of an object.
func on[T client.Object](f func(ctx context.Context, q queue, before, after T)) handler.EventHandler {
	call := func(ctx context.Context, q queue, before, after client.Object) {
		b, ok := before.(T)
		a, ok2 := after.(T)
		if ok && ok2 {
			f(ctx, q, b, a)
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { call(ctx, q, e.Object, e.Object) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { call(ctx, q, e.Object, e.Object) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) { call(ctx, q, e.ObjectOld, e.ObjectNew) },
	}
}

// policies enqueues a policy which changed, by more than what is said in its status,
// and those of the same namespace that name an agent of it: they may differ now, or
// no longer, though the ConfigMap stays as it is. One handler does both, so that no
// policy is looked at before its change is known.
func (e *enqueuer) policies() handler.EventHandler {
	return on(func(ctx context.Context, q queue, before, after *v1alpha1.EdgeHubPolicy) {
		asked := before == after || before.Generation != after.Generation || !before.DeletionTimestamp.Equal(after.DeletionTimestamp)
		if asked || !sameAgents(before, after) {
			e.changed()
		}
		if !asked {
			return
		}
		q.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(after)})
		e.add(ctx, q, 0, after.Namespace, func(policy *v1alpha1.EdgeHubPolicy) bool {
			return policy.Name != after.Name && slices.ContainsFunc(policy.Spec.CacheAgents, func(agent string) bool {
				return slices.Contains(before.Spec.CacheAgents, agent) || slices.Contains(after.Spec.CacheAgents, agent)
			})
		})
	})
}

// configMap enqueues a request that names the ConfigMap, which is mended and from
// which the agents of the last policy have to leave when there is none any more, and
// in time every policy.
func (e *enqueuer) configMap() handler.EventHandler {
	return on(func(ctx context.Context, q queue, _, _ *corev1.ConfigMap) {
		e.changed()
		q.Add(reconcile.Request{NamespacedName: configMapKey})
		e.all(ctx, q)
	})
}

// pods enqueues the policies that select a Pod, and those that leave it to the hubs
// to say which Pods they are about.
func (e *enqueuer) pods() handler.EventHandler {
	return on(func(ctx context.Context, q queue, before, after *corev1.Pod) {
		if before != after && !rollout.PodChanged(before, after) {
			return
		}
		e.add(ctx, q, 0, after.Namespace, func(policy *v1alpha1.EdgeHubPolicy) bool {
			if policy.Spec.PodSelector == nil {
				return policy.Spec.Restart.Strategy != v1alpha1.Relist
			}
			selector, err := policy.Spec.PodSelector.AsSelector()
			return err == nil && (selector.Matches(labels.Set(before.Labels)) || selector.Matches(labels.Set(after.Labels)))
		})
	})
}

func (e *enqueuer) nodes() handler.EventHandler {
	return on(func(ctx context.Context, q queue, before, after *corev1.Node) {
		if before == after || fleet.NodeChanged(before, after) {
			e.view.Changed()
			e.all(ctx, q)
		}
	})
}

// hubs enqueues the policies whose agents a hub reports something new of, and all
// of them when it takes another configuration.
func (e *enqueuer) hubs() handler.EventHandler {
	return on(func(ctx context.Context, q queue, before, after *v1alpha1.EdgeHubNode) {
		e.view.Changed()
		if before == after || fleet.HubChanged(before, after) {
			e.all(ctx, q)
			return
		}
		byNamespace := map[string][]string{}
		for _, use := range fleet.ChangedUses(before, after) {
			if use.Namespace != "" {
				byNamespace[use.Namespace] = append(byNamespace[use.Namespace], use.Agent)
			}
		}
		for namespace, agents := range byNamespace {
			e.add(ctx, q, reportInterval, namespace, func(policy *v1alpha1.EdgeHubPolicy) bool {
				return slices.ContainsFunc(policy.Spec.CacheAgents, func(agent string) bool { return slices.Contains(agents, agent) })
			})
		}
	})
}

// all enqueues every policy that there is in a moment, once for everything that
// happens until then.
func (e *enqueuer) all(ctx context.Context, q queue) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pending {
		return
	}
	e.pending = true
	e.after(reportInterval, func() {
		// What happens from here on is for the next time. They are not put into
		// the queue earlier: one that is there is taken out sooner if it changes.
		e.mu.Lock()
		e.pending = false
		e.mu.Unlock()
		e.add(ctx, q, 0, "", every)
	})
}

func every(*v1alpha1.EdgeHubPolicy) bool { return true }

// add enqueues the wanted policies of a namespace, or of all if it is empty.
func (e *enqueuer) add(ctx context.Context, q queue, after time.Duration, namespace string, wanted func(*v1alpha1.EdgeHubPolicy) bool) {
	policies, err := listPolicies(ctx, e.reader, namespace)
	if err != nil {
		log.FromContext(ctx).Error(err, "List EdgeHubPolicies")
		return
	}
	for i := range policies {
		if wanted(&policies[i]) {
			q.AddAfter(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&policies[i])}, after)
		}
	}
}
