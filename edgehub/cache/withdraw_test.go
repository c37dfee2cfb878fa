package cache

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
)

const (
	asMetadata     = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	asMetadataList = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"

	inB       = "/api/v1/namespaces/b/configmaps"
	oneInA    = inA + "/x"
	labelsInA = inA + "?labelSelector=tier=front"
	watchList = "?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
)

// nameInA lists one object of namespace a.
func nameInA(name string) string { return inA + "?fieldSelector=metadata.name%3D" + name }

// tableOfX is what kube-apiserver prints of the object x.
func tableOfX(version string) string {
	return `{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"` + version + `"},` +
		`"columnDefinitions":[{"name":"Name","type":"string","format":"name","description":"","priority":0}],` +
		`"rows":[{"cells":["x"],"object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"x","namespace":"a","resourceVersion":"3"}}}]}` + "\n"
}

func metadataOfX(version int) string {
	return `{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1",` + object("a", "x", version)[1:]
}

// asks is a read, and what it is answered with offline.
type asks struct {
	agent, path, accept string
	code                int
}

func (f *fixture) asking(agent, path, accept string) Query {
	if agent == "" {
		agent = "app"
	}
	return f.queryAs(agent, "me", path, accept)
}

func TestRefusalReachesAllThatHoldsTheSame(t *testing.T) {
	x := object("a", "x", 3, "tier", "front")
	whole := `{"kind":"ConfigMap","apiVersion":"v1",` + x[1:]
	type recorded struct{ agent, path, accept, body string }
	all := []recorded{
		{path: everywhere, body: listOf(10, x, object("b", "x", 4))},
		{path: inA, body: listOf(10, x)},
		{path: labelsInA, body: listOf(10, x)},
		{path: inB, body: listOf(10, object("b", "x", 4))},
		{path: oneInA, body: whole},
		{path: oneInA, accept: asMetadata, body: metadataOfX(3)},
		{path: inA, accept: asTable, body: tableOfX("10")},
		{agent: "other", path: inA, body: listOf(10, x)},
	}
	named := []recorded{
		{path: nameInA("x"), body: listOf(10, x)},
		{path: nameInA("y"), body: listOf(10, object("a", "y", 4))},
		{path: inA + "/y", body: single("a", "y", 4)},
	}
	for name, c := range map[string]struct {
		recorded []recorded // all if nil
		watched  bool       // inA, besides
		path     string
		accept   string
		code     int
		want     []asks
	}{
		"list": {path: inA, code: 403, want: []asks{
			{"", inA, "", 503}, {"", inA, asMetadataList, 503}, {"", inA, asTable, 503}, {"", labelsInA, "", 503}, {"", inA + watchList, "", 503},
			{"", oneInA, "", 503}, {"", oneInA, asMetadata, 503}, {"", everywhere, "", 503}, {"other", inA, "", 503}, {"", inB, "", 200},
		}},
		"list by label":         {path: labelsInA, code: 403, want: []asks{{"", inA, "", 503}, {"", labelsInA, "", 503}, {"", everywhere, "", 503}, {"", inB, "", 200}}},
		"list with bad options": {path: inA + "?limit=x", code: 403, want: []asks{{"", inA, "", 503}, {"", oneInA, "", 503}, {"", inB, "", 200}}},
		"list of metadata":      {path: inA, accept: asMetadataList, code: 403, want: []asks{{"", inA, "", 503}, {"", inA, asMetadataList, 503}, {"", inB, "", 200}}},
		"table":                 {path: inA, accept: asTable, code: 403, want: []asks{{"", inA, asTable, 503}, {"", inA, "", 503}, {"", inB, "", 200}}},
		"watch":                 {watched: true, path: inA + watchList, code: 403, want: []asks{{"", inA + watchList, "", 503}, {"", inA, "", 503}, {"", oneInA, "", 503}, {"", inB, "", 200}}},
		"watch that was never granted": {path: inA + watchList, code: 403, want: []asks{
			{"", inA + watchList, "", 200}, {"", inA, "", 200}, {"", everywhere, "", 200}, {"", oneInA, "", 200}, {"", inB, "", 200},
		}},
		"list of one": {recorded: append(all[4:5:5], named...), path: nameInA("x"), code: 403, want: []asks{
			{"", nameInA("x"), "", 503}, {"", nameInA("x") + "&labelSelector=tier=front", "", 503}, {"", oneInA, "", 503},
			{"", nameInA("y"), "", 200}, {"", inA + "/y", "", 200},
		}},
		"list of one, and all were granted": {recorded: append(all[1:5:5], named[:2]...), path: nameInA("x"), code: 403, want: []asks{
			{"", inA, "", 503}, {"", labelsInA, "", 503}, {"", oneInA, "", 503}, {"", nameInA("x"), "", 503}, {"", nameInA("y"), "", 503}, {"", inB, "", 200},
		}},
		"list of one that was never granted": {recorded: append(all[4:5:5], named[1:]...), path: nameInA("z"), code: 403, want: []asks{
			{"", oneInA, "", 200}, {"", nameInA("y"), "", 200}, {"", inA + "/y", "", 200},
		}},
		"list of all names that was never granted": {recorded: append(all[4:5:5], named...), path: inA, code: 403, want: []asks{
			{"", inA, "", 503}, {"", oneInA, "", 200}, {"", nameInA("x"), "", 200}, {"", nameInA("y"), "", 200},
		}},
		"list of all namespaces": {path: everywhere, code: 403, want: []asks{
			{"", everywhere, "", 503}, {"", inA, "", 503}, {"", inB, "", 503}, {"", oneInA, "", 503}, {"other", inA, "", 200},
		}},
		"list of all namespaces that was never granted": {recorded: all[1:], path: everywhere, code: 403, want: []asks{
			{"", everywhere, "", 503}, {"", inA, "", 200}, {"", inB, "", 200}, {"", oneInA, "", 200},
		}},
		"list that was never granted": {recorded: all[4:6], path: inA, code: 403, want: []asks{{"", inA, "", 503}, {"", oneInA, "", 200}}},
		"get": {path: oneInA, code: 403, want: []asks{
			{"", oneInA, "", 403}, {"", oneInA, asMetadata, 403}, {"", oneInA, asTable, 403}, {"other", oneInA, "", 403},
			{"", inA, "", 200}, {"", inB + "/x", "", 200}, {"", everywhere, "", 200},
		}},
		"get that no list shows": {recorded: all[4:6], path: oneInA, code: 403, want: []asks{{"", oneInA, "", 503}, {"", oneInA, asMetadata, 503}}},
		"get that a table shows": {recorded: all[6:7], path: oneInA, code: 403, want: []asks{{"", oneInA, asTable, 403}, {"", inA, asTable, 200}}},
		"get of metadata":        {path: oneInA, accept: asMetadata, code: 403, want: []asks{{"", oneInA, "", 403}, {"", oneInA, asMetadata, 403}, {"", inA, "", 200}}},
		"gone": {path: oneInA, code: 404, want: []asks{
			{"", oneInA, "", 404}, {"", oneInA, asMetadata, 404}, {"", oneInA, asTable, 404}, {"other", oneInA, "", 404},
			{"", inA, "", 200}, {"", inB + "/x", "", 200},
		}},
		"gone that a table shows": {recorded: all[6:7], path: oneInA, code: 404, want: []asks{{"", oneInA, asTable, 404}}},
		"list of a resource that is gone": {path: inA, code: 404, want: []asks{
			{"", inA, "", 503}, {"", inB, "", 503}, {"", everywhere, "", 503}, {"", oneInA, "", 503}, {"other", inA, "", 503},
		}},
		"unavailable":        {path: inA, code: 503, want: []asks{{"", inA, "", 200}, {"", oneInA, "", 200}}},
		"credential refused": {path: oneInA, code: 401, want: []asks{{"", oneInA, "", 200}}}, // the identity's matter
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, "app", "other")
			if c.recorded == nil {
				c.recorded = all
			}
			for _, r := range c.recorded {
				f.record(f.asking(r.agent, r.path, r.accept), r.body)
				if code, body := f.ask(f.asking(r.agent, r.path, r.accept)); code != http.StatusOK {
					t.Fatalf("before: %+v is %d %s", r, code, body)
				}
			}
			if c.watched {
				watch := f.stream(f.query(inA + follow + "10"))
				watch.end()
			}
			f.refuse(f.asking("", c.path, c.accept), c.code)
			for range 2 {
				for _, want := range c.want {
					if code, body := f.ask(f.asking(want.agent, want.path, want.accept)); code != want.code {
						t.Errorf("%+v: %d %s", want, code, body)
					}
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
				f.open("app", "other")
			}
		})
	}
}

