package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"
)

const (
	dialTimeout = 3 * time.Second
	// streamBuffer bounds what kube-apiserver may send ahead of a client that
	// reads slowly, per stream. It costs this much memory, and limits a stream
	// to this much per round trip. Lists have connections of their own.
	streamBuffer = 256 << 10
	// crowdBuffer is the same for a read that found all of its connections
	// taken: there are many then, which share the link anyway.
	crowdBuffer = 64 << 10
	// narrowBuffer is the same for one of many ([WithNarrowBuffer]) that found no lane.
	narrowBuffer = 8 << 10
	// connectionBuffer bounds it for all streams together. Clients that don't
	// read must not use it up, or nobody's events would come any more.
	connectionBuffer = 64 << 20
	// silence is how long an HTTP/2 connection may bring nothing before it is asked
	// whether it still leads anywhere, and then how long the answer may take. A
	// firewall or a load balancer may forget one connection, while probes, over
	// another one, are answered. A server that is slow answers, or is back by then.
	silence = 10 * time.Second
)

// Transport sends requests to the endpoints that are up. All of them go out
// with the TLS settings of the Transport, and no other credential than they
// carry themselves.
type Transport struct {
	upstream *Upstream
	tls      *tls.Config

	mu    sync.Mutex
	conns map[*endpoint]*connections
	old   []*shorts // that were left behind, as far as reads may be under way on them
}

// connections to one endpoint.
type connections struct {
	shared  *http.Transport // HTTP/2 where the endpoint has it
	crowd   *http.Transport // the same, for reads that found no short connection
	lanes   lanes           // the same, WithNarrowBuffer
	narrow  *http.Transport // the same, WithNarrowBuffer, of those who found no lane
	upgrade *http.Transport // HTTP/1.1, for requests that take over their connection
	shorts  *shorts         // HTTP/1.1, for reads that end soon
}

func (c *connections) closeIdle() {
	c.lanes.closeIdle()
	for _, t := range []*http.Transport{c.shared, c.crowd, c.narrow, c.upgrade} {
		t.CloseIdleConnections()
	}
}

// Transport returns a new Transport. config must not be changed afterwards.
func (u *Upstream) Transport(config *tls.Config) *Transport {
	t := &Transport{upstream: u, tls: config, conns: map[*endpoint]*connections{}}
	u.mu.Lock()
	u.transports = append(u.transports, t)
	u.mu.Unlock()
	return t
}

func (t *Transport) connections(e *endpoint) *connections {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.conns[e]
	if c == nil {
		c = &connections{
			shared: t.newTransport(e, true, streamBuffer, connectionBuffer), crowd: t.newTransport(e, true, crowdBuffer, connectionBuffer),
			lanes:  lanes{open: func() *http.Transport { return t.newTransport(e, true, laneStream, laneBuffer) }},
			narrow: t.newTransport(e, true, narrowBuffer, connectionBuffer), upgrade: t.newTransport(e, false, 0, 0), shorts: newShorts(e, t.tls),
		}
		t.conns[e] = c
	}
	return c
}

// newTransport makes connections on which stream bytes of each HTTP/2 stream may
// wait to be read, and connection bytes of all.
func (t *Transport) newTransport(e *endpoint, http2 bool, stream, connection int) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(http2)
	config := t.tls.Clone()
	config.NextProtos = nil // http.Transport fills them in from Protocols
	return &http.Transport{
		DialContext:         e.dial,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: dialTimeout,
		Protocols:           protocols,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: stream, MaxReceiveBufferPerConnection: connection,
			SendPingTimeout: t.upstream.silence, PingTimeout: t.upstream.silence,
		},
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     90 * time.Second,
		// What is to take a connection over gets a new one: on one that was used
		// before http.Transport sends a GET again when nothing is answered.
		DisableKeepAlives: !http2,
		// Bodies pass as they are, compressed or not.
		DisableCompression: true,
	}
}

