package cache

import (
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

// TestAViewThatIsBehindIsListedAgain, whatever the policy says: else it would stay
// where it is for as long as its informer watches.
func TestAViewThatIsBehindIsListedAgain(t *testing.T) {
	relisting(t, func(f *fixture, _ *bool) {
		f.record(f.query(inShop), listOf(10, object("shop", "a", 3)))
		// The hub was killed after it had delivered 11 and 12.
		resumed := f.query(inShop + "?watch=true&resourceVersion=12")
		watch, up := f.openWatch(resumed)
		defer up.Close()
		f.pass(behindWait - 2*time.Second)
		expectNothing(t, watch)
		f.pass(behindWait + 3*time.Second)
		expectTold(t, watch, ended)

		refused, up := f.openWatch(resumed)
		synctest.Wait()
		up.Close()
		if got := <-refused; !strings.Contains(got, `"reason":"Expired"`) {
			t.Fatalf("told %q", got)
		}
		f.record(f.query(inShop), listOf(20, object("shop", "a", 13)))
		watch, up = f.openWatch(f.query(inShop + "?watch=true&resourceVersion=20"))
		defer up.Close()
		_, _ = io.WriteString(up, eventOf("MODIFIED", object("shop", "a", 21))+"\n")
		f.pass(3 * time.Hour)
		expectNothing(t, watch)
		f.expect(inShop, "a@21 rv=21")
		f.expectMissing("")

		// One whose list may have been before it was cached is left alone.
		cold, up := f.openWatch(f.query("/api/v1/namespaces/shop/pods?watch=true&resourceVersion=30"))
		f.pass(3 * time.Hour)
		expectNothing(t, cold)
		up.Close()
		synctest.Wait()
	})
}

// TestManyViewsThatAreBehindAreListedOneAfterTheOther, and none too often.
func TestManyViewsThatAreBehindAreListedOneAfterTheOther(t *testing.T) {
	silence(t)
	relisting(t, func(f *fixture, _ *bool) {
		path := func(i int) string { return fmt.Sprintf("/api/v1/namespaces/n%d/configmaps", i) }
		watches := map[int]chan string{}
		open := func(i int) {
			var up *io.PipeWriter
			watches[i], up = f.openWatch(f.query(path(i) + "?watch=true&resourceVersion=12"))
			t.Cleanup(func() { up.Close() })
		}
		const views = 20
		for i := range views {
			f.record(f.query(path(i)), listOf(10))
			open(i)
		}
		times := map[int]int{}
		last := time.Time{}
		for start := time.Now(); time.Since(start) < 30*time.Minute; {
			f.pass(watchesCheck)
			var over []int
			for i, watch := range watches {
				if len(watch) > 0 {
					over = append(over, i)
				}
			}
			if len(over) > 1 || len(over) == 1 && time.Since(last) < behindPace {
				t.Fatalf("%d end at once", len(over))
			}
			for _, i := range over {
				times[i]++
				last = time.Now()
				open(i) // is told 410
				synctest.Wait()
				open(i) // and does not list
			}
		}
		for i := range views {
			if times[i] < 1 || times[i] > 4 {
				t.Errorf("view %d was to be listed %d times in half an hour", i, times[i])
			}
		}
		for _, watch := range f.watches.byFile {
			for l := range watch {
				l.end()
			}
		}
		synctest.Wait()
	})
}

// slowList is a list that is on its way until it is let go.
func (f *fixture) slowList(q Query, body string) (finish func()) {
	r, w := io.Pipe()
	rc := f.Record(q, answerOf(http.StatusOK, r))
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(io.Discard, rc)
		rc.Close()
	}()
	_, _ = io.WriteString(w, body[:len(body)-2])
	return func() {
		_, _ = io.WriteString(w, body[len(body)-2:])
		w.Close()
		<-read
	}
}

