package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"
)

// front serves a proxy as the hub does: with what the request asks for in its
// context.
func front(t *testing.T, rt http.RoundTripper, failed func(http.ResponseWriter, *http.Request, error)) *httptest.Server {
	t.Helper()
	if failed == nil {
		failed = func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	}
	proxy := Proxy(rt, failed)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := &request.RequestInfo{IsResourceRequest: true, Verb: "get"}
		proxy.ServeHTTP(w, r.WithContext(request.WithRequestInfo(r.Context(), info)))
	}))
	t.Cleanup(s.Close)
	return s
}

func fetch(t *testing.T, url string) (*http.Response, string, error) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

// countProtocols counts the server's connections by protocol.
func countProtocols(s *fakeServer) (http1 *sync.Map, http2 *atomic.Int32) {
	http1, http2 = new(sync.Map), new(atomic.Int32)
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 {
			http2.Add(1)
		} else {
			http1.Store(r.RemoteAddr, true)
		}
		if r.URL.Query().Has("wait") {
			<-r.Context().Done()
		}
	})
	return http1, http2
}

func size(m *sync.Map) (n int) {
	m.Range(func(any, any) bool { n++; return true })
	return n
}

func TestReadsShareFewConnections(t *testing.T) {
	s := newServer(t)
	_, rt := newUpstream(t, s)
	http1, http2 := countProtocols(s)
	f := front(t, rt, nil)
	for range 50 {
		if _, _, err := fetch(t, f.URL); err != nil {
			t.Fatal(err)
		}
	}
	if n := size(http1); n != 1 {
		t.Errorf("50 reads in turn took %d connections", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range maxShort + 8 {
		wg.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, f.URL+"/?wait", nil)
			if resp, err := http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
			}
		})
	}
	eventually(t, "all are asked, as many as may on connections of their own", func() bool {
		return http2.Load() == 8 && size(http1) == maxShort
	})
	cancel()
	wg.Wait()
}

// TestAClientThatClosesItsConnectionClosesNoneOfTheHubs, on which others are served.
func TestAClientThatClosesItsConnectionClosesNoneOfTheHubs(t *testing.T) {
	s := newServer(t)
	_, rt := newUpstream(t, s)
	http1, http2 := new(sync.Map), new(sync.Map)
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 {
			http2.Store(r.RemoteAddr, true)
		} else {
			http1.Store(r.RemoteAddr, true)
		}
	})
	proxy := Proxy(rt, func(w http.ResponseWriter, _ *http.Request, err error) {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	})
	f := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := &request.RequestInfo{IsResourceRequest: true, Verb: r.URL.Query().Get("verb")}
		proxy.ServeHTTP(w, r.WithContext(request.WithRequestInfo(r.Context(), info)))
	}))
	defer f.Close()
	for _, head := range []string{"HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "HTTP/1.0\r\n\r\n"} {
		for _, verb := range []string{"get", "watch"} {
			for range 3 {
				conn, err := net.Dial("tcp", f.Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.WriteString(conn, "GET /api?verb="+verb+" "+head)
				b, err := io.ReadAll(conn) // until it is closed
				_ = conn.Close()
				if err != nil || !strings.Contains(string(b), " 200 OK\r\n") {
					t.Fatalf("%s with %q: %q, %v", verb, head, b, err)
				}
			}
		}
	}
	if n := size(http1); n != 1 {
		t.Errorf("6 reads in turn took %d connections", n)
	}
	if n := size(http2); n != 1 {
		t.Errorf("6 watches took %d connections", n)
	}
}

func TestAReadIsSentAgainWhenItsIdleConnectionWasClosed(t *testing.T) {
	s := newServer(t)
	_, rt := newUpstream(t, s)
	http1, _ := countProtocols(s)
	f := front(t, rt, nil)
	const reads = 20
	for range reads {
		if resp, body, err := fetch(t, f.URL); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v %v %q", resp, err, body)
		}
		eventually(t, "the connection is idle, and closed", func() (closed bool) {
			s.idle.Range(func(conn, _ any) bool {
				if _, ok := http1.Load(conn.(net.Conn).RemoteAddr().String()); ok {
					_ = conn.(net.Conn).Close()
					s.idle.Delete(conn)
					closed = true
				}
				return true
			})
			return closed
		})
	}
	if n := size(http1); n != reads {
		t.Errorf("%d connections, so that only %d were closed", n, n-1)
	}
}

func TestAClientThatLeavesEndsItsRead(t *testing.T) {
	s := newServer(t)
	_, rt := newUpstream(t, s)
	began, ended := make(chan struct{}), make(chan struct{})
	s.serve(func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
		close(ended)
	})
	f := front(t, rt, nil)
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, f.URL, nil)
	go func() {
		<-began
		cancel()
	}()
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Error("answered")
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("kube-apiserver still works for a client that left")
	}
}

