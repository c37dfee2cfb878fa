package rollout

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// maxEvictions bounds the Pods evicted in one step, so that a step ends in time
// and other policies have their turn.
const maxEvictions = 50

// Restarter restarts Pods. It is not safe for concurrent use: two steps at once
// could spend the same availability twice.
type Restarter struct {
	client client.Client // reads from the cache
	live   client.Reader // reads from kube-apiserver
	now    func() time.Time

	budgets budgets
	// evicted are Pods whose eviction was requested, by namespace, for as long
	// as the cache shows them as if nothing had happened. A restart of the
	// operator may forget them: its new cache then shows what became of them.
	evicted map[string]map[types.UID]bool
}

// NewRestarter returns a Restarter that reads through the cache of cached, whose
// kinds may be cut down with [CacheByObject], and uses live for the reads that
// must not be stale.
func NewRestarter(cached client.Client, live client.Reader, now func() time.Time) *Restarter {
	return &Restarter{client: cached, live: live, now: now, budgets: budgets{}, evicted: map[string]map[types.UID]bool{}}
}

// Result is what a step found and did.
type Result struct {
	// Counts sums up the Pods after the step.
	Counts v1alpha1.PodCounts
	// Restarting is how many Pods may be unavailable because of the rollout.
	Restarting int
	// Evicted are the names of the Pods the step evicted.
	Evicted []string
	// Blocked says which PodDisruptionBudgets hold up Pods that may be restarted
	// otherwise, empty if none does. The first refusal does not count: it is
	// normal just after a Pod became ready, which budgets learn a moment later.
	Blocked string
	// NextCheck is when to step again although nothing that is watched changes.
	// Zero if there is no need to.
	NextCheck time.Duration
}

// NothingLeft reports whether every selected Pod was created after the cutoff.
func (r Result) NothingLeft() bool { return r.Counts.Pending == 0 && r.Counts.Unmanaged == 0 }

// Complete reports whether every selected Pod was created after the cutoff, and
// as many are available as are wanted.
func (r Result) Complete() bool { return r.NothingLeft() && r.Counts.Unavailable == 0 }

// Step brings the rollout of policy forward as far as is allowed now: it evicts
// Pods created at or before cutoff. If evict is false it only counts.
func (r *Restarter) Step(ctx context.Context, policy *v1alpha1.EdgeHubPolicy, cutoff time.Time, evict bool) (Result, error) {
	selected, err := selectionOf(policy)
	if err != nil {
		return Result{}, err
	}
	pods, desired, err := observe(ctx, r.client, policy.Namespace, selected)
	if err != nil {
		return Result{}, err
	}
	if err := r.overlayEvicted(ctx, policy.Namespace, pods); err != nil {
		return Result{}, err
	}
	restart := policy.Spec.Restart
	rules := Rules{
		Cutoff:         cutoff,
		MaxUnavailable: ptr.Deref(restart.MaxUnavailable, intstr.FromInt32(1)),
		MinReady:       time.Duration(restart.MinReadySeconds) * time.Second,
	}
	return r.carryOut(ctx, pods, desired, rules, evict)
}

// carryOut plans and evicts until the plan is empty. It plans again whenever a
// PodDisruptionBudget refuses, so that Pods no budget covers get their turn.
func (r *Restarter) carryOut(ctx context.Context, pods []Pod, desired map[types.UID]int, rules Rules, evict bool) (Result, error) {
	var result Result
	for {
		var first *budgetBlock
		plan := MakePlan(pods, desired, rules, func(pod Pod) bool {
			block := r.budgets.blocking(pod, r.now())
			if block != nil && (first == nil || block.until.Before(first.until)) {
				first = block
			}
			return block != nil
		}, r.now())
		result.Counts, result.Restarting, result.NextCheck = plan.Counts, plan.Restarting, plan.NextCheck
		if plan.Blocked > 0 {
			if first.delay > firstBackOff {
				result.Blocked = first.message
			}
			result.NextCheck = earlier(result.NextCheck, max(first.until.Sub(r.now()), time.Millisecond))
		}
		if !evict || len(plan.Restart) == 0 {
			return result, nil
		}
		for _, pod := range plan.Restart {
			if len(result.Evicted) == maxEvictions {
				result.NextCheck = time.Millisecond
				return result, nil
			}
			// Marked before the request: when its answer is lost, the Pod may be
			// gone all the same.
			r.markEvicted(pod, true)
			blocked, err := r.evict(ctx, pod)
			if err != nil {
				return result, err
			}
			if blocked {
				r.markEvicted(pod, false)
				break
			}
			log.FromContext(ctx).Info("Evicted Pod", "pod", pod.Name)
			result.Evicted = append(result.Evicted, pod.Name)
			terminate(pods, pod.UID)
		}
	}
}

// overlayEvicted marks those Pods as terminating whose eviction the cache does
// not show yet.
func (r *Restarter) overlayEvicted(ctx context.Context, namespace string, pods []Pod) error {
	evicted := r.evicted[namespace]
	if len(evicted) == 0 {
		return nil
	}
	remaining := map[types.UID]bool{}
	for i := range pods {
		pod := &pods[i]
		if !evicted[pod.UID] || pod.Terminating {
			continue
		}
		var live corev1.Pod
		switch err := r.live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: pod.Name}, &live); {
		case err != nil && !apierrors.IsNotFound(err):
			return fmt.Errorf("get Pod %s: %w", pod.Name, err)
		case err == nil && live.UID == pod.UID && live.DeletionTimestamp == nil:
			// The eviction failed after all.
			continue
		}
		pod.Terminating, remaining[pod.UID] = true, true
	}
	if len(remaining) == 0 {
		delete(r.evicted, namespace)
		return nil
	}
	r.evicted[namespace] = remaining
	return nil
}

func (r *Restarter) markEvicted(pod Pod, evicted bool) {
	if !evicted {
		delete(r.evicted[pod.Namespace], pod.UID)
		return
	}
	if r.evicted[pod.Namespace] == nil {
		r.evicted[pod.Namespace] = map[types.UID]bool{}
	}
	r.evicted[pod.Namespace][pod.UID] = true
}

// terminate marks one of pods as terminating.
func terminate(pods []Pod, uid types.UID) {
	for i := range pods {
		if pods[i].UID == uid {
			pods[i].Terminating = true
		}
	}
}
