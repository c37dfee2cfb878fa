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

// fleet is a namespace in which controllers, kubelets and a clock do their work
// in any order and with any delay.
type fleet struct {
	random   *rand.Rand
	now      time.Time
	desired  map[types.UID]int
	eager    map[types.UID]bool // creates a replacement before the old Pod is gone
	pods     []Pod
	created  int
	rules    Rules
	evicted  int
	pinned   map[types.UID]bool // Pods on nodes that are dead from the start
	troubles bool
}

func newFleet(seed uint64, troubles bool) *fleet {
	random := rand.New(rand.NewPCG(seed, 0))
	f := &fleet{
		random: random, now: now, desired: map[types.UID]int{}, eager: map[types.UID]bool{},
		pinned: map[types.UID]bool{}, troubles: troubles,
		rules: Rules{Cutoff: cutoff, MaxUnavailable: intstr.FromInt32(1 + random.Int32N(4))},
	}
	if random.IntN(2) == 0 {
		f.rules.MaxUnavailable = intstr.FromString(fmt.Sprintf("%d%%", 1+random.IntN(100)))
	}
	if random.IntN(2) == 0 {
		f.rules.MinReady = time.Duration(random.IntN(30)) * time.Second
	}
	for i := range 1 + random.IntN(6) {
		workload := types.UID(fmt.Sprintf("w%d", i))
		f.desired[workload], f.eager[workload] = random.IntN(6), random.IntN(2) == 0
		for range f.desired[workload] {
			p := f.create(workload)
			p.Created, p.ReadySince, p.Scheduled, p.NodeReady, p.Selected = cutoff.Add(-time.Hour), cutoff.Add(-time.Hour), true, true, true
			if random.IntN(8) == 0 {
				p.NodeReady, p.ReadySince, f.pinned[p.UID] = false, time.Time{}, true
			}
		}
	}
	return f
}

func (f *fleet) create(workload types.UID) *Pod {
	f.created++
	uid := types.UID(fmt.Sprintf("pod-%d", f.created))
	f.pods = append(f.pods, Pod{Namespace: "default", Name: string(uid), UID: uid, Workload: workload, Created: f.now})
	return &f.pods[len(f.pods)-1]
}

func (f *fleet) available(p Pod) bool {
	return !p.Terminating && !p.ReadySince.IsZero() && f.now.Sub(p.ReadySince) >= f.rules.MinReady
}

// unavailable is how many Pods the workloads lack, apart from those on nodes
// that were dead before anything was restarted.
func (f *fleet) unavailable() int {
	lacking := 0
	for workload, desired := range f.desired {
		for _, p := range f.pods {
			if p.Workload == workload && (f.available(p) || f.pinned[p.UID]) {
				desired--
			}
		}
		lacking += max(desired, 0)
	}
	return lacking
}

func (f *fleet) limit() int {
	total := 0
	for _, desired := range f.desired {
		total += desired
	}
	return f.rules.limit(total)
}

// happen lets one random thing happen.
func (f *fleet) happen() {
	switch f.random.IntN(5) {
	case 0:
		f.now = f.now.Add(time.Duration(f.random.IntN(20)) * time.Second)
	case 1:
		f.reconcile()
	default:
		f.kubelet()
	}
}

// reconcile is one round of the workloads' controllers.
func (f *fleet) reconcile() {
	for workload, desired := range f.desired {
		for _, p := range f.pods {
			if p.Workload == workload && (!p.Terminating || !f.eager[workload]) {
				desired--
			}
		}
		for range max(desired, 0) {
			f.create(workload)
		}
	}
}

// kubelet moves one Pod on.
func (f *fleet) kubelet() {
	if len(f.pods) == 0 {
		return
	}
	i := f.random.IntN(len(f.pods))
	switch p := &f.pods[i]; {
	case f.pinned[p.UID]:
	case p.Terminating:
		f.pods = slices.Delete(f.pods, i, i+1)
	case !p.Scheduled:
		p.Scheduled, p.NodeReady, p.Selected = true, true, true
	case p.ReadySince.IsZero():
		p.ReadySince = f.now
	case f.troubles && f.random.IntN(10) == 0:
		p.ReadySince = time.Time{}
	}
}

// step is one step of an operator that remembers nothing.
func (f *fleet) step(t *testing.T) {
	plan := MakePlan(f.pods, f.desired, f.rules, func(Pod) bool { return false }, f.now)
	for _, p := range plan.Restart {
		i := slices.IndexFunc(f.pods, func(other Pod) bool { return other.UID == p.UID })
		if f.pinned[p.UID] || p.Created.After(cutoff) || f.pods[i].Terminating {
			t.Fatalf("must not evict %+v", p)
		}
		before := f.unavailable()
		wasAvailable := f.available(f.pods[i])
		f.pods[i].Terminating = true
		f.evicted++
		if wasAvailable && before >= f.limit() {
			t.Fatalf("evicted %s although %d of at most %d Pods were unavailable", p.Name, before, f.limit())
		}
	}
}

func (f *fleet) pending() int {
	return slices.IndexFunc(f.pods, func(p Pod) bool { return !p.Created.After(cutoff) && !f.pinned[p.UID] })
}

// TestFleets rolls out to many random fleets: at no time are more Pods
// unavailable than allowed, every rollout finishes, and no Pod is restarted
// that need not be.
func TestFleets(t *testing.T) {
	for seed := range uint64(2000) {
		f := newFleet(seed, false)
		toRestart := len(f.pods) - len(f.pinned)
		for round := 0; f.pending() >= 0 || f.unavailable() > 0; round++ {
			if round > 20000 {
				t.Fatalf("seed %d: does not finish: %+v", seed, f.pods)
			}
			f.happen()
			if f.random.IntN(3) == 0 {
				f.step(t)
			}
			if got := f.unavailable(); got > f.limit() {
				t.Fatalf("seed %d: %d Pods are unavailable, at most %d may be", seed, got, f.limit())
			}
		}
		if f.evicted != toRestart {
			t.Errorf("seed %d: evicted %d Pods, want %d", seed, f.evicted, toRestart)
		}
	}
}

// TestTroubledFleets is the same while Pods also fail for other reasons: no
// eviction makes it worse than allowed, and every rollout still finishes.
func TestTroubledFleets(t *testing.T) {
	for seed := range uint64(500) {
		f := newFleet(seed, true)
		for round := 0; f.pending() >= 0; round++ {
			if round > 50000 {
				t.Fatalf("seed %d: does not finish: %+v", seed, f.pods)
			}
			f.happen()
			if f.random.IntN(3) == 0 {
				f.step(t)
			}
		}
	}
}
