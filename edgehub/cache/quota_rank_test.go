package cache

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgehub-io/edge-hub/test/report"
)

// plainMostOf says what a rank is to say, by looking through all holders.
func plainMostOf(amounts map[holder]int64, own holder) holder {
	tenants := map[tenant]int64{}
	var having []holder
	for h, n := range amounts {
		if n > 0 {
			tenants[h.tenant()] += n
			having = append(having, h)
		}
	}
	if len(having) == 0 {
		return own
	}
	return slices.MaxFunc(having, func(a, b holder) int {
		of, other := a.tenant(), b.tenant()
		return cmp.Or(
			first(!of.node, !other.node),
			cmp.Compare(tenants[of], tenants[other]),
			first(of == own.tenant(), other == own.tenant()),
			strings.Compare(other.namespace, of.namespace),
			cmp.Compare(amounts[a], amounts[b]),
			first(a == own, b == own),
			b.compare(a),
		)
	})
}

// plainPlan is ledger.plan, and asks who has the most anew for each file that leaves.
func plainPlan(l *ledger, file string, size int64) (leave []eviction, ok bool) {
	own, total := holder{}, l.total
	bytes, views := map[holder]int64{}, map[holder]int64{}
	count := int64(len(l.files))
	for h, s := range l.holders {
		bytes[h], views[h] = s.bytes, int64(s.views)
	}
	if file != "" {
		own = holderOfFile(file)
		grown := size
		if a := l.files[file]; a != nil {
			grown -= a.size
		} else {
			views[own]++
			count++
		}
		bytes[own] += grown
		total += grown
	}
	queues := queues{ledger: l, except: file}
	next := func(h holder, reason string) bool {
		a := queues.next(h)
		if a == nil {
			return false
		}
		limit := l.quota.of(h)
		tooLarge := limit > 0 && a.size > limit || l.quota.Total > 0 && a.size > l.quota.Total
		leave = append(leave, eviction{a.file, h.agent, a.size, reason, tooLarge})
		bytes[h] -= a.size
		total -= a.size
		views[h]--
		count--
		return true
	}
	for _, h := range slices.SortedFunc(maps.Keys(bytes), holder.compare) {
		if file != "" && h != own {
			continue
		}
		for limit := l.quota.of(h); limit > 0 && bytes[h] > limit; {
			if !next(h, overAgentQuota) {
				return nil, false
			}
		}
		if most := int64(l.maxHolderViews); views[h] > most {
			for views[h] > most-most/16 && next(h, overAgentQuota) {
			}
		}
	}
	if most := int64(l.maxViews); count > most {
		for count > most-most/16 && next(plainMostOf(views, own), overTotalQuota) {
		}
	}
	for l.quota.Total > 0 && total > l.quota.Total {
		if !next(plainMostOf(bytes, own), overTotalQuota) {
			return nil, false
		}
	}
	return leave, true
}

// plainDisplaced is ledger.displaced in the same way.
func plainDisplaced(l *ledger, except string) (eviction, bool) {
	bytes := map[holder]int64{}
	for h, s := range l.holders {
		bytes[h] = s.bytes + s.staged
	}
	queues, own := queues{ledger: l, except: except}, holderOfFile(except)
	for {
		most := plainMostOf(bytes, own)
		if a := queues.next(most); a != nil {
			return eviction{a.file, a.holder.agent, a.size, diskFull, false}, true
		}
		if most == own {
			return eviction{}, false
		}
		delete(bytes, most)
	}
}

