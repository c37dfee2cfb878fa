package cache

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"sigs.k8s.io/yaml"
)

const (
	inA        = "/api/v1/namespaces/a/configmaps"
	everywhere = "/api/v1/configmaps"
	follow     = "?watch=true&allowWatchBookmarks=true&resourceVersion="
)

func TestAListAndItsWatchAreOneView(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3), object("a", "y", 7)))
	f.expect(inA, "x@3 y@7 rv=10")
	s := f.stream(f.query(inA + follow + "10"))
	s.send(eventOf("MODIFIED", object("a", "x", 11)), eventOf("ADDED", object("a", "b", 12)),
		eventOf("DELETED", object("a", "y", 13)), bookmarkOf(20, false))
	s.end()
	want := "b@12 x@11 rv=20"
	f.expect(inA, want)
	f.restart()
	f.expect(inA, want)
}

func TestAGapNeverExtendsAView(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	s := f.stream(f.query(inA + follow + "15")) // 11 to 15 were not seen
	s.send(eventOf("MODIFIED", object("a", "x", 16)))
	s.end()
	f.expect(inA, "x@3 rv=10")

	// Nor does an event behind one that was missed, once a list is back.
	s = f.stream(f.query(inA + follow + "15"))
	s.send(eventOf("MODIFIED", object("a", "x", 16)))
	f.record(f.query(inA), listOf(15, object("a", "x", 3)))
	s.send(eventOf("MODIFIED", object("a", "x", 17)))
	s.end()
	// Whether 16 was processed before the list or after it, 17 is not there
	// without it.
	_, body := f.ask(f.query(inA + follow + "15"))
	if events := strings.Count(body, `"type"`); events == 1 {
		t.Errorf("event 17 without 16: %s", body)
	}
}

func TestSeveralPodsMayStreamTheSameView(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	first, second := f.stream(f.query(inA+follow+"10")), f.stream(f.query(inA+follow+"10"))
	first.send(eventOf("MODIFIED", object("a", "x", 11)), eventOf("MODIFIED", object("a", "x", 12)))
	second.send(eventOf("MODIFIED", object("a", "x", 11)), eventOf("MODIFIED", object("a", "x", 12)), eventOf("ADDED", object("a", "y", 13)))
	first.in.Close()
	second.end()
	f.expect(inA, "x@12 y@13 rv=13")
	if _, body := f.ask(f.query(inA + follow + "10")); strings.Count(body, `"type"`) != 3 {
		t.Errorf("replay is %s, want 3 events", body)
	}
}

func TestAnIncompleteListIsNeverServedAsACompleteOne(t *testing.T) {
	whole := listOf(20, object("a", "x", 11), object("a", "y", 12))
	broken := errors.New("connection reset")
	cases := map[string]io.Reader{
		"cut":               io.MultiReader(strings.NewReader(whole[:len(whole)-5]), iotest.ErrReader(broken)),
		"cut at an object":  io.MultiReader(strings.NewReader(whole[:strings.Index(whole, `},{`)+1]), iotest.ErrReader(io.ErrUnexpectedEOF)),
		"ended too early":   strings.NewReader(whole[:len(whole)-3]),
		"malformed":         strings.NewReader(strings.Replace(whole, `"y"`, `"y`, 1)),
		"something behind":  strings.NewReader(whole + whole),
		"not a list":        strings.NewReader(`{"kind":"Status","apiVersion":"v1"}`),
		"a table":           strings.NewReader(`{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"20"},"columnDefinitions":[],"rows":[]}`),
		"closed by nobody":  iotest.ErrReader(broken),
		"broken off at end": io.MultiReader(strings.NewReader(whole), iotest.ErrReader(broken)),
	}
	for name, body := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.record(f.query(inA), listOf(10, object("a", "x", 3)))
			rc := f.Record(f.query(inA), answerOf(http.StatusOK, body))
			_, _ = io.Copy(io.Discard, rc)
			rc.Close()
			f.recordings.Wait()
			f.expect(inA, "x@3 rv=10")
			f.restart()
			f.expect(inA, "x@3 rv=10")
		})
	}
	t.Run("closed by the client", func(t *testing.T) {
		f := newFixture(t)
		f.record(f.query(inA), listOf(10, object("a", "x", 3)))
		rc := f.Record(f.query(inA), answerOf(http.StatusOK, strings.NewReader(whole)))
		_, _ = io.CopyN(io.Discard, rc, int64(len(whole)-2))
		rc.Close()
		f.recordings.Wait()
		f.expect(inA, "x@3 rv=10")
	})
}

