package rollout

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// troubles are what may happen in a world besides restarts.
type troubles struct {
	pods    bool // Pods fail for a while
	nodes   bool // nodes break soon after a Pod came to them, or was evicted from them, and return
	hubs    bool // hubs take the configuration late
	lag     bool // the operator sees Pods as they were some time ago
	budgets bool // PodDisruptionBudgets refuse evictions
	denials bool // a webhook denies the evictions of some Pods, until nodes that are dead return, and of others now and then
	unseen  bool // there is no podSelector: a new Pod is known when its hub has seen it
}

// world is a namespace in which controllers, kubelets, hubs and a clock do their
// work in any order and with any delay. Two policies are about all of its Pods.
type world struct {
	random    *rand.Rand
	now       time.Time
	desired   map[types.UID]int
	kind      map[types.UID]string
	budget    map[types.UID]int // Pods of a workload that must stay healthy
	pods      []Pod
	shown     []Pod // what the operator's cache shows
	created   int
	rules     [2]Rules
	restarter *Restarter
	evicted   int
	tainted   int                // Pods that were deleted because their node is dead
	pinned    map[types.UID]bool // Pods on nodes that are dead from the start
	denied    map[types.UID]bool // Pods whose eviction is denied
	troubles
}

// Get implements client.Reader: it reads a Pod past the cache.
func (w *world) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	for _, p := range w.pods {
		if p.Name != key.Name {
			continue
		}
		object := into.(*corev1.Pod)
		object.UID = p.UID
		if p.Terminating {
			object.DeletionTimestamp = &metav1.Time{Time: p.DeletedAt}
		}
		return nil
	}
	return apierrors.NewNotFound(corev1.Resource("pods"), key.Name)
}

// List implements client.Reader.
func (w *world) List(context.Context, client.ObjectList, ...client.ListOption) error {
	panic("nothing is listed")
}

func newWorld(seed uint64, troubles troubles) *world {
	random := rand.New(rand.NewPCG(seed, 0))
	w := &world{
		random: random, now: now, desired: map[types.UID]int{}, kind: map[types.UID]string{}, budget: map[types.UID]int{},
		pinned: map[types.UID]bool{}, denied: map[types.UID]bool{}, troubles: troubles,
	}
	w.restarter = NewRestarter(nil, w, func() time.Time { return w.now })
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
		w.desired[workload], w.kind[workload] = random.IntN(6), []string{"ReplicaSet", "StatefulSet", "DaemonSet"}[random.IntN(3)]
		if w.budgets && w.desired[workload] > 0 {
			w.budget[workload] = random.IntN(w.desired[workload])
		}
		for range w.desired[workload] {
			p := w.create(workload)
			p.Created, p.ReadySince = cutoff.Add(-time.Hour), cutoff.Add(-time.Hour)
			p.Scheduled, p.Edge, p.NodeReady, p.Selected, p.Affected, p.HubCurrent = true, true, true, true, true, true
			w.denied[p.UID] = w.denials && random.IntN(4) == 0
			switch {
			case random.IntN(8) == 0:
				p.NodeReady, p.NodeLostAt, p.ReadySince, w.pinned[p.UID] = false, cutoff.Add(-time.Minute), time.Time{}, true
			case w.hubs && random.IntN(2) == 0:
				p.HubCurrent = false
			}
		}
	}
	w.shown = slices.Clone(w.pods)
	return w
}