// TestAWatchThatCanNotBeKeptUpWithEndsWhereItsRecordingEnds: its client goes on from
// there, and so does the recording.
func TestAWatchThatCanNotBeKeptUpWithEndsWhereItsRecordingEnds(t *testing.T) {
	relisting(t, func(f *fixture, _ *bool) {
		event := func(version int) string {
			return eventOf("ADDED", object("shop", fmt.Sprintf("o%03d", version), version, "padding", strings.Repeat("x", 10<<10))) + "\n"
		}
		last := 10
		// follow sends 80 events to a watch whose recording waits for a list, and
		// returns what the client was told.
		follow := func() string {
			f.evict(eviction{file: f.query(inShop).Key.file(), reason: overTotalQuota})
			finish := f.slowList(f.query(inShop), listOf(last))
			told, up := f.openWatch(f.query(fmt.Sprintf("%s?watch=true&resourceVersion=%d", inShop, last)))
			synctest.Wait()
			for v := last + 1; v <= last+80; v++ {
				if _, err := io.WriteString(up, event(v)); err != nil {
					break
				}
			}
			up.Close()
			got := <-told
			finish()
			synctest.Wait()
			for line := range strings.Lines(got) {
				var e struct {
					Object struct {
						Metadata struct{ ResourceVersion string }
					}
				}
				if json.Unmarshal([]byte(line), &e) == nil {
					last = int(parseVersion(e.Object.Metadata.ResourceVersion))
				}
			}
			return got
		}
		if follow(); last <= 10 || last >= 90 {
			t.Fatalf("the watch ended at %d", last)
		}
		if _, body := f.ask(f.query(inShop)); !strings.Contains(body, fmt.Sprintf(`"metadata":{"resourceVersion":"%d"`, last)) {
			t.Errorf("the view is not where its client is, at %d: %.100s", last, body)
		}
		f.expectMissing("")

		// Once more so soon is too often: the client is left alone.
		before := last
		if got := follow(); last != before+80 || !strings.HasSuffix(got, "\n") {
			t.Errorf("the client is at %d, want %d", last, before+80)
		}
		f.expectMissing("Incomplete=1")

		// And a list by WatchList is whole or not, but does not end.
		time.Sleep(2 * endPause)
		told, up := f.openWatch(f.query(inShop + watchList))
		defer up.Close()
		_, _ = io.WriteString(up, event(1)+bookmarkOf(last, true)+"\n")
		synctest.Wait()
		expectNothing(t, told)
		f.expectMissing("")
	})
}

// TestAWatchWaitsForTheRecordingOfTheOneBefore: its events come behind those that the
// client was sent by the watch before.
func TestAWatchWaitsForTheRecordingOfTheOneBefore(t *testing.T) {
	f := newFixture(t)
	finish := f.slowList(f.query(inA), listOf(10))
	first := f.stream(f.query(inA + follow + "10"))
	first.send(eventOf("ADDED", object("a", "x", 11)), eventOf("ADDED", object("a", "y", 12)))
	first.in.Close()
	<-first.done
	second := f.stream(f.query(inA + follow + "12"))
	second.send(eventOf("ADDED", object("a", "z", 13)))
	finish()
	second.end()
	f.expect(inA, "x@11 y@12 z@13 rv=13")
}

// TestAWatchThatIsConnectedWaitsForNoList of another client, however slow that is.
func TestAWatchThatIsConnectedWaitsForNoList(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10))
	finish := f.slowList(f.query(inA), listOf(11, object("a", "x", 11)))
	s := f.stream(f.query(inA + follow + "10"))
	s.send(eventOf("ADDED", object("a", "x", 11)))
	f.eventually("the event is recorded", func() bool { return f.names(inA) == "x@11 rv=11" })
	finish()
	s.end()
}

// TestAListThatWasLostWithTheHubIsListedAgain: the hub was killed before the list was on
// the disk, and its informer watches on. One that was never cached is left alone, and
// so is one that is known to have been missing before.
func TestAListThatWasLostWithTheHubIsListedAgain(t *testing.T) {
	state, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	synctest.Test(t, func(t *testing.T) {
		h, _ := crashFixture(t)
		defer h.stop()
		open := func() {
			h.Store = Open(Options{FS: h.disk, Journal: journal.Options{Interval: syncInterval}, Key: sealKey, State: state,
				AlwaysCached: func(agent string) bool { return agent == "kubelet" }})
			h.opened = append(h.opened, h.Store)
			h.setAgents("app", "other", "kubelet")
		}
		open()
		f := &h.fixture
		h.record(h.query(inB), listOf(10)) // the agent's directory is there
		missing, up := f.openWatch(h.query("/api/v1/namespaces/c/configmaps?watch=true&resourceVersion=10"))
		synctest.Wait()
		up.Close()
		<-missing
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		open()
		var ups []io.Closer
		watch := func(agent, path string) chan string {
			told, up := f.openWatch(h.queryAs(agent, "me", path+"?watch=true&resourceVersion=10", ""))
			ups = append(ups, up)
			return told
		}
		lost := watch("app", inA)
		known := watch("app", "/api/v1/namespaces/c/configmaps")
		never := watch("other", inA)
		always := watch("kubelet", inA) // of which nothing is left
		f.pass(behindWait - 2*time.Second)
		expectNothing(t, lost)
		f.saveDemand()
		f.pass(behindWait + 3*time.Second)
		expectTold(t, lost, ended)
		f.pass(behindPace + time.Second)
		expectTold(t, always, ended)
		f.pass(afterStart)
		late := watch("app", "/api/v1/namespaces/d/configmaps")
		f.pass(time.Hour)
		for _, told := range []chan string{known, never, late} {
			expectNothing(t, told)
		}
		for _, up := range ups {
			up.Close()
		}
		synctest.Wait()

		// It is known when the hub is killed once more.
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		open()
		lost = watch("app", inA)
		f.pass(2*behindWait + 3*time.Second)
		expectTold(t, lost, ended)
		ups[len(ups)-1].Close()
		synctest.Wait()
	})
}
