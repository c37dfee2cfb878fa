package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
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
	"github.com/edgehub-io/edge-hub/controllers/fleet"
	"github.com/edgehub-io/edge-hub/controllers/rollout"
)

const (
	// retryInterval is when to look again at a rollout in progress although
	// nothing that is watched changed, such as when a workload is scaled down.
	retryInterval = 30 * time.Second

	// stepTimeout bounds one step of a rollout, so that the status can be written
	// within reconcileTimeout and other policies have their turn.
	stepTimeout = 30 * time.Second

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
	live      client.Reader
	fleet     *fleet.View
	restarter *rollout.Restarter
	recorder  events.EventRecorder
	now       func() time.Time
	maxQuota  resource.Quantity
	// configurations are those that have been in force.
	configurations *fleet.Configurations

	// changes counts changes of policies and of the ConfigMap, if follows is true:
	// latest, what applyConfig returned when there were latestAt, holds until the
	// next one.
	changes  atomic.Int64
	follows  bool
	latest   *hubConfig
	latestAt int64

	pace pace
}

// NewReconciler returns a Reconciler. cached reads through a cache; live reads
// from kube-apiserver. view is what hubs report. maxQuota is the largest quota of a
// policy, see [DefaultMaxQuota]; it must not be below [MinQuota]. configurations is
// told which is in force.
func NewReconciler(cached client.Client, live client.Reader, view *fleet.View, configurations *fleet.Configurations, recorder events.EventRecorder, now func() time.Time, maxQuota resource.Quantity) *Reconciler {
	return &Reconciler{
		client: cached, live: live, fleet: view, restarter: rollout.NewRestarter(cached, live, now), recorder: recorder, now: now, maxQuota: maxQuota,
		configurations: configurations, pace: pace{},
	}
}

// Reconcile implements reconcile.Reconciler. The request may name no policy: the
// agents are brought up to date then too, which is how those of a deleted policy
// leave.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	state, applyErr := r.latestConfig(ctx)

	var policy v1alpha1.EdgeHubPolicy
	err := r.client.Get(ctx, request.NamespacedName, &policy)
	switch {
	case apierrors.IsNotFound(err), err == nil && !policy.DeletionTimestamp.IsZero():
		r.forget(request, state, applyErr)
		return unsettled(state, applyErr), applyErr
	case err != nil:
		return ctrl.Result{}, errors.Join(applyErr, fmt.Errorf("get EdgeHubPolicy %s: %w", request, err))
	}
	before := policy.DeepCopy()
	next, restartErr := r.reconcile(ctx, &policy, state, applyErr)
	if state.malformed == nil && !state.settled {
		next = sooner(next, unsettledInterval)
	}
	if contestOutcome(&policy, state).reason != "" {
		next = sooner(next, max(state.until.Sub(r.now()), unsettledInterval))
	}
	later, patchErr := r.patchStatus(ctx, before, &policy)
	next = sooner(next, later)
	if apierrors.IsConflict(patchErr) {
		// The cache will show the newer policy any moment.
		patchErr, next = nil, sooner(next, unsettledInterval)
	}
	if err := errors.Join(applyErr, restartErr, patchErr); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: next}, nil
}

// forget ends what is remembered of a policy that is gone, and tells of its end
// when its agents have left, or can't.
func (r *Reconciler) forget(request ctrl.Request, state hubConfig, applyErr error) {
	r.restarter.Forget(request.String())
	if _, known := r.pace[request.NamespacedName]; !known || applyErr != nil || state.malformed == nil && !state.settled {
		return
	}
	delete(r.pace, request.NamespacedName)
	note := "the agents that no other policy names have left %s; no Pod is restarted"
	if state.malformed != nil {
		note = "the agents that no other policy names leave %s when a person has corrected it; no Pod is restarted"
	}
	gone := &v1alpha1.EdgeHubPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: request.Namespace, Name: request.Name}}
	r.recorder.Eventf(gone, nil, corev1.EventTypeNormal, v1alpha1.ReasonDeleted, "Reconcile", note, configMapKey)
}

