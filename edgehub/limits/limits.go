// Package limits keeps any one caller from taking what a hub has: connections,
// requests under way, watches, and the time of a handler that waits for a
// client.
//
// A caller is an identity that is proven without asking kube-apiserver: a token
// that verifies, or that kube-apiserver has accepted before. Everybody else is
// known by the address alone, and all of them together may take half of what
// there is, so that made-up credentials never crowd out real ones. The last quarter
// is for callers that have less than an eighth, together with all others of their
// tenant: whoever has one ServiceAccount may make more. What this node's kubelet has
// counts, but no total is a reason to refuse it more, for all Pods need it.
package limits

import (
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http/httpguts"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/edgehub-io/edge-hub/edgehub/status"
	"github.com/edgehub-io/edge-hub/edgehub/upstream"
)

// Options are the limits. Zero means none.
type Options struct {
	// Requests and Watches are how many may be under way in total. Requests that
	// last as long as their client likes (watch, log, exec, attach, port-forward,
	// proxy) count as watches.
	Requests, Watches int
	// RequestsPerCaller and WatchesPerCaller are the same for one caller.
	RequestsPerCaller, WatchesPerCaller int
	// Connections is how many clients' connections may be open, and
	// ConnectionsPerAddress how many of one address.
	Connections, ConnectionsPerAddress int
	// Body is how many bytes a request's body may have. kube-apiserver itself
	// takes 3 MiB. What passes through an upgraded connection is no body.
	Body int64
	// Bodies is how many bytes of memory the bodies that are on their way may
	// have, see costOf. One caller may have a quarter.
	Bodies int
	// HTTP2Streams is how many requests a connection may have at once, and
	// HTTP2Frames and HTTP2Resets how many frames that move nothing on, and requests
	// that it gives up, it may send in a second; ten times as many at once. Zero are
	// the defaults of package http2.
	HTTP2Streams, HTTP2Frames, HTTP2Resets int
	// ClientTimeout is how long a client may take to send a body, and to take
	// a piece of a response.
	ClientTimeout time.Duration
}

// Defaults suit a node with 110 Pods, and keep a hub below 64 MB whatever its callers
// do, or below 80 if they have as many watches as they may and read none, or 104 if the
// initial events of all of them are being recorded.
func Defaults() Options {
	return Options{
		Requests: 200, RequestsPerCaller: 100,
		Watches: 1600, WatchesPerCaller: 1024,
		Connections: 1000, ConnectionsPerAddress: 250,
		Body: 8 << 20, Bodies: 12 << 20,
		HTTP2Streams: 1000, HTTP2Frames: 1000, HTTP2Resets: 200,
		ClientTimeout: 30 * time.Second,
	}
}

// Limiter counts what is under way. It is safe for concurrent use.
type Limiter struct {
	options Options
	proven  func(*http.Request) (Caller, bool)
	refused *prometheus.CounterVec
	cut     prometheus.Counter

	mu          sync.Mutex
	total       [kinds]int
	unproven    [kinds]int
	callers     map[string]*usage
	tenants     map[string]*usage
	connections int
	addresses   map[string]int
	flights     map[*flight]struct{}

	headers atomic.Int64 // bytes of those on their way
}

// The kinds of requests, which are counted apart.
const (
	short = iota
	long
	bodies // is counted in bytes
	ahead  // long ones of which much may wait for the client
	kinds
)

type usage [kinds]int

// Caller is on whose account a request goes.
type Caller struct {
	Name   string
	Tenant string // "" for none
	Node   bool   // it is this node's kubelet

	unproven bool
}