// TestWhoLeavesIsWhoHasTheMostEachTime: over many random caches a plan is the same as
// one that looks through all holders for each file. Few sizes and times make for ties.
func TestWhoLeavesIsWhoHasTheMostEachTime(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 11))
	agents := []string{"kubelet", "app", "b", "c"}
	identities := []string{
		"system:node:n1", "token:1", "token:2", "token:3", "me",
		"system:serviceaccount:x:sa:1", "system:serviceaccount:x:other:1", "system:serviceaccount:y:sa:1", "system:serviceaccount:z:sa:1",
	}
	file := func() string {
		return fmt.Sprintf("%s/%s/r/%d", agents[rng.IntN(len(agents))], identities[rng.IntN(len(identities))], rng.IntN(4))
	}
	planned, evicted, refused, displaced := 0, 0, 0, 0
	for range 5000 {
		l := accounts(Quota{})
		for range rng.IntN(40) {
			l.found(file(), rng.Int64N(8), 0, time.Unix(rng.Int64N(5), 0), false)
		}
		for range rng.IntN(6) {
			l.grewStaged(file(), rng.Int64N(40))
		}
		if rng.IntN(4) > 0 {
			l.quota.Total = 1 + rng.Int64N(l.total+10)
		}
		if rng.IntN(2) == 0 {
			l.quota.PerAgent = 1 + rng.Int64N(40)
			l.quota.Of = func(agent, namespace string) (int64, bool) { return 10, agent == "b" || namespace == "x" }
		}
		if rng.IntN(2) == 0 {
			l.maxHolderViews, l.maxViews = 1+rng.IntN(6), 1+rng.IntN(40)
		}
		asks := []string{"", file(), file()}
		for _, name := range asks {
			size := rng.Int64N(20)
			leave, ok := l.plan(name, size)
			want, wantOK := plainPlan(l, name, size)
			if ok != wantOK || !slices.Equal(leave, want) {
				t.Fatalf("%q of %d bytes: %v, %v leave, want %v, %v", name, size, leave, ok, want, wantOK)
			}
			planned, evicted = planned+1, evicted+len(leave)
			if !ok {
				refused++
			}
		}
		for _, name := range asks[1:] {
			e, ok := l.displaced(name)
			if want, wantOK := plainDisplaced(l, name); e != want || ok != wantOK {
				t.Fatalf("%q displaces %v, %v, want %v, %v", name, e, ok, want, wantOK)
			}
			if ok {
				displaced++
			}
		}
	}
	report.Line(t, "%d plans, %d evictions, %d refused, %d displaced", planned, evicted, refused, displaced)
	if evicted < 10_000 || refused < 1000 || displaced < 1000 {
		t.Error("too few to tell")
	}
}

// manyHolders is a ledger of holders with two files each, a tenth of them of one
// tenant, and of as many that only stage.
func manyHolders(n int) *ledger {
	l := accounts(Quota{})
	for i := range n {
		namespace := fmt.Sprint("ns", i)
		if i%10 == 0 {
			namespace = "ns0"
		}
		for j := range 2 {
			l.found(fmt.Sprintf("app%d/system:serviceaccount:%s:sa:1/r/%d", i, namespace, j), 10+int64(i%3), 0, time.Unix(int64(i), 0), false)
		}
		l.grewStaged(fmt.Sprintf("app%d/system:serviceaccount:stages%d:sa:1/r/0", i, i), 1<<20)
	}
	return l
}

// plans are those that look at many holders.
var plans = []struct {
	name    string
	prepare func(l *ledger)
	plan    func(l *ledger) int // how many leave
	plain   func(l *ledger) int
}{
	{
		"half the bytes", func(l *ledger) { l.quota.Total = l.total / 2 },
		func(l *ledger) int { leave, _ := l.plan("", 0); return len(leave) },
		func(l *ledger) int { leave, _ := plainPlan(l, "", 0); return len(leave) },
	},
	{
		"a sixteenth of the views", func(l *ledger) { l.maxViews = len(l.files) - 1 },
		func(l *ledger) int { leave, _ := l.plan("", 0); return len(leave) },
		func(l *ledger) int { leave, _ := plainPlan(l, "", 0); return len(leave) },
	},
	{
		"past those that only stage", func(*ledger) {},
		func(l *ledger) int { l.displaced("app/me/r/0"); return 1 },
		func(l *ledger) int { plainDisplaced(l, "app/me/r/0"); return 1 },
	},
}

// TestAPlanCostsLittleMoreThanItsHolders: of eight times as many it takes not much
// more than eight times as much memory in all, and 64 times if it goes through all
// of them for each file. So much is not a matter of the machine.
func TestAPlanCostsLittleMoreThanItsHolders(t *testing.T) {
	for _, test := range plans {
		t.Run(test.name, func(t *testing.T) {
			growth := func(plan func(l *ledger) int) float64 {
				var bytes [2]float64
				for i, n := range []int{100, 800} {
					l := manyHolders(n)
					test.prepare(l)
					bytes[i] = allocated(func() {
						if plan(l) == 0 {
							t.Error("nothing leaves")
						}
					})
				}
				return bytes[1] / bytes[0]
			}
			got, plain := growth(test.plan), growth(test.plain)
			report.Line(t, "%.1f times, %.1f if each looks at all holders", got, plain)
			if got > 16 {
				t.Errorf("a plan over eight times as many holders takes %.1f times as much", got)
			}
			if plain < 32 {
				t.Errorf("too few to tell: %.1f", plain)
			}
		})
	}
}

// allocated is how many bytes a function takes in all, freed or not.
func allocated(f func()) float64 {
	least := uint64(math.MaxUint64)
	for range 3 { // others may take some meanwhile
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return float64(least)
}
