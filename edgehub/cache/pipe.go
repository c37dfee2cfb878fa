package cache

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// errCut marks a body that ended before its end.
var errCut = errors.New("answer was cut short")

// errOverflow ends a recording whose reader could not keep up.
var errOverflow = errors.New("recording fell behind")

const (
	// pipeLimit is how many bytes of one response may wait to be recorded.
	pipeLimit = 512 << 10
	// pipesLimit is how many bytes of all responses may, beside one write of
	// each: a reader that has read everything gets something to read, whatever
	// others leave lying.
	pipesLimit = 6 << 20
	// patience is how long, in all, the writer of one response lets its
	// reader catch up. Recording costs processor time, which the two share
	// one way or the other; a disk that stalls must not be waited for.
	patience = 100 * time.Millisecond
	// morePatience is the same for a response that ends by itself and a reader
	// that is slow, but goes on. A list that is not recorded is worse for its
	// Pod than one that takes a little longer.
	morePatience = time.Second
	// impatience is how long nobody waits after a reader was that late.
	impatience = time.Second
)

// pipe is the bounded queue between the live path and a recording. What finds
// no room in time breaks the pipe.
type pipe struct {
	budget   *budget
	room     chan struct{} // signalled when something was read
	patience time.Duration // left; the writer's own, as is the next
	more     time.Duration // left for a reader that goes on
	// live is set once what follows does not end by itself.
	live atomic.Bool
	// mayEnd reports, of a live response, whether it may be ended where its
	// recording ends. Nil if it may not.
	mayEnd func() bool

	mu     sync.Mutex
	ready  sync.Cond
	chunks []chunk
	queued int
	err    error // io.EOF once the writer is done
	closed bool  // the reader is gone
}

// budget bounds the bytes in all pipes.
type budget struct {
	mu      sync.Mutex
	left    int       // less than 0 if empty pipes took more
	stalled time.Time // when a reader was last too late
}

func (b *budget) stall() {
	b.mu.Lock()
	b.stalled = time.Now()
	b.mu.Unlock()
}

func (b *budget) isStalled() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Since(b.stalled) < impatience
}

// take takes n bytes if there are as many, or if they must be had.
func (b *budget) take(n int, must bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.left && !must {
		return false
	}
	b.left -= n
	return true
}

func (b *budget) used() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return pipesLimit - b.left
}

func (b *budget) give(n int) {
	b.mu.Lock()
	b.left += n
	b.mu.Unlock()
}

// newPipe makes a pipe for a response, which ends by itself unless it is a watch.
func newPipe(b *budget, ends bool) *pipe {
	p := &pipe{budget: b, room: make(chan struct{}, 1), patience: patience}
	if ends {
		p.more = morePatience
	}
	p.ready.L = &p.mu
	return p
}

// chunk is bytes that wait. Those before read have been read.
type chunk struct {
	bytes []byte
	read  int
}

const (
	chunkSize  = 16 << 10
	smallChunk = 1 << 10 // for an event that comes alone
)

var (
	chunkPool      = sync.Pool{New: func() any { return new([chunkSize]byte) }}
	smallChunkPool = sync.Pool{New: func() any { return new([smallChunk]byte) }}
)

// newChunk returns an empty chunk that is fit for n bytes and what follows them.
func newChunk(n int) chunk {
	if n <= smallChunk {
		return chunk{bytes: smallChunkPool.Get().(*[smallChunk]byte)[:0]}
	}
	return chunk{bytes: chunkPool.Get().(*[chunkSize]byte)[:0]}
}

func (c chunk) release() {
	if cap(c.bytes) == chunkSize {
		chunkPool.Put((*[chunkSize]byte)(c.bytes[:chunkSize]))
	} else {
		smallChunkPool.Put((*[smallChunk]byte)(c.bytes[:smallChunk]))
	}
}

// write queues a copy of b. It is called by one goroutine. It reports whether the
// response may go on: else what was queued is recorded, and b must not be delivered.
func (p *pipe) write(b []byte) bool {
	for !p.offer(b) {
		if p.patience > 0 && !p.budget.isStalled() && p.wait() {
			continue
		}
		ends := p.live.Load() && p.mayEnd != nil && p.mayEnd()
		p.mu.Lock()
		defer p.mu.Unlock()
		if !ends {
			p.fail(errOverflow)
		} else if p.err == nil {
			p.err = errCut // which a client that goes on loses nothing by
			p.ready.Signal()
		}
		return !ends
	}
	return true
}

// wait lets the reader go on. It reports whether it has.
func (p *pipe) wait() bool {
	start := time.Now()
	timer := time.NewTimer(p.patience)
	defer timer.Stop()
	select {
	case <-p.room:
		if p.live.Load() {
			p.more = 0
		}
		p.more -= time.Since(start)
		p.patience += min(p.more, 0) // what is more than it had
		p.more = max(p.more, 0)
		return true
	case <-timer.C:
		p.patience = 0
		p.budget.stall()
		return false
	}
}

// offer queues a copy of b if there is room for it, or if nobody reads.
func (p *pipe) offer(b []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil || p.closed {
		return true
	}
	if p.queued+len(b) > pipeLimit || !p.budget.take(len(b), p.queued == 0) {
		return false
	}
	p.queued += len(b)
	for len(b) > 0 {
		last := len(p.chunks) - 1
		if last < 0 || len(p.chunks[last].bytes) == cap(p.chunks[last].bytes) {
			p.chunks = append(p.chunks, newChunk(len(b)))
			last++
		}
		c := &p.chunks[last]
		n := min(cap(c.bytes)-len(c.bytes), len(b))
		c.bytes = append(c.bytes, b[:n]...)
		b = b[n:]
	}
	p.ready.Signal()
	return true
}

// close ends the stream: with io.EOF if it is complete.
func (p *pipe) close(err error) {
	if err != io.EOF {
		err = fmt.Errorf("%w: %w", errCut, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
		p.ready.Signal()
	}
}

// fail ends the stream, and drops what is queued. p.mu is held.
func (p *pipe) fail(err error) {
	p.err = err
	p.drop()
}

// drop is called with p.mu held.
func (p *pipe) drop() {
	p.budget.give(p.queued)
	p.queued, p.chunks = 0, nil
	p.ready.Signal()
}

// Wait implements capture.Waiter.
func (p *pipe) Wait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.await()
}

// await returns when something is queued or nothing will be. p.mu is held.
func (p *pipe) await() {
	for len(p.chunks) == 0 && p.err == nil {
		p.ready.Wait()
	}
}

// Read implements io.Reader for the recording.
func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.await()
	if len(p.chunks) == 0 {
		return 0, p.err
	}
	first := &p.chunks[0]
	n := copy(b, first.bytes[first.read:])
	first.read += n
	p.queued -= n
	p.budget.give(n)
	select {
	case p.room <- struct{}{}:
	default:
	}
	if first.read == len(first.bytes) {
		first.release()
		p.chunks = slices.Delete(p.chunks, 0, 1)
	}
	return n, nil
}

// idle reports whether everything written so far was read.
func (p *pipe) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.chunks) == 0
}

// abandon is called by the reader when it wants no more.
func (p *pipe) abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.err == nil {
		p.err = io.ErrClosedPipe
	}
	p.drop() // also what its writer has left when it ended
}
