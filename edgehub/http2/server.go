// Package http2 is the server side of HTTP/2 (RFC 9113) for a proxy of many
// small requests, few large responses and thousands of idle watches. It takes
// the place of net/http's own under an http.Server, which keeps doing TLS, ALPN
// and HTTP/1.1, and answers as that would.
//
// It costs less because a request changes goroutines once: one goroutine reads
// a connection and hands each request to a worker, and the worker writes the
// response itself, headers, data and end in one TLS record if they fit. Nothing
// is held for a stream that waits but the stream itself.
//
// # Locks
//
// conn.wmu is held while something is written to the connection, and conn.mu
// while the state of it or its streams is looked at or changed, never while
// anything is read, written or waited for. Whoever needs both takes wmu first.
// The reading goroutine never takes wmu while the connection is in use: a peer
// that does not read could stop it, and with it the window updates that would
// let others go on. What it has to say it queues, and a worker writes it.
package http2

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2/hpack"
)

// server is what the connections of an http.Server share.
type server struct {
	options Options
	workers workers
	running atomic.Int64 // handlers
	// starting has an element for each handler that no processor has got to
	// or, with Options.AwaitAdmission, that is not admitted and has not come to
	// where it may wait for its client. When it is full the connections are not
	// read: requests that come faster than they can be looked at wait in the
	// kernel, and cost no goroutine each. No peer is waited for, so none can hold it
	// full.
	starting chan struct{}

	mu      sync.Mutex
	conns   map[*conn]struct{}
	origins map[string]*origin // by address

	unsent unsent
}

// origin is an address that connections come from.
type origin struct {
	conns   int // guarded by server.mu
	running atomic.Int64
}

// open takes note of a connection.
func (s *server) open(c *conn) {
	address, _, err := net.SplitHostPort(c.remote)
	if err != nil {
		address = c.remote
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
	if s.origins[address] == nil {
		s.origins[address] = &origin{}
	}
	c.address, c.origin = address, s.origins[address]
	c.origin.conns++
}

func (s *server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if c.origin.conns--; c.origin.conns == 0 {
		delete(s.origins, c.address)
	}
}

// Configure makes s serve HTTP/2 by this package. It must be called before s
// serves, and s must not have been configured for HTTP/2 in another way. s is
// to be served by ServeTLS or ListenAndServeTLS, which offer the protocol to
// clients. Shutdown lets requests end; it also waits for their handlers.
//
// http.Server's HTTP2 is not looked at. TLSConfig should set
// DynamicRecordSizingDisabled: crypto/tls else cuts the first 128 KiB that a
// connection sends into small records, each with a system call of its own.
func Configure(s *http.Server, o Options) error {
	if _, ok := s.TLSNextProto["h2"]; ok {
		return errors.New("http2: the server is configured for HTTP/2 already")
	}
	srv := newShared(o)
	if s.TLSNextProto == nil {
		s.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	s.TLSNextProto["h2"] = func(hs *http.Server, c *tls.Conn, h http.Handler) {
		state := c.ConnectionState()
		srv.serve(hs, c, &state, h)
	}
	s.RegisterOnShutdown(func() {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		for c := range srv.conns {
			c.goAway(codeNone, "")
		}
	})
	return nil
}

func newShared(o Options) *server {
	return &server{
		options: o.withDefaults(), starting: make(chan struct{}, maxStarting),
		conns: map[*conn]struct{}{}, origins: map[string]*origin{},
	}
}

// maxStarting is how many handlers may be about to start. More would not start
// sooner, and each has a stack.
const maxStarting = 32

// crowded reports whether a connection may have no more handlers.
func (s *server) crowded(c *conn) bool {
	running, most := int(s.running.Load()), s.options.MaxHandlers
	return running >= most || running >= most/5*4 &&
		(c.running >= max(most/64, 1) || int(c.origin.running.Load()) >= max(most/8, 1))
}

// readBuffer holds what small requests need, and little, since connections are
// many. Larger frames are read into a buffer of their own.
const readBuffer = 4 << 10

// serve serves a connection until it ends and its handlers have returned.
func (s *server) serve(hs *http.Server, nc net.Conn, state *tls.ConnectionState, h http.Handler) {
	// net/http hands over a connection's context by this method.
	base := context.Background()
	if b, ok := h.(interface{ BaseContext() context.Context }); ok {
		base = b.BaseContext()
	}
	c := &conn{
		server: s, http: hs, net: nc, tls: state, handler: h, remote: nc.RemoteAddr().String(),
		r:            bufio.NewReaderSize(nc, readBuffer),
		streams:      map[uint32]*stream{},
		recvWindow:   s.options.ConnectionWindow,
		sendWindow:   initialWindow,
		streamWindow: initialWindow,
		frames:       newBucket(s.options.Frames),
		resets:       newBucket(s.options.Resets),
	}
	c.base, c.cancel = context.WithCancel(base)
	c.block.limit = headerListLimit(hs)
	c.hpack = hpack.NewDecoder(4096, c.block.add)
	c.hpack.SetMaxStringLength(2 * c.block.maxEncoded())
	c.queue = c.hello()

	s.open(c)
	c.end(c.run())
	c.handlers.Wait()
	s.forget(c)
}

// headerListLimit is the most that a request's header may hold, in the units of
// RFC 9113, 6.5.2, which count 32 bytes for each field beside its text.
// MaxHeaderBytes counts the text.
func headerListLimit(hs *http.Server) int {
	const fields = 10 // as many as requests usually have
	n := hs.MaxHeaderBytes
	if n <= 0 {
		n = http.DefaultMaxHeaderBytes
	}
	return n + fields*32
}

func (c *conn) logf(format string, args ...any) {
	if l := c.http.ErrorLog; l != nil {
		l.Printf(format, args...)
		return
	}
	log.Printf(format, args...)
}

// checkTLS refuses what RFC 9113, 9.2 prohibits: versions before 1.2, and with
// 1.2 the suites without forward secrecy and authenticated encryption.
func checkTLS(state *tls.ConnectionState) error {
	switch {
	case state == nil, state.Version >= tls.VersionTLS13:
		return nil
	case state.Version < tls.VersionTLS12:
		return connError{codeInadequateSecurity, "TLS version too low"}
	}
	switch state.CipherSuite {
	case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		return nil
	}
	return connError{codeInadequateSecurity, "TLS cipher suite too weak"}
}
