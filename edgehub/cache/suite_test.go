package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/endpoints/request"

	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/seal"
)

// sealKey is a node's key.
var sealKey = func() *seal.Key {
	key, err := seal.NewKey([]byte("a key that is not much of a secret"))
	if err != nil {
		panic(err)
	}
	return key
}()

// fixture is a Store over a real directory.
type fixture struct {
	*testing.T
	*Store
	dir     string
	root    *os.Root
	options Options // less the directory
}

func newFixture(t *testing.T, agents ...string) *fixture {
	t.Helper()
	f := &fixture{T: t, dir: t.TempDir(), options: Options{Key: sealKey}}
	f.open(agents...)
	return f
}

// open opens the directory, as a restarted hub does.
func (f *fixture) open(agents ...string) {
	f.Helper()
	if len(agents) == 0 {
		agents = []string{"app"}
	}
	root, err := os.OpenRoot(f.dir)
	if err != nil {
		f.Fatal(err)
	}
	f.root = root
	options := f.options
	options.FS = journal.OS(root)
	f.Store = Open(options)
	f.setAgents(agents...)
	store := f.Store
	f.Cleanup(func() {
		if err := store.Close(); err != nil {
			f.Error(err)
		}
		root.Close()
	})
}

// restart closes the store and opens the directory anew.
func (f *fixture) restart() {
	f.Helper()
	if err := f.Store.Close(); err != nil {
		f.Fatal(err)
	}
	f.open()
}

func (f *fixture) setAgents(agents ...string) {
	f.Helper()
	if err := f.SetAgents(sets.New(agents...).Has); err != nil {
		f.Fatal(err)
	}
}

var infos = request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}

// query is what the hub makes of GET path, by agent "app" and identity "me".
func (f *fixture) query(path string) Query { f.Helper(); return f.queryAs("app", "me", path, "") }

func (f *fixture) queryAs(agent, identity, path, accept string) Query {
	f.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	info, err := infos.NewRequestInfo(r)
	if err != nil {
		f.Fatal(err)
	}
	q, ok := NewQuery(r, info, agent, identity)
	if !ok {
		f.Fatalf("%s is not a query", path)
	}
	return q
}

// answerOf is a response of kube-apiserver, to a client that does not stay.
func answerOf(code int, body io.Reader) *http.Response {
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	return &http.Response{
		Request:    httptest.NewRequestWithContext(gone, http.MethodGet, "/", nil),
		StatusCode: code,
		Header:     http.Header{"Content-Type": {"application/json"}},
		Body:       io.NopCloser(body),
	}
}

// Record is for an answer that comes at once.
func (f *fixture) Record(q Query, resp *http.Response) io.ReadCloser {
	return f.Store.Record(q, resp, f.Asked())
}

// record passes a whole body through the cache, as the proxy does.
func (f *fixture) record(q Query, body string) {
	f.Helper()
	rc := f.Record(q, answerOf(http.StatusOK, strings.NewReader(body)))
	got, err := io.ReadAll(rc)
	if err != nil || string(got) != body {
		f.Fatalf("client got %q, %v; want %q", got, err, body)
	}
	rc.Close()
	f.settle(q)
}

// recordLate is record for an answer that was asked for at a moment.
func (f *fixture) recordLate(q Query, body string, asked Moment) {
	rc := f.Store.Record(q, answerOf(http.StatusOK, strings.NewReader(body)), asked)
	_, _ = io.Copy(io.Discard, rc)
	rc.Close()
	f.recordings.Wait()
}

// settle waits until no answer but watches is being recorded in a view.
func (f *fixture) settle(q Query) {
	if v := f.view(q.Key); v != nil {
		for upTo := v.lists.latest(); ; {
			done, another := v.lists.done(upTo)
			if done {
				return
			}
			<-another
		}
	}
}

// refuse passes an answer that is an error.
func (f *fixture) refuse(q Query, code int) {
	f.Helper()
	rc := f.Record(q, answerOf(code, strings.NewReader("{}")))
	_, _ = io.Copy(io.Discard, rc)
	rc.Close()
	f.recordings.Wait()
}

