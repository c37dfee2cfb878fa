package capture

import (
	"sync"
	"time"
)

const (
	// largeRoom is how many bytes the windows of all bodies that are read may
	// take which have outgrown readWindow, 12 MiB: enough for the largest object
	// while its window grows, or for many of some hundred kilobytes.
	largeRoom = maxWindow + maxWindow/2
	// roomPatience is how long a window waits for others to make room.
	roomPatience = time.Second
)

// large is the room for windows that hold a large object. Bodies that decompress
// to a thousand times their size would else take memory for all of them at once.
var large = room{left: largeRoom}

// room is a number of bytes that are handed out.
type room struct {
	mu    sync.Mutex
	left  int
	freed chan struct{} // closed when bytes were given back; nil if nobody waits
}

// take takes n bytes. It reports false if they were not free in time.
func (r *room) take(n int) bool {
	var late <-chan time.Time
	for {
		r.mu.Lock()
		if n <= r.left {
			r.left -= n
			r.mu.Unlock()
			return true
		}
		if r.freed == nil {
			r.freed = make(chan struct{})
		}
		freed := r.freed
		r.mu.Unlock()
		if late == nil {
			timer := time.NewTimer(roomPatience)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-freed:
		case <-late:
			return false
		}
	}
}

func (r *room) give(n int) {
	r.mu.Lock()
	r.left += n
	if r.freed != nil {
		close(r.freed)
		r.freed = nil
	}
	r.mu.Unlock()
}
