package cache

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
	"github.com/edgehub-io/edge-hub/edgehub/status"
)

// decodeCBOR gives CBOR the types that JSON has.
func decodeCBOR(t *testing.T, body string) (tree any) {
	t.Helper()
	var v any
	if err := cbor.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%v: %q", err, body)
	}
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &tree)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestCBORIsThatOfTheJSON(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3, "l", "w"), object("a", "y", 4, "l", "v")))
	oxen := "/apis/farm.example.com/v1/namespaces/a/oxen"
	f.record(f.query(oxen), `{"apiVersion":"farm.example.com/v1","items":[{"apiVersion":"farm.example.com/v1","kind":"Ox","metadata":{"name":"x","namespace":"a","resourceVersion":"3"},"spec":{"weight":5,"half":0.5}}],"kind":"OxList","metadata":{"continue":"","resourceVersion":"5"}}`)
	partial := ";as=PartialObjectMetadataList" + metaV1
	for _, path := range []string{inA, inA + "?limit=1", inA + "?labelSelector=none", inA + "/x", oxen, oxen + "/x"} {
		for _, as := range []string{"", partial} {
			if as != "" && strings.HasSuffix(path, "/x") {
				continue
			}
			_, text := f.ask(f.queryAs("app", "me", path, "application/json"+as))
			var want any
			if err := json.Unmarshal([]byte(text), &want); err != nil {
				t.Fatal(err)
			}
			_, body := f.ask(f.queryAs("app", "me", path, "application/cbor"+as))
			if !strings.HasPrefix(body, "\xd9\xd9\xf7") {
				t.Fatalf("%s is not CBOR: %q", path, body)
			}
			if got := decodeCBOR(t, body); !reflect.DeepEqual(got, want) {
				t.Errorf("%s in CBOR:\n%v\nwant:\n%v", path, got, want)
			}
		}
	}
}

func TestPartialMetadataOfEitherVersionIsAnsweredInProtobuf(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	for _, version := range []string{"v1", "v1beta1"} {
		for path, as := range map[string]string{inA: "List", inA + "/x": ""} {
			code, body := f.ask(f.queryAs("app", "me", path, typeProtobuf+";as=PartialObjectMetadata"+as+";g=meta.k8s.io;v="+version))
			if code != http.StatusOK || !strings.Contains(body, "meta.k8s.io/"+version+"\x12") {
				t.Errorf("%s of %s: %d %q", path, version, code, body)
			}
		}
	}
}

// What the server behind an APIService answers in protobuf can be written in nothing
// else, so that it is not taken for cached.
func TestProtobufOfAnotherServerIsNotCached(t *testing.T) {
	f := newFixture(t)
	q := f.queryAs("app", "me", "/apis/metrics.k8s.io/v1beta1/namespaces/a/pods", typeProtobuf+","+typeJSON)
	meta := capture.ListMeta{Kind: "PodMetricsList", APIVersion: "metrics.k8s.io/v1beta1", ResourceVersion: "7"}
	item, err := (&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "x"}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	body, err := capture.AppendListHead(nil, capture.Protobuf, meta, capture.ListItemSize(len(item)))
	if err == nil {
		body, err = capture.AppendListItem(body, capture.Protobuf, item, true)
	}
	if err == nil {
		body, err = capture.AppendListTail(body, capture.Protobuf, meta)
	}
	if err != nil {
		t.Fatal(err)
	}
	resp := answerOf(http.StatusOK, bytes.NewReader(body))
	resp.Header.Set("Content-Type", typeProtobuf)
	rc := f.Record(q, resp)
	if got, err := io.ReadAll(rc); err != nil || !bytes.Equal(got, body) {
		t.Errorf("client got %q, %v", got, err)
	}
	rc.Close()
	f.settle(q)
	if code, answer := f.ask(q); code != http.StatusServiceUnavailable {
		t.Errorf("%d %q", code, answer)
	}
}

func TestErrorsAreInTheTypeThatIsAccepted(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10))
	for _, accept := range []string{"", typeJSON, typeYAML, typeCBOR, typeProtobuf, asTable} {
		q := f.queryAs("app", "me", inA+"/nobody", accept)
		err := f.Answer(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), q, reachable{})
		w := httptest.NewRecorder()
		status.Write(w, err)
		want := accept
		if accept == "" || accept == asTable {
			want = typeJSON
		}
		if got := w.Header().Get("Content-Type"); w.Code != http.StatusNotFound || got != want || !strings.Contains(w.Body.String(), "NotFound") {
			t.Errorf("%q: %d %s %q", accept, w.Code, got, w.Body)
		}
	}
}