func TestPagesBecomeOneList(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA+"?limit=1"), pageOf(10, "t1", object("a", "x", 3)))
	f.expect(inA, "503")
	f.record(f.query(inA+"?limit=1&continue=t1"), pageOf(10, "t2", object("a", "y", 4)))
	f.record(f.query(inA+"?limit=1&continue=t2"), pageOf(10, "", object("a", "z", 5)))
	f.expect(inA, "x@3 y@4 z@5 rv=10")
}

func TestTwoClientsPagingAtOnceDoNotMix(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA+"?limit=1"), pageOf(10, "a1", object("a", "x", 3)))
	f.record(f.query(inA+"?limit=1"), pageOf(20, "b1", object("a", "x", 13)))
	f.record(f.query(inA+"?limit=1&continue=b1"), pageOf(20, "", object("a", "y", 14)))
	f.expect(inA, "x@13 y@14 rv=20")
	f.record(f.query(inA+"?limit=1&continue=a1"), pageOf(10, "", object("a", "y", 4)))
	f.expect(inA, "x@13 y@14 rv=20")

	// An expired token goes on with another state.
	f.record(f.query(inA+"?limit=1"), pageOf(30, "c1", object("a", "x", 23)))
	f.record(f.query(inA+"?limit=1&continue=c1"), pageOf(40, "", object("a", "y", 34)))
	f.expect(inA, "x@13 y@14 rv=20")
}

func TestWatchListBecomesAViewWithItsLastInitialEvent(t *testing.T) {
	f := newFixture(t)
	q := f.query(inA + "?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan")
	s := f.stream(q)
	s.send(eventOf("ADDED", object("a", "x", 3)), eventOf("ADDED", object("a", "y", 4)))
	s.send(bookmarkOf(10, true), eventOf("DELETED", object("a", "x", 11)))
	s.end()
	f.expect(inA, "y@4 rv=11")

	// One that ends before changes nothing; the next prunes what is gone.
	s = f.stream(q)
	s.send(eventOf("ADDED", object("a", "z", 3)))
	s.end()
	f.expect(inA, "y@4 rv=11")
	s = f.stream(q)
	s.send(eventOf("ADDED", object("a", "z", 12)), bookmarkOf(20, true))
	s.end()
	f.expect(inA, "z@12 rv=20")
}

// TestAListHasItsKindFromWhoeverKnows: a WatchList does not say it, and a definition may
// say anything.
func TestAListHasItsKindFromWhoeverKnows(t *testing.T) {
	const (
		oxen       = "/apis/farm.example.com/v1/oxen"
		ox         = `{"apiVersion":"farm.example.com/v1","kind":"Ox","metadata":{"name":"x","resourceVersion":"3"}}`
		list       = `{"apiVersion":"farm.example.com/v1","items":[` + ox + `],"kind":"Herd","metadata":{"continue":"","resourceVersion":"5"}}`
		definition = `{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{"name":"oxen.farm.example.com","resourceVersion":"2"},"spec":{"group":"farm.example.com","names":{"plural":"oxen","kind":"Ox","listKind":"Herd"},"scope":"Cluster","versions":[{"name":"v1"}]}}`
	)
	for name, c := range map[string]struct{ path, body, want string }{
		"a list":       {oxen, list, "Herd"},
		"a definition": {"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/oxen.farm.example.com", definition, "Herd"},
		"nobody":       {inA, listOf(5), "OxList"},
	} {
		f := newFixture(t)
		f.record(f.query(c.path), c.body)
		s := f.stream(f.query(oxen + watchList))
		s.send(`{"type":"ADDED","object":`+ox+`}`,
			`{"type":"BOOKMARK","object":{"apiVersion":"farm.example.com/v1","kind":"Ox","metadata":{"resourceVersion":"10","annotations":{"k8s.io/initial-events-end":"true"}}}}`)
		s.end()
		if _, body := f.ask(f.query(oxen)); !strings.Contains(body, `"kind":"`+c.want+`","metadata":{"continue":"","resourceVersion":"10"}`) {
			t.Errorf("%s knows: %s", name, body)
		}
	}
}

