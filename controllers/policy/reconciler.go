package policy

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/rollout"
)

const (
	// reloadTime is how long a connected edge-hub may take to read a change of
	// the ConfigMap. Pods created before it has passed may have started to read
	// past the cache and are restarted too.
	reloadTime = 3 * time.Second

	// retryInterval is when to look again at a rollout in progress although
	// nothing that is watched changed, such as when a workload is scaled down.
	retryInterval = 30 * time.Second

	// unsettledInterval is the same while the ConfigMap is being changed.
	unsettledInterval = time.Second
)

// +kubebuilder:rbac:groups=edgehub.io,resources=edgehubpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=edgehub.io,resources=edgehubpolicies/status,verbs=get;patch
// +kubebuilder:rbac:groups="",resources=pods;nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=pods/eviction,verbs=create
// +kubebuilder:rbac:groups=apps,resources=replicasets;statefulsets;daemonsets,verbs=get;list;watch
// +kubebuilder:rbac:groups=policy,resources=poddisruptionbudgets,verbs=list
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups="",namespace=kube-system,resources=configmaps,resourceNames=edge-hub-cfg,verbs=get;list;watch;create;patch

// Reconciler reconciles EdgeHubPolicies. Each request first brings the agents of
// all policies into the ConfigMap, then the policy it names up to date. It must
// not be used concurrently.
type Reconciler struct {
	client    client.Client
	restarter *rollout.Restarter
	recorder  events.EventRecorder
	now       func() time.Time
	maxQuota  resource.Quantity
}

// NewReconciler returns a Reconciler. cached reads through a cache; live reads
// from kube-apiserver. maxQuota is the largest quota of a policy, see
// [DefaultMaxQuota]; it must not be below [MinQuota].
func NewReconciler(cached client.Client, live client.Reader, recorder events.EventRecorder, now func() time.Time, maxQuota resource.Quantity) *Reconciler {
	return &Reconciler{
		client: cached, restarter: rollout.NewRestarter(cached, live, now), recorder: recorder, now: now, maxQuota: maxQuota,
	}
}

// Reconcile implements reconcile.Reconciler. The request may name no policy: the
// agents are brought up to date then too, which is how those of a deleted policy
// leave.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	state, applyErr := r.applyConfig(ctx)

	var policy v1alpha1.EdgeHubPolicy
	if err := r.client.Get(ctx, request.NamespacedName, &policy); err != nil {
		if apierrors.IsNotFound(err) {
			return unsettled(state, applyErr), applyErr
		}
		return ctrl.Result{}, errors.Join(applyErr, fmt.Errorf("get EdgeHubPolicy %s: %w", request, err))
	}
	if !policy.DeletionTimestamp.IsZero() {
		return unsettled(state, applyErr), applyErr
	}
	before := policy.DeepCopy()
	next, restartErr := r.reconcile(ctx, &policy, state, applyErr)
	if state.malformed == nil && !state.settled {
		next = sooner(next, unsettledInterval)
	}
	patchErr := r.patchStatus(ctx, before, &policy)
	if apierrors.IsConflict(patchErr) {
		// The cache will show the newer policy any moment.
		patchErr, next = nil, sooner(next, unsettledInterval)
	}
	if err := errors.Join(applyErr, restartErr, patchErr); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: next}, nil
}

// reconcile brings the status of policy up to date and its rollout forward. It
// returns when to do so again, zero for never.
func (r *Reconciler) reconcile(ctx context.Context, policy *v1alpha1.EdgeHubPolicy, state hubConfig, applyErr error) (time.Duration, error) {
	if applyErr == nil {
		policy.Status.Agents = observeAgents(policy, state)
	}
	config := configOutcome(policy, state, applyErr)
	if state.tenants.known() {
		asWritten := state.tenants.asWritten(policy)
		setCondition(policy, v1alpha1.ConditionAsWritten, asWritten.done, asWritten.reason, asWritten.message)
	}
	if policy.Spec.PodSelector == nil {
		policy.Status.Pods, policy.Status.Restarted = nil, ""
	}
	if !config.done {
		restarts := waitingForConfig()
		if !restartsWanted(policy) {
			restarts = restartOutcome(policy, rollout.Result{}, 0, nil)
		}
		setConditions(policy, config, restarts)
		return 0, nil
	}
	if policy.Spec.PodSelector == nil {
		setConditions(policy, config, restartOutcome(policy, rollout.Result{}, 0, nil))
		return 0, nil
	}
	return r.restart(ctx, policy, config)
}

