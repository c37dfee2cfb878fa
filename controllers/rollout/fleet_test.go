package rollout

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// troubles are what may happen in a world besides restarts.
type troubles struct {
	pods  bool // Pods fail for a while
	nodes bool // nodes break soon after a Pod came to them, and return
	hubs  bool // hubs take the configuration late
}

// world is a namespace in which controllers, kubelets, hubs and a clock do their
// work in any order and with any delay. Two policies are about all of its Pods.
type world struct {
	random  *rand.Rand
	now     time.Time
	desired map[types.UID]int
	eager   map[types.UID]bool // creates a replacement before the old Pod is gone
	pods    []Pod
	created int
	rules   [2]Rules
	claims  claims
	evicted int
	pinned  map[types.UID]bool // Pods on nodes that are dead from the start
	troubles
}

func newWorld(seed uint64, troubles troubles) *world {
	random := rand.New(rand.NewPCG(seed, 0))
	w := &world{
		random: random, now: now, desired: map[types.UID]int{}, eager: map[types.UID]bool{},
		pinned: map[types.UID]bool{}, troubles: troubles, claims: claims{},
	}
	for i := range w.rules {
		rules := Rules{Cutoff: cutoff, MaxUnavailable: intstr.FromInt32(1 + random.Int32N(4))}
		if random.IntN(2) == 0 {
			rules.MaxUnavailable = intstr.FromString(fmt.Sprintf("%d%%", 1+random.IntN(100)))
		}
		if random.IntN(2) == 0 {
			rules.MinReady = time.Duration(random.IntN(30)) * time.Second
		}
		w.rules[i] = rules
	}
	for i := range 1 + random.IntN(6) {
		workload := types.UID(fmt.Sprintf("w%d", i))
		w.desired[workload], w.eager[workload] = random.IntN(6), random.IntN(2) == 0
		for range w.desired[workload] {
			p := w.create(workload)
			p.Created, p.ReadySince = cutoff.Add(-time.Hour), cutoff.Add(-time.Hour)
			p.Scheduled, p.Edge, p.NodeReady, p.Selected, p.Affected, p.HubCurrent = true, true, true, true, true, true
			switch {
			case random.IntN(8) == 0:
				p.NodeReady, p.NodeLostAt, p.ReadySince, w.pinned[p.UID] = false, cutoff.Add(-time.Minute), time.Time{}, true
			case w.hubs && random.IntN(2) == 0:
				p.HubCurrent = false
			}
		}
	}
	return w
}

// create creates a Pod, each on a node of its own.
func (w *world) create(workload types.UID) *Pod {
	w.created++
	uid := types.UID(fmt.Sprintf("pod-%d", w.created))
	w.pods = append(w.pods, Pod{Namespace: "default", Name: string(uid), UID: uid, Workload: workload, Node: string(uid), Created: w.now.Truncate(time.Second)})
	return &w.pods[len(w.pods)-1]
}

func (w *world) available(p Pod, rules Rules) bool {
	return !p.Terminating && !p.ReadySince.IsZero() && p.NodeReady && w.now.Sub(p.ReadySince) >= rules.MinReady
}

// unavailable is how many Pods the workloads lack, apart from those on nodes
// that were dead before anything was restarted, or died for other reasons.
func (w *world) unavailable(rules Rules) int {
	lacking := 0
	for workload, desired := range w.desired {
		for _, p := range w.pods {
			if p.Workload == workload && (w.available(p, rules) || w.pinned[p.UID] || w.lostLater(p)) {
				desired--
			}
		}
		lacking += max(desired, 0)
	}
	return lacking
}

func (w *world) lostLater(p Pod) bool {
	return !p.Terminating && p.Scheduled && !p.NodeReady && p.NodeLostAt.Sub(p.Created) > breakTime
}

func (w *world) limit(rules Rules) int {
	total := 0
	for _, desired := range w.desired {
		total += desired
	}
	return rules.limit(total)
}

// happen lets one random thing happen.
func (w *world) happen() {
	switch w.random.IntN(5) {
	case 0:
		w.now = w.now.Add(time.Duration(w.random.IntN(20)) * time.Second)
	case 1:
		w.reconcile()
	default:
		w.kubelet()
	}
}

// reconcile is one round of the workloads' controllers.
func (w *world) reconcile() {
	for workload, desired := range w.desired {
		for _, p := range w.pods {
			if p.Workload == workload && (!p.Terminating || !w.eager[workload]) {
				desired--
			}
		}
		for range max(desired, 0) {
			w.create(workload)
		}
	}
}

