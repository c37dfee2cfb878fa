package attack

import (
	"bytes"
	"crypto/tls"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// field is one header field of HTTP/2, pseudo or not.
type field struct{ name, value string }

// stream is a request of HTTP/2, whole or broken.
type stream struct {
	fields   []field
	body     string
	trailers []field
	split    bool // into HEADERS and CONTINUATION
}

// evilFields should be refused or do nothing.
var evilFields = [][]field{
	{{"connection", "authorization"}}, {{"connection", "close"}}, {{"proxy-connection", "authorization"}}, {{"keep-alive", "x"}},
	{{"transfer-encoding", "chunked"}}, {{"upgrade", "h2c"}}, {{"upgrade", "websocket"}, {"connection", "upgrade"}}, {{"te", "chunked"}}, {{"te", "trailers"}},
	{{"x-remote-user", "system:admin"}}, {{"x-remote-group", "system:masters"}, {"x-remote-group", "system:nodes"}}, {{"x-remote-extra-scopes", "all"}},
	{{"X-Remote-User", "system:admin"}}, {{"x-remote-user ", "system:admin"}}, {{" x-remote-user", "system:admin"}}, {{"x-a\r\nx-remote-user", "system:admin"}},
	{{"x-a", "b\r\nx-remote-user: system:admin"}}, {{"x-a", "b\nx-remote-user: system:admin"}}, {{"x-a", "b\x00c"}}, {{"x-remote-user:", "a"}}, {{":x-remote-user", "a"}},
	{{"impersonate-user", "system:admin"}}, {{"impersonate-group", "system:masters"}}, {{"Impersonate-User", "system:admin"}},
	{{"host", "evil.example"}}, {{"Host", "evil.example"}}, {{"x-forwarded-host", "evil.example"}}, {{"forwarded", "host=evil.example"}}, {{"x-original-url", "/smuggled-by-header"}},
	{{"content-length", "5"}}, {{"content-length", "0"}, {"content-length", "5"}}, {{"content-length", "-1"}}, {{"expect", "100-continue"}},
	{{"authorization", "Bearer a-token"}, {"authorization", "Bearer another"}}, {{"Authorization", "Bearer a-token"}}, {{"cookie", "a=b"}, {"cookie", "c=d"}},
	{{"authorization", "Bearer a\r\nX-Remote-User: system:admin"}}, {{"", "x"}}, {{"x", strings.Repeat("y", 100_000)}}, {{"sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.YWJj"}},
	{{"user-agent", "kubelet/v1"}, {"user-agent", "edge-app/1"}}, {{":path", "/smuggled-by-late-pseudo-header"}}, {{":authority", "evil.example"}}, {{":unknown", "x"}}, {{":status", "200"}},
}

// http2 makes up requests for one connection.
func (c *corpus) http2() probe {
	p := probe{kind: "HTTP/2", caller: c.pick(callers...), bare: true}
	for range 4 {
		p.frames = append(p.frames, c.stream(&p))
	}
	return p
}

func (c *corpus) stream(p *probe) stream {
	path := c.path()
	s := stream{split: c.IntN(4) == 0}
	method := c.pick("GET", "GET", "POST", "DELETE")
	pseudo := []field{{":method", method}, {":scheme", "https"}, {":authority", "kubernetes"}, {":path", path}}
	switch c.IntN(28) {
	case 0:
		pseudo[2].value = c.pick("evil.example", "127.0.0.1:1", "user@evil.example", "", "evil.example/x", "a b")
	case 1:
		pseudo[3].value = c.pick("https://evil.example"+path, "//evil.example"+path, "", "*", strings.TrimPrefix(path, "/"), path+" HTTP/1.1", path+"\r\nX-Remote-User: system:admin", path+"#f", path+"%00", path+"\x00")
	case 2:
		pseudo[1].value = c.pick("http", "", "ftp", "https://evil.example/")
	case 3:
		pseudo[0].value = c.pick("", "CONNECT", "PRI", "GET /smuggled-by-method HTTP/1.1\r\nX:", "G T", "get")
	case 4:
		pseudo = append(pseudo, field{c.pick(":path", ":method", ":authority", ":scheme"), "/smuggled-by-second-pseudo-header"})
	case 5:
		i := c.IntN(len(pseudo))
		pseudo = append(pseudo[:i:i], pseudo[i+1:]...)
	case 6:
		pseudo[0].value = "CONNECT"
		pseudo = append(pseudo, field{":protocol", "websocket"})
	case 7:
		pseudo = []field{{":method", "CONNECT"}, {":authority", "127.0.0.1:1"}}
	}
	fields := []field{{"user-agent", c.pick(userAgents...)}}
	if c.IntN(3) == 0 {
		fields = append(fields, field{"authorization", c.pick("Bearer a-token", "bearer a-token", "Basic x", "")})
	}
	for range c.IntN(3) {
		fields = append(fields, evilFields[c.IntN(len(evilFields))]...)
	}
	for _, f := range fields {
		name := strings.ToLower(f.name)
		if name == "authorization" {
			p.authorization = append(p.authorization, f.value)
		}
		p.bare = p.bare && name != "authorization" && !strings.HasPrefix(name, "impersonate-")
	}
	s.fields = append(pseudo, fields...)
	if c.IntN(12) == 0 { // pseudo-headers behind others
		s.fields = append(fields, pseudo...)
	}
	if method == "POST" {
		s.body = c.pick("", "{}", c.smuggled(), "0\r\n\r\n"+c.smuggled())
		s.trailers = [][]field{nil, {{"x-remote-user", "system:admin"}}, {{"authorization", "Bearer trailing"}}, {{":path", "/smuggled-by-trailer"}}, {{"content-length", "5"}}}[c.IntN(5)]
	}
	return s
}

// sendFrames sends streams on a connection, one after the other, for as long as
// the hub keeps it.
func sendFrames(conn *tls.Conn, streams []stream) error {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	framer := http2.NewFramer(conn, conn)
	framer.AllowIllegalWrites = true
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		return err
	}
	if err := framer.WriteSettings(); err != nil {
		return err
	}
	encode := func(fields []field) []byte {
		block.Reset()
		for _, f := range fields {
			_ = encoder.WriteField(hpack.HeaderField{Name: f.name, Value: f.value})
		}
		return bytes.Clone(block.Bytes())
	}
	for i, s := range streams {
		id := uint32(2*i + 1)
		more := s.body != "" || s.trailers != nil
		if err := writeBlock(framer, id, encode(s.fields), !more, s.split); err != nil {
			return err
		}
		if more {
			if err := framer.WriteData(id, s.trailers == nil, []byte(s.body)); err != nil {
				return err
			}
		}
		if s.trailers != nil {
			if err := writeBlock(framer, id, encode(s.trailers), true, false); err != nil {
				return err
			}
		}
		if err := awaitEnd(conn, framer, id); err != nil {
			return err
		}
	}
	return nil
}

func writeBlock(framer *http2.Framer, id uint32, block []byte, end, split bool) error {
	const most = 16 << 10
	first := min(len(block), most)
	if split {
		first = min(first, len(block)/2)
	}
	err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block[:first], EndStream: end, EndHeaders: first == len(block)})
	for block = block[first:]; err == nil && len(block) > 0; block = block[min(len(block), most):] {
		err = framer.WriteContinuation(id, len(block) <= most, block[:min(len(block), most)])
	}
	return err
}

// awaitEnd reads until a stream has ended, or the connection.
func awaitEnd(conn *tls.Conn, framer *http2.Framer, id uint32) error {
	_ = conn.SetReadDeadline(time.Now().Add(answerTime))
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return err
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			err = framer.WritePing(true, frame.Data)
		}
		header := frame.Header()
		if err != nil || header.StreamID == id && (header.Type == http2.FrameRSTStream || header.Flags.Has(http2.FlagDataEndStream) && (header.Type == http2.FrameData || header.Type == http2.FrameHeaders)) {
			return err
		}
	}
}
