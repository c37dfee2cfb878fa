package rollout

import (
	"cmp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// Rules are the limits of a rollout.
type Rules struct {
	// Cutoff is when the agents were applied: only Pods created after it can be
	// replacements of ones that were restarted.
	Cutoff time.Time
	// MaxUnavailable is how many Pods may be unavailable at once: a number, or a
	// percentage of the selected Pods, rounded down. It counts as at least 1.
	MaxUnavailable intstr.IntOrString
	// MinReady is how long a Pod must have been ready to be available.
	MinReady time.Duration
	// Blocked reports the Pods that must not be evicted now although the rules
	// allow it. Nil blocks none.
	Blocked func(Pod) bool
	// Asked is when the eviction of a Pod was last asked for in vain, zero if it was
	// not. Those go last, the one asked for longest ago first, so that each has its
	// turn however many are refused. Nil is zero for all.
	Asked func(Pod) time.Time
	// Held reports the workloads that another rollout restarts. Nil holds none.
	Held func(workload types.UID) bool
	// Broken are nodes that became unreachable soon after a Pod was evicted from them
	// that is gone by now.
	Broken []string
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
	// Held is how many Pods wait for another rollout of their workload.
	Held int
	// Workloads are those of the Pods in Restart: this rollout restarts them, and no
	// other one should.
	Workloads sets.Set[types.UID]
	// Recovering are those with Pods that count in Restarting. Whoever restarts them
	// is not done with them.
	Recovering sets.Set[types.UID]
	// Broken are the nodes, sorted, that became unreachable soon after a Pod of
	// the rollout was started on them or evicted from them. While there are any,
	// Restart is empty.
	Broken []string
	// WaitingFor is a node that Pods wait for because of its hub.
	WaitingFor string
	// DeferredOn is a node with a Pod that is deferred.
	DeferredOn string
	// Lacking is a workload that lacks as many Pods as may be unavailable, so that
	// those it has stay; empty if there is none.
	Lacking types.UID
	// Unavailable is a Pod, or a workload that misses one, that counts in Restarting,
	// or else in Counts.Unavailable; empty if there is none.
	Unavailable types.UID
	// NextCheck is how long it takes until the plan changes although nothing
	// else does. Zero if it does not.
	NextCheck time.Duration
}

// MakePlan decides which Pods may restart now. pods are the Pods of a
// namespace; desired has the number of Pods wanted by each workload with Pods
// that the policy is about.
//
// Availability is counted by workload: a workload that wants 3 Pods and has 2
// available ones has 1 unavailable, whether the third is starting, terminating,
// or not created yet. This is what makes a plan safe in the moment between an
// eviction and the creation of the replacement, with no memory of the eviction.
//
// A Pod that is unavailable already is restarted first, since that takes nothing
// away. A Pod that can be no replacement and whose node is not ready, or not
// selected, does not count: its trouble is older than the rollout and would
// hold it up for good. Its own workload is another matter: whatever the reasons, a
// ReplicaSet or StatefulSet that lacks as many Pods as may be unavailable keeps
// those it has. The Pods of a DaemonSet do not stand in for each other. A node that
// breaks after a Pod was restarted on it holds up all: that may be the rollout's
// doing.
func MakePlan(pods []Pod, desired map[types.UID]int, rules Rules, now time.Time) Plan {
	plan := Plan{Workloads: sets.New[types.UID]()}
	tally, broken := newTally(desired), sets.New(rules.Broken...)
	plan.Recovering = tally.recovering
	var candidates []candidate
	for _, pod := range pods {
		if tally.knows(pod) && pod.brokeNode(rules.Cutoff) {
			broken.Insert(pod.Node)
		}
		if pod.Terminating {
			if pod.standsIn(rules.Cutoff) {
				tally.add(pod, false, false, true)
			}
			continue
		}
		available, wait := availability(pod, rules.MinReady, now)
		plan.NextCheck = earlier(plan.NextCheck, wait)
		tally.add(pod, pod.mayReplace(rules.Cutoff), available, !pod.counts(rules.Cutoff))
		if plan.count(pod) != Pending {
			continue
		}
		if early := pod.NotBefore.Sub(now); early > 0 && !pod.NotBefore.IsZero() {
			plan.NextCheck = earlier(plan.NextCheck, early)
			continue
		}
		// One that serves, but not for long enough, counts as unavailable, so
		// that taking it away would not show: its turn comes later.
		if wait == 0 && tally.knows(pod) {
			c := candidate{Pod: pod, available: available}
			if rules.Asked != nil {
				c.asked = rules.Asked(pod)
			}
			candidates = append(candidates, c)
		}
	}
	tally.addMissing()
	plan.Counts.Unavailable = int32(tally.unavailable)
	plan.Restarting = tally.restarting
	plan.Broken = sets.List(broken)
	plan.Unavailable = cmp.Or(tally.restartingExample, tally.example)
	plan.choose(candidates, tally, rules)
	return plan
}

// count adds pod to the counts and returns its state.
func (p *Plan) count(pod Pod) State {
	state := pod.State()
	if state != NotSelected && pod.Workload != "" {
		p.Counts.Matched++
	}
	switch state {
	case Restarted:
		if pod.Workload != "" {
			p.Counts.Restarted++
		}
	case OptedOut:
		p.Counts.OptedOut++
	case Unmanaged:
		p.Counts.Unmanaged++
	case Deferred:
		p.Counts.Pending++
		p.Counts.Deferred++
		if p.DeferredOn == "" || pod.Node < p.DeferredOn {
			p.DeferredOn = pod.Node
		}
	case Waiting:
		p.Counts.Pending++
		p.Counts.Waiting++
		if p.WaitingFor == "" || pod.Node < p.WaitingFor {
			p.WaitingFor = pod.Node
		}
	case Pending:
		p.Counts.Pending++
	}
	return state
}

// choose moves as many candidates into p.Restart as the rules allow.
func (p *Plan) choose(candidates []candidate, tally *tally, rules Rules) {
	candidates = slices.DeleteFunc(candidates, func(c candidate) bool {
		held := rules.Held != nil && rules.Held(c.Workload)
		if held {
			p.Held++
		}
		return held
	})
	if len(p.Broken) > 0 {
		return
	}
	slices.SortFunc(candidates, candidate.compare)
	limit := rules.limit(int(p.Counts.Matched) + tally.missing)
	unavailable, restarting := tally.unavailable, tally.restarting
	taken := map[types.UID]int{}
	for _, c := range candidates {
		if restarting >= limit {
			return
		}
		if c.available && unavailable >= limit {
			// One that is unavailable may follow, if it was refused before.
			continue
		}
		if c.available && c.Kind != "DaemonSet" && tally.lacks(c.Workload)+taken[c.Workload] >= limit {
			if p.Lacking == "" || c.Workload < p.Lacking {
				p.Lacking = c.Workload
			}
			continue
		}
		if rules.Blocked != nil && rules.Blocked(c.Pod) {
			p.Blocked++
			continue
		}
		p.Restart = append(p.Restart, c.Pod)
		p.Workloads.Insert(c.Workload)
		restarting++
		if c.available {
			unavailable++
			taken[c.Workload]++
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

// availability reports whether pod has been ready for minReady on a node that can
// be reached, and if it is ready but not for long enough, how much longer that
// takes.
func availability(pod Pod, minReady time.Duration, now time.Time) (bool, time.Duration) {
	if pod.ReadySince.IsZero() || pod.Scheduled && !pod.NodeReady {
		return false, 0
	}
	// The node's clock says since when, and it may be ahead.
	wait := min(minReady-now.Sub(pod.ReadySince), minReady)
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
	asked     time.Time
}

// compare orders those that were not asked for in vain first, then unavailable Pods,
// then older ones, then by name.
func (c candidate) compare(other candidate) int {
	if order := c.asked.Compare(other.asked); order != 0 {
		return order
	}
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
	serving map[types.UID]int // those that are available

	// unavailable are the Pods that are wanted and not available, those left out
	// that do not count.
	unavailable int
	// restarting are those of them that may be unavailable because of this
	// rollout: missing ones and replacements.
	restarting int
	missing    int
	recovering sets.Set[types.UID] // the workloads of restarting
	// restartingExample is the first of restarting, example that of unavailable: a
	// Pod, or a workload that misses one.
	restartingExample, example types.UID
}

func newTally(desired map[types.UID]int) *tally {
	return &tally{
		desired: desired, active: make(map[types.UID]int, len(desired)), serving: make(map[types.UID]int, len(desired)),
		recovering: sets.New[types.UID](),
	}
}

func (t *tally) knows(pod Pod) bool {
	_, known := t.desired[pod.Workload]
	return known
}

// add adds a Pod. If it is excused it does not count as unavailable.
func (t *tally) add(pod Pod, replacement, available, excused bool) {
	if !t.knows(pod) {
		return
	}
	t.active[pod.Workload]++
	if available {
		t.serving[pod.Workload]++
	}
	if available || excused {
		return
	}
	t.unavailable++
	t.example = first(t.example, pod.UID)
	if replacement {
		t.restarting++
		t.recovering.Insert(pod.Workload)
		t.restartingExample = first(t.restartingExample, pod.UID)
	}
}

// addMissing counts Pods that are wanted and do not exist. Call it once all
// Pods are added.
func (t *tally) addMissing() {
	workload := types.UID("")
	for uid, desired := range t.desired {
		if missing := max(desired-t.active[uid], 0); missing > 0 {
			t.missing += missing
			t.recovering.Insert(uid)
			workload = first(workload, uid)
		}
	}
	t.unavailable += t.missing
	t.restarting += t.missing
	t.restartingExample = cmp.Or(t.restartingExample, workload)
}

// lacks returns how many Pods of a workload are wanted and not available, for
// whatever reason.
func (t *tally) lacks(workload types.UID) int {
	return max(t.desired[workload]-t.serving[workload], 0)
}

// first is the smaller of two UIDs, so that a message stays the same.
func first(a, b types.UID) types.UID {
	if a == "" || b < a {
		return b
	}
	return a
}
