package middleware

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/websocket"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
)

// WithWebSocketWatches has watches that cached agents open as WebSockets (RFC 6455), as
// the fabric8 client for Java does by default, go on as plain ones, so that they are
// recorded, and answered from the cache, as all are. The client gets each event as one
// text message, as kube-apiserver sends it. patience is how long it may take for one,
// zero if as long as it likes.
func WithWebSocketWatches(caches func(agent string) bool, patience time.Duration, next http.Handler) http.Handler {
	kept := new(atomic.Int64)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isWebSocketWatch(r) || !caches(hubconfig.AgentOf(r.UserAgent())) {
			next.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		s := &webSocket{ctx: ctx, ResponseWriter: w, request: r, cancel: cancel, patience: patience, allKept: kept}
		defer s.end()
		next.ServeHTTP(s, plainWatch(ctx, r))
		s.bye()
	})
}

// isWebSocketWatch reports whether a request is for a watch as a WebSocket, and such that
// the hub can answer it just as kube-apiserver would: with JSON, without a body, of which
// something may still be read, and without a subprotocol, which may hold a credential.
// What is wrong with any other is kube-apiserver's to say; it wants an Origin, too.
func isWebSocketWatch(r *http.Request) bool {
	h := r.Header
	return r.ProtoMajor == 1 && r.ContentLength == 0 && requestInfo(r).Verb == "watch" &&
		strings.EqualFold(h.Get("Upgrade"), "websocket") && httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade") &&
		h.Get("Sec-Websocket-Version") == websocket.SupportedProtocolVersion && h.Get("Sec-Websocket-Key") != "" &&
		h.Get("Origin") != "" && len(h["Sec-Websocket-Protocol"]) == 0 && takesJSON(h)
}

// takesJSON reports whether an Accept header leaves nothing but JSON to answer with.
func takesJSON(h http.Header) bool {
	for _, accept := range h["Accept"] {
		for clause := range strings.SplitSeq(accept, ",") {
			switch mediaTypeOf(clause) {
			case "", "*/*", "application/*", typeJSON:
			default:
				return false
			}
		}
	}
	return true
}

// plainWatch is the request that a WebSocket's stands for.
func plainWatch(ctx context.Context, r *http.Request) *http.Request {
	plain := r.Clone(ctx)
	for _, name := range []string{"Upgrade", "Connection", "Accept-Encoding",
		"Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Extensions"} {
		plain.Header.Del(name)
	}
	return plain
}

// webSocket writes a watch's events to a WebSocket, and any other answer as it is.
type webSocket struct {
	http.ResponseWriter
	ctx      context.Context // of the watch
	request  *http.Request
	cancel   context.CancelFunc // ends the watch
	patience time.Duration

	answered bool
	raw      net.Conn        // what conn writes to
	conn     *websocket.Conn // nil until there are events
	closed   chan struct{}   // once the client's side of conn is
	event    []byte          // room for a frame's header, and what has come of the next one
	begun    bool            // some of it is sent
	kept     int64           // bytes of allKept
	allKept  *atomic.Int64   // bytes that all keep beyond maxKept
	err      error           // the connection could not be had
}

var errNoWebSocket = errors.New("the WebSocket could not be opened")

// WriteHeader implements http.ResponseWriter.
func (s *webSocket) WriteHeader(code int) {
	if s.answered {
		return
	}
	s.answered = code >= http.StatusOK
	if code != http.StatusOK {
		s.ResponseWriter.WriteHeader(code)
		return
	}
	conn, buffered, err := http.NewResponseController(s.ResponseWriter).Hijack()
	if err != nil {
		s.err = err
		return
	}
	if s.patience > 0 {
		_ = conn.SetWriteDeadline(time.Now().Add(s.patience))
	}
	// The server knows nothing of what it has handed over, and so does not close it when
	// it stops.
	context.AfterFunc(s.ctx, func() { _ = conn.SetWriteDeadline(time.Now().Add(farewell)) })
	opened := make(chan *websocket.Conn, 1)
	s.closed = make(chan struct{})
	go func() {
		defer close(s.closed)
		defer close(opened)
		websocket.Handler(func(c *websocket.Conn) {
			opened <- c
			// kube-apiserver, too, reads nothing of what comes. Pings are
			// answered meanwhile. io.Copy would keep more for each.
			for nothing := make([]byte, 64); ; {
				if _, err := c.Read(nothing); err != nil {
					break
				}
			}
			s.cancel()
		}).ServeHTTP(&hijacked{s.ResponseWriter, conn, buffered}, s.request)
	}()
	s.raw = conn
	if s.conn = <-opened; s.conn == nil {
		s.err = errNoWebSocket
		return
	}
	_ = conn.SetWriteDeadline(time.Time{})
}