// forget leaves connections to an endpoint that went down behind: they may
// hang for minutes after it has returned.
func (t *Transport) forget(e *endpoint, cause error) {
	t.mu.Lock()
	c := t.conns[e]
	delete(t.conns, e)
	old := t.old
	t.mu.Unlock()
	if c != nil {
		c.closeIdle()
		c.shorts.close(cause)
	}
	for _, p := range old {
		if p.endpoint == e {
			p.close(cause)
		}
	}
}

// Renew has new requests go over new connections, as after a change of the TLS
// settings' certificate. Requests under way end on those they have.
func (t *Transport) Renew() {
	t.mu.Lock()
	old := t.conns
	t.conns = map[*endpoint]*connections{}
	kept := make([]*shorts, 0, len(t.old)+len(old))
	for _, p := range t.old {
		if p.isUsed() {
			kept = append(kept, p)
		}
	}
	for _, c := range old {
		kept = append(kept, c.shorts)
	}
	t.old = kept
	t.mu.Unlock()
	for _, c := range old {
		c.closeIdle()
	}
}

// RoundTrip implements http.RoundTripper. Only path and query of the request's
// URL are used. A request that no endpoint has seen is sent to the next one.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	var body *replay
	if req.ContentLength != 0 && req.Body != nil && req.Body != http.NoBody {
		body = &replay{body: req.Body, total: &t.upstream.replays}
		defer body.forget()
		req = req.Clone(req.Context())
		req.GetBody = body.again
	}
	err := ErrDown
	for _, e := range t.upstream.candidates() {
		if e.state.Load() == stateDown {
			continue // it was lost while another one was waited for
		}
		if body != nil {
			var lost error
			if req.Body, lost = body.again(); lost != nil {
				break
			}
		}
		var resp *http.Response
		resp, err = t.try(e, req)
		if err == nil {
			return resp, nil
		}
		if req.Context().Err() != nil {
			break
		}
		refused := isDialError(err)
		if refused && isAway(err) {
			e.fail(err)
		} else {
			e.suspect()
		}
		if body != nil && body.isTouched() || WasSent(err) && !isRead(req) {
			break
		}
	}
	return nil, err
}

// unsentError is the error of a request for which there was no connection, not even
// one on which TLS was agreed on, so that nobody has seen it.
type unsentError struct{ error }

// Unwrap is for errors.Is and errors.As.
func (e unsentError) Unwrap() error { return e.error }

func isDialError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// isAway reports whether an error of a dial says that nobody is there. Others may be
// this node's own, such as too many open files or no port that is free: one caller
// can bring those about, and they say nothing of kube-apiserver.
func isAway(err error) bool {
	for _, errno := range []syscall.Errno{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.EHOSTDOWN, syscall.ENETUNREACH, syscall.ENETDOWN, syscall.ETIMEDOUT} {
		if errors.Is(err, errno) {
			return true
		}
	}
	var dns *net.DNSError // resolvers are dialled, too
	var op *net.OpError
	return errors.As(err, &op) && op.Timeout() && !errors.As(err, &dns)
}

