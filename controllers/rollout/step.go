package rollout

import (
	"context"
	"errors"
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
	"github.com/edgehub-io/edge-hub/controllers/fleet"
)

// maxEvictions bounds the Pods evicted in one step, so that a step ends in time
// and other policies have their turn.
const maxEvictions = 50

// busyInterval is when to ask again for what kube-apiserver had no time for.
const busyInterval = 5 * time.Second

// pageSize is how many Pods are read at once.
const pageSize = 500

// heldInterval is when to look again at Pods that another rollout holds up.
const heldInterval = 5 * time.Second

// recentTime is for how long after the last Pod was left to restart its replacement
// may be missing, or not run yet: to pull an image takes minutes at the edge.
const recentTime = 10 * time.Minute

// maxAtOnce is how many evictions are asked for side by side. kube-apiserver takes
// tens of milliseconds for each.
const maxAtOnce = 8

// Restarter restarts Pods. It is not safe for concurrent use: two steps at once
// could spend the same availability twice.
type Restarter struct {
	client client.Client // reads from the cache
	live   client.Reader // reads from kube-apiserver
	now    func() time.Time

	budgets budgets
	claims  claims
	// refused are the refusals of other kinds, by policy, namespace/name.
	refused map[string]refusals
	// evicted are Pods whose eviction was requested, by namespace, for as long
	// as the cache shows them as if nothing had happened.
	evicted map[string]map[types.UID]bool
	// compared are the namespaces whose Pods, as the cache shows them, were compared
	// with kube-apiserver's: another operator may have evicted some a moment ago.
	compared map[string]bool
	// last is when a policy last had a Pod to restart, or was first looked at, by
	// namespace/name.
	last map[string]time.Time
	// touched are the nodes that Pods were evicted from, by policy, namespace/name.
	touched map[string]touched
}

// NewRestarter returns a Restarter that reads through the cache of cached, whose
// kinds may be cut down with [CacheByObject], and uses live for the reads that
// must not be stale.
func NewRestarter(cached client.Client, live client.Reader, now func() time.Time) *Restarter {
	return &Restarter{
		client: cached, live: live, now: now, budgets: budgets{}, claims: claims{}, refused: map[string]refusals{},
		evicted: map[string]map[types.UID]bool{}, compared: map[string]bool{}, last: map[string]time.Time{}, touched: map[string]touched{},
	}
}

// Forget forgets the rollout of a policy, namespace/name.
func (r *Restarter) Forget(policy string) {
	r.Release(policy)
	delete(r.touched, policy)
}

// Release gives up what the rollout of a policy, namespace/name, holds. What it did is
// remembered, for it may go on.
func (r *Restarter) Release(policy string) {
	r.claims.set(policy, nil, r.now())
	delete(r.last, policy)
	delete(r.refused, policy)
}

// Result is what a step found and did.
type Result struct {
	// Counts sums up the Pods after the step.
	Counts v1alpha1.PodCounts
	// Restarting is how many Pods may be unavailable because of the rollout.
	Restarting int
	// Evicted are the Pods the step evicted.
	Evicted []Pod
	// Blocked says which PodDisruptionBudgets hold up Pods that may be restarted
	// otherwise, empty if none does. The first refusal does not count: it is
	// normal just after a Pod became ready, which budgets learn a moment later.
	Blocked string
	// Denied says which Pod's eviction is denied otherwise, of those that may be
	// restarted, and by whom; empty if none is.
	Denied string
	// Busy is true if kube-apiserver had no time for an eviction.
	Busy bool
	// Holder is another policy, namespace/name, whose rollout Pods wait for.
	Holder string
	// Broken are the nodes that became unreachable after Pods were restarted on
	// them, sorted.
	Broken []string
	// WaitingFor is a node whose hub Pods wait for.
	WaitingFor string
	// DeferredOn is a node with a Pod that is deferred.
	DeferredOn string
	// Lacking is a workload, such as ReplicaSet/app-5d8, that lacks as many Pods as
	// may be unavailable, so that the Pods it has stay.
	Lacking string
	// Unavailable is a Pod or workload that a restart waits for, such as "Pod
	// app-5d8-x7k2p".
	Unavailable string
	// Recent is true if the policy may have had a Pod evicted lately.
	Recent bool
	// NextCheck is when to step again although nothing that is watched changes.
	// Zero if there is no need to.
	NextCheck time.Duration
}

