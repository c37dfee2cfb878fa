package limits

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/edgehub-io/edge-hub/edgehub/upstream"
)

// named takes the Authorization header for proof if it begins with "proven". What
// stands before a slash is the tenant.
func named(r *http.Request) (Caller, bool) {
	name := r.Header.Get("Authorization")
	tenant, _, ok := strings.Cut(name, "/")
	if !ok {
		tenant = ""
	}
	return Caller{Name: name, Tenant: tenant, Node: name == "proven node"}, strings.HasPrefix(name, "proven")
}

func get(caller, address, verb string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/api/v1/pods", nil)
	r.Header.Set("Authorization", caller)
	r.RemoteAddr = address + ":1234"
	info := &request.RequestInfo{IsResourceRequest: true, Verb: verb, Resource: "pods"}
	return r.WithContext(request.WithRequestInfo(r.Context(), info))
}

func newLimiter(o Options) (*Limiter, *prometheus.Registry) {
	registry := prometheus.NewRegistry()
	return New(o, named, registry), registry
}

func TestACallerHasItsShareAndNoMore(t *testing.T) {
	l, _ := newLimiter(Options{Requests: 8, RequestsPerCaller: 3, Watches: 4, WatchesPerCaller: 2})
	var ends []func()
	try := func(caller, address, verb string) error {
		_, _, end, err := l.Begin(httptest.NewRecorder(), get(caller, address, verb))
		if err == nil {
			ends = append(ends, end)
		}
		return err
	}
	want := func(err error, refused string) {
		t.Helper()
		if refused == "" && err != nil || refused != "" && (!apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "--"+refused+" ")) {
			t.Errorf("got %v, want %q", err, refused)
		}
	}
	for range 3 {
		want(try("proven a", "10.0.0.1", "get"), "")
	}
	want(try("proven a", "10.0.0.1", "get"), "max-requests-per-caller")
	want(try("proven a", "10.0.0.2", "get"), "max-requests-per-caller") // wherever it comes from
	want(try("proven a", "10.0.0.1", "watch"), "")                      // is counted apart
	// Made-up credentials are one caller for each address, and may have half.
	for i := range 3 {
		want(try(fmt.Sprint("made up ", i), "10.0.0.3", "get"), "")
	}
	want(try("made up 4", "10.0.0.3", "get"), "max-requests-per-caller")
	want(try("made up 5", "10.0.0.4", "get"), "")
	want(try("made up 6", "10.0.0.5", "get"), "max-requests")
	want(try("proven b", "10.0.0.5", "get"), "") // an honest one is served meanwhile
	want(try("proven b", "10.0.0.5", "get"), "max-requests")
	for _, end := range ends {
		end()
	}
	if len(l.callers) != 0 || len(l.flights) != 0 || l.total != [kinds]int{} || l.unproven != [kinds]int{} {
		t.Errorf("something is left when all has ended: %+v", l)
	}
	want(try("made up 6", "10.0.0.5", "get"), "")
	if n := testutil.ToFloat64(l.refused.WithLabelValues("max-requests-per-caller")); n != 3 {
		t.Errorf("%v refusals are counted", n)
	}
}

// TestTheLastQuarterIsForThoseWhoHaveLittle, whatever one caller may have.
func TestTheLastQuarterIsForThoseWhoHaveLittle(t *testing.T) {
	l, _ := newLimiter(Options{Watches: 16, WatchesPerCaller: 16})
	begin := func(caller string) error {
		_, _, _, err := l.Begin(httptest.NewRecorder(), get(caller, "10.0.0.1", "watch"))
		return err
	}
	for range 12 {
		if err := begin("proven greedy"); err != nil {
			t.Fatal(err)
		}
	}
	if err := begin("proven greedy"); !apierrors.IsTooManyRequests(err) {
		t.Errorf("one that has much gets more: %v", err)
	}
	for i := range 4 {
		if err := begin(fmt.Sprint("proven modest ", i/2)); err != nil {
			t.Errorf("one that has little: %v", err)
		}
	}
	if err := begin("proven late"); !apierrors.IsTooManyRequests(err) {
		t.Errorf("more than there is: %v", err)
	}
}

