package http2

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestRequest holds that a handler is given the request that net/http's server
// would give it.
func TestRequest(t *testing.T) {
	type given struct {
		Request             http.Request
		Body                string
		Server, Local, Done bool
	}
	seen := make(chan given, 1)
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		g := given{Request: *r, Body: string(b)}
		_, g.Server = r.Context().Value(http.ServerContextKey).(*http.Server)
		_, g.Local = r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if r.TLS == nil || !r.TLS.HandshakeComplete || !strings.HasPrefix(r.RemoteAddr, "127.0.0.1:") {
			t.Errorf("%v %v", r.TLS, r.RemoteAddr)
		}
		r.Header.Del("Host") // net/http leaves it there
		g.Request = http.Request{
			Method: r.Method, URL: r.URL, Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor, Header: r.Header,
			ContentLength: r.ContentLength, TransferEncoding: r.TransferEncoding, Host: r.Host, RequestURI: r.RequestURI,
		}
		seen <- g
	})
	this, other := newServer(t, Options{}, h), newNetHTTP(t, h)
	for name, send := range map[string]func(*peer){
		"GET": func(p *peer) { p.request(1, true) },
		"query and escapes": func(p *peer) {
			p.request(1, true, ":path", "/api/v1/pods%2f?labelSelector=a%3Db&watch=true&&x#y")
		},
		"two slashes":    func(p *peer) { p.request(1, true, ":path", "//a/../b") },
		"OPTIONS":        func(p *peer) { p.request(1, true, ":method", "OPTIONS", ":path", "/x") },
		"PATCH, unknown": func(p *peer) { p.request(1, false, ":method", "PATCH"); _ = p.framer.WriteData(1, true, []byte("x")) },
		"length": func(p *peer) {
			p.request(1, false, "content-length", "1")
			_ = p.framer.WriteData(1, true, []byte("x"))
		},
		"length of 0": func(p *peer) { p.request(1, true, "content-length", "0") },
		"empty body":  func(p *peer) { p.request(1, false); _ = p.framer.WriteData(1, true, nil) },
		"host":        func(p *peer) { p.request(1, true, ":authority", "", "host", "pod:10268") },
		"no host":     func(p *peer) { p.request(1, true, ":authority", "") },
		"http":        func(p *peer) { p.request(1, true, ":scheme", "http") },
		"fields": func(p *peer) {
			p.headers(1, true, append(fieldsOf("accept", "a", "x-b", "1", "cookie", "a=b", "te", "trailers", "trailer", "x"),
				fieldsOf("cookie", "c=d", "accept", "b", "x-b", "2", "x-empty", " ")[4:]...))
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got [2]given
			for i, s := range []*httptest.Server{this, other} {
				p := newPeer(t, s)
				send(p)
				got[i] = <-seen
			}
			if !reflect.DeepEqual(got[0], got[1]) {
				t.Errorf("%+v\nbut net/http gives\n%+v", got[0], got[1])
			}
		})
	}
}

// TestResponse holds that a client sees of a handler what it would see of it
// under net/http's server.
func TestResponse(t *testing.T) {
	header := func(fields ...string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			for i := 0; i < len(fields); i += 2 {
				w.Header().Add(fields[i], fields[i+1])
			}
		}
	}
	write := func(s string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			n, err := io.WriteString(w, s)
			w.Header().Set("X-Late", fmt.Sprint(n, err))
		}
	}
	status := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(code) }
	}
	flush := func(w http.ResponseWriter) { w.(http.Flusher).Flush() }
	long := strings.Repeat("0123456789", 10_000)
	type steps = []func(http.ResponseWriter)
	tests := map[string]steps{
		"nothing":                   {},
		"flushed nothing":           {flush},
		"small":                     {write("<html>")},
		"small, flushed":            {write("{}"), flush},
		"twice":                     {write("a"), flush, flush, write("b")},
		"long":                      {write(long)},
		"long in parts":             {write(long), flush, write(long)},
		"one more than a frame":     {write(long[:maxData+1])},
		"typed":                     {header("Content-Type", "application/json"), write("<html>")},
		"encoded":                   {header("Content-Encoding", "gzip"), write("<html>")},
		"no type wanted":            {func(w http.ResponseWriter) { w.Header()["Content-Type"] = nil }, write("<html>")},
		"length":                    {header("Content-Length", "3"), write("abc")},
		"length, flushed":           {header("Content-Length", "3"), flush, write("abc")},
		"length of a long one":      {header("Content-Length", "100000"), write(long)},
		"more than length":          {header("Content-Length", "3"), write("abc"), write("d")},
		"bad length":                {header("Content-Length", "x"), write("abc")},
		"201":                       {status(201), status(400), write("a")},
		"204":                       {status(204), write("a")},
		"204, flushed":              {status(204), flush},
		"304":                       {header("Content-Length", "7", "Etag", "x"), status(304), write("a")},
		"404":                       {status(404), write("no")},
		"599":                       {status(599)},
		"header after WriteHeader":  {status(200), header("X-A", "b")},
		"many values":               {header("X-A", "b", "X-A", "c", "Vary", "x", "Vary", "y"), write("a")},
		"bad values":                {header("X-A", "a\r\nb: c", "X-B", "\x00", "X C", "d", "X-É", "e"), write("a")},
		"early hints":               {header("Link", "</a>"), status(103), status(102), write("a")},
		"announced trailers":        {header("Trailer", "X-T, X-U"), write("a"), header("X-T", "b", "X-U", "c")},
		"trailers after a flush":    {header("Trailer", "X-T"), write("a"), flush, header("X-T", "b")},
		"trailers not announced":    {write("a"), header(http.TrailerPrefix+"X-T", "b")},
		"trailers of nothing":       {header(http.TrailerPrefix+"X-T", "b")},
		"abort":                     {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }},
		"abort after write":         {write("abc"), func(http.ResponseWriter) { panic(http.ErrAbortHandler) }},
		"abort after flush":         {write("abc"), flush, func(http.ResponseWriter) { panic(http.ErrAbortHandler) }},
		"header longer than a page": {header("X-A", long[:3000], "X-B", long[:20000]), write("a")},
		"date":                      {header("Date", "now"), write("a")},
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Query().Get("test")
		for _, step := range tests[name] {
			step(w)
		}
	})
	this, other := newServer(t, Options{}, handler), newNetHTTP(t, handler)
	for name := range tests {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			if method == http.MethodHead && strings.Contains(name, "trailers") {
				continue // net/http sends them, though nothing may follow
			}
			t.Run(method+" "+name, func(t *testing.T) {
				got, want := seenBy(t, this, method, name), seenBy(t, other, method, name)
				if got != want {
					t.Errorf("%s\nbut net/http gives\n%s", got, want)
				}
			})
		}
	}
}

