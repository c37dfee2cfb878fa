package middleware

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
)

// watchPath is that of a watch.
const watchPath = "/api/v1/namespaces/shop/configmaps?watch=true"

// serveWebSockets serves watches as WithWebSocketWatches has them from a handler.
func serveWebSockets(t *testing.T, patience time.Duration, watch http.HandlerFunc) *httptest.Server {
	t.Helper()
	caches := func(agent string) bool { return agent == "edge-app" }
	s := httptest.NewServer(WithRequestInfo(WithWebSocketWatches(caches, patience, watch)))
	t.Cleanup(s.Close)
	return s
}

func dialWatch(t *testing.T, s *httptest.Server) (*websocket.Conn, net.Conn) {
	t.Helper()
	config, err := websocket.NewConfig("ws"+strings.TrimPrefix(s.URL, "http")+watchPath, s.URL)
	if err != nil {
		t.Fatal(err)
	}
	config.Header = http.Header{"User-Agent": {"edge-app/1.0"}}
	raw, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(30 * time.Second))
	c, err := websocket.NewClient(config, raw)
	if err != nil {
		t.Fatal(err)
	}
	return c, raw
}

// TestEachEventIsAMessage, however it comes in pieces.
func TestEachEventIsAMessage(t *testing.T) {
	large := `{"type":"ADDED","object":"` + strings.Repeat("x", 3*maxKept) + `"}` + "\n"
	sent := `{"type":"ADDED"}` + "\n" + large + `{"type":"MODIFIED"}` + "\n" + `{"type":"BOOKMARK"}` + "\n"
	for _, piece := range []int{1 << 20, 4096, 17, 1} {
		s := serveWebSockets(t, time.Minute, func(w http.ResponseWriter, r *http.Request) {
			for name := range r.Header {
				if name == "Upgrade" || name == "Connection" || strings.HasPrefix(name, "Sec-Websocket") {
					t.Errorf("%s is passed on", name)
				}
			}
			for b := []byte(sent); len(b) > 0; b = b[min(piece, len(b)):] {
				if _, err := w.Write(b[:min(piece, len(b))]); err != nil {
					t.Error(err)
				}
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Error(err)
				}
			}
			_, _ = w.Write([]byte(`{"type":"ADD`)) // is not all of an event
		})
		c, _ := dialWatch(t, s)
		var got []string
		for {
			var message string
			if err := websocket.Message.Receive(c, &message); err != nil {
				if err != io.EOF {
					t.Error("the watch does not end well:", err)
				}
				break
			}
			got = append(got, message)
		}
		if strings.Join(got, "") != sent || len(got) != 4 {
			t.Errorf("in pieces of %d: %d messages", piece, len(got))
		}
	}
}

// TestEventsOnTheirWayAreBounded: what there is no room for is not waited for.
func TestEventsOnTheirWayAreBounded(t *testing.T) {
	const large = 16 << 20
	event := `{"object":"` + strings.Repeat("x", large) + `"}` + "\n"
	goOn := make(chan struct{})
	s := serveWebSockets(t, time.Minute, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "{}\n")
		_, _ = io.WriteString(w, event[:len(event)/2])
		<-goOn
		_, _ = io.WriteString(w, event[len(event)/2:]+"{}\n")
	})
	c, _ := dialWatch(t, s)
	var messages []string
	for fragments, message := 0, ""; len(messages) < 3; fragments++ {
		frame, err := c.NewFrameReader()
		if err != nil {
			t.Fatalf("%d messages and %d bytes, %v", len(messages), len(message), err)
		}
		var header [1]byte
		if _, err := io.ReadFull(frame.HeaderReader(), header[:]); err != nil {
			t.Fatal(err)
		}
		if first := frame.PayloadType() == websocket.TextFrame; first != (message == "") {
			t.Fatalf("a frame of type %d after %d bytes", frame.PayloadType(), len(message))
		}
		content, err := io.ReadAll(frame)
		if err != nil {
			t.Fatal(err)
		}
		if message += string(content); header[0]&0x80 != 0 {
			messages, message = append(messages, message), ""
		}
		if fragments == 10 { // of the first half
			close(goOn)
		}
	}
	if messages[0] != "{}\n" || messages[1] != event || messages[2] != "{}\n" {
		t.Errorf("messages of %d, %d and %d bytes", len(messages[0]), len(messages[1]), len(messages[2]))
	}
}

