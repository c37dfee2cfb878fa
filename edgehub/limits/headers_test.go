package limits

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestHeadersOnTheirWayAreBounded, over HTTP/1.1, all together beyond a part of each,
// until they are whole or their connections end.
func TestHeadersOnTheirWayAreBounded(t *testing.T) {
	l, _ := newLimiter(Options{})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	s.Listener = l.Listener(s.Listener)
	s.Config.ReadHeaderTimeout = time.Minute
	idle := make(chan struct{}, 10)
	s.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		if ConnState(conn, state); state == http.StateIdle {
			idle <- struct{}{}
		}
	}
	s.TLS = &tls.Config{GetConfigForClient: Hello, NextProtos: []string{"h2", "http/1.1"}}
	s.StartTLS()
	defer s.Close()
	dial := func() net.Conn {
		t.Helper()
		conn, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		return conn
	}
	held := func(want func(bytes int) bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !want(int(l.headers.Load())); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d bytes are held", l.headers.Load())
			}
		}
	}
	none := func(bytes int) bool { return bytes == 0 }
	const begin, each = "POST / HTTP/1.1\r\nHost: x\r\n", 50_000
	long := "X-Long: " + strings.Repeat("x", each) + "\r\n"

	// Bodies don't count, nor do headers that have ended.
	conn := dial()
	for range 3 {
		_, _ = io.WriteString(conn, begin+long+"Content-Length: 100000\r\n\r\n"+strings.Repeat("x", 99_999))
		held(none)
		_, _ = io.WriteString(conn, "x")
		b := make([]byte, 12)
		if _, err := io.ReadFull(conn, b); err != nil || string(b) != "HTTP/1.1 200" {
			t.Fatalf("%q, %v", b, err)
		}
		<-idle
		_ = conn.Close()
		conn = dial()
	}
	defer conn.Close()

	// One that keeps its connection begins anew. What comes before its server is idle is
	// in one read with what came before, and not counted.
	_, _ = io.WriteString(conn, begin+long+"\r\n")
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(err)
	}
	<-idle
	held(none)
	_, _ = io.WriteString(conn, begin+long)
	held(func(bytes int) bool { return bytes > each-freeHeader && bytes < each+freeHeader })

	many := []net.Conn{conn}
	refused := func() bool { return testutil.ToFloat64(l.refused.WithLabelValues("headers")) > 0 }
	for !refused() && len(many) <= 2*maxHeaders/each {
		before := int(l.headers.Load())
		conn := dial()
		defer conn.Close()
		many = append(many, conn)
		_, _ = io.WriteString(conn, begin+long)
		held(func(bytes int) bool { return bytes > before+each-2*freeHeader || refused() })
	}
	held(func(bytes int) bool { return bytes > maxHeaders-each && bytes <= maxHeaders })
	if !refused() {
		t.Error("nobody is refused")
	}
	last := many[len(many)-1]
	if _, err := io.Copy(io.Discard, last); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("who is refused stays connected")
	}
	// Who has a small header is served all the time.
	small := dial()
	defer small.Close()
	_, _ = io.WriteString(small, begin+"X: "+strings.Repeat("x", freeHeader/2)+"\r\n\r\n")
	if _, err := io.ReadFull(small, make([]byte, 12)); err != nil {
		t.Error(err)
	}
	for _, conn := range many {
		_ = conn.Close()
	}
	held(none)
}
