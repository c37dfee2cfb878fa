// Package upstream is the way to kube-apiserver: which of its endpoints answer,
// the connections to them, and the reverse proxy over both.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// ErrDown is the error of a request that no endpoint could be asked for, or
// whose endpoint stopped answering before the response came.
var ErrDown = errors.New("kube-apiserver is unreachable")

const (
	// probePeriod is how often each endpoint's health is asked for.
	probePeriod = time.Second
	// probeTimeout is how long an endpoint that answers may take for it. A
	// request that waits asks for a probe after suspectAfter, so that
	// together they bound the time until a silent endpoint is given up.
	probeTimeout = 1100 * time.Millisecond
	suspectAfter = 200 * time.Millisecond
	// returnTimeout is the same for an endpoint that is down: it needs a
	// new connection, which takes several round trips.
	returnTimeout = 5 * time.Second
	// returnProbes is how many probes in a row bring an endpoint back.
	returnProbes = 2
	// startProbes is how many do if it does not say any more whether it is ready. A
	// kube-apiserver that starts refuses everybody at first, and says that it is not
	// ready once it knows who may ask.
	startProbes = 10
)

// Options say where kube-apiserver is.
type Options struct {
	// Servers are the endpoints' base URLs, in no order of preference.
	Servers []*url.URL
	// Clock is for tests; nil is the real one.
	Clock clock.WithTicker
	// Date is told what time it is upstream, by each probe's answer.
	Date func(time.Time)
}

// Upstream is kube-apiserver as this node reaches it.
type Upstream struct {
	clock     clock.WithTicker
	date      func(time.Time)
	endpoints []*endpoint
	next      atomic.Uint32 // of the endpoints, for the next request
	moveOver  time.Duration // see there
	silence   time.Duration // see there
	replays   atomic.Int64  // see maxReplays

	mu         sync.Mutex
	changed    chan struct{} // closed when the state of an endpoint changes
	transports []*Transport
	downSince  time.Time // zero while an endpoint is up
	failovers  int
}

// New returns an Upstream that holds its endpoints for healthy until one fails.
func New(options Options) *Upstream {
	u := &Upstream{clock: options.Clock, date: options.Date, moveOver: moveOver, silence: silence, changed: make(chan struct{})}
	if u.date == nil {
		u.date = func(time.Time) {}
	}
	if u.clock == nil {
		u.clock = clock.RealClock{}
	}
	for _, server := range options.Servers {
		u.endpoints = append(u.endpoints, newEndpoint(u, server))
	}
	return u
}

// Run probes the endpoints through probe until ctx ends.
func (u *Upstream) Run(ctx context.Context, probe *Transport, wrap func(http.RoundTripper) http.RoundTripper) {
	var wg sync.WaitGroup
	for _, e := range u.endpoints {
		wg.Go(func() { e.run(ctx, wrap(probe.only(e))) })
	}
	wg.Wait()
}

// Up reports whether an endpoint answers, as far as is known.
func (u *Upstream) Up() bool {
	for _, e := range u.endpoints {
		if e.state.Load() != stateDown {
			return true
		}
	}
	return false
}

// Ready reports whether an endpoint has said that it is ready to serve. While
// none has, a refusal may come from an apiserver that is just starting.
func (u *Upstream) Ready() bool {
	for _, e := range u.endpoints {
		if e.state.Load() == stateReady {
			return true
		}
	}
	return false
}

// AwaitUp returns when an endpoint answers, or with ctx's error.
func (u *Upstream) AwaitUp(ctx context.Context) error {
	for ctx.Err() == nil {
		u.mu.Lock()
		changed := u.changed
		u.mu.Unlock()
		if u.Up() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// Status describes an endpoint.
type Status struct {
	Server string
	Up     bool
	Error  string // why it is down
}

// Status returns the state of every endpoint.
func (u *Upstream) Status() []Status {
	all := make([]Status, 0, len(u.endpoints))
	for _, e := range u.endpoints {
		e.mu.Lock()
		s := Status{Server: e.url.Host, Up: e.state.Load() != stateDown}
		if e.cause != nil {
			s.Error = e.cause.Error()
		}
		e.mu.Unlock()
		all = append(all, s)
	}
	return all
}

// DownFor is how long no endpoint has answered, zero while one does.
func (u *Upstream) DownFor() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.downSince.IsZero() {
		return 0
	}
	return u.clock.Since(u.downSince)
}

// Failovers is how often the last endpoint that answered was lost.
func (u *Upstream) Failovers() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.failovers
}

// candidates returns the endpoints that are not down, a different one first
// each time.
func (u *Upstream) candidates() []*endpoint {
	n := len(u.endpoints)
	if n == 1 { // without a copy
		if u.endpoints[0].state.Load() == stateDown {
			return nil
		}
		return u.endpoints
	}
	start := int(u.next.Add(1))
	all := make([]*endpoint, 0, n)
	for i := range n {
		if e := u.endpoints[(start+i)%n]; e.state.Load() != stateDown {
			all = append(all, e)
		}
	}
	return all
}

// stateChanged is called without e.mu.
func (u *Upstream) stateChanged(e *endpoint, up bool, cause error) {
	u.mu.Lock()
	close(u.changed)
	u.changed = make(chan struct{})
	transports := u.transports
	wasDown := !u.downSince.IsZero()
	isDown := !u.Up()
	switch {
	case isDown && !wasDown:
		u.downSince = u.clock.Now()
		u.failovers++
	case !isDown:
		u.downSince = time.Time{}
	}
	u.mu.Unlock()
	if up {
		klog.InfoS("Kube-apiserver answers", "server", e.url.Host)
		for _, other := range u.endpoints {
			if other != e {
				other.watches.share(e)
			}
		}
		return
	}
	klog.InfoS("Kube-apiserver does not answer", "server", e.url.Host, "reason", cause)
	for _, t := range transports {
		t.forget(e, fmt.Errorf("%w: %s: %w", ErrDown, e.url.Host, cause))
	}
}

// Suspect asks for every endpoint's health now rather than at the next period.
func (u *Upstream) Suspect() {
	for _, e := range u.endpoints {
		e.suspect()
	}
}

// WasSent reports whether a request that failed with err may have reached
// kube-apiserver. ErrDown itself is that of a request that was not tried; one
// that was under way wraps it.
func WasSent(err error) bool {
	_, unsent := errors.AsType[unsentError](err)
	return err != ErrDown && !unsent && !isDialError(err)
}

// WhileUp runs f with a context that ends when no endpoint answers any more.
func (u *Upstream) WhileUp(ctx context.Context, f func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		for u.Up() {
			u.mu.Lock()
			changed := u.changed
			u.mu.Unlock()
			if !u.Up() {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	f(ctx)
}
