package cache

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
)

const (
	modest  = "system:serviceaccount:modest:sa:uid-1"
	greedy  = "system:serviceaccount:greedy:sa:uid-2"
	kubelet = "system:node:edge-1"
)

// TestOneTenantCannotEvictAnothersCache, nor the node's, nor keep it from being
// recorded: by no number of agents, tokens or pages.
func TestOneTenantCannotEvictAnothersCache(t *testing.T) {
	silence(t)
	letters := strings.Split("abcdefghijklmnop", "")
	for _, test := range []struct {
		name  string
		quota Quota
		run   func(f *tenantFixture)
	}{
		{"the quota of an agent that both use", Quota{PerAgent: 40_000, Of: func(_, namespace string) (int64, bool) {
			return 10_000, namespace == "greedy"
		}}, func(f *tenantFixture) {
			f.keep("app", modest, "a", "b")
			f.keep("app", greedy, letters...)
			f.expectAll("app", modest, "a", "b")
			if n := f.kept("app", greedy, letters...); n == 0 || n > 2 {
				f.Errorf("the greedy tenant keeps %d lists of 4 KB in 10 KB", n)
			}
			if !f.asked.HasAll("app/modest", "app/greedy") {
				f.Errorf("asked for the quota of %v", f.asked.UnsortedList())
			}
		}},
		{"the total, by many agents", Quota{Total: 60_000, PerAgent: 40_000}, func(f *tenantFixture) {
			f.keep("app", modest, "a", "b", "c", "d", "e")
			kept := 0
			for i := range 30 {
				f.keep(fmt.Sprint("app", i), greedy, "a", "b")
			}
			for i := range 30 {
				kept += f.kept(fmt.Sprint("app", i), greedy, "a", "b")
			}
			f.expectAll("app", modest, "a", "b", "c", "d", "e")
			if kept < 5 {
				f.Errorf("the greedy tenant keeps %d lists of 4 KB in what is left of 60 KB", kept)
			}
		}},
		{"the kubelet's, by tokens under its name", Quota{Total: 60_000, PerAgent: 40_000}, func(f *tenantFixture) {
			f.keep("kubelet", kubelet, letters[:8]...)
			f.keep("kubelet", modest, "a", "b")
			f.keep("kubelet", "token:00", "a")
			for i := 1; i < 20; i++ {
				f.keep("kubelet", fmt.Sprintf("token:%02d", i), "a", "b")
			}
			f.expectAll("kubelet", kubelet, letters[:8]...)
			f.expectAll("kubelet", modest, "a", "b")
			f.keep("kubelet", "token:03", letters...)
			f.expectAll("kubelet", kubelet, letters[:8]...)
			f.expectAll("kubelet", modest, "a", "b")
		}},
		{"the quota of an agent, by another token", Quota{PerAgent: 20_000}, func(f *tenantFixture) {
			f.keep("app", "token:01", "a", "b")
			f.keep("app", "token:02", letters...)
			f.expectAll("app", "token:01", "a", "b")
			if u := f.Usages(); len(u) != 1 || u[0].Views != len(f.ledger.files) || u[0].Bytes != f.ledger.total {
				f.Errorf("reported are %+v, want one agent", u)
			}
		}},
		{"the node, for there is no other room", Quota{Total: 40_000}, func(f *tenantFixture) {
			f.keep("kubelet", kubelet, letters[:8]...)
			f.keep("app", greedy, letters...)
			f.expectAll("kubelet", kubelet, letters[:8]...)
			f.keep("kubelet", kubelet, letters...)
			if n := f.kept("app", greedy, letters...); n != 0 {
				f.Errorf("the node has to leave while others keep %d lists", n)
			}
			f.expectAll("kubelet", kubelet, letters[8:]...)
		}},
		{"pages", Quota{}, func(f *tenantFixture) {
			f.pagesOf(modest, func() {
				for i := range 4 * maxPages {
					f.record(f.list("app", greedy, fmt.Sprint("n", i), "?limit=1"), pageOf(10, "next", object("a", "x", 3)))
					f.record(f.list("app", greedy, "n", "?limit=1"), pageOf(10, fmt.Sprint("t", i), object("a", "x", 3)))
				}
			})
			if n := len(f.pages.lists); n > maxPages {
				f.Errorf("%d lists wait for a page", n)
			}
		}},
		{"bytes of pages, by many agents", Quota{Total: 400_000, PerAgent: 200_000}, func(f *tenantFixture) {
			f.pagesOf(modest, func() {
				for i := range 10 {
					f.record(f.list(fmt.Sprint("app", i), greedy, "a", "?limit=1"), pageOf(10, "next", object("a", "x", 3, "l", strings.Repeat("v", 100_000))))
				}
			})
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := &tenantFixture{fixture: &fixture{T: t, dir: t.TempDir()}, asked: sets.New[string]()}
			if of := test.quota.Of; of != nil {
				test.quota.Of = func(agent, namespace string) (int64, bool) {
					f.asked.Insert(agent + "/" + namespace)
					return of(agent, namespace)
				}
			}
			f.options.Quota = test.quota
			f.open()
			if err := f.SetAgents(func(string) bool { return true }); err != nil {
				t.Fatal(err)
			}
			test.run(f)
		})
	}
}