// New returns a Limiter. proven names the caller of a request if its credential
// proves it.
func New(options Options, proven func(*http.Request) (Caller, bool), registry prometheus.Registerer) *Limiter {
	l := &Limiter{
		options: options, proven: proven,
		callers: map[string]*usage{}, tenants: map[string]*usage{}, addresses: map[string]int{}, flights: map[*flight]struct{}{},
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "edgehub_refused_total",
			Help: "Requests and connections refused because of a limit, by the flag that sets it, or by its name if none does.",
		}, []string{"limit"}),
		cut: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "edgehub_slow_clients_total",
			Help: "Responses broken off because the client took nothing for the time that --client-timeout says.",
		}),
	}
	gauge := func(name, help string, labels prometheus.Labels, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 {
			l.mu.Lock()
			defer l.mu.Unlock()
			return float64(value())
		})
	}
	const inFlight, inFlightHelp = "edgehub_requests_in_flight", "Requests under way; those that last as long as their client likes are watches."
	registry.MustRegister(l.refused, l.cut,
		gauge(inFlight, inFlightHelp, prometheus.Labels{"kind": "request"}, func() int { return l.total[short] }),
		gauge(inFlight, inFlightHelp, prometheus.Labels{"kind": "watch"}, func() int { return l.total[long] }),
		gauge("edgehub_request_body_bytes", "Memory that the bodies of requests under way may take.", nil, func() int { return l.total[bodies] }),
		gauge("edgehub_connections", "Open connections of clients.", nil, func() int { return l.connections }))
	return l
}

// Refused counts what was refused because of a limit that is held elsewhere.
func (l *Limiter) Refused(limit string) { l.refused.WithLabelValues(limit).Inc() }

// caller says on whose account a request goes.
func (l *Limiter) caller(r *http.Request) Caller {
	if c, ok := l.proven(r); ok {
		return c
	}
	return Caller{Name: "address:" + addressOf(r.RemoteAddr), unproven: true}
}

func addressOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}

func kindOf(r *http.Request) int {
	if upgrades(r) {
		return long
	}
	info, ok := request.RequestInfoFrom(r.Context())
	if !ok || !info.IsResourceRequest {
		return short
	}
	switch {
	case info.Verb == "watch":
		return long
	case info.Subresource == "log", info.Subresource == "exec", info.Subresource == "attach",
		info.Subresource == "portforward", info.Subresource == "proxy":
		return long
	}
	return short
}

// admit counts a request in, with an amount of a kind. If a limit is reached it
// returns the flag's name instead.
func (l *Limiter) admit(kind, amount int, caller Caller) (limit string) {
	total := [kinds]int{l.options.Requests, l.options.Watches, l.options.Bodies, maxAhead}[kind]
	each := [kinds]int{l.options.RequestsPerCaller, l.options.WatchesPerCaller, l.options.Bodies / 4, maxAhead / 4}[kind]
	names := [kinds]string{"max-requests", "max-watches", "max-request-bytes-in-flight", "ahead"}
	eachNames := [kinds]string{"max-requests-per-caller", "max-watches-per-caller", names[bodies], names[ahead]}
	l.mu.Lock()
	defer l.mu.Unlock()
	if caller.Node {
		total = 0
	}
	own := l.callers[caller.Name].of(kind) + amount
	together := max(own, l.tenants[caller.Tenant].of(kind)+amount)
	switch all := l.total[kind] + amount; {
	case each > 0 && own > each:
		return eachNames[kind]
	case total > 0 && all > total:
		return names[kind]
	case total > 0 && all > total*3/4 && together > total/8:
		return names[kind] // the last quarter is for those who have little
	case total > 0 && caller.unproven && l.unproven[kind]+amount > total/2:
		return names[kind]
	}
	l.count(kind, amount, caller)
	return ""
}

func (u *usage) of(kind int) int {
	if u == nil {
		return 0
	}
	return u[kind]
}

// count counts an amount in, or out if it is negative. The caller holds mu.
func (l *Limiter) count(kind, amount int, caller Caller) {
	add := func(to map[string]*usage, name string) {
		u := to[name]
		if u == nil {
			u = &usage{}
			to[name] = u
		}
		if u[kind] += amount; *u == (usage{}) {
			delete(to, name)
		}
	}
	add(l.callers, caller.Name)
	if caller.Tenant != "" {
		add(l.tenants, caller.Tenant)
	}
	l.total[kind] += amount
	if caller.unproven {
		l.unproven[kind] += amount
	}
}

