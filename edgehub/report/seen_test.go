package report

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// text is what was seen: "app/shop[a b] other/[]".
func (s *Seen) text() string {
	var all []string
	for _, one := range s.All() {
		var pods []string
		for _, p := range one.Pods {
			pods = append(pods, p.Name)
		}
		all = append(all, fmt.Sprintf("%s/%s%v", one.Agent, one.Namespace, pods))
	}
	return strings.Join(all, " ")
}

func expectSeen(t *testing.T, s *Seen, want string) {
	t.Helper()
	if got := s.text(); got != want {
		t.Errorf("seen are %q, want %q", got, want)
	}
}

func TestSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSeen()
		app := Pair{"app", "shop"}
		s.Note(app, "b", "2", true)
		s.Note(app, "a", "1", true)
		s.Note(Pair{"other", ""}, "", "", false)
		s.Note(Pair{"no/agent", ""}, "", "", false)
		expectSeen(t, s, "app/shop[a b] other/[]")

		state, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer state.Close()
		if err := s.Save(state); err != nil {
			t.Fatal(err)
		}
		restarted := NewSeen()
		restarted.Load(state)
		expectSeen(t, restarted, "app/shop[a b] other/[]")

		noted := time.Now()
		s.Forget(func(namespace, name string, uid types.UID, last time.Time) bool {
			return namespace == "shop" && name == "a" && uid == "1" && last.Equal(noted)
		})
		expectSeen(t, s, "app/shop[b] other/[]")
		time.Sleep(podAge)
		s.Note(app, "c", "3", true)
		s.Forget(func(string, string, types.UID, time.Time) bool { return false })
		expectSeen(t, s, "app/shop[c] other/[]")
	})
}

func TestSeenTwiceIsNotedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSeen()
		if !s.Due("app", "token") || s.Due("app", "token") || !s.Due("app", "another") || !s.Due("ap", "ptoken") {
			t.Error("callers are not told apart, or noted twice")
		}
		time.Sleep(seenGrain)
		if !s.Due("app", "token") {
			t.Error("not after a while either")
		}
	})
}

// TestSeenIsBounded: what a client makes up keeps nobody out that counts.
func TestSeenIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSeen()
		for i := range 10 * maxRecent {
			s.Due(fmt.Sprint(i), "")
		}
		for i := range 10 * maxPairs {
			s.Note(Pair{fmt.Sprint(i), ""}, "", "", false)
		}
		if len(s.recent) > maxRecent || len(s.All()) != maxPairs {
			t.Errorf("%d callers and %d agents are remembered", len(s.recent), len(s.All()))
		}
		s.Note(Pair{"honest", ""}, "", "", false)
		if strings.Contains(s.text(), "honest") {
			t.Error("what was seen a moment ago was displaced")
		}
		s.Note(Pair{"app", "shop"}, "a", "1", true)
		time.Sleep(pairAge)
		s.Note(Pair{"honest", ""}, "", "", false)
		if text := s.text(); !strings.Contains(text, "app/shop[a]") || !strings.Contains(text, "honest/[]") || len(s.All()) != maxPairs {
			t.Errorf("seen are %d: %s", len(s.All()), text)
		}
		for i := range 2 * v1alpha1.MaxAgentPods {
			s.Note(Pair{"app", "shop"}, fmt.Sprint(i), types.UID(fmt.Sprint("uid-", i)), true)
			time.Sleep(time.Second)
		}
		for _, one := range s.All() {
			if one.Agent == "app" && (len(one.Pods) != v1alpha1.MaxAgentPods || strings.Contains(fmt.Sprint(one.Pods), "{a 1}")) {
				t.Errorf("%d Pods: %v", len(one.Pods), one.Pods)
			}
		}
	})
}
