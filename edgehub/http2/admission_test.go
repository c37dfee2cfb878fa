package http2

import (
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// newInspected is newServer with a way to its connections.
func newInspected(t *testing.T, o Options, h http.Handler) (*peer, func() *conn) {
	t.Helper()
	conns := make(chan *conn, 1)
	var once sync.Once
	s := newServer(t, o, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		once.Do(func() { conns <- w.(*response).st.conn })
		h.ServeHTTP(w, r)
	}))
	return newPeer(t, s), func() *conn { return <-conns }
}

// TestFewDecideAtOnce holds how many handlers run that are not admitted, and that
// one which is, sends or returns lets another start, and one that only has an
// answer does not.
func TestFewDecideAtOnce(t *testing.T) {
	begun := make(chan struct{}, 3*maxStarting)
	goOn := make(chan string, 3*maxStarting)
	refused := make(chan struct{})
	refuse := sync.OnceFunc(func() { close(refused) })
	defer refuse()
	defer close(goOn)
	p, _ := newInspected(t, Options{AwaitAdmission: true}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		switch <-goOn {
		case "admit":
			w.(interface{ Admitted() }).Admitted()
			waitForEnd(w, r)
		case "answer":
			_ = flush(w)
			waitForEnd(w, r)
		case "refuse":
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, "too many")
			<-refused
		}
	}))
	go func() {
		for i := range uint32(2 * maxStarting) {
			p.request(2*i+1, true)
		}
	}()
	await := func(n int) {
		t.Helper()
		for range n {
			select {
			case <-begun:
			case <-time.After(10 * time.Second):
				t.Fatal("too few handlers")
			}
		}
	}
	await(maxStarting)
	none := func() {
		t.Helper()
		select {
		case <-begun:
			t.Fatal("a handler runs that should wait")
		case <-time.After(20 * time.Millisecond):
		}
	}
	for _, how := range []string{"admit", "answer", "return"} {
		none()
		goOn <- how
		await(1)
	}
	goOn <- "refuse"
	none()
	refuse()
	await(1)
	for range 2 * maxStarting {
		goOn <- "return"
	}
	await(maxStarting - 4)
}

// TestSmallAnswersDoNotWaitForEachOther: handlers return while another one writes,
// and what they have said is written after it, in whole.
func TestSmallAnswersDoNotWaitForEachOther(t *testing.T) {
	const n = 5
	first, returned := make(chan struct{}), make(chan struct{}, n)
	p, connection := newInspected(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("First") != "" {
			<-first
			return
		}
		_, _ = io.WriteString(w, "answer")
		returned <- struct{}{}
	}))
	p.request(1, true, "first", "1")
	c := connection()
	c.wmu.Lock() // somebody writes
	for i := range uint32(n) {
		p.request(2*i+3, true)
	}
	for range n {
		<-returned
	}
	running := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.running
	}
	for deadline := time.Now().Add(10 * time.Second); running() > 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d handlers wait", running()-1)
		}
	}
	c.wmu.Unlock()
	got := map[uint32]string{}
	for len(got) < n {
		if f, ok := p.awaitKind(http2.FrameData).(*http2.DataFrame); !ok || !f.StreamEnded() {
			t.Fatalf("%v", f)
		} else {
			got[f.StreamID] = string(f.Data())
		}
	}
	for id, body := range got {
		if body != "answer" {
			t.Errorf("stream %d: %q", id, body)
		}
	}
	close(first)
	p.awaitKind(http2.FrameHeaders)
}