func TestAListThatIsBehindTheViewChangesNothing(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	s := f.stream(f.query(inA + follow + "10"))
	s.send(eventOf("MODIFIED", object("a", "x", 15)))
	s.end()
	f.record(f.query(inA+"?resourceVersion=0"), listOf(12, object("a", "x", 3)))
	f.expect(inA, "x@15 rv=15")

	// But a cluster that was restored from a backup is believed.
	f.record(f.query(inA), listOf(5, object("a", "x", 3)))
	f.expect(inA, "x@3 rv=5")
}

// TestAListDecidedBeforeTheViewWentOnChangesNothing: kube-apiserver decides upon a list
// some time between its request and its header, and a watch may be faster.
func TestAListDecidedBeforeTheViewWentOnChangesNothing(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	asked := f.Asked()
	s := f.stream(f.query(inA + follow + "10"))
	s.send(eventOf("MODIFIED", object("a", "x", 15)))
	s.end()
	late := func(q Query, body string) {
		t.Helper()
		rc := f.Store.Record(q, answerOf(http.StatusOK, strings.NewReader(body)), asked)
		_, _ = io.Copy(io.Discard, rc)
		rc.Close()
		f.recordings.Wait()
	}
	late(f.query(inA), listOf(12, object("a", "x", 3)))
	f.expect(inA, "x@15 rv=15")

	// Nor does a list that was wanted as of a moment in the past, in pages.
	f.record(f.query(inA+"?limit=1&resourceVersion=12&resourceVersionMatch=Exact"), pageOf(12, "next", object("a", "x", 3)))
	f.record(f.query(inA+"?limit=1&continue=next"), pageOf(12, "", object("a", "y", 4)))
	f.expect(inA, "x@15 rv=15")

	// Nor an object, or a document.
	one, apis := f.query(oneInA), f.queryAs("app", "me", "/apis", "application/json")
	asked = f.Asked()
	f.record(one, single("a", "x", 20))
	f.record(apis, `{"newer":true}`)
	late(one, single("a", "x", 18))
	late(apis, `{"older":true}`)
	if _, body := f.ask(one); !strings.Contains(body, `"at":"20"`) {
		t.Errorf("the object is %s", body)
	}
	if _, body := f.ask(apis); !strings.Contains(body, "newer") {
		t.Errorf("the document is %s", body)
	}
}

// TestABackupIsBelieved also if the hub has not been asked anything since it started.
func TestABackupIsBelieved(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	f.restart()
	old, before := f.stream(f.query(inA+follow+"10")), f.Asked()
	f.record(f.query(inA), listOf(5, object("a", "x", 3)))
	f.expect(inA, "x@3 rv=5")

	// What is left of the other history is not mixed with it.
	rc := f.Store.Record(f.query(inA), answerOf(http.StatusOK, strings.NewReader(listOf(10, object("a", "old", 3)))), before)
	_, _ = io.Copy(io.Discard, rc)
	rc.Close()
	s := f.stream(f.query(inA + follow + "5"))
	s.send(bookmarkOf(11, false))
	s.in.Close()
	<-s.done
	old.send(eventOf("ADDED", object("a", "old", 12)))
	old.end()
	f.expect(inA, "x@3 rv=11")
}

// TestAWatchThatFollowsABackupIsNotTakenForRecorded if it came before the list was
// recorded: it may be of either history.
func TestAWatchThatFollowsABackupIsNotTakenForRecorded(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	f.restart()
	old := f.stream(f.query(inA + follow + "10"))
	finish := f.slowList(f.query(inA), listOf(5, object("a", "x", 3)))
	s := f.stream(f.query(inA + follow + "5"))
	finish()
	f.eventually("the list is recorded", func() bool { return f.names(inA) == "x@3 rv=5" })
	old.send(eventOf("ADDED", object("a", "old", 12)))
	old.in.Close()
	<-old.done
	f.expectMissing("")
	s.send(eventOf("MODIFIED", object("a", "x", 6)))
	f.awaitMissing("Incomplete=1")
	s.end()
	f.record(f.query(inA), listOf(7, object("a", "x", 6)))
	f.expectMissing("")
}