// TestManyAccountsOfATenantShutOutNobody: neither another tenant, nor this node's
// kubelet even when there is nothing left.
func TestManyAccountsOfATenantShutOutNobody(t *testing.T) {
	const each = 384 << 10 // of a body whose length is not known
	l, _ := newLimiter(Options{Requests: 16, Watches: 16, WatchesPerCaller: 6, Bodies: 16 * each})
	var ends []func()
	begin := func(caller, verb string) error {
		r := get(caller, "10.0.0.1", verb)
		if verb == "create" {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("body")), -1
		}
		_, _, end, err := l.Begin(httptest.NewRecorder(), r)
		if err == nil {
			ends = append(ends, end)
		}
		return err
	}
	for _, verb := range []string{"watch", "create"} {
		for i := range 12 {
			if err := begin(fmt.Sprint("proven greedy/", i), verb); err != nil {
				t.Fatal(err)
			}
		}
		if err := begin("proven greedy/another", verb); !apierrors.IsTooManyRequests(err) {
			t.Errorf("%s: another account of one that has much: %v", verb, err)
		}
		for i := range 4 {
			if err := begin(fmt.Sprintf("proven modest %d/app", i), verb); err != nil {
				t.Errorf("%s: another tenant: %v", verb, err)
			}
		}
		if err := begin("proven late/app", verb); !apierrors.IsTooManyRequests(err) {
			t.Errorf("%s: more than there is: %v", verb, err)
		}
		for range 4 {
			if err := begin("proven node", verb); err != nil {
				t.Errorf("%s: this node's kubelet: %v", verb, err)
			}
		}
	}
	for range 2 {
		if err := begin("proven node", "watch"); err != nil {
			t.Error(err)
		}
	}
	if err := begin("proven node", "watch"); !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "--max-watches-per-caller ") {
		t.Errorf("the kubelet has no bound: %v", err)
	}
	for _, end := range ends {
		end()
	}
	if len(l.callers) != 0 || len(l.tenants) != 0 || l.total != [kinds]int{} {
		t.Errorf("something is left when all has ended: %+v", l)
	}
}

// TestOfManyWatchesLittleIsSentAhead, or those who take nothing fill the memory.
func TestOfManyWatchesLittleIsSentAhead(t *testing.T) {
	l, _ := newLimiter(Options{})
	begin := func(caller, verb string) (narrow bool, end func()) {
		_, r, end, err := l.Begin(httptest.NewRecorder(), get(caller, "10.0.0.1", verb))
		if err != nil {
			t.Fatal(err)
		}
		return upstream.HasNarrowBuffer(r.Context()), end
	}
	var ends []func()
	for _, caller := range []string{"proven a/a", "proven a/b", "proven a/c", "proven a/d", "proven b/a", "proven b/b"} {
		wide := 0
		for range 2 * maxAhead {
			narrow, end := begin(caller, "watch")
			if ends = append(ends, end); !narrow {
				wide++
			}
		}
		if caller == "proven a/a" && wide != maxAhead/4 || wide > maxAhead/4 || strings.HasSuffix(caller, "a") && wide == 0 {
			t.Errorf("%s: %d watches of which much is sent ahead", caller, wide)
		}
	}
	if narrow, end := begin("proven a/a", "list"); narrow {
		t.Error("a list is one of many watches")
	} else {
		end()
	}
	for _, end := range ends {
		end()
	}
	if narrow, _ := begin("proven a/a", "watch"); narrow {
		t.Error("watches that have ended count")
	}
}

