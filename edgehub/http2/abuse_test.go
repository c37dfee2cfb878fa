package http2

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// flood sends without reading, until the connection fails.
func flood(send func() error) {
	go func() {
		for send() == nil {
		}
	}()
}

// TestFloods holds that frames that cost a peer nothing come to an end, whether
// or not it reads the replies.
func TestFloods(t *testing.T) {
	few := Options{Frames: Rate{Burst: 100, PerSecond: 1}, Resets: Rate{Burst: 20, PerSecond: 1}}
	for _, tt := range []struct {
		name string
		send func(p *peer, id uint32) error
	}{
		{"PING", func(p *peer, id uint32) error { return p.framer.WritePing(false, [8]byte{}) }},
		{"SETTINGS", func(p *peer, id uint32) error { return p.framer.WriteSettings() }},
		{"SETTINGS with many entries", func(p *peer, id uint32) error {
			entries := make([]http2.Setting, maxSettings+1)
			for i := range entries {
				entries[i] = http2.Setting{ID: http2.SettingID(100 + i)}
			}
			return p.framer.WriteSettings(entries...)
		}},
		{"PRIORITY", func(p *peer, id uint32) error { return p.framer.WritePriority(3, http2.PriorityParam{StreamDep: 1}) }},
		{"empty DATA", func(p *peer, id uint32) error { return p.framer.WriteData(1, false, nil) }},
		{"DATA after the end", func(p *peer, id uint32) error { return p.framer.WriteData(3, false, []byte("x")) }},
		{"the end of a stream that the server has reset", func(p *peer, id uint32) error {
			if id == 5 {
				p.raw(http2.FrameWindowUpdate, 0, 1, 0, 0, 0, 0) // which resets it
			}
			return p.framer.WriteData(1, true, nil)
		}},
		{"a request on a stream that the server has reset", func(p *peer, id uint32) error {
			if id == 5 {
				p.raw(http2.FrameWindowUpdate, 0, 1, 0, 0, 0, 0)
			}
			return p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}, EndStream: true, EndHeaders: true})
		}},
		{"WINDOW_UPDATE", func(p *peer, id uint32) error { return p.framer.WriteWindowUpdate(1, 1) }},
		{"RST_STREAM", func(p *peer, id uint32) error { return p.framer.WriteRSTStream(3, 0) }},
		{"unknown", func(p *peer, id uint32) error { return p.framer.WriteRawFrame(0x55, 0, 0, nil) }},
		{"malformed requests", func(p *peer, id uint32) error {
			return p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true})
		}},
		{"rapid reset", func(p *peer, id uint32) error {
			p.request(id, true)
			return p.framer.WriteRSTStream(id, http2.ErrCodeCancel)
		}},
		{"resets that the server must send", func(p *peer, id uint32) error { // CVE-2025-8671
			p.request(id, true)
			return p.framer.WriteRawFrame(http2.FrameWindowUpdate, 0, id, make([]byte, 4))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var started sync.WaitGroup
			s := newServer(t, few, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/ended" {
					waitForEnd(w, r)
				}
				started.Done()
			}))
			p := newPeer(t, s)
			started.Add(2)
			p.request(1, false)
			p.request(3, true, ":path", "/ended")
			p.awaitKind(http2.FrameHeaders)
			started.Add(1000)
			id := uint32(3)
			flood(func() error { id += 2; return tt.send(p, id) })
			if got := p.awaitGoAway(); got != http2.ErrCodeEnhanceYourCalm {
				t.Error(got)
			}
		})
	}
}

// TestANewWindowIsPaidFor by each stream that it is given to.
func TestANewWindowIsPaidFor(t *testing.T) {
	const streams, changes = 10 * streamsPerFrame, 50
	for _, tt := range []struct {
		name   string
		window func(i uint32) uint32
		ends   bool
	}{{"the same", func(uint32) uint32 { return 7 }, false}, {"another each", func(i uint32) uint32 { return i }, true}} {
		s := newServer(t, Options{Frames: Rate{Burst: 8 * changes, PerSecond: 1}}, http.HandlerFunc(waitForEnd))
		p := newPeer(t, s, window(7))
		for i := range uint32(streams) {
			p.request(2*i+1, true)
		}
		for i := range uint32(changes) {
			_ = p.framer.WriteSettings(window(tt.window(i)))
		}
		_ = p.framer.WritePing(false, [8]byte{})
		for {
			f := p.read()
			if g, ok := f.(*http2.GoAwayFrame); ok && g.ErrCode == http2.ErrCodeEnhanceYourCalm || f.Header().Type == http2.FramePing {
				if ok != tt.ends {
					t.Errorf("%s: %v", tt.name, f)
				}
				break
			}
		}
		p.close()
	}
}