// TestAWatchDoesNotBridgeWhatItHasDeliveredToAViewThatIsGone: the view left the disk,
// and a list came that was on its way.
func TestAWatchDoesNotBridgeWhatItHasDeliveredToAViewThatIsGone(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	s := f.stream(f.query(inA + follow + "10"))
	s.send(eventOf("ADDED", object("a", "y", 20)))
	f.eventually("the watch is recorded", func() bool { return f.names(inA) == "x@3 y@20 rv=20" })
	f.evict(eviction{file: f.query(inA).Key.file()})
	f.record(f.query(inA), listOf(15, object("a", "x", 3)))
	s.send(eventOf("ADDED", object("a", "z", 30)))
	s.end()
	f.expect(inA, "x@3 rv=15")
}

func TestRefusalWithdrawsWhatItRefuses(t *testing.T) {
	one := inA + "/x"
	whole := `{"kind":"ConfigMap","apiVersion":"v1",` + object("a", "x", 3)[1:]
	for name, c := range map[string]struct {
		path string
		code int
		want map[string]int
	}{
		"list forbidden":   {inA, 403, map[string]int{inA: 503, one: 503}},
		"get forbidden":    {one, 403, map[string]int{inA: 200, one: 403}},
		"object gone":      {one, 404, map[string]int{inA: 200, one: 404}},
		"server error":     {inA, 500, map[string]int{inA: 200, one: 200}},
		"list unavailable": {inA, 503, map[string]int{inA: 200, one: 200}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.record(f.query(inA), listOf(10, object("a", "x", 3)))
			f.record(f.query(one), whole)
			f.refuse(f.query(c.path), c.code)
			for range 2 {
				for path, want := range c.want {
					if code, body := f.ask(f.query(path)); code != want {
						t.Errorf("%s is %d %s, want %d", path, code, body, want)
					}
				}
				f.restart()
			}
		})
	}
	f := newFixture(t)
	f.record(f.query(one), whole)
	f.refuse(f.query(one), 404)
	if code, _ := f.ask(f.query(one)); code != 503 {
		t.Errorf("a removed object is answered with %d", code)
	}
}

func TestIdentitySelectsData(t *testing.T) {
	f := newFixture(t, "app", "other-app")
	f.record(f.query(inA), listOf(10, object("a", "secret", 3)))
	for _, q := range []Query{
		f.queryAs("app", "you", inA, ""), f.queryAs("app", "me2", inA, ""), f.queryAs("app", "m", inA, ""),
		f.queryAs("app", "you", everywhere, ""), f.queryAs("other-app", "me", inA, ""), f.queryAs("app", "ME", inA, ""),
		f.queryAs("app", "../app/me", inA, ""), f.queryAs("app", "me/", inA, ""),
	} {
		if code, body := f.ask(q); code != 503 || strings.Contains(body, "secret") {
			t.Errorf("%+v gets %d %s", q.Key, code, body)
		}
	}
	if !f.Knows("app", "me") || f.Knows("app", "you") || f.Knows("other-app", "me") {
		t.Error("Knows confuses identities")
	}
}

func TestRemovedAgentIsNeitherServedNorKept(t *testing.T) {
	f := newFixture(t, "app", "stays")
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	f.record(f.queryAs("stays", "me", inA, ""), listOf(10, object("a", "x", 3)))
	watch := f.stream(f.query(inA + follow + "10"))
	f.setAgents("stays")
	f.expect(inA, "503")
	watch.send(eventOf("MODIFIED", object("a", "x", 11)))
	watch.end()
	f.record(f.query(inA), listOf(12, object("a", "x", 12)))
	if entries, err := f.journal.ReadDir("."); err != nil || len(entries) != 1 || entries[0].Name() != "stays" {
		t.Errorf("cache directory holds %v, %v", entries, err)
	}
	f.setAgents("app", "stays")
	f.expect(inA, "503")
	f.record(f.query(inA), listOf(20, object("a", "x", 13)))
	f.expect(inA, "x@13 rv=20")
}