// TestAWatchEndsWithItsWebSocket: nothing else tells that the client has gone.
func TestAWatchEndsWithItsWebSocket(t *testing.T) {
	for name, leave := range map[string]func(*websocket.Conn, net.Conn) error{
		"closed": func(c *websocket.Conn, _ net.Conn) error { return c.Close() },
		"cut":    func(_ *websocket.Conn, raw net.Conn) error { return raw.Close() },
	} {
		ended := make(chan error, 1)
		s := serveWebSockets(t, time.Minute, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			<-r.Context().Done()
			ended <- r.Context().Err()
			panic(http.ErrAbortHandler)
		})
		if err := leave(dialWatch(t, s)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: the watch goes on", name)
		}
	}
}

// TestABrokenWatchLooksBroken: only one that is over ends with a close frame.
func TestABrokenWatchLooksBroken(t *testing.T) {
	s := serveWebSockets(t, time.Minute, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "{}\n")
		panic(http.ErrAbortHandler)
	})
	c, _ := dialWatch(t, s)
	var raw bytes.Buffer
	if _, err := io.CopyN(&raw, c, 3); err != nil || raw.String() != "{}\n" {
		t.Fatalf("%q, %v", raw.String(), err)
	}
	frame, err := c.NewFrameReader()
	if err == nil {
		t.Fatalf("a frame of type %d follows", frame.PayloadType())
	}
}

var errAllTaken = errors.New("everything was taken")

// flood is a watch with more events than any socket holds. It tells why it gave up.
func flood(gaveUp chan<- error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		event := append(bytes.Repeat([]byte("x"), 1<<20), '\n')
		for range 1000 {
			if _, err := w.Write(event); err != nil {
				gaveUp <- err
				return
			}
		}
		gaveUp <- errAllTaken
	}
}

// TestAWebSocketThatTakesNothingIsCutOff, so that nothing waits for it for ever.
func TestAWebSocketThatTakesNothingIsCutOff(t *testing.T) {
	gaveUp := make(chan error, 1)
	s := serveWebSockets(t, 100*time.Millisecond, flood(gaveUp))
	dialWatch(t, s)
	select {
	case err := <-gaveUp:
		if !strings.Contains(err.Error(), "timeout") {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("still waiting")
	}
}

// TestAHubThatStopsWaitsForNoWebSocket, for the server does not close what it has
// handed over.
func TestAHubThatStopsWaitsForNoWebSocket(t *testing.T) {
	base, stop := context.WithCancel(t.Context())
	defer stop()
	gaveUp := make(chan error, 1)
	s := httptest.NewUnstartedServer(WithRequestInfo(WithWebSocketWatches(func(string) bool { return true }, time.Minute, flood(gaveUp))))
	s.Config.BaseContext = func(net.Listener) context.Context { return base }
	s.Start()
	t.Cleanup(s.Close)
	_, raw := dialWatch(t, s)
	defer raw.Close()
	time.Sleep(100 * time.Millisecond) // until a write waits, most often
	stop()
	select {
	case err := <-gaveUp:
		if errors.Is(err, errAllTaken) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("still waiting")
	}
}

// TestPingsAreAnswered while nothing happens.
func TestPingsAreAnswered(t *testing.T) {
	s := serveWebSockets(t, 50*time.Millisecond, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "{}\n")
		<-r.Context().Done()
	})
	c, _ := dialWatch(t, s)
	if _, err := io.CopyN(io.Discard, c, 3); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // patience is for events
	c.PayloadType = websocket.PingFrame
	if _, err := c.Write([]byte("are you there")); err != nil {
		t.Fatal(err)
	}
	frame, err := c.NewFrameReader()
	if err != nil || frame.PayloadType() != websocket.PongFrame {
		t.Fatalf("%v, %v", frame, err)
	}
}

