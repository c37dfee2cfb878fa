package cache

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// held answers a watch while the cloud stays away, until its timeout.
func (f *fixture) held(q Query) string {
	f.Helper()
	w := httptest.NewRecorder()
	if err := f.Answer(w, httptest.NewRequest(http.MethodGet, "/", nil), q, unreachable{}); err != nil {
		return err.Error()
	}
	return w.Body.String()
}

// TestBookmarksOfAHeldWatch come every minute and two seconds before its end, and never
// take a client back.
func TestBookmarksOfAHeldWatch(t *testing.T) {
	relisting(t, func(f *fixture, _ *bool) {
		f.record(f.query(inA), listOf(10, object("a", "x", 3)))
		for options, want := range map[string]int{
			follow + "10&timeoutSeconds=30":                 1,
			follow + "10&timeoutSeconds=2":                  0,
			follow + "10&timeoutSeconds=150":                3,
			follow + "12&timeoutSeconds=150":                0, // the client knows more
			"?watch=1&timeoutSeconds=30":                    0,
			"?watch=1&timeoutSeconds=30&resourceVersion=10": 0,
		} {
			start := time.Now()
			body := f.held(f.query(inA + options))
			if n := strings.Count(body, `"type":"BOOKMARK"`); n != want {
				t.Errorf("%s after %v: %d bookmarks, want %d: %s", options, time.Since(start), n, want, body)
			}
		}
	})
}

// TestAWatchLastsAWhile in which nothing happens, whoever ends it but its client, so that
// client-go goes on from where it was rather than to list again.
func TestAWatchLastsAWhile(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	live := func(f *fixture, sent string) time.Duration {
		start := time.Now()
		resp := answerOf(http.StatusOK, strings.NewReader(sent))
		resp.Request = resp.Request.WithContext(ctx)
		body := f.Record(f.query(inA+follow+"10"), resp)
		if got, err := io.ReadAll(body); err != nil || string(got) != sent {
			t.Errorf("%q, %v", got, err)
		}
		body.Close()
		return time.Since(start)
	}
	relisting(t, func(f *fixture, _ *bool) {
		f.record(f.query(inA), listOf(10, object("a", "x", 3)))
		for range 20 { // of which some would end at once
			start := time.Now()
			if err := f.Answer(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), f.query(inA+follow+"10"), reachable{}); err != nil {
				t.Fatal(err)
			}
			if lasted := time.Since(start); lasted < time.Second || lasted > returnJitter+time.Second {
				t.Errorf("a watch that is held lasts %v once the cloud is back", lasted)
			}
		}
		if lasted := live(f, ""); lasted < time.Second {
			t.Errorf("a watch of kube-apiserver's lasts %v", lasted)
		}
		if lasted := live(f, bookmarkOf(11, false)+"\n"); lasted > 0 {
			t.Errorf("one in which something happened lasts %v", lasted)
		}
		cancel()
		if lasted := live(f, ""); lasted > 0 {
			t.Errorf("one whose client is gone lasts %v", lasted)
		}
	})
}

