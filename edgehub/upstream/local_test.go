package upstream

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"
)

// TestWhatTheNodeLacksIsNotTheCloudsFault: one caller's requests can use up files
// and ports, which must not take the cloud from everybody.
func TestWhatTheNodeLacksIsNotTheCloudsFault(t *testing.T) {
	dialError := func(err error) error {
		return fmt.Errorf("proxy: %w", &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", err)})
	}
	late := &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
	for _, tt := range []struct {
		err         error
		away, local bool
	}{
		{dialError(syscall.ECONNREFUSED), true, false},
		{dialError(syscall.EHOSTUNREACH), true, false},
		{dialError(syscall.ENETUNREACH), true, false},
		{dialError(syscall.ETIMEDOUT), true, false},
		{late, true, false},
		{dialError(syscall.EMFILE), false, true},
		{dialError(syscall.ENFILE), false, true},
		{dialError(syscall.EADDRNOTAVAIL), false, true},
		{dialError(syscall.ENOBUFS), false, true},
		{&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "socket: too many open files", IsTimeout: true}}, false, false},
		{io.ErrUnexpectedEOF, false, false},
	} {
		if away, local := isAway(tt.err), isLocal(tt.err); away != tt.away || local != tt.local {
			t.Errorf("%v: away %v, local %v", tt.err, away, local)
		}
	}
}

// TestAnEndpointStaysUpWhileTheNodeLacksFiles, for some probes.
func TestAnEndpointStaysUpWhileTheNodeLacksFiles(t *testing.T) {
	u := New(Options{})
	e := newEndpoint(u, mustURL(t, "https://host"))
	u.endpoints = []*endpoint{e}
	var probes atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.run(ctx, roundTripper(func(*http.Request) (*http.Response, error) {
			probes.Add(1)
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)}
		}))
	}()
	for want := int32(1); want <= maxLate; want++ {
		eventually(t, "probed", func() bool { return probes.Load() >= want })
		if !u.Up() && probes.Load() <= maxLate {
			t.Fatalf("down after %d probes", probes.Load())
		}
		e.suspect()
	}
	eventually(t, "it lasts", func() bool { return !u.Up() })
	cancel()
	<-done
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestWhatNobodyAskedForIsNobodysAnswer: bytes that come on an idle connection, at
// once or later, in a record of their own or not.
func TestWhatNobodyAskedForIsNobodysAnswer(t *testing.T) {
	const stray = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"
	for _, when := range []string{"in a record behind the answer", "later"} {
		t.Run(when, func(t *testing.T) {
			later, sent := make(chan struct{}), make(chan struct{}, 2)
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				conn, _, err := w.(http.Hijacker).Hijack()
				if err != nil {
					return
				}
				t.Cleanup(func() { _ = conn.Close() })
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				if when == "later" {
					<-later
				}
				_, _ = io.WriteString(conn, stray)
				sent <- struct{}{}
			}))
			s.StartTLS()
			t.Cleanup(s.Close)
			p := newShorts(newEndpoint(New(Options{}), mustURL(t, s.URL)), s.Client().Transport.(*http.Transport).TLSClientConfig)
			for range 2 {
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
				resp, err := p.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				if b, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || string(b) != "ok" || err != nil {
					t.Fatalf("%d %q %v", resp.StatusCode, b, err)
				}
				if when == "later" {
					later <- struct{}{}
				}
				<-sent
				p.mu.Lock()
				idle := len(p.idle)
				p.mu.Unlock()
				if idle == 1 {
					eventually(t, "it has come", func() bool { return p.idle[0].spoken() })
				}
			}
		})
	}
}

// TestReadsThatAreGivenUpMakeNoMoreConnections than so many in a second.
func TestReadsThatAreGivenUpMakeNoMoreConnections(t *testing.T) {
	s := newServer(t)
	_, rt := newUpstream(t, s)
	http1, http2 := countProtocols(s)
	const reads = 3 * maxDials
	start := time.Now()
	for range reads {
		ctx, cancel := context.WithCancel(request.WithRequestInfo(t.Context(), &request.RequestInfo{IsResourceRequest: true, Verb: "get"}))
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://kube-apiserver/?wait", nil)
		before := size(http1) + int(http2.Load())
		go func() {
			eventually(t, "asked", func() bool { return size(http1)+int(http2.Load()) > before })
			cancel()
		}()
		if resp, err := rt.RoundTrip(req); err == nil {
			_ = resp.Body.Close()
		}
		cancel()
	}
	took := time.Since(start)
	if most := maxDials * (1 + int(took/time.Second)); size(http1) > most {
		t.Errorf("%d reads in %v made %d connections", reads, took, size(http1))
	}
	if took < time.Second && http2.Load() == 0 {
		t.Errorf("none of %d reads in %v went another way", reads, took)
	}
}
