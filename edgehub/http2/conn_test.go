package http2

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// waitForEnd is a handler that waits until its request is given up.
func waitForEnd(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func answer(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	_, _ = io.WriteString(w, "answer")
}

// raw writes a frame as it is said.
func (p *peer) raw(kind http2.FrameType, flags http2.Flags, id uint32, payload ...byte) {
	_ = p.framer.WriteRawFrame(kind, flags, id, payload)
}

// TestBrokenConnection holds which offences end the connection, and with which
// error code.
func TestBrokenConnection(t *testing.T) {
	zero := func(n int) []byte { return make([]byte, n) }
	for _, tt := range []struct {
		name string
		send func(*peer)
		want http2.ErrCode
	}{
		{"frame too large", func(p *peer) { p.raw(http2.FrameData, 0, 1, zero(maxFrame+1)...) }, http2.ErrCodeFrameSize},
		{"DATA without a stream", func(p *peer) { p.raw(http2.FrameData, 0, 0, 1) }, http2.ErrCodeProtocol},
		{"DATA on an idle stream", func(p *peer) { p.raw(http2.FrameData, 0, 9, 1) }, http2.ErrCodeProtocol},
		{"DATA of padding only, and too much", func(p *peer) { p.raw(http2.FrameData, 8, 1, 5, 0) }, http2.ErrCodeProtocol},
		{"DATA padded without a length", func(p *peer) { p.raw(http2.FrameData, 8, 1) }, http2.ErrCodeProtocol},
		{"DATA beyond the connection's window", func(p *peer) {
			for id := uint32(3); id < 40; id += 2 {
				p.request(id, false)
				for range 8 {
					p.raw(http2.FrameData, 0, id, zero(maxFrame)...)
				}
			}
		}, http2.ErrCodeFlowControl},
		{"HEADERS without a stream", func(p *peer) { p.request(0, true) }, http2.ErrCodeProtocol},
		{"HEADERS on an even stream", func(p *peer) { p.request(2, true) }, http2.ErrCodeProtocol},
		{"HEADERS on a lower stream", func(p *peer) { p.request(9, true); p.request(5, true) }, http2.ErrCodeProtocol},
		{"HEADERS on a stream that was reset", func(p *peer) {
			_ = p.framer.WriteRSTStream(1, http2.ErrCodeCancel)
			p.request(1, true)
		}, http2.ErrCodeStreamClosed},
		{"HEADERS too short for its priority", func(p *peer) { p.raw(http2.FrameHeaders, 0x24, 3, 0, 0) }, http2.ErrCodeFrameSize},
		{"HEADERS with too much padding", func(p *peer) { p.raw(http2.FrameHeaders, 0xc, 3, 9, 0) }, http2.ErrCodeProtocol},
		{"HEADERS that can't be decoded", func(p *peer) { p.raw(http2.FrameHeaders, 4, 3, 0xff, 0xff, 0xff, 0xff) }, http2.ErrCodeCompression},
		{"HEADERS cut short", func(p *peer) { p.raw(http2.FrameHeaders, 4, 3, 0x40, 5, 'a') }, http2.ErrCodeCompression},
		{"CONTINUATION alone", func(p *peer) { p.raw(http2.FrameContinuation, 4, 1) }, http2.ErrCodeProtocol},
		{"CONTINUATION of another stream", func(p *peer) {
			p.raw(http2.FrameHeaders, 0, 3)
			p.raw(http2.FrameContinuation, 4, 5)
		}, http2.ErrCodeProtocol},
		{"PING between HEADERS and CONTINUATION", func(p *peer) {
			p.raw(http2.FrameHeaders, 0, 3)
			p.raw(http2.FramePing, 0, 0, zero(8)...)
		}, http2.ErrCodeProtocol},
		{"PRIORITY without a stream", func(p *peer) { p.raw(http2.FramePriority, 0, 0, zero(5)...) }, http2.ErrCodeProtocol},
		{"RST_STREAM without a stream", func(p *peer) { p.raw(http2.FrameRSTStream, 0, 0, zero(4)...) }, http2.ErrCodeProtocol},
		{"RST_STREAM on an idle stream", func(p *peer) { p.raw(http2.FrameRSTStream, 0, 9, zero(4)...) }, http2.ErrCodeProtocol},
		{"RST_STREAM of a wrong size", func(p *peer) { p.raw(http2.FrameRSTStream, 0, 1, zero(3)...) }, http2.ErrCodeFrameSize},
		{"SETTINGS on a stream", func(p *peer) { p.raw(http2.FrameSettings, 0, 1) }, http2.ErrCodeProtocol},
		{"SETTINGS of a wrong size", func(p *peer) { p.raw(http2.FrameSettings, 0, 0, zero(5)...) }, http2.ErrCodeFrameSize},
		{"SETTINGS acknowledged with content", func(p *peer) { p.raw(http2.FrameSettings, 1, 0, zero(6)...) }, http2.ErrCodeFrameSize},
		{"SETTINGS acknowledged twice", func(p *peer) { _ = p.framer.WriteSettingsAck() }, http2.ErrCodeProtocol},
		{"SETTINGS with one of them twice", func(p *peer) { _ = p.framer.WriteSettings(window(1), window(1)) }, http2.ErrCodeProtocol},
		{"SETTINGS_ENABLE_PUSH of 2", func(p *peer) { p.raw(http2.FrameSettings, 0, 0, 0, 2, 0, 0, 0, 2) }, http2.ErrCodeProtocol},
		{"SETTINGS_INITIAL_WINDOW_SIZE too large", func(p *peer) { p.raw(http2.FrameSettings, 0, 0, 0, 4, 0x80, 0, 0, 0) }, http2.ErrCodeFlowControl},
		{"SETTINGS_INITIAL_WINDOW_SIZE that overflows a window", func(p *peer) {
			_ = p.framer.WriteWindowUpdate(1, 1<<30)
			p.raw(http2.FrameSettings, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff)
		}, http2.ErrCodeFlowControl},
		{"SETTINGS_MAX_FRAME_SIZE too small", func(p *peer) { p.raw(http2.FrameSettings, 0, 0, 0, 5, 0, 0, 0, 1) }, http2.ErrCodeProtocol},
		{"PUSH_PROMISE", func(p *peer) { p.raw(http2.FramePushPromise, 4, 1, zero(4)...) }, http2.ErrCodeProtocol},
		{"PING on a stream", func(p *peer) { p.raw(http2.FramePing, 0, 1, zero(8)...) }, http2.ErrCodeProtocol},
		{"PING of a wrong size", func(p *peer) { p.raw(http2.FramePing, 0, 0, zero(7)...) }, http2.ErrCodeFrameSize},
		{"GOAWAY on a stream", func(p *peer) { p.raw(http2.FrameGoAway, 0, 1, zero(8)...) }, http2.ErrCodeProtocol},
		{"GOAWAY of a wrong size", func(p *peer) { p.raw(http2.FrameGoAway, 0, 0, zero(7)...) }, http2.ErrCodeFrameSize},
		{"WINDOW_UPDATE of a wrong size", func(p *peer) { p.raw(http2.FrameWindowUpdate, 0, 0, zero(3)...) }, http2.ErrCodeFrameSize},
		{"WINDOW_UPDATE of 0", func(p *peer) { p.raw(http2.FrameWindowUpdate, 0, 0, zero(4)...) }, http2.ErrCodeProtocol},
		{"WINDOW_UPDATE on an idle stream", func(p *peer) { _ = p.framer.WriteWindowUpdate(9, 1) }, http2.ErrCodeProtocol},
		{"WINDOW_UPDATE that overflows", func(p *peer) { _ = p.framer.WriteWindowUpdate(0, maxWindow) }, http2.ErrCodeFlowControl},
	} {
		t.Run(tt.name, func(t *testing.T) {
			started, ended := make(chan struct{}, 100), make(chan struct{}, 100)
			s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				started <- struct{}{}
				<-r.Context().Done()
				ended <- struct{}{}
			}))
			p := newPeer(t, s)
			p.request(1, false)
			<-started // one that has not started is dropped
			tt.send(p)
			if got := p.awaitGoAway(); got != tt.want {
				t.Errorf("GOAWAY with %v, want %v", got, tt.want)
			}
			<-ended // what was under way was told
		})
	}
}