// NothingLeft reports whether no selected Pod has to be restarted that can be
// reached, those that say they must not be left out.
func (r Result) NothingLeft() bool {
	return r.Counts.Pending == r.Counts.Deferred && r.Counts.Unmanaged == 0
}

// Complete reports whether nothing is left, and as many Pods are available as are
// wanted.
func (r Result) Complete() bool { return r.NothingLeft() && r.Counts.Unavailable == 0 }

// Step brings the rollout of policy forward as far as is allowed now. If evict is
// false it only counts. hubs is what hubs report.
func (r *Restarter) Step(ctx context.Context, policy *v1alpha1.EdgeHubPolicy, hubs *fleet.Snapshot, configurations *fleet.Configurations, evict bool) (Result, error) {
	observed, err := Observe(ctx, Sight{Reader: r.client, Fleet: hubs, Configurations: configurations, Now: r.now()}, policy)
	if err != nil {
		return Result{}, err
	}
	if err := r.overlayEvicted(ctx, policy.Namespace, observed.Pods); err != nil {
		return Result{}, err
	}
	name := policy.Namespace + "/" + policy.Name
	if r.refused[name] == nil {
		r.refused[name] = refusals{}
	}
	r.refused[name].keep(observed.Pods)
	rules := RulesOf(policy)
	rules.Broken = r.touched[name].broken(hubs, r.now())
	result, err := r.carryOut(ctx, policy.Namespace, name, observed, rules, evict)
	if len(result.Evicted) > 0 && r.touched[name] == nil {
		r.touched[name] = touched{}
	}
	for _, pod := range result.Evicted {
		r.touched[name][pod.Node] = r.now()
	}
	// The operator that led before may have evicted the last one a moment ago.
	if _, found := r.last[name]; !found || !result.NothingLeft() || len(result.Evicted) > 0 {
		r.last[name] = r.now()
	}
	result.Recent = r.now().Sub(r.last[name]) < recentTime
	return result, err
}

// RulesOf returns the limits that policy sets.
func RulesOf(policy *v1alpha1.EdgeHubPolicy) Rules {
	restart := policy.Spec.Restart
	return Rules{
		Cutoff:         Cutoff(policy),
		MaxUnavailable: ptr.Deref(restart.MaxUnavailable, intstr.FromInt32(1)),
		MinReady:       time.Duration(restart.MinReadySeconds) * time.Second,
	}
}

// carryOut plans and evicts until the plan is empty. It plans again whenever a
// PodDisruptionBudget or somebody else refuses, so that Pods of which nobody minds
// get their turn.
func (r *Restarter) carryOut(ctx context.Context, namespace, policy string, observed Observation, rules Rules, evict bool) (Result, error) {
	var result Result
	refused, denials := r.refused[policy], 0
	rules.Asked = func(pod Pod) time.Time { return refused.asked(pod.UID) }
	for {
		var (
			first  *budgetBlock
			denied Pod // the one with the first name, so that the message stays the same
			until  time.Time
		)
		rules.Blocked = func(pod Pod) bool {
			if denial := refused.denying(pod.UID, r.now()); denial != nil {
				if denied.Name == "" || pod.Name < denied.Name {
					denied = pod
				}
				if until.IsZero() || denial.until.Before(until) {
					until = denial.until
				}
				return true
			}
			block := r.budgets.blocking(pod, r.now())
			if block != nil && (first == nil || block.until.Before(first.until)) {
				first = block
			}
			return block != nil
		}
		result.Holder = ""
		rules.Held = func(workload types.UID) bool {
			holder := r.claims.holder(workload, policy, r.now())
			if holder != "" && (result.Holder == "" || holder < result.Holder) {
				result.Holder = holder
			}
			return holder != ""
		}
		plan := MakePlan(observed.Pods, observed.Desired, rules, r.now())
		result.Counts, result.Restarting, result.NextCheck = plan.Counts, plan.Restarting, plan.NextCheck
		result.Broken, result.WaitingFor, result.DeferredOn = plan.Broken, plan.WaitingFor, plan.DeferredOn
		result.Lacking, result.Unavailable = observed.Names[plan.Lacking], observed.describe(plan.Unavailable)
		if plan.Held > 0 {
			result.NextCheck = earlier(result.NextCheck, heldInterval)
		}
		result.Denied = ""
		if denied.Name != "" {
			result.Denied = fmt.Sprintf("Pod %s can't be evicted: %s", denied.Name, refused[denied.UID].message)
			result.NextCheck = earlier(result.NextCheck, max(until.Sub(r.now()), firstBackOff))
		}
		if first != nil {
			if first.delay > firstBackOff {
				result.Blocked = first.message
			}
			result.NextCheck = earlier(result.NextCheck, max(first.until.Sub(r.now()), time.Millisecond))
		}
		if !evict || len(plan.Broken) > 0 {
			r.claims.set(policy, nil, r.now())
			return result, nil
		}
		r.claims.follow(policy, plan, r.now())
		if len(plan.Restart) == 0 {
			return result, nil
		}
		if !r.compared[namespace] {
			if err := r.compare(ctx, namespace, observed.Pods); err != nil {
				return result, err
			}
			continue
		}
		more, err := r.evictAll(ctx, refused, plan.Restart, observed.Pods, &result)
		denials += more
		if err != nil || len(result.Evicted) == maxEvictions {
			return result, err
		}
		if result.Busy || denials >= maxDenied {
			result.NextCheck = busyInterval
			return result, nil
		}
	}
}