// reconcile brings the status of policy up to date and its rollout forward. It
// returns when to do so again, zero for never.
func (r *Reconciler) reconcile(ctx context.Context, policy *v1alpha1.EdgeHubPolicy, state hubConfig, applyErr error) (time.Duration, error) {
	if applyErr == nil {
		policy.Status.Removals = observeRemovals(policy, state, r.now())
		policy.Status.Agents = observeAgents(policy, state)
	}
	policy.Status.AgentSummary = summary(policy.Spec.CacheAgents)
	config := configOutcome(policy, state, applyErr)
	if state.tenants.known() {
		asWritten := state.tenants.asWritten(policy)
		setCondition(policy, v1alpha1.ConditionAsWritten, asWritten.done, asWritten.reason, asWritten.message)
	}
	var found uses
	snapshot, err := r.fleet.Snapshot(ctx)
	if err == nil {
		found, err = setFleet(policy, snapshot, r.configurations, r.now())
	}
	if err != nil {
		setConditions(policy, config, outcome{reason: v1alpha1.ReasonRestartFailed, message: truncate(err.Error())})
		return 0, err
	}
	switch strategy := policy.Spec.Restart.Strategy; {
	case strategy == v1alpha1.Relist:
		r.restarter.Forget(client.ObjectKeyFromObject(policy).String())
		policy.Status.Pods, policy.Status.Restarted = nil, ""
		restarts := waitingForConfig()
		if config.done {
			restarts = relistOutcome(policy, snapshot, found, r.configurations, r.now())
		}
		setConditions(policy, config, restarts)
		if policy.Spec.Restart.Window != nil {
			return sooner(windowInterval, found.next), nil
		}
		return found.next, nil
	case !config.done && strategy != v1alpha1.NeverRestart:
		r.restarter.Release(client.ObjectKeyFromObject(policy).String())
		setConditions(policy, config, waitingForConfig())
		return found.next, nil
	}
	next, err := r.restart(ctx, policy, config, snapshot, found)
	return sooner(next, found.next), err
}

// restart brings the rollout of policy forward, whose agents are all applied.
func (r *Reconciler) restart(ctx context.Context, policy *v1alpha1.EdgeHubPolicy, config outcome, snapshot *fleet.Snapshot, found uses) (time.Duration, error) {
	gate := newGate(policy, r.now())
	within, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	result, err := r.restarter.Step(within, policy, snapshot, r.configurations, gate.open())
	r.tellEvictions(policy, result.Evicted)
	restarts := restartOutcome(policy, result, gate, err)
	if restarts.done && restarts.reason != v1alpha1.ReasonNotRequested && policy.Spec.PodSelector == nil {
		// Hubs that do not know the agents yet can't say who sends them.
		_, nodes, _ := rollout.Selectors(policy) // Step has parsed them
		if waiting, behind := hubsBehind(policy, snapshot.Count(nodes), found, r.configurations); behind {
			restarts = waiting
		}
	}
	if err == nil {
		policy.Status.Pods = &result.Counts
		policy.Status.Restarted = fmt.Sprintf("%d/%d", result.Counts.Restarted, result.Counts.Matched)
	}
	setConditions(policy, config, restarts)
	switch {
	case err != nil:
		return 0, fmt.Errorf("restart Pods: %w", err)
	case restarts.done || result.Counts.Pending == result.Counts.Deferred && restarts.stalled:
		// A Pod may be available when it has been ready for long enough.
		return result.NextCheck, nil
	case !gate.open() && !result.NothingLeft():
		return sooner(gate.wait, result.NextCheck), nil
	}
	return sooner(retryInterval, result.NextCheck), nil
}