func TestNoPreface(t *testing.T) {
	s := newServer(t, Options{}, http.HandlerFunc(answer))
	p := dial(t, s)
	_, _ = io.WriteString(p.conn, strings.Replace(preface, "2.0", "3.0", 1))
	if got := p.awaitGoAway(); got != http2.ErrCodeProtocol {
		t.Error(got)
	}
	p = dial(t, s)
	_, _ = io.WriteString(p.conn, preface)
	p.request(1, true) // before SETTINGS
	if got := p.awaitGoAway(); got != http2.ErrCodeProtocol {
		t.Error(got)
	}
}

// TestWeakTLS holds RFC 9113, 9.2.
func TestWeakTLS(t *testing.T) {
	s := newServer(t, Options{}, http.HandlerFunc(answer))
	for _, tt := range []struct {
		suite uint16
		want  bool
	}{{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, false}, {tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, true}} {
		config := &tls.Config{
			InsecureSkipVerify: true, NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tt.suite},
		}
		c, err := tls.Dial("tcp", s.Listener.Addr().String(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		f, err := http2.NewFramer(c, c).ReadFrame()
		if _, ok := f.(*http2.SettingsFrame); err != nil || !ok {
			t.Fatal(f, err)
		}
		if _, err = io.WriteString(c, preface); err != nil {
			t.Fatal(err)
		}
		p := &peer{t: t, conn: c, framer: http2.NewFramer(c, c)}
		_ = p.framer.WriteSettings()
		if tt.want {
			p.awaitKind(http2.FrameSettings)
		} else if got := p.awaitGoAway(); got != http2.ErrCodeInadequateSecurity {
			t.Error(got)
		}
	}
	if err := checkTLS(&tls.ConnectionState{Version: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1")
	}
}

// TestBrokenStream holds which offences end a stream only.
func TestBrokenStream(t *testing.T) {
	priority := []byte{0, 0, 0, 1, 0}
	for _, tt := range []struct {
		name string
		send func(*peer)
		want http2.ErrCode
	}{
		{"DATA after the end", func(p *peer) { _ = p.framer.WriteData(1, true, nil); _ = p.framer.WriteData(1, true, nil) }, http2.ErrCodeStreamClosed},
		{"HEADERS after the end", func(p *peer) { _ = p.framer.WriteData(1, true, nil); p.headers(1, true, nil) }, http2.ErrCodeStreamClosed},
		{"DATA after RST_STREAM", func(p *peer) {
			_ = p.framer.WriteRSTStream(1, http2.ErrCodeCancel)
			_ = p.framer.WriteData(1, true, []byte("x"))
		}, http2.ErrCodeStreamClosed},
		{"DATA beyond the window", func(p *peer) {
			for range 9 {
				_ = p.framer.WriteData(1, false, make([]byte, maxFrame))
			}
		}, http2.ErrCodeFlowControl},
		{"more than Content-Length", func(p *peer) { _ = p.framer.WriteData(1, false, []byte("123456")) }, http2.ErrCodeProtocol},
		{"less than Content-Length", func(p *peer) { _ = p.framer.WriteData(1, true, []byte("1234")) }, http2.ErrCodeProtocol},
		{"trailers before Content-Length is there", func(p *peer) { p.headers(1, true, nil) }, http2.ErrCodeProtocol},
		{"trailers that don't end the stream", func(p *peer) {
			_ = p.framer.WriteData(1, false, []byte("12345"))
			p.headers(1, false, nil)
		}, http2.ErrCodeProtocol},
		{"trailers with a pseudo-header field", func(p *peer) {
			_ = p.framer.WriteData(1, false, []byte("12345"))
			p.headers(1, true, []hpack.HeaderField{{Name: ":method", Value: "GET"}})
		}, http2.ErrCodeProtocol},
		{"PRIORITY of a wrong size", func(p *peer) { p.raw(http2.FramePriority, 0, 1, priority[1:]...) }, http2.ErrCodeFrameSize},
		{"PRIORITY on itself", func(p *peer) { p.raw(http2.FramePriority, 0, 1, priority...) }, http2.ErrCodeProtocol},
		{"WINDOW_UPDATE of 0", func(p *peer) { p.raw(http2.FrameWindowUpdate, 0, 1, 0, 0, 0, 0) }, http2.ErrCodeProtocol},
		{"WINDOW_UPDATE that overflows", func(p *peer) { _ = p.framer.WriteWindowUpdate(1, maxWindow) }, http2.ErrCodeFlowControl},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					waitForEnd(w, r)
				}
			}))
			p := newPeer(t, s)
			length := "5"
			if strings.Contains(tt.name, "window") || strings.Contains(tt.name, "after") {
				length = ""
			}
			p.request(1, false, ":method", "POST", "content-length", length)
			tt.send(p)
			if got := p.awaitReset(1); got != tt.want {
				t.Errorf("RST_STREAM with %v, want %v", got, tt.want)
			}
			p.lives(3)
		})
	}
}