// TestRefusalReachesWhatOnlyTheDiskKnows, as after a restart.
func TestRefusalReachesWhatOnlyTheDiskKnows(t *testing.T) {
	f := newFixture(t, "app", "other")
	f.record(f.asking("", everywhere, ""), listOf(10, object("a", "x", 3)))
	f.record(f.asking("other", inA, ""), listOf(10, object("a", "x", 3)))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f.open("app", "other")
	f.refuse(f.query(inA), http.StatusForbidden)
	f.expect(inA, "503")
	if code, _ := f.ask(f.asking("other", inA, "")); code != http.StatusServiceUnavailable {
		t.Errorf("%d under another agent", code)
	}
}

func TestRefusalOfAnObjectEnds(t *testing.T) {
	for name, c := range map[string]struct {
		code int
		path string // of what is recorded after the refusal
		as   string
		body string
		want int
	}{
		"forbidden, read":                   {403, oneInA, "", single("a", "x", 3), 200},
		"forbidden, an old state read":      {403, oneInA + "?resourceVersion=0", "", single("a", "x", 3), 200},
		"forbidden, its metadata read":      {403, oneInA, asMetadata, metadataOfX(3), 200},
		"forbidden, printed":                {403, oneInA, asTable, tableOfX("3"), 200},
		"forbidden, listed":                 {403, inA, "", listOf(20, object("a", "x", 15)), 403},
		"gone, read":                        {404, oneInA, "", single("a", "x", 15), 200},
		"gone, read as of the list":         {404, oneInA, "", single("a", "x", 10), 200},
		"gone, its metadata read":           {404, oneInA, asMetadata, metadataOfX(15), 200},
		"gone, an old state read":           {404, oneInA + "?resourceVersion=0", "", single("a", "x", 3), 404},
		"gone, its old metadata read":       {404, oneInA + "?resourceVersion=0", asMetadata, metadataOfX(3), 404},
		"gone, listed as before":            {404, inA, "", listOf(12, object("a", "x", 3)), 404},
		"gone, listed anew":                 {404, inA, "", listOf(20, object("a", "x", 15)), 200},
		"gone, listed without":              {404, inA, "", listOf(20), 404},
		"gone, listed anew by its metadata": {404, inA, asMetadataList, strings.Replace(listOf(20, object("a", "x", 15)), `"ConfigMapList","apiVersion":"v1"`, `"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1"`, 1), 404},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.record(f.query(inA), listOf(10, object("a", "x", 3)))
			f.refuse(f.query(oneInA), c.code)
			if code, body := f.ask(f.query(oneInA)); code != c.code {
				t.Fatalf("refused: %d %s", code, body)
			}
			f.record(f.asking("", c.path, c.as), c.body)
			f.recordings.Wait()
			for range 2 {
				if code, body := f.ask(f.query(oneInA)); code != c.want {
					t.Errorf("%d %s, want %d", code, body, c.want)
				}
				f.restart()
			}
		})
	}
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	s := f.stream(f.query(inA + follow + "10"))
	if err := f.withdrawObject(f.query(oneInA), http.StatusNotFound, f.Asked()); err != nil {
		t.Fatal(err)
	}
	if code, _ := f.ask(f.query(oneInA)); code != http.StatusNotFound {
		t.Errorf("gone while it is watched: %d", code)
	}
	s.send(eventOf("DELETED", object("a", "x", 11)), eventOf("ADDED", object("a", "x", 12)))
	s.end()
	if code, body := f.ask(f.query(oneInA)); code != http.StatusOK || !strings.Contains(body, `"at":"12"`) {
		t.Errorf("watched anew: %d %s", code, body)
	}
}

