package rollout

import (
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

var (
	cutoff = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	now    = cutoff.Add(time.Hour)
)

// pod returns a Pod of workload w that is ready and was created before cutoff,
// changed by change.
func pod(name string, change ...func(*Pod)) Pod {
	p := Pod{
		Namespace: "default", Name: name, UID: types.UID(name), Workload: "w", Kind: "DaemonSet", Created: cutoff.Add(-time.Hour),
		Selected: true, Affected: true, Scheduled: true, Node: "node-of-" + name, Edge: true, NodeReady: true, HubCurrent: true,
		ReadySince: cutoff.Add(-time.Minute),
	}
	for _, c := range change {
		c(&p)
	}
	return p
}

func restarted(p *Pod) {
	p.Affected, p.Created, p.ReadySince = false, cutoff.Add(time.Second), cutoff.Add(2*time.Second)
}
func notReady(p *Pod)    { p.ReadySince = time.Time{} }
func replicaSet(p *Pod)  { p.Kind = "ReplicaSet" }
func statefulSet(p *Pod) { p.Kind = "StatefulSet" }
func terminating(p *Pod) { p.Terminating, p.DeletedAt = true, cutoff.Add(10*time.Minute) }
func deadNode(p *Pod)    { p.NodeReady, p.NodeLostAt = false, cutoff.Add(-time.Hour); notReady(p) }
func brokenNode(p *Pod)  { p.NodeReady, p.NodeLostAt = false, cutoff.Add(time.Minute) }
func lostLater(p *Pod)   { p.NodeReady, p.NodeLostAt = false, cutoff.Add(50*time.Minute); notReady(p) }
func otherNode(p *Pod)   { p.Selected, p.Affected, p.Edge = false, false, false }
func unscheduled(p *Pod) {
	p.Scheduled, p.Selected, p.Edge, p.NodeReady = false, false, false, false
	notReady(p)
}
func bare(p *Pod)   { p.Workload = "" }
func oldHub(p *Pod) { p.HubCurrent = false }
func optOut(p *Pod) { p.OptedOut = true }

func TestMakePlan(t *testing.T) {
	two := intstr.FromInt32(2)
	for _, test := range []struct {
		name           string
		pods           []Pod
		desired        int
		maxUnavailable intstr.IntOrString
		minReady       time.Duration
		blocked        []string
		asked          []string // in vain, in this order
		want           []string
		wantCounts     v1alpha1.PodCounts
		wantBlocked    int
		wantNext       time.Duration
		wantBroken     []string
		wantLacking    bool
		held           bool
	}{
		{name: "no Pods"},
		{
			name: "one at a time, oldest first", desired: 3,
			pods:       []Pod{pod("a"), pod("b", func(p *Pod) { p.Created = cutoff.Add(-2 * time.Hour) }), pod("c")},
			want:       []string{"b"},
			wantCounts: v1alpha1.PodCounts{Matched: 3, Pending: 3},
		}, {
			name: "not yet", desired: 1,
			pods:       []Pod{pod("a", func(p *Pod) { p.NotBefore = now.Add(5 * time.Second) })},
			wantCounts: v1alpha1.PodCounts{Matched: 1, Pending: 1},
			wantNext:   5 * time.Second,
		}, {
			name: "one that was restarted by somebody else", desired: 1,
			pods:       []Pod{pod("a", func(p *Pod) { p.Affected = false })},
			wantCounts: v1alpha1.PodCounts{Matched: 1, Restarted: 1},
		}, {
			name: "a hub that is behind holds up its node only", desired: 2,
			pods:       []Pod{pod("a", oldHub), pod("b")},
			want:       []string{"b"},
			wantCounts: v1alpha1.PodCounts{Matched: 2, Pending: 2, Waiting: 1},
		}, {
			name: "where nothing can be cached a restart is of no use", desired: 2,
			pods:       []Pod{pod("a", func(p *Pod) { p.Hindrance = "its cache can't be written" }), pod("b")},
			want:       []string{"b"},
			wantCounts: v1alpha1.PodCounts{Matched: 2, Pending: 2, Deferred: 1},
		}, {
			name: "who opts out stays", desired: 2,
			pods:       []Pod{pod("a", optOut), pod("b"), pod("c", optOut, bare), pod("d", optOut, restarted)},
			want:       []string{"b"},
			wantCounts: v1alpha1.PodCounts{Matched: 3, Restarted: 1, Pending: 1, OptedOut: 2},
		}, {
			name: "another rollout of the workload goes first", desired: 1, held: true,
			pods:       []Pod{pod("a")},
			wantCounts: v1alpha1.PodCounts{Matched: 1, Pending: 1},
		}, {
			name: "nothing is restarted twice", desired: 2,
			pods:       []Pod{pod("a", restarted), pod("b", restarted)},
			wantCounts: v1alpha1.PodCounts{Matched: 2, Restarted: 2},
		}, {
			name: "the next waits until the last is ready", desired: 2,
			pods:       []Pod{pod("a", restarted, notReady), pod("b")},
			wantCounts: v1alpha1.PodCounts{Matched: 2, Restarted: 1, Pending: 1, Unavailable: 1},
		}, {
			name: "and until it is there at all", desired: 2,
			pods:       []Pod{pod("b")},
			wantCounts: v1alpha1.PodCounts{Matched: 1, Pending: 1, Unavailable: 1},
		}, {
			name: "and until it is scheduled", desired: 2,
			pods:       []Pod{pod("a", restarted, unscheduled), pod("b")},
			wantCounts: v1alpha1.PodCounts{Matched: 1, Pending: 1, Unavailable: 1},
		}, {
			name: "a replacement on a node that is not selected counts", desired: 2,
			pods:       []Pod{pod("a", restarted, otherNode, notReady), pod("b")},
			wantCounts: v1alpha1.PodCounts{Matched: 1, Pending: 1, Unavailable: 1},
		}, {
			name: "a terminating Pod is not available", desired: 2,
			pods:       []Pod{pod("a", terminating), pod("b")},
			wantCounts: v1alpha1.PodCounts{Matched: 1, Pending: 1, Unavailable: 1},
		}, {
			name: "a terminating Pod that is replaced already is", desired: 2,
			pods:       []Pod{pod("a", terminating), pod("a2", restarted), pod("b")},
			want:       []string{"b"},
			wantCounts: v1alpha1.PodCounts{Matched: 2, Restarted: 1, Pending: 1},
		}, {
			name: "a Pod that is not ready goes first", desired: 3, maxUnavailable: two,
			pods:       []Pod{pod("a"), pod("b", notReady), pod("c")},
			want:       []string{"b", "a"},
			wantCounts: v1alpha1.PodCounts{Matched: 3, Pending: 3, Unavailable: 1},
		}, {
			name: "no more of them at once than allowed", desired: 3,
			pods:       []Pod{pod("a", notReady), pod("b", notReady), pod("c", notReady)},
			want:       []string{"a"},
			wantCounts: v1alpha1.PodCounts{Matched: 3, Pending: 3, Unavailable: 3},
		}, {
			name: "even if nothing else may", desired: 3,
			pods:       []Pod{pod("a"), pod("b", notReady), pod("c")},
			want:       []string{"b"},
			wantCounts: v1alpha1.PodCounts{Matched: 3, Pending: 3, Unavailable: 1},
		}, {
			name: "minReadySeconds not over for the restarted Pod", desired: 2, minReady: time.Minute,
			pods:       []Pod{pod("a", restarted, func(p *Pod) { p.ReadySince = now.Add(-20 * time.Second) }), pod("b")},
			wantCounts: v1alpha1.PodCounts{Matched: 2, Restarted: 1, Pending: 1, Unavailable: 1},
			wantNext:   40 * time.Second,
		}, {
			name: "minReadySeconds not over for the next Pod", desired: 1, minReady: time.Minute,
			pods:       []Pod{pod("a", func(p *Pod) { p.ReadySince = now.Add(-20 * time.Second) })},
			wantCounts: v1alpha1.PodCounts{Matched: 1, Pending: 1, Unavailable: 1},
			wantNext:   40 * time.Second,
		}, {
			name: "a node that is not ready is deferred and holds up nobody", desired: 2,
			pods:       []Pod{pod("a", deadNode), pod("b")},
			want:       []string{"b"},
			wantCounts: v1alpha1.PodCounts{Matched: 2, Pending: 2, Deferred: 1},
		}, {
			name: "also when its Pod is being deleted since", desired: 2,
			pods:       []Pod{pod("a", deadNode, terminating), pod("b")},
			want:       []string{"b"},
			wantCounts: v1alpha1.PodCounts{Matched: 1, Pending: 1},
		}, {
			name: "also when it was being deleted before, and before the rollout", desired: 2,
			pods:       []Pod{pod("a", deadNode, terminating, func(p *Pod) { p.DeletedAt = p.NodeLostAt.Add(-time.Minute) }), pod("b")},
			want:       []string{"b"},
			wantCounts: v1alpha1.PodCounts{Matched: 1, Pending: 1},
		}, {
			name: "a ReplicaSet makes up for it at once, or lacks it", desired: 2,
			pods:       []Pod{pod("a", deadNode, terminating, replicaSet), pod("b", replicaSet)},
			wantCounts: v1alpha1.PodCounts{Matched: 1, Pending: 1, Unavailable: 1},
		}, {
			name: "a ReplicaSet with a Pod on a node that is not ready keeps the others", desired: 2,
			pods:        []Pod{pod("a", deadNode, replicaSet), pod("b", replicaSet)},
			wantCounts:  v1alpha1.PodCounts{Matched: 2, Pending: 2, Deferred: 1},
			wantLacking: true,
		}, {
			name: "a StatefulSet too, whose Pod there is being deleted", desired: 3,
			pods:        []Pod{pod("a", deadNode, terminating, statefulSet), pod("b", statefulSet), pod("c", statefulSet)},
			wantCounts:  v1alpha1.PodCounts{Matched: 2, Pending: 2},
			wantLacking: true,
		}, {
			name: "unless more may be unavailable", desired: 3, maxUnavailable: two,
			pods:        []Pod{pod("a", deadNode, statefulSet), pod("b", statefulSet), pod("c", statefulSet)},
			want:        []string{"b"},
			wantCounts:  v1alpha1.PodCounts{Matched: 3, Pending: 3, Deferred: 1},
			wantLacking: true,
		}, {
			name: "but what is unavailable anyway is restarted", desired: 3,
			pods:       []Pod{pod("a", deadNode, replicaSet), pod("b", replicaSet, notReady), pod("c", replicaSet)},
			want:       []string{"b"},
			wantCounts: v1alpha1.PodCounts{Matched: 3, Pending: 3, Deferred: 1, Unavailable: 1},
		}, {
			name: "a node that broke while the evicted Pod was ending holds up all", desired: 3, maxUnavailable: two,
			pods:       []Pod{pod("a", terminating, func(p *Pod) { p.NodeReady, p.NodeLostAt = false, p.DeletedAt.Add(time.Minute) }), pod("b"), pod("c")},
			wantCounts: v1alpha1.PodCounts{Matched: 2, Pending: 2, Unavailable: 1},
			wantBroken: []string{"node-of-a"},
		}, {
			name: "not one that broke while a Pod was ending before the rollout", desired: 2,
			pods: []Pod{pod("a", func(p *Pod) {
				p.Terminating, p.DeletedAt, p.NodeReady, p.NodeLostAt = true, cutoff.Add(-time.Minute), false, cutoff
			}), pod("a2", restarted), pod("b")},
			want:       []string{"b"},
			wantCounts: v1alpha1.PodCounts{Matched: 2, Restarted: 1, Pending: 1},
		}, {
			name: "a node that broke after its Pod was restarted holds up all", desired: 2, maxUnavailable: two,
			pods:       []Pod{pod("a", restarted, brokenNode), pod("b", notReady)},
			wantCounts: v1alpha1.PodCounts{Matched: 2, Restarted: 1, Pending: 1, Unavailable: 2},
			wantBroken: []string{"node-of-a"},
		}, {
			name: "also when its Pod is being deleted", desired: 2, maxUnavailable: two,
			pods:       []Pod{pod("a", restarted, brokenNode, terminating), pod("b")},
			wantCounts: v1alpha1.PodCounts{Matched: 1, Pending: 1, Unavailable: 1},
			wantBroken: []string{"node-of-a"},
		}, {
			name: "a replacement on a node that is dead already counts", desired: 2,
			pods:       []Pod{pod("a", restarted, deadNode), pod("b")},
			wantCounts: v1alpha1.PodCounts{Matched: 2, Restarted: 1, Pending: 1, Unavailable: 1},
		}, {
			name: "a node that broke long after holds up nobody", desired: 2,
			pods:       []Pod{pod("a", restarted, lostLater), pod("b")},
			want:       []string{"b"},
			wantCounts: v1alpha1.PodCounts{Matched: 2, Restarted: 1, Pending: 1},
		}, {
			name: "nor does one whose Pod was never restarted", desired: 2,
			pods:       []Pod{pod("a", brokenNode), pod("b")},
			want:       []string{"b"},
			wantCounts: v1alpha1.PodCounts{Matched: 2, Pending: 2, Deferred: 1},
		}, {
			name: "trouble on other nodes holds up no other workload", desired: 2,
			pods:       []Pod{pod("a", otherNode, notReady), pod("b")},
			want:       []string{"b"},
			wantCounts: v1alpha1.PodCounts{Matched: 1, Pending: 1},
		}, {
			name: "a Pod that nothing replaces is counted, not restarted", desired: 1,
			pods:       []Pod{pod("a", bare), pod("b", bare, restarted), pod("c")},
			want:       []string{"c"},
			wantCounts: v1alpha1.PodCounts{Matched: 1, Pending: 1, Unmanaged: 1},
		}, {
			name: "a Pod of a workload that is unknown waits", desired: 1,
			pods:       []Pod{pod("a", func(p *Pod) { p.Workload = "gone" }), pod("b", restarted)},
			wantCounts: v1alpha1.PodCounts{Matched: 2, Restarted: 1, Pending: 1},
		}, {
			name: "a blocked Pod gives its turn away", desired: 3, blocked: []string{"a"},
			pods:        []Pod{pod("a"), pod("b"), pod("c")},
			want:        []string{"b"},
			wantCounts:  v1alpha1.PodCounts{Matched: 3, Pending: 3},
			wantBlocked: 1,
		}, {
			name: "who was asked for in vain goes last, by when that was", desired: 4, maxUnavailable: intstr.FromInt32(3), asked: []string{"c", "a"},
			pods:       []Pod{pod("a"), pod("b"), pod("c"), pod("d")},
			want:       []string{"b", "d", "c"},
			wantCounts: v1alpha1.PodCounts{Matched: 4, Pending: 4},
		}, {
			name: "also one that is unavailable, which may be asked for when no other may", desired: 3, asked: []string{"a"},
			pods:       []Pod{pod("a", notReady), pod("b"), pod("c")},
			want:       []string{"a"},
			wantCounts: v1alpha1.PodCounts{Matched: 3, Pending: 3, Unavailable: 1},
		}, {
			name: "percentages are rounded down", desired: 5, maxUnavailable: intstr.FromString("50%"),
			pods:       []Pod{pod("a"), pod("b"), pod("c"), pod("d"), pod("e")},
			want:       []string{"a", "b"},
			wantCounts: v1alpha1.PodCounts{Matched: 5, Pending: 5},
		}, {
			name: "but to no less than 1", desired: 2, maxUnavailable: intstr.FromString("1%"),
			pods:       []Pod{pod("a"), pod("b")},
			want:       []string{"a"},
			wantCounts: v1alpha1.PodCounts{Matched: 2, Pending: 2},
		}, {
			name: "a missing Pod counts for a percentage", desired: 4, maxUnavailable: intstr.FromString("50%"),
			pods:       []Pod{pod("a"), pod("b"), pod("c")},
			want:       []string{"a"},
			wantCounts: v1alpha1.PodCounts{Matched: 3, Pending: 3, Unavailable: 1},
		}, {
			name: "surplus Pods make up for nothing", desired: 1,
			pods:       []Pod{pod("a"), pod("b", restarted, notReady)},
			wantCounts: v1alpha1.PodCounts{Matched: 2, Restarted: 1, Pending: 1, Unavailable: 1},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			rules := Rules{
				Cutoff: cutoff, MaxUnavailable: test.maxUnavailable, MinReady: test.minReady,
				Blocked: func(p Pod) bool { return slices.Contains(test.blocked, p.Name) },
				Held:    func(types.UID) bool { return test.held },
				Asked: func(p Pod) time.Time {
					if i := slices.Index(test.asked, p.Name); i >= 0 {
						return now.Add(time.Duration(i-10) * time.Second)
					}
					return time.Time{}
				},
			}
			plan := MakePlan(test.pods, map[types.UID]int{"w": test.desired}, rules, now)
			var got []string
			for _, p := range plan.Restart {
				got = append(got, p.Name)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("restart %v, want %v", got, test.want)
			}
			if !slices.Equal(plan.Broken, test.wantBroken) || test.held != (plan.Held > 0) || (len(test.want) > 0) != plan.Workloads.Has("w") {
				t.Errorf("broken %v, held %d, restarts %v", plan.Broken, plan.Held, plan.Workloads)
			}
			if lacking := plan.Lacking == "w"; lacking != test.wantLacking {
				t.Errorf("lacking %q, want %v", plan.Lacking, test.wantLacking)
			}
			if named := plan.Unavailable != ""; named != (plan.Counts.Unavailable > 0) {
				t.Errorf("names %q of %d unavailable Pods", plan.Unavailable, plan.Counts.Unavailable)
			}
			if plan.Counts != test.wantCounts {
				t.Errorf("counts %+v, want %+v", plan.Counts, test.wantCounts)
			}
			if plan.Blocked != test.wantBlocked || plan.NextCheck != test.wantNext {
				t.Errorf("blocked %d, next check %v, want %d, %v", plan.Blocked, plan.NextCheck, test.wantBlocked, test.wantNext)
			}
		})
	}
}

// TestAReadyPodIsAvailableWhateverItsNodesClockSays: a node's clock that is ahead holds
// up nobody.
func TestAReadyPodIsAvailableWhateverItsNodesClockSays(t *testing.T) {
	restarted := pod("a", func(p *Pod) {
		p.Created, p.Affected = now.Add(-5*time.Minute), false
		p.ReadySince = now.Add(time.Hour)
	})
	pods := []Pod{restarted, pod("b"), pod("c")}
	rules := Rules{Cutoff: cutoff, MaxUnavailable: intstr.FromInt32(1)}
	plan := MakePlan(pods, map[types.UID]int{"w": 3}, rules, now)
	if plan.Counts.Unavailable != 0 || len(plan.Restart) != 1 {
		t.Errorf("%d Pods count as unavailable, %d are restarted; all three are ready", plan.Counts.Unavailable, len(plan.Restart))
	}
	rules.MinReady = time.Minute // which it may not have been
	plan = MakePlan(pods, map[types.UID]int{"w": 3}, rules, now)
	if len(plan.Restart) != 0 || plan.NextCheck != time.Minute {
		t.Errorf("%d Pods are restarted, next check in %v", len(plan.Restart), plan.NextCheck)
	}
}