// kubelet moves one Pod on.
func (w *world) kubelet() {
	if len(w.pods) == 0 {
		return
	}
	i := w.random.IntN(len(w.pods))
	switch p := &w.pods[i]; {
	case w.pinned[p.UID]:
	case p.Scheduled && !p.NodeReady:
		if w.random.IntN(4) == 0 { // the node returns
			p.NodeReady, p.NodeLostAt = true, time.Time{}
		}
	case p.Terminating:
		w.pods = slices.Delete(w.pods, i, i+1)
	case !p.Scheduled:
		p.Scheduled, p.Edge, p.NodeReady, p.Selected, p.HubCurrent = true, true, true, true, true
	case w.nodes && p.Created.After(cutoff) && w.now.After(p.Created) && w.random.IntN(20) == 0:
		p.NodeReady, p.NodeLostAt = false, w.now
	case !p.HubCurrent:
		p.HubCurrent = w.random.IntN(3) == 0
	case p.ReadySince.IsZero():
		p.ReadySince = w.now
	case w.troubles.pods && w.random.IntN(10) == 0:
		p.ReadySince = time.Time{}
	}
}

// broken reports whether a node broke that a Pod was restarted on.
func (w *world) broken() bool {
	return slices.ContainsFunc(w.pods, func(p Pod) bool {
		return p.Created.After(cutoff) && p.Scheduled && !p.NodeReady && p.NodeLostAt.Sub(p.Created) <= breakTime
	})
}

// step is one step of the rollout of one of the policies, by an operator that
// remembers nothing but claims, and these not always.
func (w *world) step(t *testing.T) {
	if w.random.IntN(20) == 0 {
		clear(w.claims)
	}
	i := w.random.IntN(len(w.rules))
	rules, name := w.rules[i], fmt.Sprint("policy-", i)
	rules.Held = func(workload types.UID) bool { return w.claims.holder(workload, name, w.now) != "" }
	plan := MakePlan(w.pods, w.desired, rules, w.now)
	for _, p := range plan.Restart {
		if holder := w.claims.holder(p.Workload, name, w.now); holder != "" {
			t.Fatalf("%s evicts Pods of %s, which %s restarts", name, p.Workload, holder)
		}
	}
	w.claims.set(name, plan.Workloads, w.now)
	if w.broken() && len(plan.Restart) > 0 {
		t.Fatalf("evicts %v though a node broke", plan.Restart)
	}
	for _, p := range plan.Restart {
		i := slices.IndexFunc(w.pods, func(other Pod) bool { return other.UID == p.UID })
		if w.pinned[p.UID] || !p.Affected || !p.HubCurrent || w.pods[i].Terminating {
			t.Fatalf("must not evict %+v", p)
		}
		before, wasAvailable := w.unavailable(rules), w.available(w.pods[i], rules)
		w.pods[i].Terminating = true
		w.evicted++
		if wasAvailable && before >= w.limit(rules) {
			t.Fatalf("evicted %s although %d of at most %d Pods were unavailable", p.Name, before, w.limit(rules))
		}
	}
}

func (w *world) pending() bool {
	return slices.ContainsFunc(w.pods, func(p Pod) bool { return p.Affected && !w.pinned[p.UID] })
}

// roll lets things happen until the rollout is done, and checks that it is in time.
func (w *world) roll(t *testing.T, seed uint64, check func()) {
	t.Helper()
	for round := 0; w.pending(); round++ {
		if round > 50000 {
			t.Fatalf("seed %d: does not finish: %+v", seed, w.pods)
		}
		w.happen()
		if w.random.IntN(3) == 0 {
			w.step(t)
		}
		check()
	}
}

// TestRollouts rolls out to many random fleets, for two policies at once: at no
// time are more Pods unavailable than the more generous one allows, every rollout
// finishes, and no Pod is restarted that need not be.
func TestRollouts(t *testing.T) {
	for seed := range uint64(500) {
		w := newWorld(seed, troubles{hubs: seed%2 == 0})
		toRestart := len(w.pods) - len(w.pinned)
		limit := max(w.limit(w.rules[0]), w.limit(w.rules[1]))
		w.roll(t, seed, func() {
			// Whether one has been ready for long enough is a question of the policy.
			rules := w.rules[0]
			rules.MinReady = 0
			if got := w.unavailable(rules); got > limit {
				t.Fatalf("seed %d: %d Pods are unavailable, at most %d may be", seed, got, limit)
			}
		})
		if w.evicted != toRestart {
			t.Errorf("seed %d: evicted %d Pods, want %d", seed, w.evicted, toRestart)
		}
	}
}

// TestRolloutOfOnePolicy holds a single policy to its own limit, minReadySeconds
// included.
func TestRolloutOfOnePolicy(t *testing.T) {
	for seed := range uint64(500) {
		w := newWorld(seed, troubles{hubs: seed%2 == 0})
		w.rules[1] = w.rules[0]
		w.roll(t, seed, func() {
			if got := w.unavailable(w.rules[0]); got > w.limit(w.rules[0]) {
				t.Fatalf("seed %d: %d Pods are unavailable, at most %d may be", seed, got, w.limit(w.rules[0]))
			}
		})
	}
}

// TestRolloutsInTrouble is the same while Pods also fail for other reasons and nodes
// break: no eviction makes it worse than allowed, none happens while a node is
// broken, and every rollout still finishes.
func TestRolloutsInTrouble(t *testing.T) {
	for seed := range uint64(500) {
		w := newWorld(seed, troubles{pods: true, nodes: seed%2 == 0, hubs: seed%3 == 0})
		w.roll(t, seed, func() {})
	}
}