func TestKindsOfRequests(t *testing.T) {
	for name, c := range map[string]struct {
		info    request.RequestInfo
		upgrade string // the Connection header
		want    int
	}{
		"get":          {request.RequestInfo{IsResourceRequest: true, Verb: "get"}, "", short},
		"watch":        {request.RequestInfo{IsResourceRequest: true, Verb: "watch"}, "", long},
		"log":          {request.RequestInfo{IsResourceRequest: true, Verb: "get", Subresource: "log"}, "", long},
		"exec":         {request.RequestInfo{IsResourceRequest: true, Verb: "create", Subresource: "exec"}, "Upgrade", long},
		"any upgrade":  {request.RequestInfo{Verb: "get"}, "keep-alive, Upgrade", long},
		"no upgrade":   {request.RequestInfo{Verb: "get"}, "keep-alive", short},
		"status":       {request.RequestInfo{IsResourceRequest: true, Verb: "update", Subresource: "status"}, "", short},
		"not resource": {request.RequestInfo{Verb: "get", Path: "/version"}, "", short},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if c.upgrade != "" {
			r.Header.Set("Upgrade", "websocket")
			r.Header.Set("Connection", c.upgrade)
		}
		if got := kindOf(r.WithContext(request.WithRequestInfo(r.Context(), &c.info))); got != c.want {
			t.Errorf("%s is of kind %d", name, got)
		}
	}
}

// serve runs a real server with the limiter in front of a handler.
func serve(t *testing.T, l *Limiter, http2 bool, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out, limited, end, err := l.Begin(w, r)
		if err != nil {
			w.WriteHeader(int(apierrors.ReasonForError(err)[0])) // never in these tests
			return
		}
		defer end()
		h(out, limited)
	}))
	s.Listener = l.Listener(s.Listener)
	s.EnableHTTP2 = http2
	s.Config.ReadHeaderTimeout = 20 * time.Second
	s.StartTLS()
	ctx, cancel := context.WithCancel(context.Background())
	go l.Run(ctx)
	t.Cleanup(func() { cancel(); s.CloseClientConnections(); s.Close() })
	return s
}

func TestAClientThatTakesNothingIsCutOff(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%v", http2), func(t *testing.T) {
			l, _ := newLimiter(Options{ClientTimeout: time.Second})
			failed := make(chan error, 1)
			s := serve(t, l, http2, func(w http.ResponseWriter, _ *http.Request) {
				for {
					if _, err := w.Write(make([]byte, 64<<10)); err != nil {
						failed <- err
						return
					}
				}
			})
			resp, err := s.Client().Get(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			select {
			case <-failed:
			case <-time.After(20 * time.Second):
				t.Fatal("the response still waits for its client")
			}
			for deadline := time.Now().Add(10 * time.Second); testutil.ToFloat64(l.cut) != 1; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) { // it is counted once it has happened
					t.Fatalf("%v slow clients are counted", testutil.ToFloat64(l.cut))
				}
			}
		})
	}
}

// lateDeadline is asked to end its writes, and is told when.
type lateDeadline struct {
	*httptest.ResponseRecorder
	asked, goOn chan struct{}
	deadline    time.Time
}

func (l *lateDeadline) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() {
		close(l.asked)
		<-l.goOn
	}
	l.deadline = t
	return nil
}

// TestAResponseThatWasTakenAfterAllLeavesItsConnectionWell, which the next one may have,
// however late it is found to be slow.
func TestAResponseThatWasTakenAfterAllLeavesItsConnectionWell(t *testing.T) {
	l, _ := newLimiter(Options{ClientTimeout: time.Second})
	w := &lateDeadline{httptest.NewRecorder(), make(chan struct{}), make(chan struct{}), time.Time{}}
	out, _, end, err := l.Begin(w, get("proven", "10.0.0.1", "get"))
	if err != nil {
		t.Fatal(err)
	}
	out.(*flight).writing.Store(1) // for long
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		l.sweep(time.Now())
	}()
	<-w.asked
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		end()
	}()
	select {
	case <-ended:
	case <-time.After(100 * time.Millisecond): // it waits
	}
	close(w.goOn)
	<-swept
	<-ended
	if !w.deadline.IsZero() {
		t.Error("the next response is to end", w.deadline)
	}
}