// create creates a Pod, each on a node of its own.
func (w *world) create(workload types.UID) *Pod {
	w.created++
	uid := types.UID(fmt.Sprintf("pod-%d", w.created))
	w.pods = append(w.pods, Pod{Namespace: "default", Name: string(uid), UID: uid, Workload: workload, Kind: w.kind[workload], Node: string(uid), Created: w.now.Truncate(time.Second)})
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

// lacks is how many Pods a workload lacks for whatever reason.
func (w *world) lacks(workload types.UID, rules Rules) int {
	lacking := w.desired[workload]
	for _, p := range w.pods {
		if p.Workload == workload && w.available(p, rules) {
			lacking--
		}
	}
	return max(lacking, 0)
}

// stuck reports whether a Pod has to stay for as long as nodes are dead, because its
// workload or a PodDisruptionBudget wants it.
func (w *world) stuck(p Pod) bool {
	if len(w.pinned) == 0 || p.Kind == "DaemonSet" && !w.budgets {
		return false
	}
	return slices.ContainsFunc(w.pods, func(other Pod) bool { return other.Workload == p.Workload && w.pinned[other.UID] })
}

// refuses reports whether a PodDisruptionBudget refuses an eviction.
func (w *world) refuses(p Pod) bool {
	healthy := 0
	for _, other := range w.pods {
		if other.Workload == p.Workload && !other.Terminating && !other.ReadySince.IsZero() && other.NodeReady {
			healthy++
		}
	}
	return healthy <= w.budget[p.Workload] && w.budget[p.Workload] > 0
}

// revive lets all nodes return that were dead from the start.
func (w *world) revive() {
	for i := range w.pods {
		if p := &w.pods[i]; w.pinned[p.UID] {
			p.NodeReady, p.NodeLostAt = true, time.Time{}
		}
	}
	clear(w.pinned)
	clear(w.denied)
	w.shown = slices.Clone(w.pods) // what nobody could know is no fault
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
	switch w.random.IntN(6) {
	case 0:
		w.now = w.now.Add(time.Duration(w.random.IntN(20)) * time.Second)
	case 1:
		w.reconcile()
	case 2:
		w.shown = slices.Clone(w.pods)
	default:
		w.kubelet()
	}
}

// reconcile is one round of the workloads' controllers.
func (w *world) reconcile() {
	for workload, desired := range w.desired {
		for _, p := range w.pods {
			if p.Workload == workload && (!p.Terminating || w.kind[workload] != "ReplicaSet") {
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
		if !p.Terminating && p.Kind != "DaemonSet" && w.random.IntN(20) == 0 { // its node's taint ends it
			p.Terminating, p.DeletedAt = true, w.now
			w.tainted++
		}
	case p.Scheduled && !p.NodeReady:
		if w.random.IntN(4) == 0 { // the node returns
			p.NodeReady, p.NodeLostAt = true, time.Time{}
		}
	case p.Terminating && w.nodes && w.now.After(p.DeletedAt) && w.random.IntN(20) == 0:
		p.NodeReady, p.NodeLostAt = false, w.now
	case p.Terminating:
		w.pods = slices.Delete(w.pods, i, i+1)
	case !p.Scheduled:
		p.Scheduled, p.Edge, p.NodeReady, p.Selected, p.HubCurrent = true, true, true, !w.unseen, true
	case !p.Selected && w.random.IntN(3) == 0:
		p.Selected = true
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
		return p.Scheduled && !p.NodeReady && (p.Created.After(cutoff) && p.NodeLostAt.Sub(p.Created) <= breakTime ||
			p.Terminating && p.NodeLostAt.After(p.DeletedAt) && p.NodeLostAt.Sub(p.DeletedAt) <= breakTime)
	})
}

// step is one step of the rollout of one of the policies, by an operator that now
// and then is started anew: it forgets everything, and its cache is filled anew.
func (w *world) step(t *testing.T) {
	if w.random.IntN(20) == 0 {
		w.restarter = NewRestarter(nil, w, w.restarter.now)
		w.shown = slices.Clone(w.pods)
	}
	if !w.lag {
		w.shown = slices.Clone(w.pods)
	}
	i := w.random.IntN(len(w.rules))
	rules, name := w.rules[i], fmt.Sprint("policy-", i)
	rules.Held = func(workload types.UID) bool { return w.restarter.claims.holder(workload, name, w.now) != "" }
	refused := w.restarter.refused[name]
	if refused == nil {
		refused = refusals{}
		w.restarter.refused[name] = refused
	}
	rules.Asked = func(p Pod) time.Time { return refused.asked(p.UID) }
	rules.Blocked = func(p Pod) bool { return w.refuses(p) || refused.denying(p.UID, w.now) != nil }
	pods := slices.Clone(w.shown)
	if err := w.restarter.overlayEvicted(t.Context(), "default", pods); err != nil {
		t.Fatal(err)
	}
	plan := MakePlan(pods, w.desired, rules, w.now)
	for _, p := range plan.Restart {
		if holder := w.restarter.claims.holder(p.Workload, name, w.now); holder != "" {
			t.Fatalf("%s evicts Pods of %s, which %s restarts", name, p.Workload, holder)
		}
	}
	w.restarter.claims.follow(name, plan, w.now)
	if !w.lag && w.broken() && len(plan.Restart) > 0 {
		t.Fatalf("evicts %v though a node broke", plan.Restart)
	}
	for _, p := range plan.Restart {
		if w.refuses(p) {
			return
		}
		if w.denied[p.UID] || w.denials && w.random.IntN(8) == 0 {
			refused.denied(p.UID, "no", w.now)
			return
		}
		w.evict(t, p, rules)
	}
}

// evict is kube-apiserver's part of an eviction, and finds fault with it.
func (w *world) evict(t *testing.T, p Pod, rules Rules) {
	i := slices.IndexFunc(w.pods, func(other Pod) bool { return other.UID == p.UID })
	if i < 0 || w.pinned[p.UID] || !p.Affected || !p.HubCurrent || w.pods[i].Terminating {
		t.Fatalf("must not evict %+v", p)
	}
	before, lacked := w.unavailable(rules), w.lacks(p.Workload, rules)
	// That one has become ready a moment ago nobody could know.
	wasAvailable := w.available(w.pods[i], rules) && w.available(p, rules)
	w.pods[i].Terminating, w.pods[i].DeletedAt = true, w.now
	w.restarter.markEvicted(p, true)
	w.evicted++
	if limit := w.limit(rules); wasAvailable && before >= limit {
		t.Fatalf("evicted %+v although %d of at most %d Pods were unavailable: %+v", p, before, limit, w.pods)
	} else if wasAvailable && p.Kind != "DaemonSet" && lacked >= limit {
		t.Fatalf("evicted %s although its %s lacked %d Pods, and at most %d may be unavailable", p.Name, p.Kind, lacked, limit)
	}
}

func (w *world) pending() bool {
	return slices.ContainsFunc(w.pods, func(p Pod) bool { return p.Affected && !w.pinned[p.UID] && !w.stuck(p) && !w.denied[p.UID] })
}

// roll lets things happen until the rollout is done as far as dead nodes allow, and
// then, when they have returned, until it is done, and checks that it is in time.
func (w *world) roll(t *testing.T, seed uint64, check func()) {
	t.Helper()
	for _, revived := range []bool{false, true} {
		if revived {
			w.revive()
		}
		for round := 0; w.pending(); round++ {
			if round > 50000 {
				t.Fatalf("seed %d: does not finish: %+v", seed, w.pods)
			}
			w.happen()
			if w.random.IntN(3) == 0 {
				w.step(t)
			}
			if !revived {
				check()
			}
		}
	}
}

// TestRollouts rolls out to many random fleets, for two policies at once: at no
// time are more Pods unavailable than the more generous one allows, no ReplicaSet or
// StatefulSet that lacks as many Pods loses another one, every rollout finishes, and
// no Pod is restarted that need not be. In some of the fleets the operator's cache
// trails, PodDisruptionBudgets or webhooks refuse, or hubs have to see a Pod first.
func TestRollouts(t *testing.T) {
	for seed := range uint64(500) {
		w := newWorld(seed, troubles{hubs: seed%2 == 0, lag: seed%3 == 0, budgets: seed%5 == 0, denials: seed%11 < 3, unseen: seed%7 == 0})
		toRestart := len(w.pods)
		limit := max(w.limit(w.rules[0]), w.limit(w.rules[1]))
		w.roll(t, seed, func() {
			// Whether one has been ready for long enough is a question of the policy.
			rules := w.rules[0]
			rules.MinReady = 0
			if got := w.unavailable(rules); got > limit {
				t.Fatalf("seed %d: %d Pods are unavailable, at most %d may be", seed, got, limit)
			}
		})
		if w.evicted+w.tainted != toRestart {
			t.Errorf("seed %d: evicted %d Pods besides %d that their nodes lost, want %d", seed, w.evicted, w.tainted, toRestart)
		}
	}
}

// TestRolloutOfOnePolicy holds a single policy to its own limit, minReadySeconds
// included.
func TestRolloutOfOnePolicy(t *testing.T) {
	for seed := range uint64(500) {
		w := newWorld(seed, troubles{hubs: seed%2 == 0, lag: seed%3 == 0, budgets: seed%5 == 0, denials: seed%11 < 3, unseen: seed%7 == 0})
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
		w := newWorld(seed, troubles{pods: true, nodes: seed%2 == 0, hubs: seed%3 == 0, budgets: seed%5 == 0, denials: seed%11 < 3, unseen: seed%7 == 0})
		w.roll(t, seed, func() {})
	}
}