// TestManyCancels holds that a client may end all its watches at once.
func TestManyCancels(t *testing.T) {
	s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/watch" {
			_ = flush(w)
			waitForEnd(w, r)
		}
	}))
	p := newPeer(t, s)
	id := uint32(1)
	for range 2 {
		first := id
		for range 1000 {
			p.request(id, true, ":path", "/watch")
			p.awaitKind(http2.FrameHeaders)
			id += 2
		}
		for ; first < id; first += 2 {
			_ = p.framer.WriteRSTStream(first, http2.ErrCodeCancel)
		}
		p.lives(id)
		id += 2
	}
}

// TestUnreadReplies holds that replies don't pile up.
func TestUnreadReplies(t *testing.T) {
	s := newServer(t, Options{Frames: Rate{Burst: 1 << 30}, WriteTimeout: time.Hour}, http.HandlerFunc(waitForEnd))
	p := newPeer(t, s)
	for { // 17 bytes for each fill what the kernel keeps, and then the queue
		if err := p.framer.WritePing(false, [8]byte{}); err != nil {
			return
		}
	}
}

// TestPeerDoesNotRead holds that a connection whose peer does not read is cut,
// with the handlers that write to it, while others are served.
func TestPeerDoesNotRead(t *testing.T) {
	failed := make(chan error)
	s := newServer(t, Options{WriteTimeout: time.Second}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.URL.Path == "/endless" {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				failed <- err
				return
			}
		}
	}))
	p := newPeer(t, s, window(1<<30))
	p.request(1, true, ":path", "/endless")
	newPeer(t, s).lives(1)
	if err := <-failed; !errors.Is(err, errConnEnded) {
		t.Error(err)
	}
}

// TestStall holds that a response is broken off whose window stays shut, and
// nothing else.
func TestStall(t *testing.T) {
	failed := make(chan error)
	s := newServer(t, Options{StallTimeout: time.Second}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			_, err := w.Write(make([]byte, 1<<20))
			failed <- err
		}
	}))
	p := newPeer(t, s, window(10))
	p.request(1, true, ":path", "/large")
	if err := <-failed; !errors.Is(err, errStalled) {
		t.Error(err)
	}
	if got := p.awaitReset(1); got != http2.ErrCodeCancel {
		t.Error(got)
	}
	p.lives(3)
}

// TestDribble holds that a window may not be opened a byte at a time for ever.
func TestDribble(t *testing.T) {
	s := newServer(t, Options{Frames: Rate{Burst: 100, PerSecond: 1}}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, 1<<20))
	}))
	p := newPeer(t, s, window(0))
	p.request(1, true)
	flood(func() error { return p.framer.WriteWindowUpdate(1, 1) })
	if got := p.awaitGoAway(); got != http2.ErrCodeEnhanceYourCalm {
		t.Error(got)
	}
}

// TestMaxStreams holds that handlers are bounded, also by those whose requests
// were given up.
func TestMaxStreams(t *testing.T) {
	started, release := make(chan struct{}, 10), make(chan struct{})
	s := newServer(t, Options{MaxConcurrentStreams: 2}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		started <- struct{}{}
		<-release
	}))
	p := newPeer(t, s)
	for _, id := range []uint32{1, 3, 5} {
		p.request(id, true)
	}
	if got := p.awaitReset(5); got != http2.ErrCodeRefusedStream {
		t.Error(got)
	}
	for _, id := range []uint32{1, 3} {
		<-started // one that has not started is dropped
		_ = p.framer.WriteRSTStream(id, http2.ErrCodeCancel)
	}
	for _, id := range []uint32{7, 9} { // two besides the two that still run
		p.request(id, true)
		<-started
	}
	_ = p.framer.WriteRSTStream(9, http2.ErrCodeCancel)
	p.request(11, true)
	if got := p.awaitReset(11); got != http2.ErrCodeRefusedStream {
		t.Error(got)
	}
	close(release)
	if f := p.awaitKind(http2.FrameHeaders); f.Header().StreamID != 7 {
		t.Error(f)
	}
}

