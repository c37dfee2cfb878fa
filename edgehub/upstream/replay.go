package upstream

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

const (
	// maxReplay is how much of a request's body is kept to be sent again, and
	// maxReplays how much of all bodies together. What is not kept is sent once.
	maxReplay  = 64 << 10
	maxReplays = 2 << 20
)

// errNotKept is the error of a body that should be sent again and can't be.
var errNotKept = errors.New("the request's body was not kept to be sent again")

// replay is a request's body that is kept until the request is answered. A server that
// goes away, as kube-apiserver does with --goaway-chance, says which requests it has
// not processed, and so does one that refuses a stream (RFC 9113, 6.8 and 8.7).
// http.Transport sends these again, if it gets their bodies again.
//
// It may ask for them while the attempt that has failed is still reading: the client
// sends its body slowly, say, and the request has ended meanwhile. So each attempt has
// a place of its own in the body, and what one of them reads the others get too.
type replay struct {
	body  io.Reader
	total *atomic.Int64 // what all bodies keep

	reading sync.Mutex // held while body is read, before mu

	mu      sync.Mutex
	touched bool // reading has begun
	read    int  // bytes that were read
	kept    []byte
	lost    bool // not all that was read is kept
}

// again returns the body from its beginning, as for http.Request.GetBody.
func (p *replay) again() (io.ReadCloser, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost {
		return nil, errNotKept
	}
	return &attempt{replay: p, next: p.kept}, nil
}

// isTouched reports whether reading has begun.
func (p *replay) isTouched() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.touched
}

// keep takes note of bytes that were read.
func (p *replay) keep(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.read += len(b)
	if p.lost {
		return
	}
	if p.read > maxReplay {
		p.drop()
		return
	}
	before := cap(p.kept)
	p.kept = append(p.kept, b...)
	if p.total.Add(int64(cap(p.kept)-before)) > maxReplays {
		p.drop()
	}
}

// drop gives up what is kept. The caller holds mu.
func (p *replay) drop() {
	p.total.Add(-int64(cap(p.kept)))
	p.kept, p.lost = nil, true
}

// forget is for a request that is answered. What is left of its body can be read.
func (p *replay) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop()
}

// attempt is a replay as it is sent once.
type attempt struct {
	*replay
	next []byte // what was read before
	at   int    // where next begins
}

// Read implements io.Reader.
func (a *attempt) Read(b []byte) (int, error) {
	if len(a.next) == 0 {
		a.reading.Lock()
		defer a.reading.Unlock()
		if err := a.catchUp(); err != nil {
			return 0, err
		}
	}
	if len(a.next) > 0 {
		n := copy(b, a.next)
		a.at += n
		if a.next = a.next[n:]; len(a.next) == 0 {
			a.next = nil // or it holds what was kept for as long as the response lasts
		}
		return n, nil
	}
	n, err := a.body.Read(b)
	a.keep(b[:n])
	a.at += n
	return n, err
}

// catchUp has next begin where others have read on.
func (a *attempt) catchUp() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.touched = true
	switch {
	case a.at == a.read:
	case a.lost:
		return errNotKept
	default:
		a.next = a.kept[a.at:]
	}
	return nil
}

// Close implements io.Closer. Closing the body is left to the server that received
// it: it may be sent again.
func (a *attempt) Close() error { return nil }