// A Table that was printed answers narrower requests when nothing but Tables was
// ever asked for.
func TestAPrintedTableAnswersNarrowerRequests(t *testing.T) {
	row := func(namespace, name string, version int, label string) string {
		return fmt.Sprintf(`{"cells":[%q,1],"object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":%q,"namespace":%q,"resourceVersion":"%d","labels":{"l":%q}}}}`, name, name, namespace, version, label)
	}
	printed := func(rows ...string) string {
		return `{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"20"},"columnDefinitions":[{"name":"Name","type":"string","format":"name","description":"","priority":0},{"name":"Data","type":"integer","format":"","description":"","priority":0}],"rows":[` + strings.Join(rows, ",") + "]}\n"
	}
	f := newFixture(t)
	f.record(f.queryAs("app", "me", everywhere+"?limit=500", asTable),
		printed(row("a", "x", 3, "v"), row("a", "y", 4, "w"), row("a", "z", 5, "v"), row("b", "x", 6, "v")))
	names := func(path, accept string) string {
		code, body := f.ask(f.queryAs("app", "me", path, accept))
		if code != 200 {
			return fmt.Sprint(code)
		}
		var table metav1.Table
		if err := json.Unmarshal([]byte(body), &table); err != nil || table.Kind != "Table" || len(table.ColumnDefinitions) != 2 {
			t.Fatalf("%s: %v %s", path, err, body)
		}
		out := "rv=" + table.ResourceVersion
		for _, r := range table.Rows {
			out += fmt.Sprint(" ", r.Cells[0])
		}
		if table.RemainingItemCount != nil {
			out += fmt.Sprintf(" +%d", *table.RemainingItemCount)
		}
		return out
	}
	for path, want := range map[string]string{
		everywhere:                             "rv=20 x y z x",
		inA:                                    "rv=20 x y z",
		inA + "?labelSelector=l=v":             "rv=20 x z",
		inA + "?fieldSelector=metadata.name=y": "rv=20 y",
		inA + "?limit=2":                       "rv=20 x y +1",
		inA + "?includeObject=None":            "rv=20 x y z",
		inA + "?includeObject=Object":          "503",
		inA + "?resourceVersion=21":            "504",
		inA + "/y":                             "rv=4 y",
		inA + "/y?resourceVersion=4":           "rv=4 y",
		inA + "/y?resourceVersion=21":          "504",
		inA + "/nobody":                        "404",
		"/api/v1/namespaces/b/configmaps":      "rv=20 x",
		"/api/v1/namespaces/c/configmaps":      "rv=20",
	} {
		if got := names(path, asTable); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	if code, _ := f.ask(f.query(inA)); code != 503 {
		t.Errorf("rows are answered as objects: %d", code)
	}
	if code, _ := f.ask(f.queryAs("app", "other", inA, asTable)); code != 503 {
		t.Errorf("another identity is answered: %d", code)
	}
	_, yamlText := f.ask(f.queryAs("app", "me", inA, "application/yaml;as=Table"+metaV1))
	if !strings.HasPrefix(yamlText, "apiVersion: meta.k8s.io/v1\ncolumnDefinitions:\n- ") || !strings.Contains(yamlText, "\n- cells:\n  - z\n") {
		t.Errorf("in YAML: %s", yamlText)
	}
}

// TestANewerTableIsBetterThanTheSame: kubectl get cm NAME was a while ago, kubectl get cm
// is not.
func TestANewerTableIsBetterThanTheSame(t *testing.T) {
	printed := func(version int, rows ...string) string {
		return fmt.Sprintf(`{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"%d"},"columnDefinitions":[{"name":"Name","type":"string","format":"name","description":"","priority":0},{"name":"Data","type":"integer","format":"","description":"","priority":0}],"rows":[%s]}`+"\n", version, strings.Join(rows, ","))
	}
	row := func(name string, version int, label string) string {
		return fmt.Sprintf(`{"cells":[%q,%d],"object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":%q,"namespace":"a","resourceVersion":"%d","labels":{"l":%q}}}}`, name, version, name, version, label)
	}
	for _, resource := range []string{inA, "/apis/farm.example.com/v1/namespaces/a/oxen"} {
		f := newFixture(t)
		fake := clocktesting.NewFakeClock(time.Now())
		f.clock = fake
		for path, table := range map[string]string{
			"/x": printed(3, row("x", 3, "v")), "/y": printed(4, row("y", 4, "v")),
			"?labelSelector=l%3Dv": printed(5, row("x", 3, "v"), row("y", 4, "v")),
		} {
			f.record(f.queryAs("app", "me", resource+path, asTable), table)
		}
		fake.Step(time.Minute)
		f.record(f.queryAs("app", "me", resource+"?limit=500", asTable), printed(20, row("x", 9, "v"), row("z", 10, "w")))
		for path, want := range map[string]string{"/x": `["x",9]`, "?labelSelector=l%3Dv": `["x",9]`, "/y": "404"} {
			code, body := f.ask(f.queryAs("app", "me", resource+path, asTable))
			if got := fmt.Sprint(code, body); !strings.Contains(got, want) || strings.Contains(got, `["y",4]`) {
				t.Errorf("%s%s is %s, want %s", resource, path, got, want)
			}
		}
		fake.Step(time.Minute)
		f.record(f.queryAs("app", "me", resource+"/y", asTable), printed(30, row("y", 30, "v")))
		if code, body := f.ask(f.queryAs("app", "me", resource+"/y", asTable)); code != http.StatusOK || !strings.Contains(body, `["y",30]`) {
			t.Errorf("the newest of %s is %d %s", resource, code, body)
		}
	}
}

// TestWhatIsGoneIsNotPrinted, unless it was printed since it was known to be gone.
func TestWhatIsGoneIsNotPrinted(t *testing.T) {
	printed := `{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"3"},"columnDefinitions":[],"rows":[{"cells":["x"],"object":{"metadata":{"name":"x","namespace":"a","resourceVersion":"3"}}}]}`
	const oxen = "/apis/farm.example.com/v1/namespaces/a/oxen"
	empty := map[string]string{
		inA:  listOf(10),
		oxen: `{"apiVersion":"farm.example.com/v1","items":[],"kind":"OxList","metadata":{"continue":"","resourceVersion":"10"}}`,
	}
	for resource, list := range empty {
		f := newFixture(t)
		fake := clocktesting.NewFakeClock(time.Now())
		f.clock = fake
		x := f.queryAs("app", "me", resource+"/x", asTable)
		f.record(x, printed)
		fake.Step(time.Minute)
		f.record(f.query(resource), list)
		fake.Step(time.Minute)
		if code, body := f.ask(x); code != http.StatusNotFound {
			t.Errorf("of %s what is gone is %d %s", resource, code, body)
		}
		f.record(x, printed)
		fake.Step(time.Minute)
		if code, body := f.ask(x); code != http.StatusOK || body != printed {
			t.Errorf("of %s what was made since is %d %s", resource, code, body)
		}
	}
}

func TestATableThatGoesOnIsNotTakenForAWholeOne(t *testing.T) {
	f := newFixture(t)
	f.record(f.queryAs("app", "me", everywhere+"?limit=1", asTable),
		`{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"20","continue":"abc"},"columnDefinitions":[],"rows":[{"cells":["x"],"object":{"metadata":{"name":"x","namespace":"a"}}}]}`)
	if code, body := f.ask(f.queryAs("app", "me", inA, asTable)); code != 503 {
		t.Errorf("%d %s", code, body)
	}
}

func (f *fixture) get(q Query, gzip bool) *httptest.ResponseRecorder {
	f.Helper()
	q.gzip = gzip
	w := httptest.NewRecorder()
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	if err := f.Answer(w, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx), q, reachable{}); err != nil {
		f.Fatal(err)
	}
	return w
}

