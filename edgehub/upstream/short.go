package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	// maxShort is how many requests at once go out on HTTP/1.1 connections.
	// A node that has more to ask shares one HTTP/2 connection for the rest,
	// so that a fleet costs kube-apiserver few connections.
	maxShort = 16
	// maxDials is how many of these connections are made in a second.
	maxDials = 2 * maxShort
	// shortIdle is how long such a connection is kept unused, and shortLife
	// how long it is used at all: connections must move when a load balancer
	// has more kube-apiservers behind it than before.
	shortIdle = 30 * time.Second
	shortLife = 10 * time.Minute
	// shortBuffer holds one TLS record.
	shortBuffer = 16 << 10
	// maxResponseHeader bounds what a response's header may take.
	maxResponseHeader = 1 << 20
)

// errNoShort says that a request should go out another way.
var errNoShort = errors.New("no short connection")

// shorts are HTTP/1.1 connections to one endpoint for reads whose responses
// end soon. A request is written and its response is read by the goroutine that
// asks, which takes half the processor time of http.Transport: that hands each
// request from goroutine to goroutine, on either protocol.
type shorts struct {
	endpoint *endpoint
	config   *tls.Config
	address  string

	open context.Context // ends when connections must not be used any more
	end  context.CancelFunc

	mu     sync.Mutex
	idle   []*short // the last used one last
	all    map[*short]struct{}
	dials  int
	since  time.Time // when made was 0
	made   int       // connections that were made since
	closed error     // why no connection may be used any more
}

func newShorts(e *endpoint, config *tls.Config) *shorts {
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"}
	if config.ServerName == "" {
		config.ServerName = e.url.Hostname()
	}
	port := e.url.Port()
	if port == "" {
		port = "443"
	}
	p := &shorts{
		endpoint: e,
		config:   config,
		address:  net.JoinHostPort(e.url.Hostname(), port),
		all:      map[*short]struct{}{},
	}
	p.open, p.end = context.WithCancel(context.Background())
	return p
}

// short is one connection. It belongs to one request at a time.
type short struct {
	pool   *shorts
	conn   net.Conn
	r      *bufio.Reader
	w      *bufio.Writer
	limit  int // bytes that may still come
	made   time.Time
	idle   *time.Timer // closes it when it was not used for long
	late   watchdog
	reused bool
}

// RoundTrip implements http.RoundTripper for reads. It gives errNoShort when
// as many requests as may be are under way.
func (p *shorts) RoundTrip(req *http.Request) (*http.Response, error) {
	for {
		c, err := p.get(req.Context())
		if err != nil {
			return nil, err
		}
		resp, err := c.roundTrip(req)
		if err == nil {
			return resp, nil
		}
		c.discard()
		if cause := p.cause(); cause != nil {
			return nil, cause
		}
		if !c.reused || !errors.Is(err, errUnanswered) || req.Context().Err() != nil {
			return nil, err
		}
		// kube-apiserver closed the connection while it was idle. Reads may
		// be sent again (RFC 9110, 9.2.2).
	}
}

// errUnanswered is the error of a request of whose response nothing came.
var errUnanswered = errors.New("connection ended before a response")

func (c *short) roundTrip(req *http.Request) (*http.Response, error) {
	cancelled := context.AfterFunc(req.Context(), c.cut)
	c.late.start()
	defer c.late.stop()
	resp, err := c.exchange(req)
	if err != nil {
		cancelled()
		return nil, err
	}
	resp.Body = &shortBody{ReadCloser: resp.Body, conn: c, request: req.Context(), cancelled: cancelled, reusable: !resp.Close}
	return resp, nil
}

// Read implements io.Reader for c.r.
func (c *short) Read(b []byte) (int, error) {
	if c.limit <= 0 {
		return 0, fmt.Errorf("response header is larger than %d bytes", maxResponseHeader)
	}
	n, err := c.conn.Read(b[:min(len(b), c.limit)])
	c.limit -= n
	return n, err
}

func (c *short) exchange(req *http.Request) (*http.Response, error) {
	c.limit = maxResponseHeader
	defer func() { c.limit = math.MaxInt }()
	err := req.Write(c.w)
	if err == nil {
		err = c.w.Flush()
	}
	if err == nil {
		_, err = c.r.Peek(1)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnanswered, err)
	}
	for range 1 + maxInterim {
		resp, err := http.ReadResponse(c.r, req)
		if err != nil || resp.StatusCode >= http.StatusOK {
			return resp, err
		}
		if resp.StatusCode == http.StatusSwitchingProtocols {
			break // nobody asked for it
		}
	}
	return nil, errors.New("no final response")
}

// maxInterim is how many interim responses (RFC 9110, 15.2) are skipped.
const maxInterim = 4

// shortBody is a response body that gives its connection back at its end.
type shortBody struct {
	io.ReadCloser
	conn      *short
	request   context.Context
	cancelled func() bool // stops cancellation, unless that has happened
	reusable  bool
	ended     bool
}

