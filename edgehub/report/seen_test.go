package report

import (
	"fmt"
	"maps"
	"os"
	"slices"
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
		for _, p := range one.Pods() {
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
		s := NewSeen(time.Now)
		app := Pair{"app", "shop"}
		s.Note(Request{Pair: app, Pod: "b", UID: "2", Cached: true})
		s.Note(Request{Pair: app, Pod: "a", UID: "1", Cached: true})
		s.Note(Request{Pair: Pair{"other", ""}, Pod: "", UID: "", Cached: false})
		s.Note(Request{Pair: Pair{"no/agent", ""}, Pod: "", UID: "", Cached: false})
		expectSeen(t, s, "app/shop[a b] other/[]")

		state, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer state.Close()
		if err := s.Save(state); err != nil {
			t.Fatal(err)
		}
		restarted := NewSeen(time.Now)
		restarted.Load(state)
		expectSeen(t, restarted, "app/shop[a b] other/[]")

		noted := time.Now()
		s.Forget(func(namespace, name string, uid types.UID, last time.Time) (gone, known bool) {
			return namespace == "shop" && name == "a" && uid == "1" && last.Equal(noted), false
		})
		expectSeen(t, s, "app/shop[b] other/[]")
		time.Sleep(podAge)
		s.Note(Request{Pair: app, Pod: "c", UID: "3", Cached: true})
		s.Forget(func(string, string, types.UID, time.Time) (gone, known bool) { return false, true })
		expectSeen(t, s, "app/shop[b c] other/[]")
		s.Forget(func(string, string, types.UID, time.Time) (gone, known bool) { return false, false })
		expectSeen(t, s, "app/shop[c] other/[]")
	})
}

// TestATimeThatIsPutBackKeepsNobody: what was seen later than it is was seen by now.
func TestATimeThatIsPutBackKeepsNobody(t *testing.T) {
	right := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now := right.Add(365 * 24 * time.Hour)
	s := NewSeen(func() time.Time { return now })
	s.Note(Request{Pair: Pair{"app", "shop"}, Pod: "a", UID: "1", Read: "file"})
	s.Note(Request{Pair: Pair{"app", "shop"}, Pod: "b", UID: "2"})
	now = right
	s.Forget(func(string, string, types.UID, time.Time) (gone, known bool) { return false, false })
	expectSeen(t, s, "app/shop[a b]")
	now = right.Add(time.Minute)
	s.Forget(func(_, name string, _ types.UID, last time.Time) (gone, known bool) {
		return name == "a" && last.Before(now), name == "b"
	})
	expectSeen(t, s, "app/shop[b]")
	now = right.Add(podAge)
	s.Forget(func(string, string, types.UID, time.Time) (gone, known bool) { return false, false })
	expectSeen(t, s, "app/shop[]")
	if one := s.one(t, Pair{"app", "shop"}); one.Last.After(now) || len(one.Reads) > 0 {
		t.Errorf("last seen at %v, with %d reads", one.Last, len(one.Reads))
	}
}

func TestSeenTwiceIsNotedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSeen(time.Now)
		if !s.Due("app", "token") || s.Due("app", "token") || !s.Due("app", "another") || !s.Due("ap", "ptoken") || !s.Due("app", "token", "/api", "a") || s.Due("app", "token", "/api", "a") {
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
		s := NewSeen(time.Now)
		for i := range 10 * maxRecent {
			s.Due(fmt.Sprint(i), "")
		}
		for i := range 10 * maxPairs {
			s.Note(Request{Pair: Pair{fmt.Sprint(i), ""}, Pod: "", UID: "", Cached: false})
		}
		if len(s.recent) > maxRecent || len(s.All()) != maxPairs {
			t.Errorf("%d callers and %d agents are remembered", len(s.recent), len(s.All()))
		}
		s.Note(Request{Pair: Pair{"honest", ""}, Pod: "", UID: "", Cached: false})
		if strings.Contains(s.text(), "honest") {
			t.Error("what was seen a moment ago was displaced")
		}
		s.Note(Request{Pair: Pair{"app", "shop"}, Pod: "a", UID: "1", Cached: true})
		time.Sleep(pairAge)
		s.Note(Request{Pair: Pair{"honest", ""}, Pod: "", UID: "", Cached: false})
		if text := s.text(); !strings.Contains(text, "app/shop[a]") || !strings.Contains(text, "honest/[]") || len(s.All()) != maxPairs {
			t.Errorf("seen are %d: %s", len(s.All()), text)
		}
		for i := range 2 * v1alpha1.MaxAgentPods {
			s.Note(Request{Pair: Pair{"app", "shop"}, Pod: fmt.Sprint(i), UID: types.UID(fmt.Sprint("uid-", i)), Cached: true})
			time.Sleep(time.Second)
		}
		for _, one := range s.All() {
			if one.Agent == "app" && (len(one.Callers) != v1alpha1.MaxAgentPods+1 || strings.Contains(fmt.Sprint(one.Pods()), "{a 1}")) {
				t.Errorf("%d callers: %v", len(one.Callers), one.Pods())
			}
		}
	})
}

