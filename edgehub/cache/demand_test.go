package cache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

const inShop = "/api/v1/namespaces/shop/configmaps"

// missing is what agent "app" misses, as text: "NotWarm=1 Incomplete=2".
func (f *fixture) missing() string {
	f.Helper()
	var text []string
	for _, u := range f.Usages() {
		if u.Agent != "app" {
			continue
		}
		for _, reason := range []Missing{NotWarm, TooLarge, DiskFailed, SecretsDenied, Incomplete} {
			if n := u.Missing[reason]; n > 0 {
				text = append(text, fmt.Sprintf("%s=%d", reason, n))
			}
		}
	}
	return strings.Join(text, " ")
}

func (f *fixture) expectMissing(want string) {
	f.Helper()
	if got := f.missing(); got != want {
		f.Errorf("missing is %q, want %q", got, want)
	}
}

// newState gives the fixture a state directory, and opens it anew.
func newState(t *testing.T) *fixture {
	t.Helper()
	state, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { state.Close() })
	f := &fixture{T: t, dir: t.TempDir(), options: Options{Key: sealKey, State: state}}
	f.open()
	return f
}

// eventually waits for what a recording does in its own time.
func (f *fixture) eventually(what string, is func() bool) {
	f.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			f.Fatalf("%s: missing is %q", what, f.missing())
		}
	}
}

func (f *fixture) awaitMissing(want string) {
	f.Helper()
	f.eventually("want "+want, func() bool { return f.missing() == want })
}

// TestWhatWasAskedForIsMissingUntilItIsComplete, and after a restart as before it.
func TestWhatWasAskedForIsMissingUntilItIsComplete(t *testing.T) {
	f := newState(t)
	f.expectMissing("")
	f.record(f.query(inShop), listOf(10, object("shop", "a", 3)))
	f.record(f.query(inShop+"/a"), `{"kind":"ConfigMap","apiVersion":"v1",`+object("shop", "a", 3)[1:])
	f.expectMissing("")

	// A list of which a page is missing.
	page := f.query("/api/v1/configmaps?limit=1")
	f.record(page, pageOf(20, "next", object("shop", "a", 3)))
	f.expectMissing("Incomplete=1")
	f.restart()
	f.expectMissing("Incomplete=1")
	f.record(f.query("/api/v1/configmaps?limit=1"), pageOf(20, "next", object("shop", "a", 3)))
	f.record(f.query("/api/v1/configmaps?limit=1&continue=next"), listOf(20, object("shop", "b", 4)))
	f.expectMissing("")

	// What the cloud refuses nobody misses.
	f.record(f.query("/api/v1/namespaces/x/configmaps?limit=1"), pageOf(20, "next", object("x", "a", 3)))
	f.expectMissing("Incomplete=1")
	f.refuse(f.query("/api/v1/namespaces/x/configmaps"), http.StatusForbidden)
	f.expectMissing("")

	// Nor what is no longer cached.
	f.record(f.query("/api/v1/namespaces/x/configmaps?limit=1"), pageOf(20, "next", object("x", "a", 3)))
	f.expectMissing("Incomplete=1")
	f.setAgents("other")
	f.setAgents("app")
	f.expectMissing("")
	f.restart()
	f.expectMissing("")
}

// TestAWatchWithoutItsListIsNotWarm until its list is cached.
func TestAWatchWithoutItsListIsNotWarm(t *testing.T) {
	f := newState(t)
	w := f.stream(f.query(inShop + "?watch=true&resourceVersion=10"))
	f.awaitMissing("NotWarm=1")
	w.send(eventOf("MODIFIED", object("shop", "a", 15)))
	w.end()
	f.restart()
	f.expectMissing("NotWarm=1")
	f.record(f.query(inShop), listOf(20, object("shop", "a", 15)))
	f.expectMissing("")
}

// TestAViewBehindItsClientIsIncomplete until it has caught up.
func TestAViewBehindItsClientIsIncomplete(t *testing.T) {
	f := newState(t)
	f.record(f.query(inShop), listOf(10, object("shop", "a", 3)))
	ahead := f.stream(f.query(inShop + "?watch=true&resourceVersion=12"))
	f.awaitMissing("Incomplete=1")
	ahead.send(eventOf("MODIFIED", object("shop", "a", 15)))
	ahead.end()
	f.restart()
	f.expectMissing("Incomplete=1")

	// Another Pod's watch brings the view there.
	behind := f.stream(f.query(inShop + "?watch=true&resourceVersion=10"))
	behind.send(eventOf("MODIFIED", object("shop", "a", 12)))
	behind.send(eventOf("MODIFIED", object("shop", "a", 15)))
	f.awaitMissing("")
	behind.end()
	f.expect(inShop, "a@15 rv=15")
}