// lives checks that the connection still serves.
func (p *peer) lives(id uint32) {
	p.t.Helper()
	p.request(id, true)
	for {
		f, ok := p.awaitKind(http2.FrameHeaders).(*http2.MetaHeadersFrame)
		if ok && f.StreamID == id && f.PseudoValue("status") == "200" {
			return
		}
	}
}

// TestIgnored holds what is no offence.
func TestIgnored(t *testing.T) {
	s := newServer(t, Options{}, http.HandlerFunc(answer))
	p := newPeer(t, s)
	p.raw(0x77, 0xff, 5, 1, 2, 3)                            // an unknown frame
	p.raw(http2.FrameSettings, 0, 0, 0x77, 0x77, 1, 2, 3, 4) // an unknown setting
	p.raw(http2.FramePriority, 0, 77, 0, 0, 0, 1, 0)
	p.raw(http2.FramePing, 1, 0, make([]byte, 8)...)
	p.lives(1)
	_ = p.framer.WriteRSTStream(1, http2.ErrCodeCancel)
	_ = p.framer.WriteWindowUpdate(1, 5)
	p.lives(3)
	// A request in pieces, with padding, priority and trailers.
	block := p.encode(fieldsOf(":method", "POST", "x", strings.Repeat("y", 100)))
	_ = p.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 5, BlockFragment: block[:10], PadLength: 7, Priority: http2.PriorityParam{StreamDep: 3, Weight: 9},
	})
	for i, b := range block[10:] {
		_ = p.framer.WriteContinuation(5, i == len(block)-11, []byte{b})
	}
	_ = p.framer.WriteDataPadded(5, false, []byte("body"), make([]byte, 200))
	p.headers(5, true, []hpack.HeaderField{{Name: "trailer", Value: "x"}})
	if f := p.awaitKind(http2.FrameHeaders).(*http2.MetaHeadersFrame); f.PseudoValue("status") != "200" {
		t.Error(f)
	}
}

