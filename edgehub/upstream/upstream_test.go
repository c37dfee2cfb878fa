package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"
)

// fakeServer stands in for kube-apiserver where a fault is needed that the real
// one can't be made to have.
type fakeServer struct {
	*httptest.Server
	frozen  atomic.Bool
	thaw    chan struct{}
	readyz  atomic.Int32 // status code, 200 if zero
	mute    atomic.Bool  // /readyz is not answered
	probes  atomic.Int32
	answers atomic.Int32
	idle    sync.Map // connections that wait for another request
	handle  atomic.Pointer[http.HandlerFunc]
}

func newServer(t *testing.T) *fakeServer {
	t.Helper()
	s := &fakeServer{thaw: make(chan struct{})}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.frozen.Load() {
			select {
			case <-s.thaw:
			case <-r.Context().Done():
			}
			return
		}
		w.Header().Set("Audit-Id", "1")
		if r.URL.Path == "/readyz" {
			s.probes.Add(1)
			if s.mute.Load() {
				<-r.Context().Done()
			}
			if code := s.readyz.Load(); code != 0 {
				w.WriteHeader(int(code))
			}
			return
		}
		s.answers.Add(1)
		if h := s.handle.Load(); h != nil {
			(*h)(w, r)
			return
		}
		b, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, s.URL+" "+string(b))
	}))
	s.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateIdle {
			s.idle.Store(conn, true)
		}
	}
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(func() {
		close(s.thaw)
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *fakeServer) serve(h http.HandlerFunc) { s.handle.Store(&h) }

func newUpstream(t *testing.T, servers ...*fakeServer) (*Upstream, *Transport) {
	t.Helper()
	pool := x509.NewCertPool()
	var urls []*url.URL
	for _, s := range servers {
		u, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		urls = append(urls, u)
		pool.AddCert(s.Certificate())
	}
	u := New(Options{Servers: urls})
	rt := u.Transport(&tls.Config{RootCAs: pool, ServerName: "example.com"})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		u.Run(ctx, rt, func(rt http.RoundTripper) http.RoundTripper { return rt })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return u, rt
}

func send(t *testing.T, rt http.RoundTripper, method, body string) (string, error) {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = io.NopCloser(strings.NewReader(body)) // of a type that http can't rewind
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "https://kube-apiserver/api", reader)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestRefusedConnectionIsDownAtOnce(t *testing.T) {
	s := newServer(t)
	u, rt := newUpstream(t, s)
	if _, err := send(t, rt, http.MethodGet, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ready", u.Ready)
	s.CloseClientConnections()
	s.Listener.Close()
	_, err := send(t, rt, http.MethodPost, "x")
	if err == nil {
		t.Fatal("a refused connection gave an answer")
	}
	eventually(t, "down", func() bool { return !u.Up() })
	if _, err := send(t, rt, http.MethodPost, "x"); err != ErrDown || WasSent(err) {
		t.Errorf("a request to no endpoint: %v, sent %v", err, WasSent(err))
	}
	if u.Ready() || u.Status()[0].Error == "" || u.Failovers() != 1 {
		t.Errorf("status %+v, failovers %d", u.Status(), u.Failovers())
	}
}

func TestFrozenServerEndsRequestsUnderWay(t *testing.T) {
	s := newServer(t)
	u, rt := newUpstream(t, s)
	eventually(t, "ready", u.Ready)
	s.frozen.Store(true)
	start := time.Now()
	_, err := send(t, rt, http.MethodPost, "x")
	if !errors.Is(err, ErrDown) || !WasSent(err) {
		t.Errorf("%v, sent %v", err, WasSent(err))
	}
	t.Logf("a silent server is given up after %v", time.Since(start))
	if u.Up() {
		t.Error("still up")
	}
	s.frozen.Store(false)
	if err := u.AwaitUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := send(t, rt, http.MethodPost, "x"); err != nil || got != s.URL+" x" {
		t.Errorf("after the return: %q, %v", got, err)
	}
}

// TestAnEndpointThatTalksIsSlowNotLost: on a busy node or link a probe may wait
// behind lists of many megabytes. It can't be so forever.
func TestAnEndpointThatTalksIsSlowNotLost(t *testing.T) {
	s := newServer(t)
	u, rt := newUpstream(t, s)
	eventually(t, "ready", u.Ready)
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, "more\n")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	})
	var before int32
	mute := func() (isUp bool) {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://kube-apiserver/api", nil)
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		go func() { _, _ = io.Copy(io.Discard, resp.Body) }()
		s.mute.Store(true)
		before = s.probes.Load()
		eventually(t, "two probes are late", func() bool { return s.probes.Load() > before+2 || !u.Up() })
		return u.Up()
	}
	// Where the machine is busy the server may have got no chance to talk.
	for n := 1; !mute(); n++ {
		if n == 5 {
			t.Fatal("an endpoint that talks is taken for lost")
		}
		s.mute.Store(false)
		eventually(t, "up again", u.Up)
	}
	eventually(t, "one that answers no probe at all is lost", func() bool { return !u.Up() })
	if n := s.probes.Load() - before; n > maxLate+2 {
		t.Errorf("after %d probes", n)
	}
}