// TestAWatchThatBeganBeforeItsAgentIsCachedIsNotWarm from when it is.
func TestAWatchThatBeganBeforeItsAgentIsCachedIsNotWarm(t *testing.T) {
	f := newState(t)
	f.setAgents("other")
	w := f.stream(f.query(inShop + "?watch=true&resourceVersion=10"))
	list := f.stream(f.query("/api/v1/configmaps?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"))
	f.expectMissing("")
	f.setAgents("app")
	f.expectMissing("NotWarm=2")
	list.end()
	w.end()
}

// TestSecretsThatAPolicyDeniesAreMissing as long as it does.
func TestSecretsThatAPolicyDeniesAreMissing(t *testing.T) {
	f := newState(t)
	denied := false
	f.options.DenySecrets = func(string, string) bool { return denied }
	f.restart()
	f.record(f.query(secretsInA), secretsOf(10, secretOf("x", 3)))
	f.expectMissing("")
	denied = true
	f.setAgents("app")
	f.expectMissing("SecretsDenied=1")
	f.record(f.query("/api/v1/secrets"), secretsOf(10, secretOf("x", 3)))
	f.expectMissing("SecretsDenied=2")
	denied = false
	f.setAgents("app")
	f.expectMissing("Incomplete=2")
	f.record(f.query(secretsInA), secretsOf(10, secretOf("x", 3)))
	f.expectMissing("Incomplete=1")
}

// TestWhatIsTooLargeIsMissing, whether it was not taken or has left.
func TestWhatIsTooLargeIsMissing(t *testing.T) {
	f := newState(t)
	f.options.Quota = Quota{PerAgent: 4096}
	f.restart()
	large := object("shop", "large", 3, "x", strings.Repeat("x", 8<<10))
	f.record(f.query(inShop), listOf(10, large))
	f.expectMissing("TooLarge=1")
	f.restart()
	f.expectMissing("TooLarge=1")
	f.record(f.query(inShop), listOf(11, object("shop", "a", 3)))
	f.expectMissing("")
	half := object("shop", "half", 3, "x", strings.Repeat("x", 2<<10))
	f.record(f.query("/api/v1/configmaps?labelSelector=a"), listOf(12, half))
	f.record(f.query("/api/v1/configmaps?labelSelector=b"), listOf(12, half))
	f.expectMissing("TooLarge=2") // the first list and the one before the last
}

// TestUsagesCountObjectsAlsoAfterARestart, without that views are read.
func TestUsagesCountObjectsAlsoAfterARestart(t *testing.T) {
	f := newState(t)
	f.record(f.query(inShop), listOf(10, object("shop", "a", 3), object("shop", "b", 4)))
	f.restart()
	f.scan()
	usages := f.Usages()
	if len(usages) != 1 || usages[0].Objects != 2 || usages[0].Views != 1 || usages[0].Bytes == 0 {
		t.Errorf("after a restart: %+v", usages)
	}
}

// TestWatchesThatNobodyRenewsAreForgotten, and faults are not.
func TestWatchesThatNobodyRenewsAreForgotten(t *testing.T) {
	d := newDemand()
	d.note("app/me/x/watched.jsonl", NotWarm, 5)
	d.note("app/me/x/idle.jsonl", NotWarm, 5)
	d.note("app/me/x/listed.jsonl", Incomplete, 0)
	d.note("app/me/x/large.jsonl", NotWarm, 5)
	d.fault("app/me/x/large.jsonl", TooLarge)
	for range 2 * idleMinutes {
		d.idle(func(file string) bool { return strings.HasSuffix(file, "watched.jsonl") })
	}
	if got := fmt.Sprint(d.reasons()); got != "map[app/me/x/large.jsonl:TooLarge app/me/x/listed.jsonl:Incomplete app/me/x/watched.jsonl:NotWarm]" {
		t.Errorf("missing is %s", got)
	}
}

// TestWhatIsKnownToBeMissingIsBounded, and who misses more is not taken to be
// complete, for a day. Nobody loses anything by that another misses much.
func TestWhatIsKnownToBeMissingIsBounded(t *testing.T) {
	f := newState(t)
	for i := range maxWants + 10 {
		f.demand.note(fmt.Sprintf("app/me/x/%d.jsonl", i), Incomplete, 0)
	}
	const shop, node = "app/system:serviceaccount:shop:a:1/x/y.jsonl", "kubelet/system:node:n/x/y.jsonl"
	f.demand.note(shop, Incomplete, 0)
	f.demand.note(node, Incomplete, 5)
	f.demand.note("app/me/x/watched.jsonl", Incomplete, 5)
	for i := range maxWants {
		f.demand.fault(fmt.Sprintf("app/me/x/large%d.jsonl", i), TooLarge)
	}
	if n := len(f.demand.wants); n > maxWants || n < maxWants*9/10 {
		t.Errorf("%d are known", n)
	}
	for _, file := range []string{shop, node, "app/me/x/watched.jsonl"} {
		if f.demand.get(file) == nil {
			t.Errorf("%s is forgotten", file)
		}
	}
	more := f.Usages()[0].Missing[Incomplete]
	for range overflowMinutes {
		f.demand.idle(func(string) bool { return true })
	}
	if u := f.Usages()[0]; u.Namespace != "" || u.Missing[Incomplete] != more-1 {
		t.Errorf("%+v: that it missed more is not forgotten, or was not known", u)
	}
}