func TestLongAnswersAreCompressed(t *testing.T) {
	f := newFixture(t)
	big := strings.Repeat("x", 50<<10)
	f.record(f.query(inA), listOf(10, object("a", "x", 3, "l", big), object("a", "y", 4, "l", big), object("a", "z", 4, "l", big)))
	for path, want := range map[string]string{inA: "gzip", inA + "?limit=2": "", inA + "/x": ""} {
		plain, short := f.get(f.query(path), false), f.get(f.query(path), true)
		if got := short.Header().Get("Content-Encoding"); got != want || (short.Header().Get("Vary") != "") != (want != "") {
			t.Errorf("%s is encoded as %q, want %q, Vary %q", path, got, want, short.Header().Get("Vary"))
		}
		var body io.Reader = short.Body
		if want != "" {
			z, err := gzip.NewReader(short.Body)
			if err != nil {
				t.Fatal(err)
			}
			body = z
		}
		if got, err := io.ReadAll(body); err != nil || string(got) != plain.Body.String() {
			t.Errorf("%s differs when it is compressed: %v, %d bytes, want %d", path, err, len(got), plain.Body.Len())
		}
	}
}

// A compressed watch can be read up to every flush, by those too who read
// members one after the other.
func TestACompressedWatchListIsReadAsItComes(t *testing.T) {
	r, w := io.Pipe()
	m := &memberWriter{ResponseWriter: &pipeResponse{httptest.NewRecorder(), w}}
	parts := []string{"a\n", strings.Repeat("b", 100<<10), "c\n"}
	read := make(chan struct{}, len(parts))
	go func() {
		m.WriteHeader(http.StatusOK)
		for _, part := range parts {
			_, _ = io.WriteString(m, part)
			_ = m.FlushError()
			<-read // nothing follows before this is read
		}
		w.Close()
	}()
	z, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range parts {
		b := make([]byte, len(part))
		if _, err := io.ReadFull(z, b); err != nil || string(b) != part {
			t.Fatalf("%v, %d bytes", err, len(b))
		}
		read <- struct{}{}
	}
	if n, err := z.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d %v", n, err)
	}
}