// tellEvictions writes an event about each Pod that was evicted because of policy.
func (r *Reconciler) tellEvictions(policy *v1alpha1.EdgeHubPolicy, pods []rollout.Pod) {
	for _, pod := range pods {
		regarding := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}}
		r.recorder.Eventf(regarding, policy, corev1.EventTypeNormal, v1alpha1.ReasonEvicted, "Evict",
			"evicted because of EdgeHubPolicy %s: it started before the hub of its node, %s, cached what it reads", policy.Name, pod.Node)
	}
}

// patchStatus writes the status of policy if it differs from before, and then
// tells of what changed. What is not urgent is written later; patchStatus returns
// when, zero for never.
func (r *Reconciler) patchStatus(ctx context.Context, before, policy *v1alpha1.EdgeHubPolicy) (time.Duration, error) {
	key := client.ObjectKeyFromObject(policy)
	if later := r.pace.later(key, &before.Status, &policy.Status, r.now()); later != 0 || equality.Semantic.DeepEqual(before.Status, policy.Status) {
		return later, nil
	}
	// The lock refuses a status that was derived from a policy older than the
	// last status, which would move the time of agents. The patch replaces the
	// object with the answer, so it gets a copy.
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	err := r.client.Status().Patch(ctx, policy.DeepCopy(), patch)
	statusWrites.WithLabelValues(resultOf(err)).Inc()
	if err != nil {
		// A policy that was deleted meanwhile needs no status.
		return 0, client.IgnoreNotFound(fmt.Errorf("patch status of EdgeHubPolicy: %w", err))
	}
	r.pace.wrote(key, r.now())
	if notes := removed(&before.Status, &policy.Status); len(notes) > 0 {
		// Two events of one reason about one version of an object would be shown as
		// the first of them, twice.
		r.recorder.Eventf(policy, nil, corev1.EventTypeWarning, v1alpha1.ReasonAgentRemoved, "Reconcile", "%s", truncate(strings.Join(notes, "; ")))
	}
	for _, kind := range told {
		r.announce(policy, meta.FindStatusCondition(before.Status.Conditions, kind), meta.FindStatusCondition(policy.Status.Conditions, kind))
	}
	return 0, nil
}

// told are the conditions whose changes are events. What Ready, Reconciling and
// Stalled say these say as well.
var told = []string{
	v1alpha1.ConditionConfigApplied, v1alpha1.ConditionAsWritten, v1alpha1.ConditionRestartsComplete,
	v1alpha1.ConditionCacheReady, v1alpha1.ConditionCacheTooLarge,
}

// quiet are reasons without news, unless they end what was warned of: the same is said
// by another condition, or goes without saying.
var quiet = map[string]bool{
	v1alpha1.ReasonApplying:         true,
	v1alpha1.ReasonAsWritten:        true,
	v1alpha1.ReasonFits:             true,
	v1alpha1.ReasonNotInUse:         true,
	v1alpha1.ReasonNotRequested:     true,
	v1alpha1.ReasonWaitingForConfig: true,
}

// warnings are reasons a person wants to know of.
var warnings = map[string]bool{
	v1alpha1.ReasonAgentNotAllowed:    true,
	v1alpha1.ReasonApplyFailed:        true,
	v1alpha1.ReasonConfigMapMalformed: true,
	v1alpha1.ReasonConfigMapContested: true,
	v1alpha1.ReasonDisruptionBudget:   true,
	v1alpha1.ReasonNodesBroke:         true,
	v1alpha1.ReasonPodsNeedAttention:  true,
	v1alpha1.ReasonPoliciesDiffer:     true,
	v1alpha1.ReasonQuotaCapped:        true,
	v1alpha1.ReasonQuotaExceeded:      true,
	v1alpha1.ReasonRestartFailed:      true,
	v1alpha1.ReasonTooManyAgents:      true,
	v1alpha1.ReasonWindowInvalid:      true,
}

// announce writes an event if a condition says something new.
func (r *Reconciler) announce(policy *v1alpha1.EdgeHubPolicy, before, after *metav1.Condition) {
	if after == nil || before != nil && sameNews(before, after) {
		return
	}
	if quiet[after.Reason] && (before == nil || !warnings[before.Reason]) {
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