// TestATableIsWatchedOn from its own version, though nothing is known of its objects:
// kubectl get -w.
func TestATableIsWatchedOn(t *testing.T) {
	f := newFixture(t)
	f.record(f.queryAs("app", "me", inA+"?limit=500", asTable), tableOfX("10"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	watch := func(options string) (int, error) {
		w := httptest.NewRecorder()
		err := f.Answer(w, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx), f.queryAs("app", "me", inA+options, asTable), unreachable{})
		return w.Body.Len(), err
	}
	if n, err := watch("?watch=true&resourceVersion=10"); n != 0 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	for _, options := range []string{"?watch=true&resourceVersion=9", "?watch=true", "?watch=true&resourceVersion=10&fieldSelector=spec.nodeName=x"} {
		if _, err := watch(options); err == nil {
			t.Errorf("%s is held", options)
		}
	}
}

// TestErrorsFromTheCacheSayHowOldTheyAre.
func TestErrorsFromTheCacheSayHowOldTheyAre(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	f.record(f.query(inB+"/y"), single("b", "y", 3))
	f.record(f.query(inB), listOf(10, object("b", "y", 3)))
	f.refuse(f.query(inB+"/y"), http.StatusForbidden)
	for path, code := range map[string]int32{
		inA + "/gone":               404,
		inB + "/y":                  403,
		inA + "?resourceVersion=11": 504,
		inA + "?resourceVersion=5&resourceVersionMatch=Exact": 410,
		"/api/v1/namespaces/c/configmaps":                     503,
	} {
		w := httptest.NewRecorder()
		err := f.Answer(w, httptest.NewRequest(http.MethodGet, path, nil), f.query(path), reachable{})
		var status *apierrors.StatusError
		if !errors.As(err, &status) || status.ErrStatus.Code != code {
			t.Errorf("%s: %v", path, err)
		}
		if known := code != 503; (w.Header().Get("Age") == "0") != known || (w.Header().Get("Cache-Status") != "") != known {
			t.Errorf("%s: %v", path, w.Header())
		}
	}
}

// TestTheNewestViewAnswers, unless what is asked for is told by another one alone.
func TestTheNewestViewAnswers(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	f.record(f.query(everywhere), listOf(20, object("a", "x", 15), object("b", "z", 4)))
	f.expect(inA, "x@15 rv=20")
	f.expect(inA+"?resourceVersion=15", "x@15 rv=20")
	f.expect(inA+"?resourceVersion=10&resourceVersionMatch=Exact", "x@3 rv=10")
	for options, want := range map[string]string{follow + "10": "", follow + "20": "", follow + "12": "Expired"} {
		if _, body := f.ask(f.query(inA + options)); !strings.Contains(body, want) || want == "" && body != "" {
			t.Errorf("%s is told %s", options, body)
		}
	}
	f.restart()
	f.expect(inA, "x@15 rv=20")
}

// TestAListIsContinuedWithWhatIsThereNow if its token has expired, as the answer to
// that says.
func TestAListIsContinuedWithWhatIsThereNow(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(20, object("a", "x", 3), object("a", "y", 4), object("a", "z", 5)))
	token := func(version int64, start string) string {
		return continueToken{"meta.k8s.io/v1", version, start}.encode()
	}
	w := httptest.NewRecorder()
	err := f.Answer(w, httptest.NewRequest(http.MethodGet, inA, nil), f.query(inA+"?limit=1&continue="+token(10, "/x\x00")), reachable{})
	var status *apierrors.StatusError
	if !errors.As(err, &status) || status.ErrStatus.Code != http.StatusGone || !strings.Contains(status.ErrStatus.Message, "You can start a new list") {
		t.Fatal(err)
	}
	f.expect(inA+"?continue="+status.ErrStatus.Continue, "y@4 z@5 rv=20")
	for _, bad := range []string{token(0, "/x"), token(20, "/../x"), token(20, "//x"), token(20, "")} {
		f.expect(inA+"?continue="+bad, "400")
	}
}

// TestTheLivePathDoesNotWaitForAViewToBeRead, also where its watch can't be recorded.
func TestTheLivePathDoesNotWaitForAViewToBeRead(t *testing.T) {
	f := newFixture(t)
	f.record(f.query(inA), listOf(10))
	v := f.view(f.query(inA).Key)
	v.mu.Lock() // as while a disk that hangs is read
	resp := answerOf(http.StatusOK, strings.NewReader(""))
	resp.Header.Set("Content-Type", "application/cbor-seq")
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		f.Record(f.query(inA+follow+"10"), resp).Close()
	}()
	select {
	case <-answered:
	case <-time.After(10 * time.Second):
		t.Error("the header waits")
	}
	v.mu.Unlock()
	<-answered
}
