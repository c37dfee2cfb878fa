package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// The states of an endpoint.
const (
	stateUnknown int32 = iota // not asked yet: taken to be up
	stateUp                   // answers, but does not say whether it is ready
	stateReady                // says that it is ready
	stateDown
)

// endpoint is one kube-apiserver, or what stands in front of several.
type endpoint struct {
	upstream *Upstream
	url      *url.URL
	state    atomic.Int32
	poke     chan struct{} // asks for a probe now
	heard    atomic.Int64  // when bytes last came from it, in nanoseconds of the Unix time
	watches  watches       // if there are other endpoints

	mu    sync.Mutex
	alive context.Context // ends when the endpoint goes down
	end   context.CancelCauseFunc
	cause error // why it is down
}

func newEndpoint(u *Upstream, server *url.URL) *endpoint {
	e := &endpoint{upstream: u, url: server, poke: make(chan struct{}, 1)}
	e.alive, e.end = context.WithCancelCause(context.Background())
	return e
}

// context returns what ends when the endpoint goes down.
func (e *endpoint) context() context.Context {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.alive
}

// suspect asks for a probe now.
func (e *endpoint) suspect() {
	select {
	case e.poke <- struct{}{}:
	default:
	}
}

// run probes until ctx ends.
func (e *endpoint) run(ctx context.Context, rt http.RoundTripper) {
	ticker := e.upstream.clock.NewTicker(probePeriod)
	defer ticker.Stop()
	successes, late, wasReady := 0, 0, false
	for {
		state, err := e.probe(ctx, rt)
		if errors.Is(err, errSilent) && e.talks() && late < maxLate {
			late++
			continue
		}
		before := late
		late = 0
		wasReady = wasReady || err == nil && state == stateReady
		switch {
		case ctx.Err() != nil:
			return
		case isLocal(err) && before < maxLate:
			late = before + 1 // which says nothing, unless it lasts
		case err != nil:
			successes = 0
			e.fail(err)
		case e.state.Load() == stateDown:
			successes++
			if successes >= startProbes || successes >= returnProbes && (state == stateReady || !wasReady) {
				e.recover(state)
			}
		default:
			e.state.CompareAndSwap(stateUnknown, state)
			e.state.CompareAndSwap(stateUp, state)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		case <-e.poke:
		}
	}
}

// errSilent is the error of a probe that got no answer in time.
var errSilent = errors.New("no answer to /readyz")

const (
	// lately is how long ago bytes may have come from an endpoint that is not
	// silent, but slow: on a node, or a link, that is busy a probe waits its
	// turn behind lists of many megabytes.
	lately = 300 * time.Millisecond
	// maxLate is how many probes in a row such an endpoint may leave unanswered.
	maxLate = 3
)

// talks reports whether something came from the endpoint lately.
func (e *endpoint) talks() bool {
	return time.Since(time.Unix(0, e.heard.Load())) < lately
}

// unacknowledged is how long what was sent may go without being acknowledged before
// its connection counts as lost. The kernel itself takes a quarter of an hour.
const unacknowledged = 15 * time.Second

// dial connects to an address, and notes when bytes come from there.
func (e *endpoint) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout, KeepAlive: unacknowledged, Control: limitUnacknowledged}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return heardConn{conn, e}, nil
}

type heardConn struct {
	net.Conn
	endpoint *endpoint
}

// Read implements net.Conn.
func (c heardConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.endpoint.heard.Store(time.Now().UnixNano())
	}
	return n, err
}

// probe asks an endpoint whether it is ready (API docs, "Kubernetes API health
// endpoints"). One that refuses to tell answers at least.
func (e *endpoint) probe(ctx context.Context, rt http.RoundTripper) (state int32, err error) {
	timeout := probeTimeout
	if e.state.Load() == stateDown {
		timeout = returnTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w within %v", errSilent, timeout))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://kube-apiserver/readyz", nil)
	if err != nil {
		return 0, err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is used again
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil && !FromGateway(resp) {
		e.upstream.date(date)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return stateReady, nil
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusTooManyRequests:
		return stateUp, nil
	}
	return 0, fmt.Errorf("/readyz: %s", resp.Status)
}

// fail takes the endpoint for down, at once.
func (e *endpoint) fail(cause error) {
	e.mu.Lock()
	e.cause = cause
	if e.state.Load() == stateDown {
		e.mu.Unlock()
		return
	}
	e.state.Store(stateDown)
	end := e.end
	e.mu.Unlock()
	end(fmt.Errorf("%w: %s: %w", ErrDown, e.url.Host, cause))
	e.upstream.stateChanged(e, false, cause)
}

func (e *endpoint) recover(state int32) {
	e.mu.Lock()
	e.alive, e.end = context.WithCancelCause(context.Background())
	e.cause = nil
	e.state.Store(state)
	e.mu.Unlock()
	e.upstream.stateChanged(e, true, nil)
}

// watchdog asks for probes of an endpoint while a request waits for it.
type watchdog struct {
	endpoint *endpoint

	mu      sync.Mutex
	timer   *time.Timer
	waiting bool
}

func (w *watchdog) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = true
	if w.timer == nil {
		w.timer = time.AfterFunc(suspectAfter, w.bark)
		return
	}
	w.timer.Reset(suspectAfter)
}

func (w *watchdog) bark() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting { // stop may have come first
		w.endpoint.suspect()
		w.timer.Reset(suspectAfter)
	}
}

func (w *watchdog) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = false
	w.timer.Stop()
}
