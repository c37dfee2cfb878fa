package server

import (
	"net/http"
	"runtime"
	"sync"

	"github.com/edgehub-io/edge-hub/edgehub/limits"
)

const (
	// paceBytes is what requests may take at least between two collections when the
	// hub is frugal.
	paceBytes = 4 << 20
	// paceRequest is about what a request takes beside its header.
	paceRequest = 8 << 10
)

// pace has requests wait for a collection when many have come since the last one, and
// memory is short. Go's runtime holds to its memory limit only as long as that
// takes half of the processor time, and where many programs share a processor each
// moment counts that a collection waits for its turn: a flood of requests, each
// refused at once, would be taken in meanwhile. Those that wait hold up the
// connections, which keeps the flood in the kernel, for as long as a collection
// takes. The zero value is ready.
type pace struct {
	mu      sync.Mutex
	short   bool
	most    int           // bytes between two collections
	taken   int           // of them
	waiting chan struct{} // is closed by the next one; nil if nobody waits
}

// collected tells that garbage was collected, whether memory is short still, and how
// much garbage there may be until the next time.
func (p *pace) collected(short bool, garbage int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.short, p.most = short, max(garbage, paceBytes)
	p.release(p.waiting)
}

// release lets go of those that wait for a collection. The caller holds mu.
func (p *pace) release(waiting chan struct{}) {
	if waiting != p.waiting {
		return // they have gone, and others wait for the next one
	}
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
	if !p.short || p.taken <= p.most {
		p.mu.Unlock()
		return
	}
	if p.waiting == nil {
		p.waiting = make(chan struct{})
		go p.collect(p.waiting)
	}
	collected := p.waiting
	p.mu.Unlock()
	<-collected
}

// collect collects garbage. It does not count on [afterCollections], which may miss a
// collection that begins at once after another one.
func (p *pace) collect(waiting chan struct{}) {
	runtime.GC()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release(waiting)
}

// withPace has requests keep the pace.
func withPace(p *pace, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.take(paceRequest + limits.HeaderSize(r))
		next.ServeHTTP(w, r)
	})
}