func TestUnreadyServerIsDownAndRefusingOneIsUp(t *testing.T) {
	for code, up := range map[int32]bool{500: false, 502: false, 503: false, 401: true, 403: true, 429: true} {
		s := newServer(t)
		s.readyz.Store(code)
		u, _ := newUpstream(t, s)
		if up {
			eventually(t, "asked", func() bool { return u.endpoints[0].state.Load() == stateUp })
		} else {
			eventually(t, "down", func() bool { return !u.Up() })
		}
		if u.Ready() {
			t.Errorf("%d is ready", code)
		}
	}
}

// TestAStartingServerIsDownUntilItIsReady: it refuses everybody before it knows who may
// ask what, and is not ready for some time after that. One that goes on to refuse is up.
func TestAStartingServerIsDownUntilItIsReady(t *testing.T) {
	s := newServer(t)
	u, _ := newUpstream(t, s)
	eventually(t, "ready", u.Ready)
	probed := func(n int32) {
		t.Helper()
		for end := s.probes.Load() + n; s.probes.Load() < end; time.Sleep(time.Millisecond) {
			if u.Up() {
				t.Fatal("a server that is starting is up")
			}
			u.Suspect()
		}
	}
	s.readyz.Store(http.StatusInternalServerError)
	eventually(t, "down", func() bool { u.Suspect(); return !u.Up() })
	probed(1)
	s.readyz.Store(http.StatusForbidden)
	probed(startProbes - 2)
	s.readyz.Store(http.StatusInternalServerError)
	probed(2)
	s.readyz.Store(0)
	eventually(t, "ready again", func() bool { u.Suspect(); return u.Ready() })

	s.readyz.Store(http.StatusInternalServerError)
	eventually(t, "down again", func() bool { u.Suspect(); return !u.Up() })
	s.readyz.Store(http.StatusForbidden)
	eventually(t, "up, though it no longer says whether it is ready", func() bool { u.Suspect(); return u.Up() })
	if u.Ready() {
		t.Error("one that refuses to tell is ready")
	}
}