// TestWhatIsNotKeptIsBounded, and what is known of one is told of all the same.
func TestWhatIsNotKeptIsBounded(t *testing.T) {
	r := refusals{demand: newDemand()}
	now := time.Now()
	for i := range maxRefusals + 10 {
		r.behind(fmt.Sprintf("app/me/x/%d.jsonl", i), reasonOverflow)
	}
	const shop = "app/system:serviceaccount:shop:a:1/x/y.jsonl"
	r.refuse(shop, reasonNoSpace, now)
	if n := len(r.byFile); n > maxRefusals {
		t.Errorf("%d are known", n)
	}
	if r.allows(shop, now) || r.demand.get(shop) == nil {
		t.Error("it is not held back, or not missed")
	}
}

// relisting is a fixture in a bubble of time, whose agent is relisted if it says so.
func relisting(t *testing.T, run func(f *fixture, relists *bool)) {
	synctest.Test(t, func(t *testing.T) {
		f := &fixture{T: t, dir: t.TempDir()}
		relists := false
		root, err := os.OpenRoot(f.dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		f.Store = Open(Options{FS: journal.OS(root), Relists: func(agent, namespace string) bool { return relists && agent == "app" }})
		f.setAgents("app", "other")
		run(f, &relists)
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
}

// open is a watch that nothing is sent to. It tells what it was told in the end.
func (f *fixture) openWatch(q Query) (told chan string, upstream *io.PipeWriter) {
	f.Helper()
	r, w := io.Pipe()
	resp := answerOf(http.StatusOK, nil)
	resp.Body = struct {
		io.Reader
		io.Closer
	}{r, closer(func() error { return r.CloseWithError(io.ErrClosedPipe) })}
	body := f.Record(q, resp)
	told = make(chan string, 1)
	go func() {
		var b bytes.Buffer
		_, err := io.Copy(&b, body)
		body.Close()
		if err != nil {
			fmt.Fprintf(&b, "broke off: %v", err)
		}
		told <- b.String()
	}()
	return told, w
}

type closer func() error

func (c closer) Close() error { return c() }

// pass lets time pass, as Run does.
func (f *fixture) pass(d time.Duration) {
	for range int(d / watchesCheck) {
		time.Sleep(watchesCheck)
		f.relist()
	}
	synctest.Wait()
}

const ended = ""

func expectTold(t *testing.T, told chan string, want string) {
	t.Helper()
	select {
	case got := <-told:
		if got != want {
			t.Errorf("the watch was told %q, want %q", got, want)
		}
	default:
		t.Error("the watch goes on")
	}
}

func expectNothing(t *testing.T, told chan string) {
	t.Helper()
	select {
	case got := <-told:
		t.Errorf("the watch ended with %q", got)
	default:
	}
}

// TestRelist: watches without a list are ended cleanly, the next is told that its
// resourceVersion is too old, once, and again only after a while that doubles.
func TestRelist(t *testing.T) {
	relisting(t, func(f *fixture, relists *bool) {
		cold := f.query(inShop + "?watch=true&resourceVersion=10")
		first, up := f.openWatch(cold)
		defer up.Close()
		another, up2 := f.openWatch(f.queryAs("other", "me", inShop+"?watch=true&resourceVersion=10", ""))
		f.pass(time.Minute)
		expectNothing(t, first) // nobody wants it

		*relists = true
		f.pass(DefaultRelistSpread + time.Second)
		expectTold(t, first, ended)
		expectNothing(t, another)

		// What lists by itself is not refused.
		for _, start := range []string{"?watch=true", "?watch=true&resourceVersion=0", "?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&resourceVersion=10"} {
			told, up := f.openWatch(f.query(inShop + start))
			synctest.Wait()
			expectNothing(t, told)
			up.Close()
			synctest.Wait()
			<-told
		}
		second, up := f.openWatch(cold)
		synctest.Wait()
		up.Close()
		var event struct {
			Type   string
			Object struct {
				Kind, Reason string
				Code         int
			}
		}
		if err := json.Unmarshal([]byte(<-second), &event); err != nil || event.Type != "ERROR" || event.Object.Kind != "Status" || event.Object.Code != 410 || event.Object.Reason != "Expired" {
			t.Errorf("%v: %+v", err, event)
		}
		// Its list can't be kept: it is not asked for it again and again.
		var waits []time.Duration
		for range 8 {
			told, up := f.openWatch(cold)
			begun := time.Now()
			for len(told) == 0 && time.Since(begun) < 3*maxRelist {
				f.pass(watchesCheck)
			}
			expectTold(t, told, ended)
			up.Close()
			waits = append(waits, time.Since(begun).Round(time.Second))
			refused, up := f.openWatch(cold)
			synctest.Wait()
			up.Close()
			if got := <-refused; !strings.Contains(got, "Expired") {
				t.Errorf("after %v: told %q", waits, got)
			}
		}
		for i, wait := range waits {
			least, most := min(minRelist<<i, maxRelist), min(minRelist<<i, maxRelist)*5/4+2*time.Second
			if i == 0 { // the first round was some time during its jitter
				least -= DefaultRelistSpread + 2*time.Second
			}
			if wait < least || wait > most {
				t.Errorf("waits %v", waits)
			}
		}
		expectNothing(t, another)
		up2.Close()

		// Listed through the cache it is left alone.
		f.record(f.query(inShop), listOf(20, object("shop", "a", 3)))
		warm, up := f.openWatch(f.query(inShop + "?watch=true&resourceVersion=20"))
		f.pass(3 * time.Hour)
		expectNothing(t, warm)
		up.Close()
		synctest.Wait()
		if u := f.Usages(); u[0].Relists != 9 || len(u[0].Missing) != 0 {
			t.Errorf("%+v", u)
		}
	})
}

// TestARelistThatIsNoLongerWantedIsForgotten, also between its two steps.
func TestARelistThatIsNoLongerWantedIsForgotten(t *testing.T) {
	relisting(t, func(f *fixture, relists *bool) {
		*relists = true
		cold := f.query(inShop + "?watch=true&resourceVersion=10")
		first, up := f.openWatch(cold)
		defer up.Close()
		f.pass(DefaultRelistSpread + 2*time.Second)
		expectTold(t, first, ended)
		*relists = false
		f.pass(watchesCheck)
		second, up2 := f.openWatch(cold)
		f.pass(time.Minute)
		expectNothing(t, second)
		up2.Close()
		synctest.Wait()
	})
}

// TestAListIsNotEndedByItsRelist: a WatchList that takes its time is what is waited
// for.
func TestAListIsNotEndedByItsRelist(t *testing.T) {
	relisting(t, func(f *fixture, relists *bool) {
		cold, up := f.openWatch(f.query(inShop + "?watch=true&resourceVersion=10"))
		f.pass(watchesCheck)
		up.Close()
		synctest.Wait()
		<-cold
		*relists = true
		slow, up := f.openWatch(f.query(inShop + "?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"))
		f.pass(10 * time.Minute)
		expectNothing(t, slow)
		_, _ = io.WriteString(up, eventOf("ADDED", object("shop", "a", 3))+"\n"+bookmarkOf(20, true)+"\n")
		f.pass(10 * time.Minute)
		expectNothing(t, slow)
		up.Close()
		synctest.Wait()
		f.expect(inShop, "a@3 rv=20")
	})
}

// TestAWatchThatIsLostInTheMiddleOfAnEventLosesNothing: the link breaks anywhere. What
// the client is shown of the event is not whole either, and it goes on from the one before.
func TestAWatchThatIsLostInTheMiddleOfAnEventLosesNothing(t *testing.T) {
	relisting(t, func(f *fixture, relists *bool) {
		*relists = true
		f.record(f.query(inShop), listOf(10, object("shop", "a", 3)))
		watch, up := f.openWatch(f.query(inShop + "?watch=true&resourceVersion=10"))
		_, _ = io.WriteString(up, eventOf("MODIFIED", object("shop", "a", 11))+"\n"+eventOf("MODIFIED", object("shop", "a", 12))[:40])
		f.pass(time.Second)
		up.Close()
		<-watch
		f.pass(time.Second)
		if missing := f.demand.reasons(); len(missing) > 0 {
			t.Errorf("missing while the cloud is away: %v", missing)
		}
		f.expect(inShop, "a@11 rv=11")
		watch, up = f.openWatch(f.query(inShop + "?watch=true&resourceVersion=11"))
		defer up.Close()
		_, _ = io.WriteString(up, eventOf("MODIFIED", object("shop", "a", 12))+"\n")
		f.pass(3 * time.Minute)
		f.expect(inShop, "a@12 rv=12")
		if len(watch) > 0 {
			t.Errorf("the watch was ended: %s", <-watch)
		}
	})
}