// seenBy returns all that a client sees of a response.
func seenBy(t *testing.T, s *httptest.Server, method, test string) string {
	t.Helper()
	var b strings.Builder
	req, err := http.NewRequest(method, s.URL+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.URL.RawQuery = "test=" + strings.ReplaceAll(test, " ", "+")
	req = req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			fmt.Fprintln(&b, code, h)
			return nil
		},
	}))
	resp, err := newClient(t, s).Do(req)
	if err != nil {
		return "broken"
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.Header.Get("Date") == "" {
		b.WriteString("no date")
	}
	if resp.Header.Get("Date") != "now" {
		resp.Header.Del("Date")
	}
	fmt.Fprintln(&b, resp.Status, resp.ContentLength, err != nil, len(body), string(body[:min(len(body), 100)]))
	for _, h := range []http.Header{resp.Header, resp.Trailer} {
		for _, key := range slices.Sorted(maps.Keys(h)) {
			fmt.Fprintln(&b, key, h[key])
		}
	}
	return b.String()
}

// TestShort holds that a response that is shorter than it says looks broken, and
// that a panic is told of.
func TestShort(t *testing.T) {
	var logged lockedBuffer
	s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			panic("no way")
		}
		w.Header().Set("Content-Length", "10")
		_, _ = io.WriteString(w, "12345")
	}), func(s *http.Server) { s.ErrorLog = log.New(&logged, "", 0) })
	for _, path := range []string{"/", "/panic"} {
		resp, err := newClient(t, s).Get(s.URL + path)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if err == nil {
			t.Errorf("%s looks whole", path)
		}
	}
	if !strings.Contains(logged.String(), "no way") {
		t.Error("the panic is not logged")
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestResponseController holds what handlers may and may not ask for.
func TestResponseController(t *testing.T) {
	s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if err := control.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		if _, _, err := control.Hijack(); err == nil {
			t.Error("hijacked")
		}
		w.WriteHeader(http.StatusSwitchingProtocols) // HTTP/2 has none
		for _, name := range []string{"Keep-Alive", "Upgrade", "Proxy-Connection", "Transfer-Encoding"} {
			w.Header().Set(name, "x") // nor these (RFC 9113, 8.2.2), which net/http sends
		}
		_ = r.Body.Close()
		if _, err := r.Body.Read(make([]byte, 1)); err != http.ErrBodyReadAfterClose && r.ContentLength != 0 {
			t.Error(err)
		}
	}))
	resp, err := newClient(t, s).Post(s.URL, "", strings.NewReader("x"))
	if err != nil || resp.StatusCode != http.StatusOK || len(resp.Header) != 2 {
		t.Error(resp, err) // more than Date and Content-Length
	}
}

// TestAMalformedRequestIsAnswered: Go's client sends again, without an end, what
// is reset with PROTOCOL_ERROR.
func TestAMalformedRequestIsAnswered(t *testing.T) {
	s := newServer(t, Options{}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it is served") }))
	for _, body := range []io.Reader{nil, strings.NewReader("body")} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Te", "admin")
		resp, err := newClient(t, s).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("answered with %d", resp.StatusCode)
		}
	}
}
