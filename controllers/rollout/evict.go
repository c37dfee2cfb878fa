package rollout

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

const (
	// firstBackOff and maxBackOff bound how long a Pod waits after a
	// PodDisruptionBudget refused its eviction. The wait doubles each time.
	firstBackOff = time.Second
	maxBackOff   = 2 * time.Minute
)

// evictions counts requests for evictions by what came of them.
var evictions = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "edgehub_operator_evictions_total",
	Help: "Evictions that were asked for, by result: evicted, gone if the Pod was not there any more, blocked by a PodDisruptionBudget, overloaded if kube-apiserver had no time, or failed, also if a webhook denied it.",
}, []string{"result"})

func init() {
	metrics.Registry.MustRegister(evictions)
	for _, result := range []string{"evicted", "gone", "blocked", "overloaded", "failed"} {
		evictions.WithLabelValues(result)
	}
}

// budgetBlock is a refusal by PodDisruptionBudgets. It holds for the Pods of a
// namespace that selector matches, for those that all of the budgets cover if there is
// more than one, until the time until.
type budgetBlock struct {
	namespace string
	selector  labels.Selector
	message   string
	until     time.Time
	delay     time.Duration
}

func (b *budgetBlock) covers(pod Pod) bool {
	return b.namespace == pod.Namespace && b.selector.Matches(labels.Set(pod.Labels))
}

// budgets remembers which PodDisruptionBudgets refused an eviction, by UID, or by two of
// them where the Eviction API does not support that both cover a Pod. To forget that in a
// restart of the operator costs one refused request.
type budgets map[[2]types.UID]*budgetBlock

// blocking returns the refusal that covers pod now, nil if there is none.
func (b budgets) blocking(pod Pod, now time.Time) *budgetBlock {
	var found *budgetBlock
	for _, block := range b {
		if now.Before(block.until) && block.covers(pod) && (found == nil || block.message < found.message) {
			found = block
		}
	}
	return found
}

// refused remembers that budgets refused the eviction of a Pod that selector matches.
func (b budgets) refused(key [2]types.UID, namespace string, selector labels.Selector, message string, now time.Time) {
	block := b[key]
	if block == nil {
		block = &budgetBlock{delay: firstBackOff / 2}
		b[key] = block
	}
	block.namespace, block.selector, block.message = namespace, selector, message
	block.delay = min(2*block.delay, maxBackOff)
	block.until = now.Add(block.delay)
}

// allowed forgets refusals that cover pod, which was evicted, and ones so old
// that their budget is likely gone.
func (b budgets) allowed(pod Pod, now time.Time) {
	for uid, block := range b {
		if block.covers(pod) || now.Sub(block.until) > 2*maxBackOff {
			delete(b, uid)
		}
	}
}

// answer is what came of a request for the eviction of a Pod.
type answer struct {
	pod     Pod
	evicted bool   // it was; if nothing else is true or set either, it was not there any more
	blocked bool   // PodDisruptionBudgets refuse, which r.budgets then knows
	denied  string // why it was denied otherwise, empty if it was not
	busy    bool   // kube-apiserver had no time; the Pod may be evicted all the same
	err     error
}

// evict asks for the eviction of exactly these Pods, side by side: should another
// one have taken a name, its UID differs and it stays.
func (r *Restarter) evict(ctx context.Context, pods []Pod) []answer {
	answers := make([]answer, len(pods))
	var wg sync.WaitGroup
	for i, pod := range pods {
		wg.Go(func() {
			eviction := &policyv1.Eviction{DeleteOptions: &metav1.DeleteOptions{
				Preconditions: &metav1.Preconditions{UID: &pod.UID},
			}}
			object := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}
			answers[i] = answer{pod: pod, err: r.client.SubResource("eviction").Create(ctx, object, eviction)}
		})
	}
	wg.Wait()
	// What was evicted comes first: it ends older refusals, not those beside it.
	for _, refused := range []bool{false, true} {
		for i := range answers {
			if (answers[i].err != nil) == refused {
				r.judge(ctx, &answers[i])
			}
		}
	}
	return answers
}