// TestAWatchThatIsIdleIsNotCutOff: waiting for kube-apiserver is not waiting for
// the client.
func TestAWatchThatIsIdleIsNotCutOff(t *testing.T) {
	const timeout = time.Second
	l, _ := newLimiter(Options{ClientTimeout: timeout})
	s := serve(t, l, true, func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		time.Sleep(3 * timeout)
		_, _ = io.WriteString(w, "event")
	})
	resp, err := s.Client().Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "event" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestABodyMustComeInTimeAndNotBeTooLarge(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		l, _ := newLimiter(Options{ClientTimeout: time.Second, Body: 1 << 20})
		result := make(chan error, 1)
		s := serve(t, l, http2, func(_ http.ResponseWriter, r *http.Request) {
			_, err := io.Copy(io.Discard, r.Body)
			result <- err
		})
		post := func(body io.Reader) {
			go func() {
				req, _ := http.NewRequest(http.MethodPost, s.URL, body)
				if resp, err := s.Client().Do(req); err == nil {
					resp.Body.Close()
				}
			}()
		}
		unknownLength := io.MultiReader(strings.NewReader(strings.Repeat("x", 2<<20)))
		post(unknownLength)
		if err := Refusal(<-result); !apierrors.IsRequestEntityTooLargeError(err) {
			t.Errorf("http2=%v: a large body is answered with %v", http2, err)
		}
		r, w := io.Pipe()
		post(r)
		_, _ = w.Write([]byte("slow"))
		if err := Refusal(<-result); !apierrors.IsTimeout(err) {
			t.Errorf("http2=%v: a slow body is answered with %v", http2, err)
		}
		_ = w.Close()
		post(strings.NewReader("honest"))
		if err := <-result; err != nil {
			t.Errorf("http2=%v: an honest body fails with %v", http2, err)
		}
	}
	if Refusal(errors.New("other")) != nil {
		t.Error("any error is taken for the client's")
	}
	l, _ := newLimiter(Options{Body: 10})
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("more than ten bytes"))
	if _, _, _, err := l.Begin(httptest.NewRecorder(), r); !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("a body that says how large it is gets %v", err)
	}
}

// TestARequestEndsWithABodyThatNobodyWaitsFor: upstream may answer before it has
// the body, and keep its answer open.
func TestARequestEndsWithABodyThatNobodyWaitsFor(t *testing.T) {
	l, _ := newLimiter(Options{ClientTimeout: time.Second})
	ended := make(chan error, 1)
	s := serve(t, l, true, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		ended <- context.Cause(r.Context())
	})
	body, _ := io.Pipe()
	go func() {
		req, _ := http.NewRequest(http.MethodPost, s.URL, body)
		if resp, err := s.Client().Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, errSlowBody) {
			t.Errorf("it ends because of %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it is still under way")
	}
	_ = body.Close()
}

func TestConnectionsAreBounded(t *testing.T) {
	l, _ := newLimiter(Options{Connections: 10, ConnectionsPerAddress: 3})
	s := serve(t, l, false, func(http.ResponseWriter, *http.Request) {})
	address := s.Listener.Addr().String()
	var open []net.Conn
	for range 5 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	closed := 0
	for _, conn := range open[3:] {
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			closed++
		}
	}
	if closed != 2 || testutil.ToFloat64(l.refused.WithLabelValues("max-connections-per-address")) != 2 {
		t.Errorf("%d of 2 connections too many are closed", closed)
	}
	for _, conn := range open {
		_ = conn.Close()
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		if resp, err := s.Client().Get(s.URL); err == nil {
			resp.Body.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("closed connections are still counted")
		}
	}
}