// TestAListAskedForBeforeARefusalDoesNotUndoIt, however late it ends.
func TestAListAskedForBeforeARefusalDoesNotUndoIt(t *testing.T) {
	f := newFixture(t)
	r, w := io.Pipe()
	rc := f.Record(f.query(inA), answerOf(http.StatusOK, r))
	done := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, rc)
		done <- errors.Join(err, rc.Close())
	}()
	body := listOf(10, object("a", "x", 3))
	_, _ = io.WriteString(w, body[:20])
	if err := f.withdrawLists(f.query(inA), f.Asked()); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(w, body[20:])
	w.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f.recordings.Wait()
	f.expect(inA, "503")
	f.record(f.query(inA), body)
	f.expect(inA, "x@3 rv=10")
}

// TestWhatWasGrantedBeforeARefusalIsNotCached, be it the first that is read of a resource.
func TestWhatWasGrantedBeforeARefusalIsNotCached(t *testing.T) {
	const gone = "/apis/g/v1/namespaces/a/gone"
	f := newFixture(t)
	asked := f.Asked()
	f.refuse(f.query(inA), http.StatusForbidden)
	f.refuse(f.query(inB+"/x"), http.StatusForbidden)
	for i := range maxAbsent - 1 {
		f.refuse(f.query(fmt.Sprintf("/apis/g/v1/madeup%d", i)), http.StatusForbidden)
	}
	f.recordLate(f.query(inA), listOf(10, object("a", "x", 3)), asked)
	f.recordLate(f.query(inB+"/x"), single("b", "x", 3), asked)
	f.recordLate(f.query(inB+"/y"), single("b", "y", 3), asked)
	f.record(f.query(gone+"/x"), single("a", "x", 3))
	late := f.Asked()
	f.refuse(f.query(gone), http.StatusNotFound) // all of the resource
	f.recordLate(f.query(gone+"/y"), single("a", "y", 3), late)
	for path, want := range map[string]int{inA: 503, inB + "/x": 503, inB + "/y": 200, gone + "/x": 503, gone + "/y": 503} {
		if code, body := f.ask(f.query(path)); code != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	f.refuse(f.query("/apis/g/v1/onemore"), http.StatusForbidden)
	f.refuse(f.query("/apis/g/v1/onemore/x"), http.StatusForbidden)
	if n := len(f.absent); n > maxAbsent {
		t.Errorf("%d are remembered", n)
	}
}

// TestARefusalOfALongNameIsRememberedWithoutIt, be it of a resource that there is, for
// then it may be an object's.
func TestARefusalOfALongNameIsRememberedWithoutIt(t *testing.T) {
	f := newFixture(t)
	long := strings.Repeat("x", 10*maxAbsentName)
	f.record(f.query(inB+"/x"), single("b", "x", 3))
	asked := f.Asked()
	for _, path := range []string{inA + "/" + long, "/apis/g/v1/namespaces/" + long + "/madeup", "/apis/g/v1/" + long} {
		f.refuse(f.query(path), http.StatusForbidden)
	}
	bytes := 0
	for d, r := range f.absent {
		bytes += len(d.resource)
		for scope := range r.scopes {
			bytes += len(scope.namespace) + len(scope.name)
		}
	}
	for scope := range f.dirs[f.query(inA).Key.directory()].refused.scopes {
		bytes += len(scope.namespace) + len(scope.name)
	}
	if bytes > maxAbsentName {
		t.Errorf("%d bytes are remembered", bytes)
	}
	f.recordLate(f.query(inA+"/"+long), single("a", long, 3), asked)
	if code, body := f.ask(f.query(inA + "/" + long)); code != http.StatusServiceUnavailable {
		t.Errorf("%d %s", code, body)
	}
}

// TestWhatIsGrantedAfterARefusalIsKept, be it what was cached before.
func TestWhatIsGrantedAfterARefusalIsKept(t *testing.T) {
	const version = "/version"
	f := newFixture(t)
	document := f.queryAs("app", "me", version, "application/json")
	tagged := func(code int) {
		resp := answerOf(code, strings.NewReader(`{}`))
		resp.Header.Set("ETag", "tag")
		rc := f.Record(document, resp)
		_, _ = io.Copy(io.Discard, rc)
		rc.Close()
		f.recordings.Wait()
	}
	again := func() {
		for range 2 { // is recorded, and then is known without
			f.deliver(f.query(oneInA), strings.NewReader(single("a", "x", 3)))
			f.record(f.query(inB), listOf(10))
		}
	}
	again()
	tagged(http.StatusOK)
	refused := f.Asked()
	again()
	tagged(http.StatusNotModified)
	err := errors.Join(
		f.withdrawObject(f.query(oneInA), http.StatusForbidden, refused),
		f.withdrawLists(f.query(inB), refused),
		f.withdrawDocument(document.Key, refused))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []Query{f.query(oneInA), f.query(inB), document} {
		if code, body := f.ask(q); code != http.StatusOK {
			t.Errorf("%+v: %d %s", q.Key, code, body)
		}
	}
}

// TestARefusalThatCanNotBeWrittenTakesTheListsWithIt, and one that can be outlasts
// a crash a second later.
func TestARefusalThatCanNotBeWrittenTakesTheListsWithIt(t *testing.T) {
	for _, full := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			h, expect := crashFixture(t)
			defer h.stop()
			h.record(h.query(inA), listOf(10, object("a", "x", 3)))
			h.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
				if full && op.Kind == journaltest.Write {
					return &journaltest.Fault{Err: syscall.ENOSPC}
				}
				return nil
			})
			h.refuse(h.query(oneInA), http.StatusForbidden)
			want := http.StatusForbidden
			if full {
				want = http.StatusServiceUnavailable
				expect("503")
			}
			if code, body := h.ask(h.query(oneInA)); code != want {
				t.Errorf("full %v: %d %s, want %d", full, code, body, want)
			}
			if full {
				return
			}
			time.Sleep(syncInterval)
			synctest.Wait()
			h.Store = h.start(h.disk.Crash(h.disk.Len(), h.rng))
			if code, body := h.ask(h.query(oneInA)); code != want {
				t.Errorf("after a crash: %d %s, want %d", code, body, want)
			}
			h.expect(inA, "x@3 rv=10")
		})
	}
}

