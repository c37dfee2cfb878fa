package limits

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"
)

// flight is a request under way, as far as it waits for its client.
type flight struct {
	http.ResponseWriter
	controller *http.ResponseController
	path       string
	body       *body
	writing    atomic.Int64 // since when, in nanoseconds of the Unix time, a write has not returned; 0 if none

	mu          sync.Mutex
	cut, landed bool
}

// Write implements io.Writer.
func (f *flight) Write(b []byte) (int, error) {
	f.writing.Store(time.Now().UnixNano())
	n, err := f.ResponseWriter.Write(b)
	f.writing.Store(0)
	return n, err
}

// FlushError is for http.ResponseController.
func (f *flight) FlushError() error {
	f.writing.Store(time.Now().UnixNano())
	err := f.controller.Flush()
	f.writing.Store(0)
	return err
}

// Hijack implements http.Hijacker. What passes through the connection then is no
// body any more.
func (f *flight) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := f.controller.Hijack()
	if err == nil {
		f.body.came()
	}
	return conn, buffered, err
}

// Unwrap is for http.ResponseController.
func (f *flight) Unwrap() http.ResponseWriter { return f.ResponseWriter }

func (l *Limiter) takeOff(w http.ResponseWriter, r *http.Request, b *body) *flight {
	f := &flight{ResponseWriter: w, controller: http.NewResponseController(w), path: r.URL.Path, body: b}
	l.mu.Lock()
	l.flights[f] = struct{}{}
	l.mu.Unlock()
	return f
}

func (l *Limiter) land(f *flight) {
	l.mu.Lock()
	delete(l.flights, f)
	l.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.landed = true
	if f.cut {
		// If all was taken at the last moment the connection has another response. It
		// has none if a write has failed.
		_ = f.controller.SetWriteDeadline(time.Time{})
	}
}

// Run breaks off responses whose clients don't take them, until ctx ends.
func (l *Limiter) Run(ctx context.Context) {
	if l.options.ClientTimeout == 0 {
		return
	}
	ticker := time.NewTicker(max(l.options.ClientTimeout/8, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			l.sweep(now)
		}
	}
}

func (l *Limiter) sweep(now time.Time) {
	late := now.Add(-l.options.ClientTimeout).UnixNano()
	var slow []*flight
	l.mu.Lock()
	for f := range l.flights {
		if since := f.writing.Load(); since != 0 && since < late {
			slow = append(slow, f)
		}
	}
	l.mu.Unlock()
	for _, f := range slow {
		if f.breakOff(now) {
			l.cut.Inc()
			klog.V(2).InfoS("Client takes nothing, its response is broken off", "path", f.path)
		}
	}
}

// breakOff has the write that is under way fail, and reports whether it does: once is
// enough, and what has landed has left its connection to the next response.
func (f *flight) breakOff(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cut || f.landed {
		return false
	}
	f.cut = f.controller.SetWriteDeadline(now) == nil
	return f.cut
}

// body is a request body that must come in time and not be too large.
type body struct {
	io.ReadCloser
	controller *http.ResponseController
	late       *time.Timer // ends the request if nobody reads what does not come; nil if it has time
	cancel     context.CancelCauseFunc
	once       sync.Once
	arrived    func()
}

// lateGrace is how long a request goes on after its body was due, so that whoever
// reads the body can answer.
const lateGrace = time.Second

// limitBody holds a request to the limits of bodies. The request that it returns
// ends when its body does not come, even if nobody waits for it any more: upstream
// may have answered already, and keep its answer open. arrived is called once, when
// the body is no longer on its way; the body's end must be.
func (l *Limiter) limitBody(w http.ResponseWriter, r *http.Request, arrived func()) (limited *http.Request, b *body) {
	b = &body{controller: http.NewResponseController(w), arrived: arrived, cancel: func(error) {}}
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return r, b
	}
	if l.options.Body > 0 {
		r.Body = http.MaxBytesReader(w, r.Body, l.options.Body)
	}
	b.ReadCloser = r.Body
	if l.options.ClientTimeout > 0 && b.controller.SetReadDeadline(time.Now().Add(l.options.ClientTimeout)) == nil {
		var ctx context.Context
		ctx, b.cancel = context.WithCancelCause(r.Context())
		b.late = time.AfterFunc(l.options.ClientTimeout+lateGrace, func() { b.cancel(errSlowBody) })
		r = r.WithContext(ctx)
	}
	r.Body = b
	return r, b
}

// came is called when all of the body has come that will.
func (b *body) came() {
	if b.late != nil {
		b.late.Stop()
	}
	b.once.Do(b.arrived)
}

// end is called when the request is answered.
func (b *body) end() {
	b.came()
	b.cancel(nil)
}

// errSlowBody is the error of a body that did not come in time.
var errSlowBody = errors.New("request body did not come in time")

// Read implements io.Reader. The deadline is for the body alone.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		b.came()
		_ = b.controller.SetReadDeadline(time.Time{})
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errSlowBody
	}
	return n, err
}