func TestBroaderViewAnswersANarrowerQuestion(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(everywhere), listOf(10, object("a", "x", 3, "tier", "front"), object("a", "y", 4), object("a-b", "z", 5, "tier", "front")))
	f.expect(inA, "x@3 y@4 rv=10")
	f.expect(everywhere+"?labelSelector=tier=front", "z@5 x@3 rv=10") // as their keys in etcd
	f.expect(inA+"?labelSelector=tier=front", "x@3 rv=10")
	f.expect(inA+"?labelSelector=!tier&fieldSelector=metadata.name=y", "y@4 rv=10")
	f.expect(inA+"?fieldSelector=metadata.name!=y", "x@3 rv=10")
	f.expect("/api/v1/namespaces/none/configmaps", "rv=10")
	f.expect(inA+"?fieldSelector=spec.nodeName=n", "400")

	// An object comes into a selection, changes in it, and leaves it.
	s := f.stream(f.query(everywhere + follow + "10"))
	s.send(eventOf("MODIFIED", object("a", "y", 11, "tier", "front")), eventOf("MODIFIED", object("a", "y", 12, "tier", "front")),
		eventOf("MODIFIED", object("a", "y", 13)), eventOf("ADDED", object("b", "q", 14, "tier", "front")), eventOf("DELETED", object("a", "x", 15, "tier", "front")))
	s.end()
	_, body := f.ask(f.query(inA + follow + "10&labelSelector=tier=front"))
	var types []string
	for line := range strings.Lines(body) {
		types = append(types, line[len(`{"type":"`):len(`{"type":"`)+5])
	}
	if got := strings.Join(types, " "); got != "ADDED MODIF DELET DELET" {
		t.Errorf("events in the selection: %s\n%s", got, body)
	}
}

func TestGetIsAnsweredByTheNewestThatIsKnown(t *testing.T) {
	f := newFixture(t)
	get := func(name string) (int, string) { return f.ask(f.query(inA + "/" + name)) }
	f.record(f.query(inA+"/x"), `{"kind":"ConfigMap","apiVersion":"v1",`+object("a", "x", 3)[1:])
	if code, body := get("x"); code != 200 || !strings.HasPrefix(body, `{"kind":"ConfigMap","apiVersion":"v1",`) {
		t.Errorf("get is %d %s", code, body)
	}
	f.record(f.query(inA), listOf(10, object("a", "x", 7)))
	if _, body := get("x"); !strings.Contains(body, `"at":"7"`) || !strings.HasPrefix(body, `{"kind":"ConfigMap","apiVersion":"v1",`) {
		t.Errorf("get is %s, want the list's newer state", body)
	}
	if code, _ := get("y"); code != 404 {
		t.Errorf("absent object is %d, a complete list proves absence", code)
	}
	f.record(f.query(inA), listOf(20))
	if code, _ := get("x"); code != 404 {
		t.Errorf("deleted object is %d", code)
	}
}

func TestWatchFromTooLongAgoIsExpired(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	code, body := f.ask(f.query(inA + follow + "9"))
	if code != 200 || !strings.Contains(body, `"type":"ERROR"`) || !strings.Contains(body, `"reason":"Expired"`) {
		t.Errorf("%d %s", code, body)
	}
	if code, message := f.ask(f.query(inA + "?resourceVersion=11")); code != 504 || !strings.Contains(message, "Too large resource version: 11, current: 10") {
		t.Errorf("%d %s", code, message)
	}
}