// judge says what kube-apiserver's answer means.
func (r *Restarter) judge(ctx context.Context, a *answer) {
	result := "failed"
	denied := denial(a.err)
	switch {
	case a.err == nil:
		result, a.evicted = "evicted", true
		r.budgets.allowed(a.pod, r.now())
	case denied != "":
		a.denied, a.err = denied, nil
	case apierrors.IsNotFound(a.err), apierrors.IsConflict(a.err):
		// The Pod is gone, and perhaps replaced by one of the same name: what
		// the eviction was for is done.
		result, a.err = "gone", nil
	case refusedByBudget(a.err) && r.budgets.blocking(a.pod, r.now()) != nil:
		// Refused beside another one: its budget is known.
		result, a.blocked, a.err = "blocked", true, nil
	case refusedByBudget(a.err):
		if a.blocked, a.err = r.learnBudgets(ctx, a.pod, a.err); a.blocked {
			result = "blocked"
		}
	case apierrors.IsTooManyRequests(a.err), apierrors.IsTimeout(a.err), apierrors.IsServerTimeout(a.err), apierrors.IsServiceUnavailable(a.err):
		result, a.busy, a.err = "overloaded", true, nil
	default:
		a.err = fmt.Errorf("evict Pod %s: %w", a.pod.Name, a.err)
	}
	evictions.WithLabelValues(result).Inc()
}

// refusedByBudget reports whether err is the refusal of a PodDisruptionBudget: 429
// with a cause, or 500, by which kube-apiserver says that more than one covers the
// Pod. A 429 without a cause is plain overload, and another 500 a webhook's, say.
func refusedByBudget(err error) bool {
	if apierrors.IsTooManyRequests(err) {
		return apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause)
	}
	status, ok := err.(apierrors.APIStatus)
	return ok && status.Status().Code == http.StatusInternalServerError && strings.Contains(status.Status().Message, "more than one PodDisruptionBudget")
}

// learnBudgets finds the PodDisruptionBudgets behind refusal and remembers them.
func (r *Restarter) learnBudgets(ctx context.Context, pod Pod, refusal error) (bool, error) {
	var list policyv1.PodDisruptionBudgetList
	if err := r.live.List(ctx, &list, client.InNamespace(pod.Namespace)); err != nil {
		return false, fmt.Errorf("list PodDisruptionBudgets: %w", err)
	}
	// By name, so that of many the same two are told of.
	slices.SortFunc(list.Items, func(a, b policyv1.PodDisruptionBudget) int { return strings.Compare(a.Name, b.Name) })
	var (
		covering  []string
		key       [2]types.UID
		selectors = labels.Everything()
	)
	for i := range list.Items {
		selector, err := metav1.LabelSelectorAsSelector(list.Items[i].Spec.Selector)
		if err != nil || !selector.Matches(labels.Set(pod.Labels)) || len(covering) == len(key) {
			continue
		}
		key[len(covering)] = list.Items[i].UID
		covering = append(covering, fmt.Sprintf("%q", list.Items[i].Name))
		requirements, _ := selector.Requirements()
		selectors = selectors.Add(requirements...)
	}
	if len(covering) == 0 || (len(covering) == 1 && !apierrors.IsTooManyRequests(refusal)) {
		// No budget explains it, or the one that did was deleted meanwhile.
		return false, fmt.Errorf("evict Pod %s: %w", pod.Name, refusal)
	}
	message := fmt.Sprintf("PodDisruptionBudget %s allows no eviction now", covering[0])
	if len(covering) > 1 {
		message = fmt.Sprintf("PodDisruptionBudgets %s and %s cover the same Pod, which the Eviction API does not support: change their selectors", covering[0], covering[1])
	}
	r.budgets.refused(key, pod.Namespace, selectors, message, r.now())
	return true, nil
}