// isLocal reports whether an error of a dial is for want of something on this node.
func isLocal(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

type narrowBufferKey struct{}

// WithNarrowBuffer returns a context for a request that is one of many of a client, of
// whose responses kube-apiserver may send little ahead of what is read, for each may be
// left unread: 512 KiB of all together on a connection of the client's own, or where
// there are too many clients 8 KiB of each, and so no more in a round trip.
func WithNarrowBuffer(ctx context.Context, of Client) context.Context {
	return context.WithValue(ctx, narrowBufferKey{}, of)
}

// HasNarrowBuffer reports whether a context comes from [WithNarrowBuffer].
func HasNarrowBuffer(ctx context.Context) bool { return ctx.Value(narrowBufferKey{}) != nil }

// try sends a request to one endpoint. The request ends when the endpoint goes
// down, even in the middle of its response.
func (t *Transport) try(e *endpoint, req *http.Request) (*http.Response, error) {
	c := t.connections(e)
	rt, leave := c.shared, func() {}
	if isShort(req) {
		out := *req
		out.URL, out.Host, out.Body = resolve(e.url, req.URL), e.url.Host, nil
		resp, err := c.shorts.RoundTrip(&out)
		if err == nil {
			resp.Request = req
		}
		if err != errNoShort {
			return resp, err
		}
		rt = c.crowd
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	alive := e.context()
	release := context.AfterFunc(alive, func() { cancel(context.Cause(alive)) })
	out := req.WithContext(ctx)
	out.URL = resolve(e.url, req.URL)
	out.Host = ""
	of, many := req.Context().Value(narrowBufferKey{}).(Client)
	switch {
	case out.Header.Get("Upgrade") != "":
		rt = c.upgrade
	case many:
		if rt, leave = c.lanes.take(of); rt == nil {
			rt, leave = c.narrow, func() {}
		}
	}
	var connected atomic.Bool
	if !isRead(req) { // which may be sent twice anyway
		// Both protocols tell before anything is written.
		out = out.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
		}))
	}
	late := watchdog{endpoint: e}
	late.start()
	resp, err := rt.RoundTrip(out)
	late.stop()
	if err != nil {
		leave()
		release()
		if cause := context.Cause(ctx); cause != nil && req.Context().Err() == nil {
			err = cause
		}
		cancel(err)
		if !isRead(req) && !connected.Load() {
			err = unsentError{err}
		}
		return nil, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		// The connection belongs to the client now, and lasts as long as
		// the request's own context.
		release()
		return resp, nil
	}
	unlist := func() {}
	if len(t.upstream.endpoints) > 1 && resp.StatusCode == http.StatusOK && isWatch(req) {
		unlist = e.watches.add(cancel)
	}
	resp.Body = &body{ReadCloser: resp.Body, request: req.Context(), ctx: ctx, done: func() {
		unlist()
		leave()
		release()
		cancel(io.EOF)
	}}
	return resp, nil
}

// body is a response body that ends its request's context with itself.
type body struct {
	io.ReadCloser
	request context.Context
	ctx     context.Context
	done    func()
}

// Read implements io.Reader. A body that breaks off because its endpoint went
// down has ErrDown in its error.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && b.request.Err() == nil {
		if cause := context.Cause(b.ctx); cause != nil {
			err = fmt.Errorf("%w: %w", err, cause)
		}
	}
	return n, err
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.done()
	return err
}

// isRead reports whether a request is for something to read: it has no body,
// and does not take its connection over.
func isRead(req *http.Request) bool {
	return (req.Method == http.MethodGet || req.Method == http.MethodHead) && req.ContentLength == 0 && len(req.Header["Upgrade"]) == 0
}

// isShort reports whether a request is a read that ends by itself, and soon.
func isShort(req *http.Request) bool {
	info, ok := request.RequestInfoFrom(req.Context())
	return ok && isRead(req) && (!info.IsResourceRequest || info.Subresource == "" && (info.Verb == "get" || info.Verb == "list"))
}

// resolve puts the path and query of a request behind a server's base URL.
func resolve(server, request *url.URL) *url.URL {
	u := *request
	u.Scheme, u.Host, u.User = server.Scheme, server.Host, nil
	if base := strings.TrimSuffix(server.Path, "/"); base != "" {
		u.Path = base + request.Path
		if request.RawPath != "" {
			u.RawPath = strings.TrimSuffix(server.EscapedPath(), "/") + request.RawPath
		}
	}
	return &u
}

// only is the Transport to one endpoint, up or down.
func (t *Transport) only(e *endpoint) http.RoundTripper { return oneEndpoint{t, e} }

type oneEndpoint struct {
	transport *Transport
	endpoint  *endpoint
}

// RoundTrip implements http.RoundTripper.
func (o oneEndpoint) RoundTrip(req *http.Request) (*http.Response, error) {
	out := req.WithContext(req.Context())
	out.URL = resolve(o.endpoint.url, req.URL)
	out.Host = ""
	down := o.endpoint.state.Load() == stateDown
	resp, err := o.transport.connections(o.endpoint).shared.RoundTrip(out)
	if err != nil && down {
		// An endpoint that comes back is to be reached by a connection
		// that was made after it did.
		o.transport.forget(o.endpoint, err)
	}
	return resp, err
}