// Read implements io.Reader. A body that breaks off because its endpoint went
// down has ErrDown in its error.
func (b *shortBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch err {
	case nil:
	case io.EOF:
		b.end(b.reusable && b.conn.r.Buffered() == 0)
	default:
		b.end(false)
		if cause := b.conn.pool.cause(); cause != nil && b.request.Err() == nil {
			err = fmt.Errorf("%w: %w", err, cause)
		}
	}
	return n, err
}

// waits reports whether the next Read may have to wait for kube-apiserver.
func (b *shortBody) waits() bool { return b.conn.r.Buffered() == 0 }

// Close implements io.Closer. What is left of a body is not worth reading.
func (b *shortBody) Close() error {
	b.end(false)
	return nil
}

func (b *shortBody) end(reusable bool) {
	if b.ended {
		return
	}
	b.ended = true
	if b.cancelled() && reusable {
		b.conn.pool.put(b.conn)
		return
	}
	b.conn.discard()
}

// get returns a connection that is not used, or a new one.
func (p *shorts) get(ctx context.Context) (*short, error) {
	p.mu.Lock()
	for {
		if p.closed != nil {
			p.mu.Unlock()
			return nil, p.closed
		}
		last := len(p.idle) - 1
		if last < 0 {
			break
		}
		c := p.idle[last]
		p.idle[last] = nil
		p.idle = p.idle[:last]
		p.mu.Unlock()
		c.idle.Stop()
		if !c.spoken() {
			c.reused = true
			return c, nil
		}
		c.discard()
		p.mu.Lock()
	}
	if len(p.all)+p.dials >= maxShort || !p.mayDial() {
		p.mu.Unlock()
		return nil, errNoShort
	}
	p.dials++
	p.mu.Unlock()
	conn, err := p.dial(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dials--
	switch {
	case p.closed != nil && err == nil:
		_ = conn.Close()
		return nil, p.closed
	case p.closed != nil:
		return nil, p.closed
	case err != nil:
		return nil, err
	}
	return p.add(conn), nil
}

// spoken reports whether something came on a connection that nobody had asked, such
// as a gateway's 408 before it closes: it would be taken for the answer to the next
// request, which is another caller's. Its end counts, too.
func (c *short) spoken() bool {
	if c.r.Buffered() > 0 {
		return true
	}
	conn, ok := c.conn.(*tls.Conn)
	if !ok {
		return hasInput(c.conn)
	}
	if hasInput(conn.NetConn()) {
		return true
	}
	// A record may have come together with the one before. With a deadline that
	// is over only what is here already is read.
	_ = conn.SetReadDeadline(time.Unix(1, 0))
	n, err := conn.Read(make([]byte, 1))
	_ = conn.SetReadDeadline(time.Time{})
	return n > 0 || !errors.Is(err, os.ErrDeadlineExceeded)
}

// mayDial reports whether another connection may be made now. A caller that gives
// its reads up ends one each time: such reads share connections that don't end with
// them. The caller holds mu.
func (p *shorts) mayDial() bool {
	if now := time.Now(); now.Sub(p.since) >= time.Second {
		p.since, p.made = now, 0
	}
	if p.made >= maxDials {
		return false
	}
	p.made++
	return true
}

func (p *shorts) add(conn net.Conn) *short {
	c := &short{pool: p, conn: conn, w: bufio.NewWriter(conn), made: time.Now()}
	c.r = bufio.NewReaderSize(c, shortBuffer)
	c.late.endpoint = p.endpoint
	c.idle = time.AfterFunc(shortIdle, c.discard)
	c.idle.Stop()
	p.all[c] = struct{}{}
	return c
}

func (p *shorts) dial(ctx context.Context) (net.Conn, error) {
	late := watchdog{endpoint: p.endpoint}
	late.start()
	defer late.stop()
	ctx, cancel := context.WithTimeout(ctx, 2*dialTimeout)
	defer cancel()
	// One that went down may still take connections, and say nothing.
	defer context.AfterFunc(p.open, cancel)()
	raw, err := p.endpoint.dial(ctx, "tcp", p.address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, p.config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS handshake with %s: %w", p.address, err)
	}
	return conn, nil
}

// put keeps a connection for the next request.
func (p *shorts) put(c *short) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed != nil || time.Since(c.made) > shortLife {
		delete(p.all, c)
		c.cut()
		return
	}
	p.idle = append(p.idle, c)
	c.idle.Reset(shortIdle)
}

// discard closes a connection for good.
func (c *short) discard() {
	p := c.pool
	p.mu.Lock()
	delete(p.all, c)
	if i := slices.Index(p.idle, c); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
	}
	p.mu.Unlock()
	c.idle.Stop()
	c.cut()
}

// cut closes a connection without taking leave: a server that is told first may
// answer, and its answer to a client that leaves is not one to the request.
func (c *short) cut() {
	if conn, ok := c.conn.(*tls.Conn); ok {
		_ = conn.NetConn().Close()
		return
	}
	_ = c.conn.Close()
}

// close ends all connections, those in use too.
func (p *shorts) close(cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = cause
	p.end()
	for c := range p.all {
		c.idle.Stop()
		c.cut()
	}
	p.all, p.idle = nil, nil
}

// isUsed reports whether there are connections.
func (p *shorts) isUsed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.all)+p.dials > 0
}

// cause is why connections were closed, nil if they were not.
func (p *shorts) cause() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}