func TestPing(t *testing.T) {
	p := newPeer(t, newServer(t, Options{}, http.HandlerFunc(answer)))
	_ = p.framer.WritePing(false, [8]byte{1, 2, 3})
	if f := p.awaitKind(http2.FramePing).(*http2.PingFrame); !f.IsAck() || f.Data != [8]byte{1, 2, 3} {
		t.Error(f)
	}
}

// TestMalformed holds that requests as RFC 9113, 8.1.1 forbids reach no handler.
func TestMalformed(t *testing.T) {
	s := newServer(t, Options{}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ok" {
			t.Errorf("a malformed request was served: %v", r)
		}
	}))
	f := func(name, value string) hpack.HeaderField { return hpack.HeaderField{Name: name, Value: value} }
	for name, fields := range map[string][]hpack.HeaderField{
		"no :method":                fieldsOf(":method", ""),
		"no :scheme":                fieldsOf(":scheme", ""),
		"no :path":                  fieldsOf(":path", ""),
		"nothing":                   nil,
		"empty :path":               append([]hpack.HeaderField{f(":path", "")}, fieldsOf(":path", "")...),
		":path without a slash":     fieldsOf(":path", "api"),
		":path with a host":         fieldsOf(":path", "https://hub/"),
		":path * of a GET":          fieldsOf(":path", "*"),
		":path with a bad escape":   fieldsOf(":path", "/%zz"),
		":path with a control":      fieldsOf(":path", "/\x7f"),
		":path with a line break":   fieldsOf(":path", "/a\r\nb: c"),
		":path with a space":        fieldsOf(":path", "/a b"),
		"query with a space":        fieldsOf(":path", "/?a=b HTTP/1.1"),
		"query with a control":      fieldsOf(":path", "/?a=\x7f"),
		"query with a tab":          fieldsOf(":path", "/?a=\t"),
		"query beyond ASCII":        fieldsOf(":path", "/?a=\u00e9"),
		"bad :method":               fieldsOf(":method", "GE T"),
		"bad :scheme":               fieldsOf(":scheme", "ftp"),
		"bad :authority":            fieldsOf(":authority", "a b"),
		":authority with a user":    fieldsOf(":authority", "u@hub"),
		"Host is not :authority":    fieldsOf("host", "other"),
		"two hosts":                 append(fieldsOf(":authority", "", "host", "a"), f("host", "a")),
		"CONNECT":                   fieldsOf(":method", "CONNECT"),
		"CONNECT as RFC 9113 says":  fieldsOf(":method", "CONNECT", ":path", "", ":scheme", ""),
		"extended CONNECT":          fieldsOf(":method", "CONNECT", ":protocol", "websocket"),
		"unknown pseudo-header":     fieldsOf(":foo", "bar"),
		"pseudo-header of response": fieldsOf(":status", "200"),
		"pseudo-header twice":       append(fieldsOf(), f(":method", "GET")),
		"pseudo-header at the end":  append(fieldsOf("a", "b", ":path", ""), f(":path", "/")),
		"upper-case name":           fieldsOf("Accept", "a"),
		"empty name":                append(fieldsOf(), f("", "a")),
		"bad name":                  fieldsOf("a b", "a"),
		"name with a colon":         fieldsOf("a:", "a"),
		"NUL in a value":            fieldsOf("a", "\x00"),
		"line break in a value":     fieldsOf("a", "b\nc: d"),
		"carriage return in value":  fieldsOf("a", "b\r"),
		"connection":                fieldsOf("connection", "close"),
		"keep-alive":                fieldsOf("keep-alive", "1"),
		"proxy-connection":          fieldsOf("proxy-connection", "1"),
		"transfer-encoding":         fieldsOf("transfer-encoding", "chunked"),
		"upgrade":                   fieldsOf("upgrade", "h2c"),
		"te other than trailers":    fieldsOf("te", "gzip"),
		"content-length of nothing": fieldsOf("content-length", "5"),
		"bad content-length":        fieldsOf("content-length", "-0"),
		"content-length of two":     append(fieldsOf("content-length", "0"), f("content-length", "1")),
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, s)
			p.headers(1, true, fields)
			if got := p.awaitReset(1); got != http2.ErrCodeProtocol {
				t.Errorf("RST_STREAM with %v", got)
			}
			p.request(3, true, ":path", "/ok", "te", "trailers", "host", "hub")
			p.awaitKind(http2.FrameHeaders)
		})
	}
}