func TestAnotherEndpointTakesOver(t *testing.T) {
	a, b := newServer(t), newServer(t)
	u, rt := newUpstream(t, a, b)
	eventually(t, "both are asked", func() bool {
		return u.endpoints[0].state.Load() == stateReady && u.endpoints[1].state.Load() == stateReady
	})
	a.CloseClientConnections()
	a.Listener.Close()
	for range 10 {
		// A body that nobody read is sent to the next endpoint.
		if got, err := send(t, rt, http.MethodPost, "body"); err != nil || got != b.URL+" body" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	eventually(t, "one is down", func() bool { return !u.Status()[0].Up })
	if !u.Up() || u.Failovers() != 0 {
		t.Errorf("up %v, failovers %d", u.Up(), u.Failovers())
	}
}

// TestAWriteThatFoundNoTLSIsSentToTheNextEndpoint: a load balancer that has no
// kube-apiserver takes a connection and closes it.
func TestAWriteThatFoundNoTLSIsSentToTheNextEndpoint(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	empty, good := mustURL(t, "https://"+listener.Addr().String()), newServer(t)
	roots := x509.NewCertPool()
	roots.AddCert(good.Certificate())
	config := &tls.Config{RootCAs: roots, ServerName: "example.com"}
	for _, body := range []string{"", "body"} {
		rt := New(Options{Servers: []*url.URL{empty, mustURL(t, good.URL)}}).Transport(config)
		for range 4 { // they begin with one and the other by turns
			if got, err := send(t, rt, http.MethodPost, body); err != nil || got != good.URL+" "+body {
				t.Errorf("%q, %v, sent %v", got, err, WasSent(err))
			}
		}
		rt = New(Options{Servers: []*url.URL{empty}}).Transport(config)
		if _, err := send(t, rt, http.MethodPost, body); err == nil || WasSent(err) {
			t.Errorf("nobody is there: %v, sent %v", err, WasSent(err))
		}
	}
}

// TestAnUpgradeIsSentOnce: exec is a GET over a WebSocket, and what it runs may run
// already when its connection breaks, be it a new one or one that was used before.
func TestAnUpgradeIsSentOnce(t *testing.T) {
	a, b := newServer(t), newServer(t)
	_, rt := newUpstream(t, a, b)
	answer := func(h http.HandlerFunc) {
		a.serve(h)
		b.serve(h)
	}
	failed := make(chan error, 1)
	hub := front(t, rt, func(w http.ResponseWriter, _ *http.Request, err error) {
		failed <- err
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	exec := func() (code int) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, hub.URL+"/api/v1/namespaces/shop/pods/pod/exec?command=date", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "websocket")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	lose := func() {
		t.Helper()
		before := a.answers.Load() + b.answers.Load()
		answer(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		_ = exec()
		if err := <-failed; !WasSent(err) {
			t.Errorf("%v is the error of a request that was not sent", err)
		}
		if n := a.answers.Load() + b.answers.Load() - before; n != 1 {
			t.Errorf("it was sent %d times", n)
		}
	}
	lose()
	answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	for range 2 { // they begin with one and the other by turns
		if code := exec(); code != http.StatusForbidden {
			t.Errorf("status %d", code)
		}
	}
	lose()
}

// TestQueriesPassAsTheyCame: what is behind a proxy subresource may read them by rules
// of its own.
func TestQueriesPassAsTheyCame(t *testing.T) {
	s := newServer(t)
	_, rt := newUpstream(t, s)
	s.serve(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.RawQuery) })
	hub := front(t, rt, nil)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		for _, query := range []string{"b=1&a=%2f+x", "a=1;b=2", "discount=5%&a", "z&a&&z="} {
			req, err := http.NewRequestWithContext(t.Context(), method, hub.URL+"/api/v1/namespaces/shop/services/web/proxy/?"+query, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || string(got) != query {
				t.Errorf("%s with %q came as %q, %v", method, query, got, err)
			}
		}
	}
}

// TestAClientIsAskedForItsBodyOnce (RFC 9110, 10.1.1).
func TestAClientIsAskedForItsBodyOnce(t *testing.T) {
	s := newServer(t)
	_, rt := newUpstream(t, s)
	hub := front(t, rt, nil)
	conn, err := net.Dial("tcp", hub.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "POST /api HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	const asked = "HTTP/1.1 100 Continue\r\n\r\n"
	got := make([]byte, len(asked))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != asked {
		t.Fatalf("%q, %v", got, err)
	}
	_, _ = io.WriteString(conn, "body")
	b, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 200 OK\r\n") || !strings.Contains(string(b), s.URL+" body") {
		t.Errorf("%q, %v", b, err)
	}
}

// TestAWatchEndsAndAListBreaksOffWithTheCloud: a client continues an ended watch
// where it was, but must not take a piece of a list for the whole.
func TestAWatchEndsAndAListBreaksOffWithTheCloud(t *testing.T) {
	s := newServer(t)
	u, rt := newUpstream(t, s)
	eventually(t, "ready", u.Ready)
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "begun\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	proxy := Proxy(rt, func(http.ResponseWriter, *http.Request, error) {})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := &request.RequestInfo{IsResourceRequest: true, Verb: r.URL.Query().Get("verb")}
		proxy.ServeHTTP(w, r.WithContext(request.WithRequestInfo(r.Context(), info)))
	}))
	defer front.Close()
	open := func(verb string) io.ReadCloser {
		resp, err := http.Get(front.URL + "/?verb=" + verb)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Body
	}
	watch, list := open("watch"), open("list")
	defer watch.Close()
	defer list.Close()
	eventually(t, "both are answered", func() bool { return s.answers.Load() == 2 })
	s.frozen.Store(true)
	if b, err := io.ReadAll(watch); err != nil || string(b) != "begun\n" {
		t.Errorf("watch: %q, %v", b, err)
	}
	if b, err := io.ReadAll(list); err == nil {
		t.Errorf("list ended well with %q", b)
	}
}

