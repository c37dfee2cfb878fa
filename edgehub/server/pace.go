package server

import (
	"net/http"
	"runtime"
	"sync"

	"github.com/edgehub-io/edge-hub/edgehub/limits"
)

const (
	// paceBytes is what requests may take between two collections when the hub is
	// frugal.
	paceBytes = 4 << 20
	// paceRequest is about what a request takes beside its header.
	paceRequest = 8 << 10
)

// pace has requests wait for a collection when many have come since the last one, and
// memory is short. Go's runtime holds to its memory limit only as long as that
// takes half of the processor time, and where many programs share a processor each
// moment counts that a collection waits for its turn: a flood of requests, each
// refused at once, would be taken in meanwhile. Who waits holds up the connection,
// and keeps the flood in the kernel. The zero value is ready.
type pace struct {
	mu      sync.Mutex
	short   bool
	taken   int           // bytes since the last collection
	waiting chan struct{} // is closed by the next one; nil if nobody waits
}

// collected tells that garbage was collected, and whether memory is short still.
func (p *pace) collected(short bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.short = short
	p.release()
}

// release lets go of all that wait. The caller holds mu.
func (p *pace) release() {
	p.taken = 0
	if p.waiting != nil {
		close(p.waiting)
		p.waiting = nil
	}
}

// take waits until there is room for a request.
func (p *pace) take(bytes int) {
	p.mu.Lock()
	p.taken += bytes
	if !p.short || p.taken <= paceBytes {
		p.mu.Unlock()
		return
	}
	if p.waiting == nil {
		p.waiting = make(chan struct{})
		go p.collect()
	}
	collected := p.waiting
	p.mu.Unlock()
	<-collected
}

// collect collects garbage. It does not count on [afterCollections], which may miss a
// collection that begins at once after another one.
func (p *pace) collect() {
	runtime.GC()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release()
}

// withPace has requests keep the pace.
func withPace(p *pace, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.take(paceRequest + limits.HeaderSize(r))
		next.ServeHTTP(w, r)
	})
}
