package http2

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

func window(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingInitialWindowSize, Val: n}
}

// TestOneWrite holds that a small response is one write, which is one TLS record
// and one packet.
func TestOneWrite(t *testing.T) {
	s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "small")
		_, _ = w.Write(make([]byte, 10<<10))
	}))
	p := newPeer(t, s)
	counted := &countReads{Reader: p.conn}
	p.framer = http2.NewFramer(p.conn, counted)
	p.request(1, true)
	data := false
	for !data {
		_, data = p.read().(*http2.DataFrame)
	}
	if counted.records != 1 {
		t.Errorf("%d records", counted.records)
	}
}

// countReads counts TLS records: tls.Conn gives one with each Read.
type countReads struct {
	io.Reader
	buf     []byte
	records int
}

func (c *countReads) Read(p []byte) (int, error) {
	if len(c.buf) == 0 {
		c.buf = make([]byte, 64<<10)
		n, err := c.Reader.Read(c.buf)
		if err != nil {
			return 0, err
		}
		c.buf = c.buf[:n]
		c.records++
	}
	n := copy(p, c.buf)
	c.buf = c.buf[n:]
	return n, nil
}

// TestStalledStream holds that a stream whose window is shut stops no other, and
// goes on where it was.
func TestStalledStream(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789"), 10_000)
	s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			_, _ = w.Write(body)
		}
	}))
	p := newPeer(t, s, window(3))
	p.request(1, true, ":path", "/large")
	var got []byte
	got = append(got, p.awaitKind(http2.FrameData).(*http2.DataFrame).Data()...)
	p.lives(3)
	for step := uint32(1); ; step *= 3 {
		_ = p.framer.WriteWindowUpdate(1, step)
		for want := len(got) + int(step); len(got) < min(want, len(body)); {
			f := p.awaitKind(http2.FrameData).(*http2.DataFrame)
			got = append(got, f.Data()...)
			if len(got) > want {
				t.Fatal("more than the window allows")
			}
			if f.StreamEnded() {
				if !bytes.Equal(got, body) {
					t.Error("the body is not what was written")
				}
				return
			}
		}
	}
}

// TestSettingShrinksWindow holds RFC 9113, 6.9.2: a window may become negative.
func TestSettingShrinksWindow(t *testing.T) {
	s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 30)) }))
	p := newPeer(t, s, window(20))
	p.request(1, true)
	if f := p.awaitKind(http2.FrameData); f.Header().Length != 20 {
		t.Fatal(f)
	}
	_ = p.framer.WriteSettings(window(5)) // now it is -15
	_ = p.framer.WriteWindowUpdate(1, 15)
	_ = p.framer.WritePing(false, [8]byte{})
	for {
		f := p.read()
		if f.Header().Type == http2.FrameData {
			t.Fatal("DATA without a window")
		}
		if f.Header().Type == http2.FramePing {
			break
		}
	}
	_ = p.framer.WriteWindowUpdate(1, 100)
	if f := p.awaitKind(http2.FrameData); f.Header().Length != 10 {
		t.Error(f)
	}
}

// TestTurns holds that streams that wait for the connection's window get it in
// turns, and that one of them that ends does not keep it from the others.
func TestTurns(t *testing.T) {
	c := &conn{server: &server{options: Options{}.withDefaults()}, streams: map[uint32]*stream{}}
	var streams []*stream
	for range 4 {
		st := &stream{conn: c, sendWindow: 1 << 20, begun: true, cancel: func() {}}
		st.cond.L = &c.mu
		streams = append(streams, st)
	}
	take := func(i, want int) {
		t.Helper()
		if n, _, err := streams[i].take(10, false); n != want || err != nil {
			t.Errorf("stream %d takes %d, want %d (%v)", i, n, want, err)
		}
	}
	open := func(n int) { c.sendWindow += n; c.wakeFirst() }
	for i := range streams {
		take(i, 0)
	}
	open(25)
	take(1, 0) // not its turn
	take(0, 10)
	take(0, 0) // now behind the others
	c.close(streams[1], errPeerReset, false)
	take(3, 0)
	take(2, 10)
	take(3, 5)
	take(3, 0)
	open(100)
	streams[0].sendWindow = 0
	take(3, 0)
	take(0, 0) // its own window is shut, so it is out of the line
	take(3, 10)
	take(2, 10)
}