func TestWhatComesGoesOutAtOnce(t *testing.T) {
	s := newServer(t)
	_, rt := newUpstream(t, s)
	more := make(chan struct{})
	s.serve(func(w http.ResponseWriter, _ *http.Request) {
		for range 3 {
			_, _ = io.WriteString(w, "part\n")
			_ = http.NewResponseController(w).Flush()
			<-more
		}
	})
	f := front(t, rt, nil)
	resp, err := http.Get(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	for range 3 { // each part is here before the next is written
		if line, err := r.ReadString('\n'); err != nil || line != "part\n" {
			t.Fatalf("%q, %v", line, err)
		}
		more <- struct{}{}
	}
}

// TestAWatchIsAnsweredBeforeItsFirstEvent, and a burst of events comes whole.
func TestAWatchIsAnsweredBeforeItsFirstEvent(t *testing.T) {
	s := newServer(t)
	_, rt := newUpstream(t, s)
	event := strings.Repeat("x", 3*smallBuffer) + "\n"
	begin := make(chan struct{})
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-begin
		for range 20 {
			_, _ = io.WriteString(w, event)
			_ = http.NewResponseController(w).Flush()
		}
	})
	proxy := Proxy(rt, nil)
	f := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := &request.RequestInfo{IsResourceRequest: true, Verb: "watch"}
		proxy.ServeHTTP(w, r.WithContext(request.WithRequestInfo(r.Context(), info)))
	}))
	t.Cleanup(f.Close)
	resp, err := http.Get(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	close(begin)
	b, err := io.ReadAll(resp.Body)
	if err != nil || string(b) != strings.Repeat(event, 20) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func TestABodyThatBreaksOffLooksBroken(t *testing.T) {
	s := newServer(t)
	_, rt := newUpstream(t, s)
	s.serve(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 100<<10))
		panic(http.ErrAbortHandler)
	})
	if _, body, err := fetch(t, front(t, rt, nil).URL); err == nil {
		t.Errorf("ended well with %d bytes", len(body))
	}
}

func TestALostEndpointEndsItsReads(t *testing.T) {
	for _, renewals := range []int{0, 1, 2} {
		t.Run(fmt.Sprintf("after %d renewals", renewals), func(t *testing.T) { testLostEndpoint(t, renewals) })
	}
}

func testLostEndpoint(t *testing.T, renewals int) {
	s := newServer(t)
	u, rt := newUpstream(t, s)
	eventually(t, "ready", u.Ready)
	s.serve(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	var cause atomic.Value
	f := front(t, rt, func(w http.ResponseWriter, _ *http.Request, err error) {
		cause.Store(err)
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	done := make(chan error, 1)
	go func() {
		resp, err := http.Get(f.URL)
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}()
	eventually(t, "asked", func() bool { return s.answers.Load() == 1 })
	for range renewals {
		rt.Renew()
	}
	s.frozen.Store(true)
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the read still waits")
		s.CloseClientConnections()
		<-done
	}
	if err, _ := cause.Load().(error); !errors.Is(err, ErrDown) {
		t.Errorf("the read failed with %v", err)
	}
}

// TestALostEndpointEndsDials: a server that is frozen still takes connections,
// which the kernel does for it.
func TestALostEndpointEndsDials(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	u := New(Options{Servers: []*url.URL{mustURL(t, "https://"+listener.Addr().String())}})
	rt := u.Transport(&tls.Config{})
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://kube-apiserver/api", nil)
	info := &request.RequestInfo{IsResourceRequest: true, Verb: "get"}
	failed := make(chan error, 1)
	go func() {
		resp, err := rt.RoundTrip(req.WithContext(request.WithRequestInfo(req.Context(), info)))
		if err == nil {
			resp.Body.Close()
		}
		failed <- err
	}()
	conn, err := listener.Accept() // and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	u.endpoints[0].fail(errSilent)
	select {
	case err := <-failed:
		if !errors.Is(err, ErrDown) {
			t.Errorf("failed with %v", err)
		}
	case <-time.After(dialTimeout):
		t.Error("the handshake is waited for")
	}
}

// TestAnEndpointThatWasLostMeanwhileIsNotAsked: several endpoints behind one link are
// lost together, and nobody waits for one after the other.
func TestAnEndpointThatWasLostMeanwhileIsNotAsked(t *testing.T) {
	dialed := make(chan net.Conn, 2)
	var servers []*url.URL
	for range 2 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		servers = append(servers, mustURL(t, "https://"+listener.Addr().String()))
		go func() {
			if conn, err := listener.Accept(); err == nil { // and never answers
				dialed <- conn
			}
		}()
	}
	u := New(Options{Servers: servers})
	rt := u.Transport(&tls.Config{})
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://kube-apiserver/api", nil)
	info := &request.RequestInfo{IsResourceRequest: true, Verb: "get"}
	failed := make(chan error, 1)
	go func() {
		resp, err := rt.RoundTrip(req.WithContext(request.WithRequestInfo(req.Context(), info)))
		if err == nil {
			resp.Body.Close()
		}
		failed <- err
	}()
	conn := <-dialed
	defer conn.Close()
	asked := 0
	if conn.LocalAddr().String() != servers[0].Host {
		asked = 1
	}
	u.endpoints[1-asked].fail(errSilent)
	u.endpoints[asked].fail(errSilent)
	if err := <-failed; !errors.Is(err, ErrDown) {
		t.Errorf("failed with %v", err)
	}
	select {
	case conn := <-dialed:
		conn.Close()
		t.Error("the other endpoint was asked, which was lost before")
	default:
	}
}

func TestHeadersOfAConnectionStayWithIt(t *testing.T) {
	s := newServer(t)
	_, rt := newUpstream(t, s)
	seen := make(chan http.Header, 1)
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Clone()
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set("Warning", `299 - "kept"`)
	})
	f := front(t, rt, nil)
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, f.URL, nil)
	for _, name := range append(append([]string{}, hopHeaders...), forwardHeaders...) {
		if name != "Upgrade" && name != "Connection" && name != "Transfer-Encoding" && name != "Trailer" {
			req.Header.Set(name, "x")
		}
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := <-seen
	for name := range got {
		if name != "Accept" && name != "Accept-Encoding" {
			t.Errorf("%s: %s reached kube-apiserver", name, got[name])
		}
	}
	if resp.Header.Get("Keep-Alive") != "" || resp.Header.Get("Warning") == "" {
		t.Errorf("response header %v", resp.Header)
	}
}