// Write implements io.Writer. Each event of a watch as JSON ends with a newline, and has
// no other.
func (s *webSocket) Write(b []byte) (int, error) {
	if !s.answered {
		s.WriteHeader(http.StatusOK)
	}
	if s.err != nil {
		return 0, s.err
	}
	if s.conn == nil {
		return s.ResponseWriter.Write(b)
	}
	written := 0
	for written < len(b) {
		piece := b[written:]
		if end := bytes.IndexByte(piece, '\n') + 1; end > 0 {
			piece = piece[:end]
		}
		if len(s.event) == 0 {
			s.event = append(s.event, make([]byte, maxFrameHeader)...)
		}
		if room := maxFrameHeader + maxKept - len(s.event); room < len(piece) && !s.keep(len(piece)-max(room, 0)) {
			if piece = piece[:max(room, 0)]; len(piece) == 0 {
				if err := s.send(false); err != nil {
					return written, err
				}
				continue
			}
		}
		s.event = append(s.event, piece...)
		written += len(piece)
		if piece[len(piece)-1] != '\n' {
			continue
		}
		if err := s.send(true); err != nil {
			return written, err
		}
	}
	return len(b), nil
}

const (
	// maxKept is how many bytes are kept for the next event, and maxAllKept how many
	// are in all WebSockets together beyond that: their clients may take nothing. What
	// there is no room for is sent as a fragment (RFC 6455, 5.4).
	maxKept    = 16 << 10
	maxAllKept = 4 << 20

	maxFrameHeader = 10
)

// keep reports whether so many bytes more may be kept beyond maxKept.
func (s *webSocket) keep(bytes int) bool {
	n := int64(bytes)
	if s.allKept.Add(n) > maxAllKept {
		s.allKept.Add(-n)
		return false
	}
	s.kept += n
	return true
}

// release gives back what was kept.
func (s *webSocket) release() {
	s.allKept.Add(-s.kept)
	s.kept = 0
	if s.event = s.event[:0]; cap(s.event) > maxFrameHeader+2*maxKept {
		s.event = nil
	}
}

// send sends what is kept, the whole of an event or, if it is not the last of it, a
// fragment, in one write: pongs are written to the same connection.
func (s *webSocket) send(last bool) error {
	if s.patience > 0 {
		_ = s.conn.SetWriteDeadline(time.Now().Add(s.patience))
	}
	if err := s.ctx.Err(); err != nil { // whose deadline that one took the place of
		return err
	}
	_, err := s.raw.Write(s.frame(last))
	s.begun = !last
	s.release()
	if err == nil && s.patience > 0 {
		_ = s.conn.SetWriteDeadline(time.Time{}) // pongs are written as well
	}
	return err
}

// frame puts a frame's header in front of what is kept (RFC 6455, 5.2).
func (s *webSocket) frame(last bool) []byte {
	first := byte(websocket.TextFrame)
	if s.begun {
		first = websocket.ContinuationFrame
	}
	if last {
		first |= 0x80
	}
	start, length := maxFrameHeader-2, len(s.event)-maxFrameHeader
	switch {
	case length < 126:
		s.event[start+1] = byte(length)
	case length <= 0xffff:
		start -= 2
		s.event[start+1] = 126
		binary.BigEndian.PutUint16(s.event[start+2:], uint16(length))
	default:
		start -= 8
		s.event[start+1] = 127
		binary.BigEndian.PutUint64(s.event[start+2:], uint64(length))
	}
	s.event[start] = first
	return s.event[start:]
}

// FlushError is for http.ResponseController.
func (s *webSocket) FlushError() error {
	switch {
	case s.err != nil:
		return s.err
	case s.conn != nil:
		return nil
	}
	return http.NewResponseController(s.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (s *webSocket) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// farewell is how long a client may take for what is on its way when its watch is over.
const farewell = time.Second

// bye tells the client that the watch is over.
func (s *webSocket) bye() {
	if s.conn != nil {
		_ = s.conn.SetWriteDeadline(time.Now().Add(farewell))
		_ = s.conn.Close()
	}
}

// end closes the connection, if there was one.
func (s *webSocket) end() {
	s.release()
	if s.conn != nil {
		_ = s.conn.SetDeadline(time.Now())
	}
	if s.closed != nil {
		<-s.closed
	}
}

// hijacked has been hijacked.
type hijacked struct {
	http.ResponseWriter
	conn     net.Conn
	buffered *bufio.ReadWriter
}

// Hijack implements http.Hijacker.
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) { return h.conn, h.buffered, nil }