// TestAnEndpointThatReturnsGetsItsShareOfWatches, each of them once, and of nothing that
// can't go on where it was.
func TestAnEndpointThatReturnsGetsItsShareOfWatches(t *testing.T) {
	const many = 40
	a, b := newServer(t), newServer(t)
	u, rt := newUpstream(t, a, b)
	u.moveOver = 500 * time.Millisecond
	hold := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	a.serve(hold)
	b.serve(hold)
	open := func(verb string) io.ReadCloser {
		info := &request.RequestInfo{IsResourceRequest: true, Verb: verb}
		req, err := http.NewRequestWithContext(request.WithRequestInfo(t.Context(), info), http.MethodGet, "https://kube-apiserver/api?verb="+verb, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		endWatch(resp)
		return resp.Body
	}
	state := func(up bool) func() bool { return func() bool { return u.Status()[1].Up == up } }
	b.readyz.Store(http.StatusInternalServerError)
	eventually(t, "one is down", state(false))

	ended := make(chan struct{}, many)
	for range many {
		watch := open("watch")
		go func() {
			_, err := io.Copy(io.Discard, watch)
			if err != nil {
				t.Errorf("a watch broke off: %v", err)
			}
			_ = watch.Close()
			ended <- struct{}{}
		}()
	}
	other := open("connect")
	broken := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, other)
		broken <- err
	}()
	if n := b.answers.Load(); n != 0 || a.answers.Load() != many+1 {
		t.Fatalf("the one that is down was asked %d times", n)
	}
	b.readyz.Store(0)
	eventually(t, "it is back", state(true))
	for range many {
		select {
		case <-ended:
		case <-time.After(20 * u.moveOver):
			t.Fatal("a watch stays where it is")
		}
	}
	// They begin anew, and stay.
	before := b.answers.Load()
	stay := make(chan struct{}, many)
	for range many {
		watch := open("watch")
		go func() {
			_, _ = io.Copy(io.Discard, watch)
			stay <- struct{}{}
		}()
		defer watch.Close()
	}
	if n := b.answers.Load() - before; n < many/3 || n > many*2/3 {
		t.Errorf("it got %d of %d watches", n, many)
	}
	select {
	case <-stay:
		t.Error("a watch was ended that had begun after the return")
	case err := <-broken:
		t.Errorf("what is no watch was ended: %v", err)
	case <-time.After(2 * u.moveOver):
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "nothing is listed that is closed", func() bool {
		a, b := &u.endpoints[0].watches, &u.endpoints[1].watches
		a.mu.Lock()
		defer a.mu.Unlock()
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(a.open)+len(b.open) == many
	})
}