// leave counts a request out.
func (l *Limiter) leave(kind, amount int, caller Caller) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count(kind, -amount, caller)
}

// Begin counts a request in, and holds its client to the limits of bodies and of
// patience. out and limited are to be used in place of w and r, and end must be
// called when the request is answered. If a limit is reached, err says so with the
// Status to answer.
func (l *Limiter) Begin(w http.ResponseWriter, r *http.Request) (out http.ResponseWriter, limited *http.Request, end func(), err error) {
	refuse := func(limit string, err error) (http.ResponseWriter, *http.Request, func(), error) {
		l.refused.WithLabelValues(limit).Inc()
		return nil, nil, nil, err
	}
	if l.options.Body > 0 && r.ContentLength > l.options.Body {
		return refuse("max-request-bytes", status.TooLarge(l.options.Body))
	}
	kind := kindOf(r)
	if kind == long && HeaderSize(r) > maxLongHeader {
		return refuse("watch-header", status.HeaderTooLarge(maxLongHeader))
	}
	caller := l.caller(r)
	if limit := l.admit(kind, 1, caller); limit != "" {
		return refuse(limit, status.TooMany(limit))
	}
	cost := costOf(r)
	if cost > 0 { // others' bodies are no reason to refuse what has none
		if limit := l.admit(bodies, cost, caller); limit != "" {
			l.leave(kind, 1, caller)
			return refuse(limit, status.TooMany(limit))
		}
	}
	tellAdmitted(w)
	isAhead := kind == long && l.admit(ahead, 1, caller) == ""
	if kind == long && !isAhead {
		of := upstream.Client{Name: caller.Name, Tenant: caller.Tenant, Address: addressOf(r.RemoteAddr)}
		r = r.WithContext(upstream.WithNarrowBuffer(r.Context(), of))
	}
	r, b := l.limitBody(w, r, func() { l.leave(bodies, cost, caller) })
	f := l.takeOff(w, r, b)
	return f, r, func() {
		b.end()
		l.land(f)
		l.leave(kind, 1, caller)
		if isAhead {
			l.leave(ahead, 1, caller)
		}
	}, nil
}

// maxAhead is of how many requests that last as long as their client likes
// kube-apiserver may send much ahead of the client: it may take nothing, and what has
// come is in memory. Of the others it is little.
const maxAhead = 64

// maxLongHeader is how many bytes the header of a request may take that lasts as long
// as its client likes, see [HeaderSize]: it is kept for as long.
const maxLongHeader = 16 << 10

// HeaderSize is about how many bytes of memory the header of a request takes.
func HeaderSize(r *http.Request) (size int) {
	const field = 128 // beside its text
	size = len(r.RequestURI)
	for name, values := range r.Header {
		for _, value := range values {
			size += len(name) + len(value) + field
		}
	}
	return size
}

// costOf is how much memory a request's body may take while it is on its way: what
// HTTP/2 keeps until it is read, and what it is read into to be sent on.
func costOf(r *http.Request) int {
	const kept, buffer = 128 << 10, 256 << 10
	switch n := r.ContentLength; {
	case r.Body == nil || r.Body == http.NoBody || n == 0:
		return 0
	case n < 0:
		return kept + buffer
	default:
		return int(min(n, kept) + min(n, buffer))
	}
}

// upgrades reports whether a request wants its connection for another protocol
// (RFC 9110, 7.8).
func upgrades(r *http.Request) bool {
	return len(r.Header["Upgrade"]) > 0 && httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade")
}

// tellAdmitted tells a server that wants to know that a request is not refused
// (http2.Options.AwaitAdmission).
func tellAdmitted(w http.ResponseWriter) {
	for w != nil {
		if a, ok := w.(interface{ Admitted() }); ok {
			a.Admitted()
			return
		}
		inner, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return
		}
		w = inner.Unwrap()
	}
}

// Refusal is the Status for a request that failed with err because of its own
// body, nil if err has another cause.
func Refusal(err error) error {
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return status.TooLarge(large.Limit)
	case errors.Is(err, errSlowBody):
		return status.TooSlow()
	}
	return nil
}
