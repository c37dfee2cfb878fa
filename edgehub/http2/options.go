package http2

import "time"

// Options bound what connections may cost the server, each and together. The zero value is
// safe: each field that is zero takes the default it names. How much a request's
// header may hold is http.Server's MaxHeaderBytes, how long it may take its
// ReadHeaderTimeout, and how long an unused connection stays its IdleTimeout.
type Options struct {
	// MaxConcurrentStreams is how many requests of a connection may be open
	// at once (RFC 9113, 5.1.2). More are refused with REFUSED_STREAM, after
	// which a client may try again. Handlers whose requests the client gave
	// up may be under way besides, up to the same number. Default 1000: a
	// node's programs hold many watches on one connection.
	MaxConcurrentStreams int
	// MaxHandlers is how many handlers may be under way over all connections,
	// those whose requests were given up too. More requests are refused with
	// REFUSED_STREAM. The last fifth is for connections that have less
	// than a 64th, from addresses that have less than an eighth, so that
	// none of them can shut the others out. Default 4000.
	MaxHandlers int
	// Refused is told of what the peer is refused because of a limit, by the
	// limit's name; nil tells nobody. It must not wait.
	Refused func(limit string)
	// AwaitAdmission says that each handler first decides whether it serves its
	// request, without waiting for any peer, and calls Admitted of its
	// http.ResponseWriter if so. Few may be deciding at once, or saying no, so
	// that many requests to be refused cost little memory.
	AwaitAdmission bool
	// Header takes so many bytes more for a header that is not whole yet, beyond its
	// first 8 KiB, or gives them back if it is negative, and reports whether there
	// were as many: if not, the connection is ended. It must not wait. nil bounds
	// nothing but each header by itself.
	Header func(bytes int) bool
	// StreamWindow is how many bytes of one request's body are kept until
	// the handler reads them (RFC 9113, 5.2). Default 128 KiB.
	StreamWindow int
	// ConnectionWindow is the same for all requests of a connection
	// together, at least 65535. Default 1 MiB.
	ConnectionWindow int
	// WriteTimeout is how long the peer may take to accept 16 KiB before the
	// connection is cut (CVE-2019-9517: a peer that asks and does not read).
	// Default 30 s.
	WriteTimeout time.Duration
	// StallTimeout is how long a response may wait for the peer to open its
	// flow-control window before it is broken off (CVE-2019-9511: windows
	// that stay shut). Default 30 s.
	StallTimeout time.Duration
	// MaxUnsent is how many bytes of memory may be held over all connections
	// for responses whose handlers have returned and that their peers do not
	// take yet. When there is more, the address that has the most loses
	// the one that has waited longest. Default 4 MiB.
	MaxUnsent int
	// SettingsTimeout is how long the peer may take to begin the connection
	// and to acknowledge the server's settings (RFC 9113, 6.5.3). Default
	// 10 s.
	SettingsTimeout time.Duration
	// MaxQueuedBytes is how many bytes of replies to PING, SETTINGS and
	// broken requests may wait for a peer that does not read them
	// (CVE-2019-9512, 9514, 9515), on each connection. Default 16 KiB.
	MaxQueuedBytes int
	// Frames limits the frames that cost the peer nothing and move no
	// request on: PING, SETTINGS, PRIORITY, RST_STREAM, WINDOW_UPDATE, empty
	// DATA, unknown ones and requests that are refused (CVE-2019-9512, 9513,
	// 9515, 9518). What the server sends is credited, since peers answer it
	// with window updates. Default 10,000 at once and 1,000 a second.
	Frames Rate
	// Resets limits requests that the peer ends while their handlers run,
	// with RST_STREAM or by breaking the protocol (CVE-2023-44487, rapid
	// reset; CVE-2025-8671). Default 2,000 at once, so that a client may end
	// all its watches, and 200 a second.
	Resets Rate
}

// Rate limits how often something may happen: Burst times at once, and on
// average PerSecond.
type Rate struct {
	Burst, PerSecond int
}

// The limits that Options.Refused is told of.
const (
	LimitHandlers = "http2-handlers" // MaxHandlers and MaxConcurrentStreams
	LimitHeader   = "http2-header"   // http.Server's MaxHeaderBytes
	LimitFrames   = "http2-frames"   // Frames, Resets, MaxQueuedBytes and others that end a connection
	LimitStall    = "http2-stall"    // StallTimeout
	LimitUnsent   = "http2-unsent"   // MaxUnsent
)

func (o Options) withDefaults() Options {
	if o.Refused == nil {
		o.Refused = func(string) {}
	}
	if o.Header == nil {
		o.Header = func(int) bool { return true }
	}
	number := func(v *int, otherwise int) {
		if *v <= 0 {
			*v = otherwise
		}
	}
	duration := func(v *time.Duration, otherwise time.Duration) {
		if *v <= 0 {
			*v = otherwise
		}
	}
	number(&o.MaxConcurrentStreams, 1000)
	number(&o.MaxHandlers, 4000)
	number(&o.StreamWindow, 128<<10)
	number(&o.ConnectionWindow, 1<<20)
	o.ConnectionWindow = max(o.ConnectionWindow, initialWindow)
	duration(&o.WriteTimeout, 30*time.Second)
	duration(&o.StallTimeout, 30*time.Second)
	number(&o.MaxUnsent, 4<<20)
	duration(&o.SettingsTimeout, 10*time.Second)
	number(&o.MaxQueuedBytes, 16<<10)
	number(&o.Frames.Burst, 10_000)
	number(&o.Frames.PerSecond, 1000)
	number(&o.Resets.Burst, 2000)
	number(&o.Resets.PerSecond, 200)
	return o
}

// bucket is a token bucket. It looks at the clock only when it is empty, which
// in peace is never.
type bucket struct {
	rate Rate
	left int
	last time.Time // of the latest refill
}

func newBucket(rate Rate) bucket { return bucket{rate: rate, left: rate.Burst, last: time.Now()} }

// take reports whether one more may happen.
func (b *bucket) take() bool {
	if b.left == 0 {
		// A whole burst after one refill, no more than the rate allows:
		// time beyond a full bucket is lost.
		now := time.Now()
		earned := now.Sub(b.last).Seconds() * float64(b.rate.PerSecond)
		if earned < 1 {
			return false
		}
		b.left, b.last = int(min(earned, float64(b.rate.Burst))), now
	}
	b.left--
	return true
}

// give returns n, up to a full bucket.
func (b *bucket) give(n int) { b.left = min(b.left+n, b.rate.Burst) }
