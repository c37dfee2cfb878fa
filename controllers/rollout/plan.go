package rollout

import (
	"cmp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// Pod is what planning needs to know of a Pod that has not finished.
type Pod struct {
	Namespace string
	Name      string
	UID       types.UID
	Labels    map[string]string

	// Workload is the UID of the ReplicaSet, StatefulSet or DaemonSet that would
	// replace the Pod, empty if there is none.
	Workload types.UID
	// Created is the Pod's creationTimestamp, which has whole seconds.
	Created time.Time
	// Selected is true if podSelector matches the Pod and nodeSelector matches
	// the node it is bound to.
	Selected bool
	// Scheduled is true once the Pod is bound to a node.
	Scheduled bool
	// NodeReady is true if that node is ready.
	NodeReady bool
	// Terminating is true once the Pod is being deleted.
	Terminating bool
	// ReadySince is when the Pod became ready, zero if it is not.
	ReadySince time.Time
}

// Rules are the limits of a rollout.
type Rules struct {
	// Cutoff divides Pods: those created at or before it have to be restarted.
	Cutoff time.Time
	// MaxUnavailable is how many Pods may be unavailable at once: a number, or a
	// percentage of the selected Pods, rounded down. It counts as at least 1.
	MaxUnavailable intstr.IntOrString
	// MinReady is how long a Pod must have been ready to be available.
	MinReady time.Duration
}

// Plan says what to do now.
type Plan struct {
	// Restart are the Pods to evict now. Evicting all of them at once stays
	// within the rules.
	Restart []Pod
	// Counts sums up the Pods for the status.
	Counts v1alpha1.PodCounts
	// Restarting is how many Pods may be unavailable because of this rollout:
	// they are wanted and missing, or were created after the cutoff and are not
	// available. The Pods in Restart are not among them.
	Restarting int
	// Blocked is how many Pods would be in Restart if they were not blocked.
	Blocked int
	// NextCheck is how long it takes until the first Pod that is ready now has
	// been so for MinReady. Zero if there is none.
	NextCheck time.Duration
}

// MakePlan decides which Pods may restart now. pods are the Pods of a
// namespace; desired has the number of Pods wanted by each workload of which
// podSelector matches Pods; blocked reports the Pods that must not be evicted
// now although the rules allow it.
//
// Availability is counted by workload: a workload that wants 3 Pods and has 2
// available ones has 1 unavailable, whether the third is starting, terminating,
// or not created yet. This is what makes a plan safe in the moment between an
// eviction and the creation of the replacement, with no memory of the eviction.
//
// A Pod that is unavailable already is restarted first, since that takes nothing
// away. A Pod nobody has restarted yet and whose node is not ready, or not
// selected, does not count: its trouble is older than the rollout and would
// hold it up for good.
func MakePlan(pods []Pod, desired map[types.UID]int, rules Rules, blocked func(Pod) bool, now time.Time) Plan {
	var (
		plan       Plan
		tally      = newTally(desired)
		candidates []candidate
	)
	for _, pod := range pods {
		if pod.Terminating {
			continue
		}
		touched := pod.Created.After(rules.Cutoff)
		if pod.Selected && pod.Workload == "" {
			if !touched {
				plan.Counts.Unmanaged++
			}
			continue
		}
		available, wait := availability(pod, rules.MinReady, now)
		plan.NextCheck = earlier(plan.NextCheck, wait)
		counts := touched || !pod.Scheduled || (pod.Selected && pod.NodeReady)
		tally.add(pod, touched, available || !counts)
		if !pod.Selected {
			continue
		}
		plan.Counts.Matched++
		if touched {
			plan.Counts.Restarted++
			continue
		}
		plan.Counts.Pending++
		switch {
		case !pod.NodeReady:
			plan.Counts.Deferred++
		case wait > 0:
			// It serves, so evicting it would take something away, but counts
			// as unavailable, so that would not show: its turn comes later.
		case tally.knows(pod):
			candidates = append(candidates, candidate{pod, available})
		}
	}
	tally.addMissing()
	plan.Counts.Unavailable = int32(tally.unavailable)
	plan.Restarting = tally.restarting
	limit := rules.limit(int(plan.Counts.Matched) + tally.missing)
	plan.choose(candidates, tally, limit, blocked)
	return plan
}

// choose moves as many candidates into plan.Restart as limit allows.
func (p *Plan) choose(candidates []candidate, tally *tally, limit int, blocked func(Pod) bool) {
	slices.SortFunc(candidates, candidate.compare)
	unavailable, restarting := tally.unavailable, tally.restarting
	for _, c := range candidates {
		if restarting >= limit || (c.available && unavailable >= limit) {
			// Candidates that are unavailable come first, so nothing that
			// follows is allowed either.
			return
		}
		if blocked(c.Pod) {
			p.Blocked++
			continue
		}
		p.Restart = append(p.Restart, c.Pod)
		restarting++
		if c.available {
			unavailable++
		}
	}
}

// limit resolves MaxUnavailable for a number of Pods.
func (r Rules) limit(total int) int {
	limit, err := intstr.GetScaledValueFromIntOrPercent(&r.MaxUnavailable, total, false)
	if err != nil {
		// Validation refuses such values; one Pod at a time is always safe.
		return 1
	}
	return max(limit, 1)
}

// availability reports whether pod has been ready for minReady, and if it is
// ready but not for long enough, how much longer that takes.
func availability(pod Pod, minReady time.Duration, now time.Time) (bool, time.Duration) {
	if pod.ReadySince.IsZero() {
		return false, 0
	}
	wait := minReady - now.Sub(pod.ReadySince)
	return wait <= 0, max(wait, 0)
}

// earlier returns the smaller of two durations, where zero means never.
func earlier(a, b time.Duration) time.Duration {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

// candidate is a Pod that has to be restarted and can be.
type candidate struct {
	Pod
	available bool
}

// compare orders unavailable Pods first, then older ones, then by name.
func (c candidate) compare(other candidate) int {
	if c.available != other.available {
		if c.available {
			return 1
		}
		return -1
	}
	return cmp.Or(c.Created.Compare(other.Created), cmp.Compare(c.Name, other.Name))
}

// tally counts unavailable Pods by workload.
type tally struct {
	desired map[types.UID]int
	active  map[types.UID]int

	// unavailable are the Pods that are wanted and not available.
	unavailable int
	// restarting are those of them that may be unavailable because of this
	// rollout: missing ones and ones created after the cutoff.
	restarting int
	missing    int
}

func newTally(desired map[types.UID]int) *tally {
	return &tally{desired: desired, active: make(map[types.UID]int, len(desired))}
}

func (t *tally) knows(pod Pod) bool {
	_, known := t.desired[pod.Workload]
	return known
}

func (t *tally) add(pod Pod, touched, available bool) {
	if !t.knows(pod) {
		return
	}
	t.active[pod.Workload]++
	if available {
		return
	}
	t.unavailable++
	if touched {
		t.restarting++
	}
}

// addMissing counts Pods that are wanted and do not exist. Call it once all
// Pods are added.
func (t *tally) addMissing() {
	for workload, desired := range t.desired {
		t.missing += max(desired-t.active[workload], 0)
	}
	t.unavailable += t.missing
	t.restarting += t.missing
}
