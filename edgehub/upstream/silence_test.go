package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"
)

// TestAConnectionThatLeadsNowhereIsGivenUp although probes are answered over others,
// and one to a server that has nothing to say is not.
func TestAConnectionThatLeadsNowhereIsGivenUp(t *testing.T) {
	s := newServer(t)
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		if r.URL.Query().Has("watch") {
			<-r.Context().Done()
		}
	})
	// lose has what goes over the connections that there are lost on its way.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var lost atomic.Pointer[atomic.Bool]
	lost.Store(new(atomic.Bool))
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", s.Listener.Addr().String())
			if err != nil {
				_ = near.Close()
				return
			}
			isLost := lost.Load()
			pass := func(to, from net.Conn) {
				defer to.Close()
				for b := make([]byte, 4096); ; {
					n, err := from.Read(b)
					if err != nil {
						return
					}
					if !isLost.Load() {
						_, _ = to.Write(b[:n])
					}
				}
			}
			go pass(near, far)
			go pass(far, near)
		}
	}()
	lose := func() { lost.Swap(new(atomic.Bool)).Store(true) }

	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	u := New(Options{Servers: []*url.URL{{Scheme: "https", Host: listener.Addr().String()}}})
	u.silence = time.Second
	rt := u.Transport(&tls.Config{RootCAs: pool, ServerName: "example.com"})
	ended := make(chan error, 1)
	watch := func() {
		info := &request.RequestInfo{IsResourceRequest: true, Verb: "watch"}
		req, err := http.NewRequestWithContext(request.WithRequestInfo(t.Context(), info), http.MethodGet, "https://kube-apiserver/api/v1/pods?watch=1", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			ended <- err
		}()
	}
	watch()
	select {
	case err := <-ended:
		t.Fatalf("a watch without events has ended: %v", err)
	case <-time.After(3 * u.silence):
	}
	lose()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the watch still waits")
	}
	watch() // over another one
}