// TestA403ByNameLeavesTheOtherObjectsOfTheNamespace: the kubelet, which lists Secrets and
// ConfigMaps by name, is refused those of a Pod that the node authorizer has yet to hear
// of, and does not list the others again.
func TestA403ByNameLeavesTheOtherObjectsOfTheNamespace(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(nameInA("a")), listOf(10, object("a", "a", 3)))
	f.record(f.query(inA+"/c"), single("a", "c", 4))
	asked := f.Asked()
	f.refuse(f.query(nameInA("b")), http.StatusForbidden)
	f.recordLate(f.query(nameInA("d")), listOf(11, object("a", "d", 6)), asked)
	f.recordLate(f.query(nameInA("b")), listOf(11, object("a", "b", 6)), asked)
	f.expect(nameInA("b"), "503")
	watch := f.stream(f.query(nameInA("a") + "&watch=true&resourceVersion=10"))
	f.refused(f.query(nameInA("b")+"&watch=true&resourceVersion=10"), http.StatusForbidden)
	f.withdrawals.settle(f.Context(), "me")
	f.record(f.query(nameInA("b")), listOf(12, object("a", "b", 5)))
	watch.send(eventOf("MODIFIED", object("a", "a", 14)))
	watch.end()
	f.expect(nameInA("a"), "a@14 rv=14")
	f.expect(nameInA("b"), "b@5 rv=12")
	f.expect(nameInA("d"), "d@6 rv=11")
	if code, body := f.ask(f.query(inA + "/c")); code != http.StatusOK {
		t.Errorf("%d %s", code, body)
	}
}

