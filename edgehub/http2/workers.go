package http2

import (
	"sync"
	"time"
)

// sweepEvery is how often goroutines that were not needed since the last time
// are let go.
const sweepEvery = 5 * time.Second

// maxIdle is how many goroutines are kept at all: what a burst needed is not
// what is needed next.
const maxIdle = 64

// workers run functions on goroutines that are used again: their stacks have
// grown to what a handler needs, and to grow one anew costs more than a short
// request does.
type workers struct {
	mu       sync.Mutex
	idle     []chan func() // the last used one last
	spare    int           // the fewest that were idle since the last sweep
	sweeping bool
}

// run runs f on another goroutine.
func (p *workers) run(f func()) {
	p.mu.Lock()
	n := len(p.idle) - 1
	if n < 0 {
		p.mu.Unlock()
		go p.work(f)
		return
	}
	w := p.idle[n]
	p.idle = p.idle[:n]
	p.spare = min(p.spare, n)
	p.mu.Unlock()
	w <- f
}

func (p *workers) work(f func()) {
	next := make(chan func(), 1) // run never waits
	for f != nil {
		f()
		p.mu.Lock()
		if len(p.idle) >= maxIdle {
			p.mu.Unlock()
			return
		}
		p.idle = append(p.idle, next)
		if !p.sweeping {
			p.sweeping, p.spare = true, 0
			time.AfterFunc(sweepEvery, p.sweep)
		}
		p.mu.Unlock()
		f = <-next
	}
}

// sweep ends the goroutines that were idle all the time since the last sweep.
func (p *workers) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.idle[:p.spare] {
		w <- nil
	}
	p.idle = append(p.idle[:0:0], p.idle[p.spare:]...)
	p.spare = len(p.idle)
	if p.sweeping = len(p.idle) > 0; p.sweeping {
		time.AfterFunc(sweepEvery, p.sweep)
	}
}