// evictAll evicts Pods until one is refused or enough were evicted. More and more are
// asked for side by side, so that a budget that allows little has little to refuse. It
// returns how many were denied.
func (r *Restarter) evictAll(ctx context.Context, refused refusals, restart, pods []Pod, result *Result) (int, error) {
	for atOnce := 1; len(restart) > 0; atOnce = min(2*atOnce, maxAtOnce) {
		room := maxEvictions - len(result.Evicted)
		if room == 0 {
			result.NextCheck = time.Millisecond
			return 0, nil
		}
		batch := restart[:min(len(restart), room, atOnce)]
		restart = restart[len(batch):]
		for _, pod := range batch {
			// Marked before the request: when its answer is lost, the Pod may be
			// gone all the same.
			r.markEvicted(pod, true)
		}
		var (
			errs    []error
			blocked bool
			denied  int
		)
		for _, answer := range r.evict(ctx, batch) {
			switch {
			case answer.err != nil:
				errs = append(errs, answer.err)
				refused.postpone(answer.pod.UID, r.now())
			case answer.denied != "":
				r.markEvicted(answer.pod, false)
				refused.denied(answer.pod.UID, answer.denied, r.now())
				denied++
			case answer.blocked:
				r.markEvicted(answer.pod, false)
				blocked = true
			case answer.busy:
				// It may have been evicted: the next step looks.
				result.Busy = true
				refused.postpone(answer.pod.UID, r.now())
			default:
				if answer.evicted {
					log.FromContext(ctx).Info("Evicted Pod", "pod", answer.pod.Name)
					result.Evicted = append(result.Evicted, answer.pod)
				}
				terminate(pods, answer.pod.UID, r.now())
			}
		}
		if err := errors.Join(errs...); err != nil || blocked || denied > 0 || result.Busy {
			return denied, err
		}
	}
	return 0, nil
}

// compare finds the Pods of a namespace that kube-apiserver shows as terminating, or
// not at all, while the cache does not yet. The operator that led before may have
// evicted them: its successor's cache has been filled all along and may trail.
func (r *Restarter) compare(ctx context.Context, namespace string, pods []Pod) error {
	alive := map[types.UID]bool{}
	for next := ""; ; {
		var page corev1.PodList
		if err := r.live.List(ctx, &page, client.InNamespace(namespace), client.Limit(pageSize), client.Continue(next)); err != nil {
			return fmt.Errorf("list Pods: %w", err)
		}
		for i := range page.Items {
			alive[page.Items[i].UID] = page.Items[i].DeletionTimestamp == nil
		}
		if next = page.Continue; next == "" {
			break
		}
	}
	for i := range pods {
		if !alive[pods[i].UID] && !pods[i].Terminating {
			r.markEvicted(pods[i], true)
			pods[i].Terminating, pods[i].DeletedAt = true, r.now()
		}
	}
	r.compared[namespace] = true
	return nil
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
		pod.Terminating, pod.DeletedAt, remaining[pod.UID] = true, r.now(), true
		if live.UID == pod.UID && live.DeletionTimestamp != nil {
			pod.DeletedAt = deletedAt(&live)
		}
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
func terminate(pods []Pod, uid types.UID, now time.Time) {
	for i := range pods {
		if pods[i].UID == uid {
			pods[i].Terminating, pods[i].DeletedAt = true, now
		}
	}
}