func TestCompactionKeepsTheState(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3), object("a", "y", 4)))
	s := f.stream(f.query(inA + follow + "10"))
	s.send(eventOf("MODIFIED", object("a", "x", 11)), eventOf("DELETED", object("a", "y", 12)))
	s.end()
	v := f.view(f.query(inA).Key)
	v.mu.Lock()
	err := f.rewrite(v)
	v.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	f.expect(inA, "x@11 rv=12")
	s = f.stream(f.query(inA + follow + "12"))
	s.send(eventOf("MODIFIED", object("a", "x", 13)))
	s.end()
	f.expect(inA, "x@13 rv=13")
	f.restart()
	f.expect(inA, "x@13 rv=13")
	if _, body := f.ask(f.query(inA + follow + "10")); !strings.Contains(body, "410") {
		t.Errorf("watch from before the compaction: %s", body)
	}
}

func TestDocumentIsServedAsItWas(t *testing.T) {
	f := newFixture(t)
	body := `{"kind":"APIGroupList","apiVersion":"v1","groups":[` + strings.Repeat(`{"name":"x"},`, 10000) + `{"name":"y"}]}`
	f.record(f.queryAs("app", "me", "/apis", "application/json"), body)
	f.restart()
	if code, got := f.ask(f.queryAs("app", "me", "/apis", "application/json")); code != 200 || got != body {
		t.Errorf("%d, %d bytes, want %d", code, len(got), len(body))
	}
	if code, _ := f.ask(f.queryAs("app", "me", "/apis", "application/yaml")); code != 503 {
		t.Errorf("another media type is %d", code)
	}
}

// TestADocumentIsServedToWhoeverAcceptsIt, in the order in which media types are
// accepted, and again only if it is not known.
func TestADocumentIsServedToWhoeverAcceptsIt(t *testing.T) {
	f := newFixture(t)
	const aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	pass := func(accept, contentType, body string) {
		resp := answerOf(http.StatusOK, strings.NewReader(body))
		resp.Header.Set("Content-Type", contentType)
		resp.Header.Set("ETag", `"`+body+`"`)
		rc := f.Record(f.queryAs("app", "me", "/apis", accept), resp)
		_, _ = io.Copy(io.Discard, rc)
		rc.Close()
		f.recordings.Wait()
	}
	pass(aggregated+",application/json", aggregated, "aggregated")
	pass("application/json, */*", "application/json", "plain")
	for accept, want := range map[string]string{
		aggregated: "aggregated", aggregated + ",application/json;q=0.9": "aggregated",
		"application/json": "plain", "": "plain", "*/*": "plain", "application/yaml,application/json": "plain",
		"application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList": "503",
		"application/yaml": "503",
	} {
		code, body := f.ask(f.queryAs("app", "me", "/apis", accept))
		if code != 200 {
			body = fmt.Sprint(code)
		}
		if body != want {
			t.Errorf("%q gets %s, want %s", accept, body, want)
		}
	}

	r := httptest.NewRequest(http.MethodGet, "/apis", nil)
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Accept-Encoding", "gzip")
	r.Header.Set("If-None-Match", `"other", "plain"`)
	info, err := infos.NewRequestInfo(r)
	if err != nil {
		t.Fatal(err)
	}
	q, _ := NewQuery(r, info, "app", "me")
	w := httptest.NewRecorder()
	if err := f.Answer(w, r, q, reachable{}); err != nil || w.Code != http.StatusNotModified || w.Body.Len() > 0 || w.Header().Get("ETag") != `"plain"` {
		t.Errorf("%v: %d %v %s", err, w.Code, w.Header(), w.Body)
	}
}

// TestADocumentIsConfirmedByWhatSaysThatItIsNotModified.
func TestADocumentIsConfirmedByWhatSaysThatItIsNotModified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := crashFixture(t)
		defer h.stop()
		q := h.queryAs("app", "me", "/apis", "application/json")
		resp := answerOf(http.StatusOK, strings.NewReader("{}"))
		resp.Header.Set("ETag", `"1"`)
		_, _ = io.Copy(io.Discard, h.Record(q, resp))
		age := func() string {
			synctest.Wait()
			w := httptest.NewRecorder()
			if err := h.Answer(w, httptest.NewRequest(http.MethodGet, "/apis", nil), q, reachable{}); err != nil {
				t.Fatal(err)
			}
			return w.Header().Get("Age")
		}
		time.Sleep(time.Minute)
		same := answerOf(http.StatusNotModified, strings.NewReader(""))
		same.Header.Set("ETag", `"2"`)
		h.Record(q, same).Close()
		if got := age(); got != "60" {
			t.Errorf("it is %s seconds old", got)
		}
		same.Header.Set("ETag", `"1"`)
		h.Record(q, same).Close()
		if got := age(); got != "0" {
			t.Errorf("it was confirmed %s seconds ago", got)
		}
	})
}

