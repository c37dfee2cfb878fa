package cache

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

// TestOneTenantCannotEvictAnothersCache: the ServiceAccounts of a namespace have a
// quota of their own under an agent that others share.
func TestOneTenantCannotEvictAnothersCache(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	asked := sets.New[string]()
	s := Open(Options{FS: journal.OS(root), Quota: Quota{PerAgent: 40_000, Of: func(agent, namespace string) (int64, bool) {
		asked.Insert(agent + "/" + namespace)
		return 10_000, namespace == "greedy"
	}}})
	if err := s.SetAgents(func(string) bool { return true }); err != nil {
		t.Fatal(err)
	}
	f := &fixture{T: t, Store: s, root: root}
	list := func(identity, namespace string) Query {
		return f.queryAs("app", identity, "/api/v1/namespaces/"+namespace+"/configmaps", "")
	}
	const modest, greedy = "system:serviceaccount:modest:sa:uid-1", "system:serviceaccount:greedy:sa:uid-2"
	body := func() string { return listOf(10, object("a", "x", 3, "l", strings.Repeat("v", 4000))) }
	for _, namespace := range []string{"a", "b"} {
		f.record(list(modest, namespace), body())
	}
	for _, namespace := range strings.Split("abcdefghijklmnop", "") {
		f.record(list(greedy, namespace), body())
	}
	for _, namespace := range []string{"a", "b"} {
		if code, _ := f.ask(list(modest, namespace)); code != http.StatusOK {
			t.Errorf("the modest tenant's list of %s is gone: %d", namespace, code)
		}
	}
	kept := 0
	for _, namespace := range strings.Split("abcdefghijklmnop", "") {
		if code, _ := f.ask(list(greedy, namespace)); code == http.StatusOK {
			kept++
		}
	}
	if kept == 0 || kept > 2 {
		t.Errorf("the greedy tenant keeps %d lists of 4 KB in 10 KB", kept)
	}
	if !asked.HasAll("app/modest", "app/greedy") {
		t.Errorf("asked for the quota of %v", asked.UnsortedList())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