// TestAWebSocketHasNoBody: who still reads that of a request would read what the WebSocket
// does, at the same time.
func TestAWebSocketHasNoBody(t *testing.T) {
	for name, body := range map[string]io.Reader{"sized": strings.NewReader("x"), "chunked": struct{ io.Reader }{strings.NewReader("x")}} {
		r := httptest.NewRequest(http.MethodGet, watchPath, body)
		r.Header = http.Header{
			"User-Agent": {"edge-app/1.0"}, "Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Origin": {"https://169.254.2.1:10268"},
			"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
		}
		passed := false
		next := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { passed = r.Header.Get("Upgrade") != "" })
		WithRequestInfo(WithWebSocketWatches(func(string) bool { return true }, 0, next)).ServeHTTP(httptest.NewRecorder(), r)
		if !passed {
			t.Errorf("%s: it is watched plainly", name)
		}
	}
}

// TestWhichWebSocketsAreWatchedPlainly: any other is kube-apiserver's.
func TestWhichWebSocketsAreWatchedPlainly(t *testing.T) {
	for name, c := range map[string]struct {
		path   string
		change func(http.Header)
		plain  bool
	}{
		"as the fabric8 client": {"", func(http.Header) {}, true},
		"of one object":         {"/api/v1/watch/namespaces/shop/configmaps/a", func(http.Header) {}, true},
		"accepts JSON":          {"", func(h http.Header) { h.Set("Accept", "application/json, */*") }, true},
		"accepts a Table":       {"", func(h http.Header) { h.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io") }, true},
		"accepts protobuf":      {"", func(h http.Header) { h.Set("Accept", "application/json, application/vnd.kubernetes.protobuf") }, false},
		"another agent":         {"", func(h http.Header) { h.Set("User-Agent", "other/1.0") }, false},
		"no Origin":             {"", func(h http.Header) { h.Del("Origin") }, false},
		"no key":                {"", func(h http.Header) { h.Del("Sec-Websocket-Key") }, false},
		"an old version":        {"", func(h http.Header) { h.Set("Sec-Websocket-Version", "8") }, false},
		"a token as a subprotocol": {"", func(h http.Header) {
			h.Set("Sec-Websocket-Protocol", "base64url.bearer.authorization.k8s.io.eA, base64.binary.k8s.io")
		}, false},
		"another protocol":     {"", func(h http.Header) { h.Set("Upgrade", "SPDY/3.1") }, false},
		"no upgrade":           {"", func(h http.Header) { h.Del("Connection") }, false},
		"a list":               {"/api/v1/namespaces/shop/configmaps", func(http.Header) {}, false},
		"exec":                 {"/api/v1/namespaces/shop/pods/a/exec?watch=true", func(http.Header) {}, false},
		"a Pod's own, proxied": {"/api/v1/namespaces/shop/pods/a/proxy/ws?watch=true", func(http.Header) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := c.path
			if path == "" {
				path = watchPath
			}
			r := httptest.NewRequest(http.MethodGet, path, nil)
			r.Header = http.Header{
				"User-Agent": {"edge-app/1.0"}, "Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Origin": {"https://169.254.2.1:10268"},
				"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Authorization": {"Bearer t"},
			}
			c.change(r.Header)
			var seen http.Header
			next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				seen = r.Header
				w.WriteHeader(http.StatusForbidden)
			})
			w := httptest.NewRecorder()
			WithRequestInfo(WithWebSocketWatches(func(agent string) bool { return agent == "edge-app" }, 0, next)).ServeHTTP(w, r)
			if plain := seen.Get("Upgrade") == ""; plain != c.plain {
				t.Errorf("watched plainly: %v", plain)
			}
			if seen.Get("Authorization") != "Bearer t" || w.Code != http.StatusForbidden {
				t.Errorf("credential %q, code %d", seen.Get("Authorization"), w.Code)
			}
		})
	}
}