// TestSharedWindow holds that all responses end, whatever the connection's window
// does.
func TestSharedWindow(t *testing.T) {
	const size = 100_000
	s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 10 {
			_, _ = w.Write(make([]byte, size/10))
		}
	}))
	p := dial(t, s)
	_, _ = io.WriteString(p.conn, preface)
	_ = p.framer.WriteSettings(window(1 << 30)) // but the connection's is 65535
	_ = p.framer.WriteSettingsAck()
	const n = 8
	for i := range uint32(n) {
		p.request(2*i+1, true)
	}
	_ = p.framer.WriteRSTStream(3, http2.ErrCodeCancel)
	got := map[uint32]int{}
	for ended, left := 0, initialWindow; ended < n-1; {
		f := p.awaitKind(http2.FrameData).(*http2.DataFrame)
		got[f.StreamID] += len(f.Data())
		if left -= len(f.Data()); left < 0 {
			t.Fatal("more than the window allows")
		}
		if left == 0 {
			left = 7777
			_ = p.framer.WriteWindowUpdate(0, uint32(left))
		}
		if f.StreamEnded() && f.StreamID != 3 {
			if ended++; got[f.StreamID] != size {
				t.Errorf("%d bytes on %d", got[f.StreamID], f.StreamID)
			}
		}
	}
}

// TestUpload holds that bodies of any size arrive whole, in both directions at
// once.
func TestUpload(t *testing.T) {
	s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	c := newClient(t, s)
	for _, n := range []int{0, 1, maxData, maxFrame, 128 << 10, 5 << 20} {
		sent, got := sha256.New(), sha256.New()
		body := io.TeeReader(io.LimitReader(strings.NewReader(strings.Repeat("0123456789abcde", n/15+1)), int64(n)), sent)
		resp, err := c.Post(s.URL, "", body)
		if err != nil {
			t.Fatal(err)
		}
		m, err := io.Copy(got, resp.Body)
		resp.Body.Close()
		if err != nil || int(m) != n || !slices.Equal(sent.Sum(nil), got.Sum(nil)) {
			t.Errorf("%d bytes of %d: %v", m, n, err)
		}
	}
}

// TestBodyWindow holds that what a handler does not read is bounded, and that
// what it reads makes room.
func TestBodyWindow(t *testing.T) {
	read := make(chan int)
	s := newServer(t, Options{StreamWindow: 1000}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		for n := range read {
			_, _ = io.ReadFull(r.Body, make([]byte, n))
		}
	}))
	p := newPeer(t, s)
	p.request(1, false)
	_ = p.framer.WriteDataPadded(1, false, make([]byte, 900), make([]byte, 99)) // fills it
	read <- 500
	f := p.awaitKind(http2.FrameWindowUpdate).(*http2.WindowUpdateFrame)
	if f.StreamID != 1 || f.Increment != 600 { // padding is given back too
		t.Errorf("window update of %d on %d", f.Increment, f.StreamID)
	}
	_ = p.framer.WriteData(1, false, make([]byte, 600))
	_ = p.framer.WriteData(1, false, make([]byte, 1))
	if got := p.awaitReset(1); got != http2.ErrCodeFlowControl {
		t.Error(got)
	}
	close(read)
}

// TestUnreadBodies holds that bodies nobody reads don't use up the connection.
func TestUnreadBodies(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"not read": func(http.ResponseWriter, *http.Request) {},
		"closed":   func(_ http.ResponseWriter, r *http.Request) { r.Body.Close(); waitForEnd(nil, r) },
		"panic":    func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, Options{ConnectionWindow: initialWindow}, h)
			p := newPeer(t, s)
			left := initialWindow
			for i := range uint32(40) {
				id := 2*i + 1
				p.request(id, false)
				_ = p.framer.WriteDataPadded(id, false, make([]byte, 8000), make([]byte, 100))
				_ = p.framer.WriteRSTStream(id, http2.ErrCodeCancel)
				for left -= 8101; left < 8101; {
					if f := p.awaitKind(http2.FrameWindowUpdate).(*http2.WindowUpdateFrame); f.StreamID == 0 {
						left += int(f.Increment)
					}
				}
			}
		})
	}
}

// TestEarlyAnswer holds RFC 9113, 8.1: a handler need not read the body, and
// what of it is on its way is no error.
func TestEarlyAnswer(t *testing.T) {
	s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	p := newPeer(t, s)
	p.request(1, false)
	if f := p.awaitKind(http2.FrameHeaders).(*http2.MetaHeadersFrame); f.PseudoValue("status") != "403" {
		t.Error(f)
	}
	if got := p.awaitReset(1); got != http2.ErrCodeNo {
		t.Error(got)
	}
	_ = p.framer.WriteData(1, false, make([]byte, 1000))
	p.headers(1, true, fieldsOf())
	_ = p.framer.WriteWindowUpdate(1, 1)
	_ = p.framer.WritePing(false, [8]byte{})
	if f := p.read(); f.Header().Type != http2.FramePing {
		t.Error(f)
	}
	resp, err := newClient(t, s).Post(s.URL, "", strings.NewReader(strings.Repeat("x", 3<<20)))
	if err != nil || resp.StatusCode != http.StatusForbidden {
		t.Error(resp, err)
	}
}