// TestBodiesOnTheirWayAreBounded in memory, for all and for each caller, until they
// have come.
func TestBodiesOnTheirWayAreBounded(t *testing.T) {
	const each = 384 << 10 // of a body whose length is not known
	l, _ := newLimiter(Options{Bodies: 8 * each, Body: 1 << 30})
	post := func(caller string, length int64) (*http.Request, func(), error) {
		r := get(caller, "10.0.0.1", "create")
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader("body")), length
		_, limited, end, err := l.Begin(httptest.NewRecorder(), r)
		return limited, end, err
	}
	refused := func(caller string, length int64) {
		t.Helper()
		if _, _, err := post(caller, length); !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "--max-request-bytes-in-flight ") {
			t.Errorf("%s: %v", caller, err)
		}
	}
	first, _, err := post("proven a", -1)
	if err != nil {
		t.Fatal(err)
	}
	_, end, err := post("proven a", 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	refused("proven a", -1)
	refused("proven a", 1)
	if _, _, err := post("proven b", 10); err != nil {
		t.Error(err)
	}
	for i := range 4 { // all who are not proven may have half
		if _, _, err := post(fmt.Sprint("made up ", i), -1); err != nil && i < 2 {
			t.Error(err)
		}
	}
	refused("made up", -1)
	var ends []func()
	for _, caller := range []string{"proven c", "proven d"} { // with whom more than three quarters are taken
		_, end, err := post(caller, -1)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	if _, _, err := post("proven a", 0); err != nil {
		t.Errorf("a request without a body: %v", err)
	}
	for _, end := range ends {
		end()
	}
	if _, err := io.ReadAll(first.Body); err != nil {
		t.Fatal(err)
	}
	if _, _, err := post("proven a", -1); err != nil {
		t.Errorf("after a body has come: %v", err)
	}
	end()
	if _, _, err := post("proven a", -1); err != nil {
		t.Errorf("after a request has ended: %v", err)
	}
}

// TestALongRequestHasASmallHeader, for it is kept as long as the request lasts.
func TestALongRequestHasASmallHeader(t *testing.T) {
	for _, verb := range []string{"watch", "get"} {
		l, _ := newLimiter(Options{})
		r := get("proven", "10.0.0.1", verb)
		r.Header.Set("Long", strings.Repeat("x", maxLongHeader))
		if _, _, _, err := l.Begin(httptest.NewRecorder(), r); (err == nil) != (verb == "get") {
			t.Errorf("%s: %v", verb, err)
		}
	}
}

// TestAnUpgradeDoesNotExcuseABody: it is held to all limits until the connection is
// another protocol's, and to none then.
func TestAnUpgradeDoesNotExcuseABody(t *testing.T) {
	const timeout = time.Second
	l, _ := newLimiter(Options{ClientTimeout: timeout, Body: 10})
	upgraded := make(chan error, 1)
	read := make(chan error, 1)
	s := serve(t, l, false, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/upgrade" {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				upgraded <- err
				return
			}
			defer conn.Close()
			select {
			case <-r.Context().Done():
			case <-time.After(timeout + lateGrace + timeout/2):
			}
			upgraded <- r.Context().Err()
			return
		}
		_, err := io.Copy(io.Discard, r.Body)
		read <- err
	})
	for _, body := range []string{"5\r\nslow", "ff\r\n" + strings.Repeat("x", 255) + "\r\n0\r\n\r\n"} {
		for _, connection := range []string{"", "Connection: upgrade\r\n"} {
			conn := dialTLS(t, s)
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: hub\r\nUpgrade: x\r\n%sTransfer-Encoding: chunked\r\n\r\n%s", connection, body)
			select {
			case err := <-read:
				if Refusal(err) == nil {
					t.Errorf("%q: %v", connection, err)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%q: the body is still waited for", connection)
			}
			_ = conn.Close()
		}
	}
	fmt.Fprintf(dialTLS(t, s), "POST /upgrade HTTP/1.1\r\nHost: hub\r\nUpgrade: x\r\nConnection: upgrade\r\nContent-Length: 5\r\n\r\n")
	if err := <-upgraded; err != nil {
		t.Error(err)
	}
}

// TestAHandshakeIsBounded, whether or not its messages ever end.
func TestAHandshakeIsBounded(t *testing.T) {
	l, _ := newLimiter(Options{})
	s := serve(t, l, true, func(http.ResponseWriter, *http.Request) {})
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A ClientHello of 60 KiB, less its end, in records of 10 KiB.
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	record := append([]byte{0x16, 3, 1, 10 << 2, 0}, make([]byte, 10<<10)...)
	copy(record[5:], []byte{1, 0, 60 << 2, 0})
	for range 5 {
		if _, err = conn.Write(record); err != nil {
			break
		}
		clear(record[5:9])
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("more is waited for")
	}
	// One that is over bounds nothing.
	resp, err := s.Client().Post(s.URL, "", strings.NewReader(strings.Repeat("x", 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

func dialTLS(t *testing.T, s *httptest.Server) net.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}
