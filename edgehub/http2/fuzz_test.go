package http2

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"
)

// FuzzConn feeds a connection with arbitrary bytes after the preface. The server
// must not panic, and must end the connection and all handlers when the peer
// hangs up.
func FuzzConn(f *testing.F) {
	settings := appendFrameHeader(nil, 0, frameSettings, 0, 0)
	request := appendFuzzRequest(settings, 1, true)
	f.Add(settings)
	f.Add(request)
	f.Add(appendNumber(appendFuzzRequest(request, 3, false), frameReset, 3, 8))
	f.Add(append(appendFrameHeader(appendFuzzRequest(settings, 1, false), 4, frameData, flagPadded|flagEndStream, 1), 1, 'a', 'b', 0))
	f.Add(append(appendFrameHeader(request, 6, frameSettings, 0, 0), 0, 4, 0, 0, 0, 3))
	f.Add(appendNumber(appendNumber(request, frameWindowUpdate, 0, 7), frameWindowUpdate, 1, 7))
	f.Add(append(appendFrameHeader(request, 8, framePing, 0, 0), make([]byte, 8)...))
	f.Add(appendGoAway(request, 0, 0, "bye"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newShared(Options{SettingsTimeout: time.Minute})
		client, nc := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.serve(&http.Server{ErrorLog: nil}, nc, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(w, r.Body)
				_, _ = w.Write(make([]byte, 100<<10))
			}))
		}()
		go func() { _, _ = io.Copy(io.Discard, client) }()
		_, _ = io.WriteString(client, preface)
		_, _ = client.Write(data)
		client.Close()
		select {
		case <-done: // with all handlers
		case <-time.After(10 * time.Second):
			t.Fatal("the connection does not end")
		}
	})
}

func appendFuzzRequest(b []byte, id uint32, end bool) []byte {
	var block []byte
	for _, f := range fieldsOf() {
		block = appendField(block, wireName{name: f.Name}, f.Value)
	}
	return appendHeaders(b, id, block, end)
}

// FuzzFields holds that no header fields make newRequest panic, and that what it
// takes can be sent on in HTTP/1.1 as one request.
func FuzzFields(f *testing.F) {
	f.Add("GET", "/", "hub", "a", "b")
	f.Add("GET", "/\r\nx", "hub", "content-length", "5")
	f.Add("GET", "/?a=b HTTP/1.1", "hub", "a", "b")
	f.Fuzz(func(t *testing.T, method, path, authority, name, value string) {
		r, err := newRequest(t.Context(), []hpack.HeaderField{
			{Name: ":method", Value: method}, {Name: ":scheme", Value: "https"},
			{Name: ":authority", Value: authority}, {Name: ":path", Value: path}, {Name: name, Value: value},
		}, true)
		if err != nil {
			return
		}
		for _, s := range []string{r.Method, r.RequestURI, r.Host, name, value} {
			for i := range len(s) {
				if s[i] == '\r' || s[i] == '\n' || s[i] == 0 {
					t.Fatalf("%q was taken", s)
				}
			}
		}
		sendOn(t, r)
	})
}

// sendOn writes a request as a transport does, and reads it as a server does.
func sendOn(t *testing.T, r *http.Request) {
	out := r.Clone(t.Context())
	out.URL.Scheme, out.URL.Host, out.Host, out.RequestURI = "https", "kube-apiserver", "kube-apiserver", ""
	var b bytes.Buffer
	if err := out.Write(&b); err != nil {
		return // refused is as good
	}
	text := b.String()
	in := bufio.NewReader(&b)
	got, err := http.ReadRequest(in)
	if err != nil || in.Buffered()+b.Len() > 0 || got.Method != r.Method || got.URL.RawQuery != r.URL.RawQuery || got.URL.Path != r.URL.Path {
		t.Fatalf("%s %q was sent on as %q: %v", r.Method, r.RequestURI, text, err)
	}
}

// FuzzEncode holds that what is written can be read.
func FuzzEncode(f *testing.F) {
	f.Add("Audit-Id", "a", 200)
	f.Fuzz(func(t *testing.T, name, value string, status int) {
		if status < 100 || status > 999 {
			return
		}
		n, ok := wireNameOf(name)
		if !ok {
			return
		}
		fields, err := hpack.NewDecoder(4096, nil).DecodeFull(appendField(appendStatus(nil, status), n, value))
		if err != nil || len(fields) != 2 || fields[1].Name != n.name || fields[1].Value != value {
			t.Fatal(fields, err)
		}
	})
}