// rawServer answers each connection's first request with bytes of its own.
func rawServer(t *testing.T, answer string) *shorts {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, answer)
		t.Cleanup(func() { _ = conn.Close() })
	}))
	s.StartTLS()
	t.Cleanup(s.Close)
	u := New(Options{})
	e := newEndpoint(u, mustURL(t, s.URL))
	config := s.Client().Transport.(*http.Transport).TLSClientConfig
	return newShorts(e, config)
}

func TestHostileAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		answer, body, fails string
		kept                bool
	}{
		"plain":            {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", body: "ok", kept: true},
		"chunked":          {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", body: "ok", kept: true},
		"interim":          {answer: "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", body: "ok", kept: true},
		"close":            {answer: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", body: "ok"},
		"second response":  {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", body: "ok"},
		"endless interim":  {answer: strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100), fails: "no final response"},
		"upgrade":          {answer: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", fails: "no final response"},
		"endless header":   {answer: "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Filler: "+strings.Repeat("x", 1000)+"\r\n", 1100), fails: "larger than"},
		"no HTTP":          {answer: "SSH-2.0-OpenSSH_9.6\r\n\r\n", fails: "malformed"},
		"two lengths":      {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokx", fails: "Content-Length"},
		"unknown encoding": {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", fails: "unsupported transfer encoding"},
	} {
		t.Run(name, func(t *testing.T) {
			p := rawServer(t, test.answer)
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, p.endpoint.url.String(), nil)
			resp, err := p.RoundTrip(req)
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Fatalf("failed with %v, want %q", err, test.fails)
				}
			} else {
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(resp.Body)
				if err != nil || string(b) != test.body {
					t.Errorf("body %q, %v", b, err)
				}
				_ = resp.Body.Close()
			}
			if kept := len(p.idle) == 1; kept != test.kept {
				t.Errorf("connection kept: %v", kept)
			}
			if len(p.all) != len(p.idle) {
				t.Errorf("%d connections, %d of them idle", len(p.all), len(p.idle))
			}
		})
	}
}

func TestAnUnreadBodyIsNotTheNextResponse(t *testing.T) {
	p := rawServer(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, p.endpoint.url.String(), nil)
	resp, err := p.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if len(p.all) != 0 {
		t.Error("a connection whose body was not read is kept")
	}
}

func TestAWatchdogThatWasStoppedIsSilent(t *testing.T) {
	e := newEndpoint(New(Options{}), mustURL(t, "https://host"))
	w := watchdog{endpoint: e}
	w.start()
	w.stop()
	w.bark() // as if the timer had fired at the same moment
	if len(e.poke) != 0 {
		t.Error("asked for a probe")
	}
	if w.timer.Stop() {
		t.Error("the timer runs on")
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 103 x\r\n\r\nHTTP/1.0 204 \r\n\r\n"))
	u := New(Options{})
	f.Fuzz(func(t *testing.T, answer []byte) {
		client, server := net.Pipe()
		go func() {
			_, _ = http.ReadRequest(bufio.NewReader(server))
			_, _ = server.Write(answer)
			_ = server.Close()
		}()
		p := newShorts(newEndpoint(u, mustURL(t, "https://host")), &tls.Config{})
		c := p.add(client)
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://host/api", nil)
		resp, err := c.roundTrip(req)
		if err != nil {
			c.discard()
		} else {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		if len(p.all) != len(p.idle) {
			t.Errorf("%d connections, %d of them idle", len(p.all), len(p.idle))
		}
		for _, c := range p.idle {
			c.discard()
		}
	})
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