// restart brings the rollout of policy forward, whose agents are all applied.
func (r *Reconciler) restart(ctx context.Context, policy *v1alpha1.EdgeHubPolicy, config outcome) (time.Duration, error) {
	cutoff := cutoffOf(policy)
	// A replacement created in the same second as the cutoff would be restarted
	// again, because creationTimestamp has whole seconds.
	wait := max(cutoff.Add(time.Second).Sub(r.now()), 0)
	evict := restartsWanted(policy) && !policy.Spec.Restart.Paused && wait == 0

	result, err := r.restarter.Step(ctx, policy, cutoff, evict)
	restarts := restartOutcome(policy, result, wait, err)
	if err == nil {
		policy.Status.Pods = &result.Counts
		policy.Status.Restarted = fmt.Sprintf("%d/%d", result.Counts.Restarted, result.Counts.Matched)
	}
	setConditions(policy, config, restarts)
	if err != nil {
		return 0, fmt.Errorf("restart Pods: %w", err)
	}
	if restarts.done || restarts.reason == v1alpha1.ReasonPaused {
		return 0, nil
	}
	return sooner(sooner(retryInterval, result.NextCheck), wait), nil
}

// cutoffOf returns the time until which a Pod of policy may have been created
// without the cache for any of its agents.
func cutoffOf(policy *v1alpha1.EdgeHubPolicy) time.Time {
	var latest time.Time
	for _, agent := range policy.Status.Agents {
		if agent.AppliedTime.After(latest) {
			latest = agent.AppliedTime.Time
		}
	}
	return latest.Add(reloadTime)
}

// patchStatus writes the status of policy if it differs from before, and then
// tells of what changed.
func (r *Reconciler) patchStatus(ctx context.Context, before, policy *v1alpha1.EdgeHubPolicy) error {
	if equality.Semantic.DeepEqual(before.Status, policy.Status) {
		return nil
	}
	// The lock refuses a status that was derived from a policy older than the
	// last status, which would move the time of agents. The patch replaces the
	// object with the answer, so it gets a copy.
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.client.Status().Patch(ctx, policy.DeepCopy(), patch); err != nil {
		// A policy that was deleted meanwhile needs no status.
		return client.IgnoreNotFound(fmt.Errorf("patch status of EdgeHubPolicy: %w", err))
	}
	for _, kind := range []string{v1alpha1.ConditionConfigApplied, v1alpha1.ConditionAsWritten, v1alpha1.ConditionRestartsComplete} {
		r.announce(policy, meta.FindStatusCondition(before.Status.Conditions, kind), meta.FindStatusCondition(policy.Status.Conditions, kind))
	}
	return nil
}

// quiet are reasons without news: the same is said by another condition.
var quiet = map[string]bool{
	v1alpha1.ReasonApplying:         true,
	v1alpha1.ReasonAsWritten:        true,
	v1alpha1.ReasonNotRequested:     true,
	v1alpha1.ReasonWaitingForConfig: true,
}

// warnings are reasons a person wants to know of.
var warnings = map[string]bool{
	v1alpha1.ReasonAgentNotAllowed:    true,
	v1alpha1.ReasonApplyFailed:        true,
	v1alpha1.ReasonConfigMapMalformed: true,
	v1alpha1.ReasonDisruptionBudget:   true,
	v1alpha1.ReasonNodesUnreachable:   true,
	v1alpha1.ReasonPodsNeedAttention:  true,
	v1alpha1.ReasonPoliciesDiffer:     true,
	v1alpha1.ReasonQuotaCapped:        true,
	v1alpha1.ReasonRestartFailed:      true,
	v1alpha1.ReasonTooManyAgents:      true,
}

// announce writes an event if a condition changed its status or reason.
func (r *Reconciler) announce(policy *v1alpha1.EdgeHubPolicy, before, after *metav1.Condition) {
	if before != nil && before.Status == after.Status && before.Reason == after.Reason {
		return
	}
	if quiet[after.Reason] {
		return
	}
	kind := corev1.EventTypeNormal
	if warnings[after.Reason] {
		kind = corev1.EventTypeWarning
	}
	r.recorder.Eventf(policy, nil, kind, after.Reason, "Reconcile", "%s", truncate(after.Message))
}

// unsettled is the result for a request that is about the ConfigMap only.
func unsettled(state hubConfig, err error) ctrl.Result {
	if err != nil || state.settled || state.malformed != nil {
		return ctrl.Result{}
	}
	return ctrl.Result{RequeueAfter: unsettledInterval}
}

// sooner returns the smaller of two durations, where zero means never.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}
