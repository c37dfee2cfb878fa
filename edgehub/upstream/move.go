package upstream

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// moveOver is how long it takes, once an endpoint has returned, until it has its share
// of the watches again. Requests are spread over the endpoints as they come and their
// connections don't get old, but a watch stays where it began: each that another
// endpoint had when one returned is ended at some time in between, as kube-apiserver
// ends every watch sooner or later (client-go asks for 5 to 10 minutes), and its client
// goes on from where it was. So a node asks the endpoints for no more at once than it
// has watches in a few seconds.
const moveOver = 5 * time.Minute

// errMoved is the error of a watch that is ended for that.
var errMoved = errors.New("watches are shared with an endpoint that has returned")

// watches are those that an endpoint serves now.
type watches struct {
	mu   sync.Mutex
	open map[*watch]struct{}
}

type watch struct {
	end   func(error)
	timer *time.Timer // runs if the watch is to be moved
}

// add lists a watch until release is called.
func (l *watches) add(end func(error)) (release func()) {
	w := &watch{end: end}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = map[*watch]struct{}{}
	}
	l.open[w] = struct{}{}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.open, w)
		if w.timer != nil {
			w.timer.Stop()
		}
	}
}

// share ends those that are open, by and by, as long as the endpoint that they are
// shared with is there.
func (l *watches) share(with *endpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := range l.open {
		if w.timer != nil {
			continue
		}
		w.timer = time.AfterFunc(rand.N(with.upstream.moveOver), func() {
			l.mu.Lock()
			w.timer = nil
			l.mu.Unlock()
			if with.state.Load() != stateDown {
				w.end(errMoved)
			}
		})
	}
}