// pipeResponse is a response whose body is read as it is written.
type pipeResponse struct {
	*httptest.ResponseRecorder
	body io.Writer
}

func (p *pipeResponse) Write(b []byte) (int, error) { return p.body.Write(b) }

// A watch from a version that the view has not reached waits as kube-apiserver
// does, and is then told.
func TestAWatchFromTheFutureIsToldSo(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	fake := clocktesting.NewFakeClock(time.Now())
	f.clock = fake
	q := f.query(inA + "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=99")
	w := httptest.NewRecorder()
	done := make(chan error, 1)
	go func() { done <- f.Answer(w, httptest.NewRequest(http.MethodGet, "/", nil), q, unreachable{}) }()
	for !fake.HasWaiters() {
		runtime.Gosched()
	}
	fake.Step(versionPatience)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if body := w.Body.String(); strings.Count(body, "\n") != 1 || !strings.Contains(body, `"type":"ERROR"`) || !strings.Contains(body, "Too large resource version: 99, current: 10") {
		t.Errorf("%s", body)
	}
}

// unreachable is a cloud that stays away.
type unreachable struct{}

func (unreachable) AwaitUp(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestAWatchFromNoVersionEndsItsInitialEvents(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	for _, params := range []string{"", "&resourceVersion=0"} {
		_, body := f.ask(f.query(inA + "?watch=1&allowWatchBookmarks=true" + params))
		if !strings.Contains(body, `"type":"BOOKMARK"`) || !strings.Contains(body, metav1.InitialEventsAnnotationKey) {
			t.Errorf("%q: %s", params, body)
		}
	}
}

// TestAWatchFromNoVersionIsAList, if it takes bookmarks and its server marks the end of
// what is there.
func TestAWatchFromNoVersionIsAList(t *testing.T) {
	for _, version := range []string{"", "&resourceVersion=0"} {
		f := newFixture(t)
		q := f.query(inA + "?watch=1&allowWatchBookmarks=true" + version)
		s := f.stream(q)
		s.send(eventOf("ADDED", object("a", "x", 3)), bookmarkOf(10, true), eventOf("ADDED", object("a", "y", 11)))
		s.end()
		f.expect(inA, "x@3 y@11 rv=11")
		f.expectMissing("")

		f = newFixture(t)
		s = f.stream(q)
		s.send(eventOf("ADDED", object("a", "x", 3)), bookmarkOf(10, false), eventOf("ADDED", object("a", "y", 11)), bookmarkOf(12, true))
		s.end()
		f.expect(inA, "503")
		f.expectMissing("Incomplete=1")
	}
	f := newFixture(t)
	if q := f.query(inA + "?watch=1"); q.SendInitialEvents {
		t.Error("without a bookmark nobody knows what is all")
	}
}

func TestATableWatchHasItsHeadersOnce(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3), object("a", "y", 4)))
	_, body := f.ask(f.queryAs("app", "me", inA+"?watch=1&includeObject=None&allowWatchBookmarks=true", "application/json;as=Table"+metaV1))
	lines := strings.Split(strings.TrimSpace(body), "\n")
	if len(lines) != 3 || !strings.Contains(lines[0], `"columnDefinitions":[{`) || !strings.Contains(lines[1], `"columnDefinitions":null`) ||
		!strings.Contains(lines[1], `"object":null`) || !strings.Contains(lines[2], metav1.InitialEventsAnnotationKey) {
		t.Errorf("%s", body)
	}
}

