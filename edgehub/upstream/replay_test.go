package upstream

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// goingAway is a kube-apiserver that closes its first connection when it has got the
// beginning of a request's body, without having processed the request.
type goingAway struct {
	beginning int
	url       *url.URL
	roots     *x509.CertPool
	cert      tls.Certificate
	conns     atomic.Int32
	back      chan struct{} // closed when it is asked again
	processed chan string   // bodies
}

func newGoingAway(t *testing.T, beginning int) *goingAway {
	t.Helper()
	other := httptest.NewTLSServer(nil) // for its certificate
	other.Close()
	s := &goingAway{beginning: beginning, roots: x509.NewCertPool(), cert: other.TLS.Certificates[0], back: make(chan struct{}), processed: make(chan string, 16)}
	s.roots.AddCert(other.Certificate())
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{s.cert}, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	s.url = mustURL(t, "https://"+listener.Addr().String())
	var running sync.WaitGroup
	var conns sync.Map
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns.Store(conn, true)
			running.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		conns.Range(func(conn, _ any) bool { _ = conn.(io.Closer).Close(); return true })
		running.Wait()
	})
	return s
}

func (s *goingAway) serve(conn io.ReadWriteCloser) {
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	fr := http2.NewFramer(conn, conn)
	_ = fr.WriteSettings()
	conns, isAway := s.conns.Add(1), false
	if conns == 2 {
		close(s.back)
	}
	var body bytes.Buffer
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = fr.WriteSettingsAck()
			}
		case *http2.DataFrame:
			body.Write(f.Data())
			if n := uint32(len(f.Data())); n > 0 {
				_ = fr.WriteWindowUpdate(0, n)
				_ = fr.WriteWindowUpdate(f.StreamID, n)
			}
			if conns == 1 {
				if body.Len() >= s.beginning && !isAway {
					_ = fr.WriteGoAway(0, http2.ErrCodeNo, nil)
					isAway = true
				}
				continue
			}
			if f.StreamEnded() {
				s.processed <- body.String()
				body.Reset()
				var header bytes.Buffer
				_ = hpack.NewEncoder(&header).WriteField(hpack.HeaderField{Name: ":status", Value: "201"})
				_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: f.StreamID, BlockFragment: header.Bytes(), EndHeaders: true, EndStream: true})
			}
		}
	}
}

// TestAWriteThatCrossesAGoAwayIsSentAgain: kube-apiserver says that it has not
// processed it (RFC 9113, 6.8).
func TestAWriteThatCrossesAGoAwayIsSentAgain(t *testing.T) {
	for _, c := range []struct {
		name   string
		before string // what the client sends before kube-apiserver goes away
		slow   bool   // it sends some more until kube-apiserver is asked again
		after  string
		again  bool
	}{
		{"whole", "{}", false, "", true},
		{"with most on its way", "the beginning", true, strings.Repeat("x", 4*maxReplay), true},
		{"more than is kept", strings.Repeat("x", maxReplay+1), false, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := newGoingAway(t, len(c.before))
			u := New(Options{Servers: []*url.URL{server.url}})
			rt := u.Transport(&tls.Config{RootCAs: server.roots, ServerName: "example.com"})
			failure := make(chan error, 1)
			hub := front(t, rt, func(w http.ResponseWriter, _ *http.Request, err error) {
				failure <- err
				w.WriteHeader(http.StatusGatewayTimeout)
			})
			body, client := io.Pipe()
			var sent bytes.Buffer
			go func() {
				to := io.MultiWriter(&sent, client)
				_, _ = io.WriteString(to, c.before)
				late := time.After(5 * time.Second)
				for more := c.slow; more; {
					select {
					case <-server.back:
						more = false
					case <-late:
						more = false
					case <-time.After(time.Millisecond):
						_, _ = io.WriteString(to, ".")
					}
				}
				_, _ = io.WriteString(to, c.after)
				_ = client.Close()
			}()
			resp, err := http.Post(hub.URL+"/api/v1/namespaces/x/pods", "application/json", body)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if !c.again {
				if err := <-failure; !errors.Is(err, errNotKept) || !WasSent(err) {
					t.Errorf("fails with %v, sent %v", err, WasSent(err))
				}
				return
			}
			if resp.StatusCode != http.StatusCreated {
				t.Fatalf("%s: %v", resp.Status, <-failure)
			}
			if got, want := <-server.processed, sent.String(); got != want {
				t.Errorf("%d bytes arrive, not the %d that were sent", len(got), len(want))
			}
			eventually(t, "nothing is kept once it is answered", func() bool { return u.replays.Load() == 0 })
		})
	}
}

// TestEveryAttemptGetsTheWholeBody though others read it at the same time.
func TestEveryAttemptGetsTheWholeBody(t *testing.T) {
	want := make([]byte, maxReplay)
	for i := range want {
		want[i] = byte(rand.N(256))
	}
	var total atomic.Int64
	body := &replay{body: bytes.NewReader(want), total: &total}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			a, err := body.again()
			if err != nil {
				t.Error(err)
				return
			}
			var got bytes.Buffer
			for b := make([]byte, 100+i*1000); ; {
				n, err := a.Read(b)
				got.Write(b[:n])
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("attempt %d got %d other bytes", i, got.Len())
			}
		})
	}
	wg.Wait()
	a, err := body.again()
	if err != nil {
		t.Fatal(err)
	}
	if body.forget(); total.Load() != 0 {
		t.Errorf("%d bytes are kept of nothing", total.Load())
	}
	if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, want) {
		t.Errorf("an attempt that goes on after the answer gets %d bytes: %v", len(got), err)
	}
}

// TestWhatIsKeptOfBodiesIsBounded for each and for all together. Those that are not
// kept can be read once.
func TestWhatIsKeptOfBodiesIsBounded(t *testing.T) {
	const many = 200
	var total atomic.Int64
	var bodies []*replay
	kept := 0
	for range many {
		p := &replay{body: strings.NewReader(strings.Repeat("x", maxReplay)), total: &total}
		bodies = append(bodies, p)
		a, err := p.again()
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(a); err != nil || len(b) != maxReplay {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		if _, err := p.again(); err == nil {
			kept++
		} else if !errors.Is(err, errNotKept) {
			t.Error(err)
		}
		if total.Load() > maxReplays {
			t.Fatalf("%d bytes are kept", total.Load())
		}
	}
	if kept == 0 || kept > maxReplays/maxReplay {
		t.Errorf("%d bodies of %d bytes are kept", kept, maxReplay)
	}
	for _, p := range bodies {
		p.forget()
	}
	if total.Load() != 0 {
		t.Errorf("%d bytes are kept of nothing", total.Load())
	}
	p := &replay{body: strings.NewReader(strings.Repeat("x", maxReplay+1)), total: &total}
	a, err := p.again()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(a); err != nil || len(b) != maxReplay+1 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, err := p.again(); !errors.Is(err, errNotKept) || total.Load() != 0 {
		t.Errorf("one that is too large: %v, and %d bytes are kept", err, total.Load())
	}
}