// TestMaxHandlers holds that handlers are bounded over all connections, and that
// neither one connection nor one address can have all of them.
func TestMaxHandlers(t *testing.T) {
	s := newServer(t, Options{MaxHandlers: 10}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = flush(w)
		waitForEnd(w, r)
	}))
	ask := func(p *peer, id uint32, accepted bool) {
		t.Helper()
		p.request(id, true)
		if accepted {
			p.awaitKind(http2.FrameHeaders)
		} else if got := p.awaitReset(id); got != http2.ErrCodeRefusedStream {
			t.Error(got)
		}
	}
	from := func(host byte) *peer { return dialFrom(t, s, host).hello() }
	greedy, modest, last := from(1), from(2), from(3)
	for id := range uint32(8) {
		ask(greedy, 2*id+1, true)
	}
	ask(greedy, 17, false) // four fifths are taken
	ask(modest, 1, true)
	ask(modest, 3, false)
	ask(from(2), 1, false) // another connection from there is not better off
	ask(last, 1, true)
	ask(from(4), 1, false) // all are
	modest.close()
	for id := uint32(1); ; id += 2 { // until its handler has returned
		p := from(2)
		p.request(1, true)
		if f, err := p.framer.ReadFrame(); err != nil {
			t.Fatal(err)
		} else if f.Header().Type == http2.FrameHeaders {
			return
		}
		p.close()
	}
}

// TestEndedBeforeItStarts holds that a request that has ended by the time that a
// worker gets to it has no handler, and is counted out.
func TestEndedBeforeItStarts(t *testing.T) {
	srv := newShared(Options{})
	c := &conn{server: srv, origin: &origin{}, running: 1, handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("handled") })}
	srv.running.Add(1)
	srv.starting <- struct{}{}
	c.handlers.Add(1)
	st := &stream{conn: c, err: errPeerReset}
	st.starting.Store(true)
	st.serve()
	c.handlers.Wait()
	if n := srv.running.Load(); n != 0 || c.running != 0 || len(srv.starting) != 0 {
		t.Errorf("%d and %d run, %d start", n, c.running, len(srv.starting))
	}
}

func TestTimeouts(t *testing.T) {
	const soon = time.Second // but for who is kept waiting on a busy machine
	h := http.HandlerFunc(answer)
	t.Run("preface", func(t *testing.T) {
		p := dial(t, newServer(t, Options{SettingsTimeout: soon}, h))
		_, _ = io.WriteString(p.conn, preface[:10])
		p.awaitEnd()
	})
	t.Run("settings", func(t *testing.T) {
		p := dial(t, newServer(t, Options{SettingsTimeout: soon}, h))
		_, _ = io.WriteString(p.conn, preface)
		_ = p.framer.WriteSettings()
		if got := p.awaitGoAway(); got != http2.ErrCodeSettingsTimeout {
			t.Error(got)
		}
	})
	t.Run("idle", func(t *testing.T) {
		p := newPeer(t, newServer(t, Options{}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(2 * soon) }),
			func(s *http.Server) { s.IdleTimeout = soon }))
		p.lives(1) // takes longer, and is not idle
		if got := p.awaitGoAway(); got != http2.ErrCodeNo {
			t.Error(got)
		}
	})
	for _, name := range []string{"header", "continuation"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const timeout = 2 * time.Second // also of the TLS handshake, on a machine that is busy
			p := newPeer(t, newServer(t, Options{}, h, func(s *http.Server) { s.ReadHeaderTimeout = timeout }))
			p.lives(1)
			time.Sleep(timeout + soon) // no header is on its way
			p.lives(3)
			if name == "header" {
				_, _ = p.conn.Write(append(appendFrameHeader(nil, 100, frameHeaders, flagEndHeaders, 5), 1, 2, 3))
			} else {
				p.raw(http2.FrameHeaders, 0, 5)
			}
			p.awaitEnd()
		})
	}
}

// TestShutdown holds that requests are answered before the server stops, and
// that no more are begun.
func TestShutdown(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started <- struct{}{}
		<-release
		_, _ = io.WriteString(w, "whole")
	}))
	p, idle := newPeer(t, s), newPeer(t, s)
	p.request(1, true)
	<-started
	stopped := make(chan error)
	go func() { stopped <- s.Config.Shutdown(context.Background()) }()
	idle.awaitGoAway()
	if f := p.awaitKind(http2.FrameGoAway).(*http2.GoAwayFrame); f.LastStreamID != 1 || f.ErrCode != http2.ErrCodeNo {
		t.Error(f)
	}
	p.request(3, false) // may be on its way, and is not answered
	_ = p.framer.WriteData(3, true, []byte("x"))
	close(release)
	if f := p.awaitKind(http2.FrameData).(*http2.DataFrame); string(f.Data()) != "whole" || f.StreamID != 1 {
		t.Error(f)
	}
	if f, err := p.framer.ReadFrame(); err == nil {
		t.Error(f)
	}
	p.close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestLeaving holds that a client that says GOAWAY, or a handler that closes the