const asTable = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"

func TestTableIsServedAsItWasPrinted(t *testing.T) {
	f := newFixture(t)
	printed := `{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"10"},"columnDefinitions":[{"name":"Name"}],"rows":[{"cells":["x"]}]}`
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	f.record(f.queryAs("app", "me", inA+"?limit=500", asTable), printed)
	f.restart()
	if code, body := f.ask(f.queryAs("app", "me", inA+"?limit=500", asTable)); code != 200 || body != printed {
		t.Errorf("%d %s", code, body)
	}
	// One that was never printed is printed of the objects.
	if code, body := f.ask(f.queryAs("app", "me", inA+"?limit=400", asTable)); code != 200 || !strings.Contains(body, `"cells":["x",1,`) {
		t.Errorf("%d %s", code, body)
	}
	// So is one whose objects are known to be newer.
	f.record(f.query(inA), listOf(11, object("a", "x", 3), object("a", "y", 11)))
	if code, body := f.ask(f.queryAs("app", "me", inA+"?limit=500", asTable)); code != 200 || !strings.Contains(body, `"cells":["y",1,`) {
		t.Errorf("%d %s", code, body)
	}
	f.expect(inA, "x@3 y@11 rv=11")
}

func TestYAMLIsThatOfTheJSON(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3), object("a", "y", 4, "l", "multi\nline: 'x'"),
		object("a", "z", 5, "l", "line breaks of YAML\n\nand of Unicode\u2028b: c\n\u2029")))
	f.record(f.query(everywhere), listOf(2))
	for _, path := range []string{inA, everywhere, inA + "?limit=1", inA + "/x", inA + "/z"} {
		_, text := f.ask(f.queryAs("app", "me", path, "application/json"))
		want, err := yaml.JSONToYAML([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, got := f.ask(f.queryAs("app", "me", path, "application/yaml")); got != string(want) {
			t.Errorf("%s in YAML:\n%s\nwant:\n%s", path, got, want)
		}
	}
}

// TestARestoredClusterIsBelievedWhicheverViewTellsOfIt: what other views hold is of a
// state that is no more, though its versions are higher.
func TestARestoredClusterIsBelievedWhicheverViewTellsOfIt(t *testing.T) {
	for name, check := range map[string]func(f *fixture){
		"the list of a namespace": func(f *fixture) {
			f.record(f.query(everywhere), listOf(1000, object("a", "gone", 900), object("a", "x", 950)))
			f.record(f.query(inA), listOf(1001, object("a", "gone", 900), object("a", "x", 950)))
			f.record(f.query(inA), listOf(600, object("a", "x", 500)))
			f.expect(inA, "x@500 rv=600")
			f.expect(everywhere, "503")
		},
		"a list without an object": func(f *fixture) {
			f.record(f.query(oneInA), single("a", "x", 900))
			f.record(f.query(inA), listOf(1001, object("a", "x", 900)))
			f.record(f.query(inA), listOf(600, object("a", "y", 500)))
			if code, body := f.ask(f.query(oneInA)); code != http.StatusNotFound {
				f.Errorf("%d %s", code, body)
			}
		},
		"a list with an object that was not found": func(f *fixture) {
			f.record(f.query(inA), listOf(1000, object("a", "x", 900)))
			f.refuse(f.query(oneInA), http.StatusNotFound)
			f.record(f.query(inA), listOf(600))
			s := f.stream(f.query(inA + follow + "600"))
			s.send(eventOf("ADDED", object("a", "x", 650)))
			s.end()
			f.expect(inA, "x@650 rv=650")
			if code, body := f.ask(f.query(oneInA)); code != http.StatusOK {
				f.Errorf("%d %s", code, body)
			}
		},
		"an object": func(f *fixture) {
			f.record(f.query(oneInA), single("a", "x", 900))
			f.record(f.query(inA), listOf(1001, object("a", "x", 900)))
			f.record(f.query(oneInA), single("a", "x", 500))
			if _, body := f.ask(f.query(oneInA)); !strings.Contains(body, `"resourceVersion":"500"`) {
				f.Error(body)
			}
		},
		"and what was read since is kept": func(f *fixture) {
			f.record(f.query(inA), listOf(1001, object("a", "x", 900)))
			f.record(f.query(everywhere), listOf(599, object("a", "x", 500)))
			f.record(f.query(inA), listOf(600, object("a", "x", 500)))
			f.expect(everywhere, "x@500 rv=599")
		},
	} {
		t.Run(name, func(t *testing.T) { check(newFixture(t)) })
	}
}

// TestTheSameVersionShownOtherwiseIsRecorded: a new default in the definition of a custom
// resource changes how its objects are shown, and not their versions.
func TestTheSameVersionShownOtherwiseIsRecorded(t *testing.T) {
	const oxen = "/apis/x.io/v1/namespaces/a/oxen"
	ox := func(spec string) string {
		return `{"apiVersion":"x.io/v1","kind":"Ox","metadata":{"name":"x","namespace":"a","resourceVersion":"5"},"spec":` + spec + `}`
	}
	list := func(version, spec string) string {
		return `{"apiVersion":"x.io/v1","items":[` + ox(spec) + `],"kind":"OxList","metadata":{"continue":"","resourceVersion":"` + version + `"}}`
	}
	t.Run("object", func(t *testing.T) {
		f := newFixture(t)
		f.record(f.query(oxen+"/x"), ox(`{}`))
		f.record(f.query(oxen+"/x"), ox(`{"size":7}`))
		if _, body := f.ask(f.query(oxen + "/x")); !strings.Contains(body, `"size":7`) {
			t.Error(body)
		}
	})
	t.Run("list", func(t *testing.T) {
		f := newFixture(t)
		f.record(f.query(oxen), list("10", `{}`))
		s := f.stream(f.query(oxen + follow + "10"))
		s.send(`{"type":"BOOKMARK","object":{"kind":"Ox","apiVersion":"x.io/v1","metadata":{"resourceVersion":"20"}}}`)
		s.end()
		f.record(f.query(oxen), list("20", `{"size":7}`))
		if _, body := f.ask(f.query(oxen)); !strings.Contains(body, `"size":7`) {
			t.Error(body)
		}
	})
}

// TestItemsWithoutNamesAreNotCached: nothing tells one from another.
func TestItemsWithoutNamesAreNotCached(t *testing.T) {
	f := newFixture(t)
	q := f.query("/apis/external.metrics.k8s.io/v1beta1/namespaces/a/queue_length")
	metric := func(queue string) string {
		return `{"metricName":"q","metricLabels":{"q":"` + queue + `"},"timestamp":"2026-01-01T00:00:00Z","value":"1"}`
	}
	f.record(q, `{"kind":"ExternalMetricValueList","apiVersion":"external.metrics.k8s.io/v1beta1","metadata":{},"items":[`+metric("a")+","+metric("b")+`]}`)
	if code, body := f.ask(q); code != http.StatusServiceUnavailable {
		t.Errorf("%d %s", code, body)
	}
}

// TestAPathThatKubeAPIServerDoesNotKnowIsNoResources: as of a program that puts a slash
// too many behind the server's address.
func TestAPathThatKubeAPIServerDoesNotKnowIsNoResources(t *testing.T) {
	for path, want := range map[string]bool{inA: true, inA + "/": true, "/" + inA: false, "/" + oneInA: false, "/" + inA + "?watch=1": false, "//version": false} {
		r := httptest.NewRequest(http.MethodGet, "https://hub"+path, nil)
		info, err := infos.NewRequestInfo(r)
		if err != nil {
			t.Fatal(err)
		}
		if q, ok := NewQuery(r, info, "app", "me"); ok != want {
			t.Errorf("%s is a query: %v, %+v", path, ok, q.Key)
		}
	}
}