// stream is a watch whose events are sent one at a time.
type stream struct {
	*fixture
	in   *io.PipeWriter
	done chan struct{}
}

func (f *fixture) stream(q Query) *stream {
	f.Helper()
	r, w := io.Pipe()
	rc := f.Record(q, answerOf(http.StatusOK, r))
	s := &stream{f, w, make(chan struct{})}
	go func() {
		defer close(s.done)
		_, _ = io.Copy(io.Discard, rc)
		rc.Close()
	}()
	return s
}

func (s *stream) send(lines ...string) {
	s.Helper()
	for _, line := range lines {
		if _, err := io.WriteString(s.in, line+"\n"); err != nil {
			s.Fatal(err)
		}
	}
}

// end ends the watch and waits until it is recorded.
func (s *stream) end() {
	s.in.Close()
	<-s.done
	s.recordings.Wait() // tests end one watch after the other
}

func object(namespace, name string, version int, labels ...string) string {
	set := map[string]string{}
	for i := 0; i+1 < len(labels); i += 2 {
		set[labels[i]] = labels[i+1]
	}
	b, _ := json.Marshal(map[string]any{
		"metadata": map[string]any{"namespace": namespace, "name": name, "resourceVersion": fmt.Sprint(version), "labels": set},
		"data":     map[string]string{"at": fmt.Sprint(version)},
	})
	return string(b)
}

func listOf(version int, items ...string) string { return pageOf(version, "", items...) }

func pageOf(version int, next string, items ...string) string {
	meta := fmt.Sprintf(`"resourceVersion":"%d"`, version)
	if next != "" {
		meta += fmt.Sprintf(`,"continue":%q`, next)
	}
	return `{"kind":"ConfigMapList","apiVersion":"v1","metadata":{` + meta + `},"items":[` + strings.Join(items, ",") + "]}\n"
}

func eventOf(typ, object string) string {
	object = `{"kind":"ConfigMap","apiVersion":"v1",` + object[1:]
	return `{"type":"` + typ + `","object":` + object + `}`
}

func bookmarkOf(version int, end bool) string {
	annotations := ""
	if end {
		annotations = `,"annotations":{"k8s.io/initial-events-end":"true"}`
	}
	return fmt.Sprintf(`{"type":"BOOKMARK","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"%d"%s}}}`, version, annotations)
}

// reachable is a cloud that is back already.
type reachable struct{}

func (reachable) AwaitUp(context.Context) error { return nil }

// ask answers a query from the cache; code 0 means that the answer broke off.
func (f *fixture) ask(q Query) (code int, body string) {
	f.Helper()
	w := httptest.NewRecorder()
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler {
				panic(p)
			}
			code, body = 0, ""
		}
	}()
	ctx, cancel := context.WithCancel(f.Context())
	cancel() // a watch is not held
	err := f.Answer(w, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx), q, reachable{})
	var status *apierrors.StatusError
	if errors.As(err, &status) {
		return int(status.ErrStatus.Code), status.ErrStatus.Message
	}
	if err != nil {
		f.Fatal(err)
	}
	return w.Code, w.Body.String()
}

// names lists what a list holds, with the data's version: "a@1 b@2 rv=3".
func (f *fixture) names(path string) string {
	f.Helper()
	code, body := f.ask(f.query(path))
	if code != http.StatusOK {
		return fmt.Sprint(code)
	}
	var list struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Items []struct {
			Metadata struct{ Name string }
			Data     map[string]string
		}
	}
	if err := json.NewDecoder(bytes.NewBufferString(body)).Decode(&list); err != nil {
		f.Fatalf("%v: %s", err, body)
	}
	var out []string
	for _, item := range list.Items {
		out = append(out, item.Metadata.Name+"@"+item.Data["at"])
	}
	return strings.Join(append(out, "rv="+list.Metadata.ResourceVersion), " ")
}

func (f *fixture) expect(path, want string) {
	f.Helper()
	if got := f.names(path); got != want {
		f.Errorf("%s is %q, want %q", path, got, want)
	}
}