// TestHeaderTooLarge holds that a header beyond MaxHeaderBytes is answered, and
// one far beyond ends the connection.
func TestHeaderTooLarge(t *testing.T) {
	s := newServer(t, Options{}, http.HandlerFunc(answer), func(s *http.Server) { s.MaxHeaderBytes = 8 << 10 })
	for _, end := range []bool{true, false} {
		p := newPeer(t, s)
		p.request(1, end, "a", strings.Repeat("a", 9<<10))
		if f := p.awaitKind(http2.FrameHeaders).(*http2.MetaHeadersFrame); f.PseudoValue("status") != "431" || !f.StreamEnded() {
			t.Error(f)
		}
		if !end {
			if got := p.awaitReset(1); got != http2.ErrCodeNo {
				t.Error(got)
			}
			_ = p.framer.WriteData(1, true, []byte("late"))
		}
		p.lives(3) // also: the table of header fields is as the client's
	}
	t.Run("bomb", func(t *testing.T) { // small when encoded
		p := newPeer(t, s)
		p.encode(fieldsOf("x", strings.Repeat("x", 3000)))
		block := append(bytes.Clone(p.block.Bytes()), bytes.Repeat([]byte{0x80 | 62}, 10_000)...)
		_ = p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndStream: true, EndHeaders: true})
		if f := p.awaitKind(http2.FrameHeaders).(*http2.MetaHeadersFrame); f.PseudoValue("status") != "431" {
			t.Error(f)
		}
	})
	t.Run("flood", func(t *testing.T) {
		for _, fragment := range []string{"", string(appendField(nil, wireName{name: "b"}, strings.Repeat("b", 1000)))} {
			p := newPeer(t, s)
			p.raw(http2.FrameHeaders, 0, 1)
			go func() {
				for p.framer.WriteRawFrame(http2.FrameContinuation, 0, 1, []byte(fragment)) == nil {
				}
			}()
			if got := p.awaitGoAway(); got != http2.ErrCodeEnhanceYourCalm {
				t.Error(got)
			}
		}
	})
}

func ExampleConfigure() {
	s := &http.Server{Addr: "127.0.0.1:0", Handler: http.NotFoundHandler()}
	fmt.Println(Configure(s, Options{}), Configure(s, Options{}))
	// Output: <nil> http2: the server is configured for HTTP/2 already
}