// TestWhoMayListAndNotWatchIsCached: RBAC grants verbs one by one.
func TestWhoMayListAndNotWatchIsCached(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3), object("a", "y", 4)))
	f.record(f.query(inA+"/y"), single("a", "y", 4))
	for range 2 { // a reflector's loop
		f.refuse(f.query(inA+watchList), http.StatusForbidden)
		f.record(f.query(inA), listOf(10, object("a", "x", 3), object("a", "y", 4)))
		f.refuse(f.query(inA+follow+"10"), http.StatusForbidden)
		f.expect(inA, "x@3 y@4 rv=10")
		if code, body := f.ask(f.query(inA + "/y")); code != http.StatusOK {
			t.Errorf("%d %s", code, body)
		}
	}
	f.stream(f.query(inA + follow + "10")).end()
	f.refuse(f.query(inA+follow+"10"), http.StatusForbidden)
	f.expect(inA, "503") // the right to watch was taken away
	f.record(f.query(inA), listOf(11, object("a", "x", 3)))
	f.refuse(f.query(inA+follow+"11"), http.StatusForbidden)
	f.expect(inA, "x@3 rv=11")

	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f.open("app")
	f.refuse(f.query(inA+follow+"11"), http.StatusForbidden)
	f.expect(inA, "503") // nobody knows by what right it was read
}

// TestInitialEventsThatWereRefusedSinceAreNotCached, not even where lists are.
func TestInitialEventsThatWereRefusedSinceAreNotCached(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	asked := f.Asked()
	f.refuse(f.query(inA+watchList), http.StatusForbidden)
	f.recordLate(f.query(inA+watchList), eventOf("ADDED", object("a", "y", 11))+"\n"+bookmarkOf(12, true)+"\n", asked)
	f.expect(inA, "x@3 rv=10")
}