func TestAVersionThatIsNoNumber(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10))
	for path, want := range map[string]int{inA + "?resourceVersion=x": 400, inA + "/y?resourceVersion=x": 500, inA + "?watch=1&resourceVersion=x": 500} {
		if code, message := f.ask(f.query(path)); code != want || !strings.Contains(message, `strconv.ParseUint: parsing "x"`) {
			t.Errorf("%s: %d %s", path, code, message)
		}
	}
}

// Partial metadata of one object is asked for under one name, of a list under
// another.
func TestPartialMetadataByTheWrongName(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	for path, c := range map[string]struct{ as, want string }{
		inA:        {"PartialObjectMetadata", "you requested PartialObjectMetadata, but the requested object is a list (*core.ConfigMapList)"},
		inA + "/x": {"PartialObjectMetadataList", "you requested PartialObjectMetadataList, but the requested object is not a list (*core.ConfigMap)"},
	} {
		if code, message := f.ask(f.queryAs("app", "me", path, "application/json;as="+c.as+metaV1)); code != 406 || message != c.want {
			t.Errorf("%s: %d %s", path, code, message)
		}
	}
}

// heapSampler measures what lives on the heap while a body is written.
type heapSampler struct {
	header http.Header
	every  int // bytes
	next   int
	n      int
	most   uint64
}

func (h *heapSampler) Header() http.Header { return h.header }
func (h *heapSampler) WriteHeader(int)     {}
func (h *heapSampler) Write(b []byte) (int, error) {
	if h.n += len(b); h.n >= h.next {
		h.next = h.n + h.every
		h.most = max(h.most, liveHeap())
	}
	return len(b), nil
}

func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestAListOfAnySizeCostsAMebibyteAtMost(t *testing.T) {
	const count = 1500
	f := newFixture(t)
	items := make([]string, count)
	for i := range items {
		items[i] = object("a", fmt.Sprintf("name-%05d", i), i+1, "l", strings.Repeat("x", 2<<10))
	}
	// Not faster than it can be recorded.
	rc := f.Record(f.query(inA), answerOf(http.StatusOK, strings.NewReader(listOf(count, items...))))
	for _, err := rc.Read(make([]byte, 64<<10)); err == nil; _, err = rc.Read(make([]byte, 64<<10)) {
		for !rc.(*tee).pipe.idle() {
			runtime.Gosched()
		}
	}
	rc.Close()
	f.settle(f.query(inA))
	clear(items)
	for _, c := range []struct{ query, accept string }{
		{"", typeJSON}, {"", typeYAML}, {"", typeProtobuf}, {"", typeCBOR}, {"", asTable},
		{"?labelSelector=l", typeJSON}, {"?labelSelector=l", typeProtobuf}, {"?labelSelector=l&limit=1499", typeJSON},
	} {
		for _, every := range []int{1 << 20, 1 << 10} { // bytes that are written, plain and compressed
			compress, limit := every == 1<<10, int64(1<<20)
			if compress {
				limit += 1 << 20 // a gzip.Writer has its tables, and 128 KiB are held back
			}
			if compress && c.accept != typeJSON && c.accept != asTable {
				continue
			}
			q := f.queryAs("app", "me", inA+c.query, c.accept)
			q.gzip = compress
			f.get(f.queryAs("app", "me", inA+"?limit=1", c.accept), false) // makes what is made once
			before := liveHeap()
			w := &heapSampler{header: http.Header{}, every: every}
			if err := f.Answer(w, httptest.NewRequest(http.MethodGet, "/", nil), q, reachable{}); err != nil {
				t.Fatal(err)
			}
			if w.most == 0 {
				t.Fatal("nothing was measured")
			}
			if extra := int64(w.most) - int64(before); extra > limit {
				t.Errorf("%s%s as %s, gzip %v: %d KiB of heap", inA, c.query, c.accept, compress, extra>>10)
			}
		}
	}
}