type tenantFixture struct {
	*fixture
	asked sets.Set[string] // whose quota
}

func (f *tenantFixture) list(agent, identity, namespace, options string) Query {
	f.Helper()
	return f.queryAs(agent, identity, "/api/v1/namespaces/"+namespace+"/configmaps"+options, "")
}

// keep records a list of 4 KB of each namespace.
func (f *tenantFixture) keep(agent, identity string, namespaces ...string) {
	f.Helper()
	for _, n := range namespaces {
		f.record(f.list(agent, identity, n, ""), sized(n, 10, 4000))
	}
}

// kept counts the lists that are answered.
func (f *tenantFixture) kept(agent, identity string, namespaces ...string) (n int) {
	f.Helper()
	for _, namespace := range namespaces {
		if code, _ := f.ask(f.list(agent, identity, namespace, "")); code == http.StatusOK {
			n++
		}
	}
	return n
}

func (f *tenantFixture) expectAll(agent, identity string, namespaces ...string) {
	f.Helper()
	if n := f.kept(agent, identity, namespaces...); n != len(namespaces) {
		f.Errorf("%s as %s keeps %d lists of %d", identity, agent, n, len(namespaces))
	}
}

// pagesOf expects that a list of two pages is recorded, whatever others do meanwhile.
func (f *tenantFixture) pagesOf(identity string, meanwhile func()) {
	f.Helper()
	f.record(f.list("app", identity, "a", "?limit=1"), pageOf(10, "next", object("a", "x", 3)))
	meanwhile()
	f.record(f.list("app", identity, "a", "?limit=1&continue=next"), pageOf(10, "", object("a", "y", 3, "l", strings.Repeat("v", 150_000))))
	f.expectAll("app", identity, "a")
}

// TestWhoOnlyStagesKeepsNoRoomFromOthers: it has no file that could leave.
func TestWhoOnlyStagesKeepsNoRoomFromOthers(t *testing.T) {
	const (
		stages = "app/system:serviceaccount:new:sa:1/r/x"
		small  = "app/system:serviceaccount:small:sa:1/r/x"
		large  = "app/system:serviceaccount:large:sa:1/r/x"
		node   = "kubelet/system:node:n1/r/x"
	)
	l := accounts(Quota{}, small+" 10 0", large+" 20 0", node+" 1000 0")
	l.grewStaged(stages, 500)
	for asks, want := range map[string]string{small: large, large: "", stages: "", node: large} {
		if e, ok := l.displaced(asks); e.file != want || ok != (want != "") {
			t.Errorf("%s takes the place of %q, want %q", asks, e.file, want)
		}
	}
}
