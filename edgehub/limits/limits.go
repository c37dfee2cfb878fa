// Package limits keeps any one caller from taking what a hub has: connections,
// requests under way, watches, and the time of a handler that waits for a
// client.
//
// A caller is an identity that is proven without asking kube-apiserver: a token
// that verifies, or that kube-apiserver has accepted before. Everybody else is
// known by the address alone, and all of them together may take half of what
// there is, so that made-up credentials never crowd out real ones. The last quarter
// is for callers that have less than an eighth.
package limits

import (
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/edgehub-io/edge-hub/edgehub/status"
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
	// ClientTimeout is how long a client may take to send a body, and to take
	// a piece of a response.
	ClientTimeout time.Duration
}

// Defaults suit a node with 110 Pods, and keep a hub below 64 MB whatever its
// callers do.
func Defaults() Options {
	return Options{
		Requests: 200, RequestsPerCaller: 100,
		Watches: 1600, WatchesPerCaller: 1024,
		Connections: 1000, ConnectionsPerAddress: 250,
		Body:          8 << 20,
		ClientTimeout: 30 * time.Second,
	}
}

// Limiter counts what is under way. It is safe for concurrent use.
type Limiter struct {
	options Options
	proven  func(*http.Request) (caller string, ok bool)
	refused *prometheus.CounterVec
	cut     prometheus.Counter

	mu          sync.Mutex
	total       [kinds]int
	unproven    [kinds]int
	callers     map[string]*usage
	connections int
	addresses   map[string]int
	flights     map[*flight]struct{}
}

// The kinds of requests, which are counted apart.
const (
	short = iota
	long
	kinds
)

type usage [kinds]int

// New returns a Limiter. proven names the caller of a request if its credential
// proves it.
func New(options Options, proven func(*http.Request) (string, bool), registry prometheus.Registerer) *Limiter {
	l := &Limiter{
		options: options, proven: proven,
		callers: map[string]*usage{}, addresses: map[string]int{}, flights: map[*flight]struct{}{},
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "edgehub_refused_total",
			Help: "Requests and connections refused because of a limit, by the flag that sets it.",
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
		gauge("edgehub_connections", "Open connections of clients.", nil, func() int { return l.connections }))
	return l
}

// caller says on whose account a request goes.
func (l *Limiter) caller(r *http.Request) (name string, proven bool) {
	if name, ok := l.proven(r); ok {
		return name, true
	}
	return "address:" + addressOf(r.RemoteAddr), false
}

func addressOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}

func kindOf(r *http.Request) int {
	if len(r.Header["Upgrade"]) > 0 {
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

// admit counts a request in. If a limit is reached it returns the flag's name
// instead.
func (l *Limiter) admit(kind int, caller string, proven bool) (limit string) {
	totals := [kinds]int{l.options.Requests, l.options.Watches}
	each := [kinds]int{l.options.RequestsPerCaller, l.options.WatchesPerCaller}
	names := [kinds]string{"max-requests", "max-watches"}
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.callers[caller]
	if u == nil {
		u = &usage{}
	}
	switch {
	case each[kind] > 0 && u[kind] >= each[kind]:
		return names[kind] + "-per-caller"
	case totals[kind] > 0 && l.total[kind] >= totals[kind]:
		return names[kind]
	case totals[kind] > 0 && l.total[kind] >= totals[kind]*3/4 && u[kind] >= totals[kind]/8:
		return names[kind] // the last quarter is for those who have little
	case totals[kind] > 0 && !proven && l.unproven[kind] >= totals[kind]/2:
		return names[kind]
	}
	u[kind]++
	l.callers[caller] = u
	l.total[kind]++
	if !proven {
		l.unproven[kind]++
	}
	return ""
}

// leave counts a request out.
func (l *Limiter) leave(kind int, caller string, proven bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.callers[caller]
	u[kind]--
	if *u == (usage{}) {
		delete(l.callers, caller)
	}
	l.total[kind]--
	if !proven {
		l.unproven[kind]--
	}
}

// Begin counts a request in, and holds its client to the limits of bodies and of
// patience. out and limited are to be used in place of w and r, and end must be
// called when the request is answered. If a limit is reached, err says so with the
// Status to answer.
func (l *Limiter) Begin(w http.ResponseWriter, r *http.Request) (out http.ResponseWriter, limited *http.Request, end func(), err error) {
	if l.options.Body > 0 && r.ContentLength > l.options.Body {
		l.refused.WithLabelValues("max-request-bytes").Inc()
		return nil, nil, nil, status.TooLarge(l.options.Body)
	}
	kind := kindOf(r)
	caller, proven := l.caller(r)
	if limit := l.admit(kind, caller, proven); limit != "" {
		l.refused.WithLabelValues(limit).Inc()
		return nil, nil, nil, status.TooMany(limit)
	}
	tellAdmitted(w)
	bodyEnds := func() {}
	if len(r.Header["Upgrade"]) == 0 {
		r, bodyEnds = l.limitBody(w, r)
	}
	f := l.takeOff(w, r)
	return f, r, func() {
		bodyEnds()
		l.land(f)
		l.leave(kind, caller, proven)
	}, nil
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