// connection, gets its answers first.
func TestLeaving(t *testing.T) {
	s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/close" {
			w.Header().Set("Connection", "close")
		}
		answer(w, r)
	}))
	p := newPeer(t, s)
	p.request(1, false)
	_ = p.framer.WriteGoAway(0, http2.ErrCodeNo, nil)
	p.awaitKind(http2.FrameGoAway)
	_ = p.framer.WriteData(1, true, nil)
	p.awaitKind(http2.FrameData)
	p = newPeer(t, s)
	p.request(1, true, ":path", "/close")
	if got := p.awaitGoAway(); got != http2.ErrCodeNo {
		t.Error(got)
	}
}

func TestBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(Rate{Burst: 10, PerSecond: 4})
		most := func(want int) {
			t.Helper()
			n := 0
			for b.take() {
				n++
			}
			if n != want {
				t.Errorf("%d at once, want %d", n, want)
			}
		}
		most(10)
		time.Sleep(time.Second / 2)
		most(2)
		b.give(3)
		most(3)
		time.Sleep(time.Hour)
		most(10)
		b.give(1000)
		most(10)
	})
}

func TestWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w workers
		all := func(n int) {
			t.Helper()
			var ran sync.WaitGroup
			ran.Add(n)
			release := make(chan struct{})
			for range n {
				w.run(func() { <-release; ran.Done() })
			}
			close(release)
			ran.Wait()
			synctest.Wait()
		}
		idle := func(want int) {
			t.Helper()
			synctest.Wait()
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(w.idle) != want {
				t.Errorf("%d idle, want %d", len(w.idle), want)
			}
		}
		all(maxIdle + 100)
		idle(maxIdle)
		time.Sleep(2*sweepEvery + 1)
		idle(0)
		all(5)
		all(5)
		idle(5)
		time.Sleep(sweepEvery + 1)
		all(2)
		idle(5)
		time.Sleep(sweepEvery)
		idle(2) // three were not needed
		time.Sleep(sweepEvery)
		idle(0)
		all(1)
		idle(1)
		time.Sleep(3 * sweepEvery) // or this test does not end
	})
}

// TestCurl asks by curl, if it is there.
func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not there")
	}
	s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Proto", r.Proto)
		_, _ = io.Copy(w, r.Body)
	}))
	cmd := exec.Command(curl, "-sSik", "--http2", "--max-time", "20", "--data-binary", "@-", s.URL)
	body := strings.Repeat("0123456789", 200_000)
	cmd.Stdin = strings.NewReader(body)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "HTTP/2 200") || !strings.HasSuffix(string(out), body) ||
		!strings.Contains(string(out), "x-proto: HTTP/2.0") {
		t.Errorf("%v: %.500s", err, out)
	}
}

// TestHeadersOnTheirWayAreBounded: a connection is ended that wants more for a header
// than there is, and what it had is given back, as it is when a header is whole.
func TestHeadersOnTheirWayAreBounded(t *testing.T) {
	const most = 16 << 10
	var held, refused atomic.Int64
	s := newServer(t, Options{
		Header: func(bytes int) bool {
			if held.Add(int64(bytes)) > most && bytes > 0 {
				held.Add(int64(-bytes))
				return false
			}
			return true
		},
		Refused: func(string) { refused.Add(1) },
	}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	await := func(is func(bytes int64) bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !is(held.Load()); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d bytes are held", held.Load())
			}
		}
	}
	some := func(bytes int64) bool { return bytes > 0 }
	none := func(bytes int64) bool { return bytes == 0 }

	p := newPeer(t, s)
	block := slices.Clone(p.encode(fieldsOf("x", strings.Repeat("~", 12_500)))) // which Huffman would make longer
	first, rest := block[:12_000], block[12_000:]
	begin := func(p *peer, id uint32) {
		_ = p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndStream: true})
	}
	begin(p, 1)
	await(some)
	_ = p.framer.WriteContinuation(1, true, rest)
	p.awaitKind(http2.FrameHeaders)
	await(none)

	begin(p, 3)
	await(some)
	each := held.Load()
	many := []*peer{p}
	for refused.Load() == 0 && int64(len(many)) <= most/each {
		before := held.Load()
		q := newPeer(t, s)
		begin(q, 1)
		many = append(many, q)
		await(func(bytes int64) bool { return bytes == before+each || refused.Load() > 0 })
	}
	if code := many[len(many)-1].awaitGoAway(); code != http2.ErrCodeEnhanceYourCalm {
		t.Errorf("the last is told %v", code)
	}
	for _, q := range many {
		q.close()
	}
	await(none)
}