// one is what was seen of a pair.
func (s *Seen) one(t *testing.T, pair Pair) Sighting {
	t.Helper()
	for _, one := range s.All() {
		if one.Pair == pair {
			return one
		}
	}
	t.Fatalf("%v was not seen", pair)
	return Sighting{}
}

// TestWhatWentPastTheCacheIsRemembered for as long as somebody is there who may have
// read it, also by the next run of the hub.
func TestWhatWentPastTheCacheIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSeen(time.Now)
		app := Pair{"app", "shop"}
		read := func(pod, file string) {
			s.Note(Request{Pair: app, Pod: pod, UID: types.UID(pod), Read: file})
			time.Sleep(time.Second)
		}
		expect := func(what, want string) {
			t.Helper()
			one := s.one(t, app)
			if got := strings.Join(slices.Sorted(maps.Keys(one.Reads)), " "); got != want {
				t.Errorf("%s: remembered are %q, want %q", what, got, want)
			}
		}
		gone := func(pods ...string) {
			s.Forget(func(_, name string, _ types.UID, _ time.Time) (gone, known bool) {
				return slices.Contains(pods, name), true
			})
		}
		read("old", "apis")
		read("old", "list")
		read("new", "list")
		read("new", "")
		expect("at first", "apis list")

		state, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer state.Close()
		if !s.Changed() {
			t.Error("nothing is to be saved")
		}
		if err := s.Save(state); err != nil || s.Changed() {
			t.Errorf("saved: %v, and yet there is something to save: %v", err, s.Changed())
		}
		read("new", "list")
		if s.Changed() {
			t.Error("that something is read again is worth a write")
		}
		s = NewSeen(time.Now)
		s.Load(state)
		expect("after a restart", "apis list")

		gone("old")
		expect("without the old Pod", "list")
		since := time.Now()
		if one := s.one(t, app); one.Unknown(since) || one.Asked(since) {
			t.Errorf("unknown %v, asked %v", one.Unknown(since), one.Asked(since))
		}
		s.Note(Request{Pair: app, Pod: "new", UID: "new", Cached: true})
		if one := s.one(t, app); one.Asked(since) {
			t.Error("a request that reads nothing counts")
		}
		s.Note(Request{Pair: app, Pod: "new", UID: "new", Cached: true, Read: "list"})
		if one := s.one(t, app); !one.Asked(since) || one.Unknown(since) {
			t.Errorf("unknown %v, asked %v", one.Unknown(since), one.Asked(since))
		}
		// Once it was removed and is cached again, what was read the first time is not.
		time.Sleep(time.Second)
		since = time.Now()
		if one := s.one(t, app); !one.Unknown(since) {
			t.Error("it is taken for known what was cached and removed")
		}
		s.Note(Request{Pair: app, Pod: "newest", UID: "newest", Cached: true})
		gone("new")
		expect("without both Pods", "")
		if one := s.one(t, app); one.Unknown(since) || !one.Asked(since) {
			t.Errorf("unknown %v, asked %v", one.Unknown(since), one.Asked(since))
		}
	})
}

// TestWhatIsRememberedIsBounded, and what there is no room for is not forgotten
// about. What one namespace reads leaves room for others.
func TestWhatIsRememberedIsBounded(t *testing.T) {
	s := NewSeen(time.Now)
	since := time.Now()
	for i := range 2 * maxPairs {
		for j := range 2 * maxReads {
			s.Note(Request{Pair: Pair{fmt.Sprint(i), "greedy"}, Pod: "a", UID: "1", Read: fmt.Sprint(i, j)})
			if i >= 8 {
				break
			}
		}
	}
	all := 0
	for _, one := range s.All() {
		all += len(one.Reads)
		if len(one.Reads) > maxReads || !one.Unknown(since) {
			t.Errorf("%s: %d are remembered, unknown %v", one.Agent, len(one.Reads), one.Unknown(since))
		}
	}
	if all > maxNamespaceReads {
		t.Errorf("%d are remembered", all)
	}
	honest := Pair{"app", "honest"}
	s.Note(Request{Pair: honest, Pod: "a", UID: "2", Read: "list"})
	for i := range maxPairs {
		s.Note(Request{Pair: Pair{fmt.Sprint("cached-", i), "greedy"}, Pod: "a", UID: "1", Cached: true, Read: "list"})
	}
	if one := s.one(t, honest); len(one.Reads) != 1 || one.Unknown(since) || len(s.All()) != maxPairs {
		t.Errorf("%+v, %d pairs", one, len(s.All()))
	}
}