// TestWatchesAreMovedByAndBy, not all at once.
func TestWatchesAreMovedByAndBy(t *testing.T) {
	server, err := url.Parse("https://192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		const many = 40
		u := New(Options{Servers: []*url.URL{server, server}})
		stays, returns := u.endpoints[0], u.endpoints[1]
		ends := make(chan time.Time, many)
		for range many {
			stays.watches.add(func(error) { ends <- time.Now() })
		}
		returns.fail(errSilent)
		returned := time.Now()
		returns.recover(stateReady)
		first, last := <-ends, time.Time{}
		for range many - 1 {
			last = <-ends
		}
		if last.Sub(first) < moveOver/2 || last.Sub(returned) > moveOver {
			t.Errorf("%d watches are ended from %v to %v after the return", many, first.Sub(returned), last.Sub(returned))
		}
	})
}

// TestWatchesStayWhenTheEndpointGoesAgain before they were moved.
func TestWatchesStayWhenTheEndpointGoesAgain(t *testing.T) {
	server, err := url.Parse("https://192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		u := New(Options{Servers: []*url.URL{server, server}})
		stays, flaps := u.endpoints[0], u.endpoints[1]
		var ends atomic.Int32
		release := stays.watches.add(func(error) { ends.Add(1) })
		for range 3 {
			flaps.fail(errSilent)
			flaps.recover(stateReady)
			flaps.fail(errSilent)
			time.Sleep(moveOver)
			synctest.Wait()
		}
		if ends.Load() != 0 {
			t.Error("a watch was ended for nobody")
		}
		flaps.recover(stateReady)
		time.Sleep(moveOver)
		synctest.Wait()
		if ends.Load() != 1 {
			t.Errorf("the watch was ended %d times", ends.Load())
		}
		flaps.fail(errSilent)
		flaps.recover(stateReady)
		release()
		time.Sleep(moveOver)
		synctest.Wait()
		if ends.Load() != 1 {
			t.Error("a watch was ended that is over")
		}
	})
}

func TestWhoMayRefuse(t *testing.T) {
	for _, c := range []struct {
		auditID, contentType string
		want                 bool
	}{
		{"1", "application/json", true},
		{"1", "text/plain; charset=utf-8", true}, // "404 page not found"
		{"", "application/json", true},           // an Audit-Id may be taken away
		{"", "application/vnd.kubernetes.protobuf", true},
		{"", "text/html", false},
		{"", "", false},
	} {
		header := http.Header{"Audit-Id": {c.auditID}, "Content-Type": {c.contentType}}
		if got := MayRefuse(&http.Response{StatusCode: http.StatusForbidden, Header: header}); got != c.want {
			t.Errorf("Audit-Id %q, Content-Type %q: %v", c.auditID, c.contentType, got)
		}
	}
}

func TestGatewayIsToldFromKubeAPIServer(t *testing.T) {
	for code, want := range map[int]bool{502: true, 503: true, 504: true, 500: false, 200: false, 429: false} {
		resp := &http.Response{StatusCode: code, Header: http.Header{}}
		if got := FromGateway(resp); got != want {
			t.Errorf("%d without Audit-Id: %v", code, got)
		}
		resp.Header.Set("Audit-Id", "1")
		if FromGateway(resp) {
			t.Errorf("%d with Audit-Id is from a gateway", code)
		}
	}
}

func TestServerURLMayHaveAPath(t *testing.T) {
	server, _ := url.Parse("https://host:1/k8s/clusters/c-1")
	for in, want := range map[string]string{
		"/api/v1/pods?watch=1":  "https://host:1/k8s/clusters/c-1/api/v1/pods?watch=1",
		"/api/v1/x%2Fy":         "https://host:1/k8s/clusters/c-1/api/v1/x%2Fy",
		"https://evil.com/api":  "https://host:1/k8s/clusters/c-1/api",
		"//evil.com/api/v1":     "https://host:1/k8s/clusters/c-1/api/v1",
		"/api/../../etc/passwd": "https://host:1/k8s/clusters/c-1/api/../../etc/passwd",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := resolve(server, u).String(); got != want {
			t.Errorf("%s goes to %s, want %s", in, got, want)
		}
	}
}
