package http2

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestWhatIsNotTakenIsNoHandler: peers that don't take small answers, because their
// windows are shut or because they don't read, shut nobody out, and get the answers
// when they do.
func TestWhatIsNotTakenIsNoHandler(t *testing.T) {
	const n, most = 200, 20
	for _, tt := range []struct {
		name   string
		window uint32
	}{{"windows are shut", 0}, {"nothing is read", initialWindow}} {
		t.Run(tt.name, func(t *testing.T) {
			conns := make(chan *conn, n)
			s := newServer(t, Options{MaxHandlers: most, StallTimeout: time.Minute}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/" {
					conns <- w.(*response).st.conn
				}
				_, _ = io.WriteString(w, strings.Repeat("no", 600))
			}))
			p := newPeer(t, s, window(tt.window))
			p.request(1, true, "long", strings.Repeat("x", 4000))
			c := <-conns
			if tt.window > 0 {
				c.wmu.Lock() // as whoever writes to such a peer does
			}
			for id := uint32(3); id < 2*n; id += 2 {
				eventually(t, func() bool { return c.server.running.Load() < most/2 })
				p.request(id, true)
				<-conns
			}
			eventually(t, func() bool { return c.server.running.Load() == 0 })
			c.mu.Lock()
			for _, st := range c.streams {
				if st.unsent == 0 || st.request != nil {
					t.Errorf("stream %d: %d bytes are held, with request %v", st.id, st.unsent, st.request)
				}
			}
			c.mu.Unlock()
			newPeer(t, s).livesAt("/other", 1)
			if tt.window > 0 {
				c.wmu.Unlock()
			} else {
				_ = p.framer.WriteSettings(window(initialWindow))
			}
			for ended := 0; ended < n; {
				if f, ok := p.read().(*http2.DataFrame); ok && f.StreamEnded() {
					ended++
				}
			}
			eventually(t, func() bool {
				c.server.unsent.mu.Lock()
				defer c.server.unsent.mu.Unlock()
				return c.server.unsent.bytes == 0 && len(c.server.unsent.by) == 0
			})
		})
	}
}

// TestWhatIsNotTakenIsBounded: who has the most that is not taken loses it.
func TestWhatIsNotTakenIsBounded(t *testing.T) {
	const room = 10
	refused := make(chan string, 100)
	s := newServer(t, Options{
		MaxUnsent: room * (unsentCost + bodyStart + smallBody), StallTimeout: time.Minute,
		Refused: func(limit string) { refused <- limit },
	}, http.HandlerFunc(say))
	greedy, modest := newPeer(t, s, window(0)), dialFrom(t, s, 2).hello(window(0))
	modest.request(1, true)
	modest.awaitKind(http2.FrameHeaders)
	var lost []uint32
	for id := uint32(1); id < 2*3*room; id += 2 {
		greedy.request(id, true)
		for answered := false; !answered || len(lost) < int(id+1)/2-(room-1); {
			switch f := greedy.read().(type) {
			case *http2.MetaHeadersFrame:
				answered = true
			case *http2.RSTStreamFrame:
				lost = append(lost, f.StreamID)
				if f.ErrCode != http2.ErrCodeEnhanceYourCalm {
					t.Error(f)
				}
			}
		}
	}
	// An answer is seen before it is left alone, so that two may change places.
	if n := len(lost); n != 3*room-(room-1) || slices.Max(lost) > uint32(2*n+1) {
		t.Errorf("lost are %v", lost)
	}
	for range lost {
		if limit := <-refused; limit != LimitUnsent {
			t.Errorf("%s is counted", limit)
		}
	}
	_ = modest.framer.WriteWindowUpdate(1, 1000)
	if f := modest.awaitKind(http2.FrameData).(*http2.DataFrame); !f.StreamEnded() {
		t.Error(f)
	}
}

// TestWhatIsNotTakenIsGivenUp after a while, and what is still to come of its
// request is dropped meanwhile.
func TestWhatIsNotTakenIsGivenUp(t *testing.T) {
	s := newServer(t, Options{StallTimeout: time.Second, ConnectionWindow: initialWindow}, http.HandlerFunc(say))
	p := newPeer(t, s, window(0))
	p.request(1, false)
	p.awaitKind(http2.FrameHeaders)
	for range 3 {
		_ = p.framer.WriteData(1, false, make([]byte, 16<<10))
	}
	if f := p.awaitKind(http2.FrameWindowUpdate).(*http2.WindowUpdateFrame); f.StreamID != 0 {
		t.Error(f)
	}
	if got := p.awaitReset(1); got != http2.ErrCodeCancel {
		t.Error(got)
	}
	p.request(3, true)
	_ = p.framer.WriteWindowUpdate(3, 1000)
	p.awaitKind(http2.FrameData)
}

// TestShutdownSendsWhatIsNotTaken holds that a connection ends after it.
func TestShutdownSendsWhatIsNotTaken(t *testing.T) {
	s := newServer(t, Options{StallTimeout: time.Minute}, http.HandlerFunc(say))
	p := newPeer(t, s, window(0))
	p.request(1, false)
	p.awaitKind(http2.FrameHeaders)
	stopped := make(chan error)
	go func() { stopped <- s.Config.Shutdown(context.Background()) }()
	p.awaitKind(http2.FrameGoAway)
	_ = p.framer.WriteWindowUpdate(1, 1000)
	if f := p.awaitKind(http2.FrameData).(*http2.DataFrame); !f.StreamEnded() {
		t.Error(f)
	}
	if got := p.awaitReset(1); got != http2.ErrCodeNo { // the rest of the request is not wanted
		t.Error(got)
	}
	p.awaitEnd()
	p.close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// say answers without a look at the request.
func say(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "answer") }

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come to that")
		}
	}
}

// livesAt checks that a request is answered.
func (p *peer) livesAt(path string, id uint32) {
	p.t.Helper()
	p.request(id, true, ":path", path)
	p.awaitKind(http2.FrameHeaders)
}
