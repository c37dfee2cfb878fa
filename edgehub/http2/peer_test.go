package http2

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// peer is a client that sends what a test says, right or wrong, and reads
// frames by another implementation.
type peer struct {
	t      testing.TB
	conn   net.Conn
	framer *http2.Framer
	block  bytes.Buffer
	hpack  *hpack.Encoder
}

func dial(t testing.TB, s *httptest.Server) *peer {
	t.Helper()
	return dialFrom(t, s, 1)
}

// dialFrom dials from one of the addresses of loopback.
func dialFrom(t testing.TB, s *httptest.Server, host byte) *peer {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, host)}}
	c, err := tls.DialWithDialer(dialer, "tcp", s.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	p := &peer{t: t, conn: c, framer: http2.NewFramer(c, c)}
	p.framer.AllowIllegalWrites = true
	p.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.hpack = hpack.NewEncoder(&p.block)
	return p
}

// newPeer returns a peer that has said hello.
func newPeer(t testing.TB, s *httptest.Server, settings ...http2.Setting) *peer {
	t.Helper()
	return dial(t, s).hello(settings...)
}

func (p *peer) hello(settings ...http2.Setting) *peer {
	p.t.Helper()
	_, _ = io.WriteString(p.conn, preface)
	_ = p.framer.WriteSettings(settings...)
	_ = p.framer.WriteWindowUpdate(0, 1<<30)
	p.awaitKind(http2.FrameSettings) // the server's
	_ = p.framer.WriteSettingsAck()
	for { // the acknowledgement
		if f, ok := p.awaitKind(http2.FrameSettings).(*http2.SettingsFrame); ok && f.IsAck() {
			return p
		}
	}
}

func (p *peer) close() { _ = p.conn.Close() }

// fieldsOf is the header of a GET, with more fields, or others in place of those
// whose names they have. An empty value removes one.
func fieldsOf(fields ...string) []hpack.HeaderField {
	h := []hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"},
		{Name: ":authority", Value: "hub"}, {Name: ":path", Value: "/"},
	}
	for i := 0; i < len(fields); i += 2 {
		name, value := fields[i], fields[i+1]
		at := slices.IndexFunc(h, func(f hpack.HeaderField) bool { return f.Name == name })
		switch {
		case at >= 0 && value == "":
			h = slices.Delete(h, at, at+1)
		case at >= 0:
			h[at].Value = value
		case value != "":
			h = append(h, hpack.HeaderField{Name: name, Value: value})
		}
	}
	return h
}

func (p *peer) encode(fields []hpack.HeaderField) []byte {
	p.block.Reset()
	for _, f := range fields {
		_ = p.hpack.WriteField(f)
	}
	return p.block.Bytes()
}

func (p *peer) headers(id uint32, end bool, fields []hpack.HeaderField) {
	_ = p.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: p.encode(fields), EndStream: end, EndHeaders: true,
	})
}

func (p *peer) request(id uint32, end bool, fields ...string) {
	p.headers(id, end, fieldsOf(fields...))
}

func (p *peer) read() http2.Frame {
	p.t.Helper()
	f, err := p.framer.ReadFrame()
	if err != nil {
		p.t.Fatalf("read frame: %v", err)
	}
	return f
}

// awaitKind reads up to a frame of a kind.
func (p *peer) awaitKind(kind http2.FrameType) http2.Frame {
	p.t.Helper()
	for {
		if f := p.read(); f.Header().Type == kind {
			return f
		}
	}
}

// awaitReset reads up to RST_STREAM.
func (p *peer) awaitReset(id uint32) http2.ErrCode {
	p.t.Helper()
	for {
		if f := p.awaitKind(http2.FrameRSTStream).(*http2.RSTStreamFrame); f.StreamID == id {
			return f.ErrCode
		}
	}
}

// awaitGoAway reads up to GOAWAY, and that the connection ends after it.
func (p *peer) awaitGoAway() http2.ErrCode {
	p.t.Helper()
	code := p.awaitKind(http2.FrameGoAway).(*http2.GoAwayFrame).ErrCode
	p.awaitEnd()
	return code
}

// awaitEnd reads up to the end of the connection.
func (p *peer) awaitEnd() {
	p.t.Helper()
	for {
		_, err := p.framer.ReadFrame()
		if err == nil {
			continue
		}
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			p.t.Fatal("the connection does not end")
		}
		return
	}
}