// TestContinue holds that the client is asked for a body when it is read, and
// not after the answer.
func TestContinue(t *testing.T) {
	s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Expect") != "" {
			t.Error("Expect is not for the handler")
		}
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusForbidden)
			w.(http.Flusher).Flush()
		}
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(b)
	}))
	p := newPeer(t, s)
	p.request(1, false, "expect", "100-continue")
	for _, want := range []string{"100", "200"} {
		f := p.awaitKind(http2.FrameHeaders).(*http2.MetaHeadersFrame)
		if f.PseudoValue("status") != want || f.StreamEnded() {
			t.Fatal(f)
		}
		if want == "100" {
			_ = p.framer.WriteData(1, true, []byte("x"))
		}
	}
	p.request(3, false, "expect", "100-Continue", ":path", "/refuse")
	if f := p.awaitKind(http2.FrameHeaders).(*http2.MetaHeadersFrame); f.PseudoValue("status") != "403" {
		t.Fatal(f)
	}
	_ = p.framer.WriteData(3, true, nil)
	if f := p.read(); f.Header().Type != http2.FrameData || f.Header().Length != 0 {
		t.Error(f)
	}
}

// TestContext holds when a request's context ends.
func TestContext(t *testing.T) {
	started, ended := make(chan context.Context), make(chan error)
	s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started <- r.Context()
		if r.URL.Path == "/end" {
			return
		}
		<-r.Context().Done()
		_, err := r.Body.Read(make([]byte, 1))
		if err2 := flush(w); err2 == nil {
			err = errors.New("no error of a write")
		}
		ended <- err
	}))
	p := newPeer(t, s)
	p.request(1, true, ":path", "/end")
	<-(<-started).Done()
	p.request(3, false)
	<-started
	_ = p.framer.WriteRSTStream(3, http2.ErrCodeCancel)
	if err := <-ended; !errors.Is(err, errPeerReset) {
		t.Error(err)
	}
	p.request(5, false)
	<-started
	p.close()
	if err := <-ended; !errors.Is(err, errConnEnded) {
		t.Error(err)
	}
}

func flush(w http.ResponseWriter) error {
	return http.NewResponseController(w).Flush()
}

// TestDeadlines holds what handlers may set for themselves.
func TestDeadlines(t *testing.T) {
	errs := make(chan error, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		soon := time.Now().Add(20 * time.Millisecond)
		if r.URL.Path == "/read" {
			_ = control.SetReadDeadline(time.Now().Add(-time.Second))
			_ = control.SetReadDeadline(time.Time{}) // never mind
			_ = control.SetReadDeadline(soon)
			_, err := r.Body.Read(make([]byte, 1))
			errs <- err
			return
		}
		_ = control.SetWriteDeadline(soon)
		_, err := w.Write(make([]byte, 100<<10))
		errs <- err
	})
	p := newPeer(t, newServer(t, Options{}, h))
	p.request(1, false, ":path", "/read")
	if err := <-errs; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	p.request(3, true)
	if err := <-errs; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	if got := p.awaitReset(3); got != http2.ErrCodeInternal {
		t.Error(got)
	}
}

// TestServerTimeouts holds that http.Server's are those of each request.
func TestServerTimeouts(t *testing.T) {
	errs := make(chan error, 2)
	s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := r.Body.Read(make([]byte, 1))
		errs <- err
		_, err = w.Write(make([]byte, 100<<10))
		errs <- err
	}), func(s *http.Server) {
		// http.Server's are those of the TLS handshake as well, which has to come to its end.
		s.ReadTimeout, s.WriteTimeout, s.IdleTimeout = time.Second, 3*time.Second/2, time.Hour
	})
	newPeer(t, s).request(1, false)
	for range 2 {
		if err := <-errs; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	}
}

// TestMixed holds that many requests of all kinds at once, some of them given
// up, disturb each other in nothing, and that nothing of them stays.
func TestMixed(t *testing.T) {
	var handlers atomic.Int64
	s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Add(-1)
		if r.URL.Path == "/watch" {
			_ = flush(w)
			waitForEnd(w, r)
			return
		}
		_, _ = io.Copy(w, r.Body)
	}))
	c := newClient(t, s)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			for range 40 {
				body := bytes.Repeat([]byte{byte(random.Int())}, 1<<random.IntN(20))
				path, giveUp := "/", random.IntN(3) == 0
				if giveUp && random.IntN(2) == 0 {
					path = "/watch"
				}
				ctx, cancel := context.WithCancel(t.Context())
				req, _ := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+path, bytes.NewReader(body))
				if giveUp {
					time.AfterFunc(time.Duration(random.IntN(3000))*time.Microsecond, cancel)
				}
				resp, err := c.Do(req)
				var got []byte
				if err == nil {
					got, err = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
				if !giveUp && (err != nil || !bytes.Equal(got, body)) {
					t.Errorf("%d bytes of %d: %v", len(got), len(body), err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	c.CloseIdleConnections()
	for handlers.Load() > 0 {
		time.Sleep(time.Millisecond) // until the test's own timeout
	}
}
