package cache

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

// A program that was started before its agent is cached has listed already, and
// watches. It would list again only once its Pod is restarted. So where
// Options.Relists wants it, such watches are ended, as kube-apiserver ends every
// watch sooner or later, and the next one is answered as one from too old a
// resourceVersion is. Every informer answers that by listing again, through the
// cache this time. Nobody is told to: what matters is that a view lacks its list
// now. It is tried again less and less often, for a list may be too large to be
// kept at all.
//
// A view that has fallen behind its watches, because the hub was killed or could not
// keep up, would stay there for as long as its informers watch. That is the hub's
// own doing, so they list again whatever Options.Relists says: later, in case
// somebody does so by himself, and one after the other.
const (
	minRelist   = time.Minute
	maxRelist   = time.Hour
	behindWait  = 30 * time.Second // before a view that is behind is listed again, and jitter
	behindPace  = 2 * time.Second  // between two of them
	behindPause = 10 * time.Minute // between two times of the same
	// endPause is how often at most a watch is ended because its recording could
	// not keep up.
	endPause = time.Minute
	// watchesCheck is how often it is looked for what is due.
	watchesCheck = time.Second
	// shortestWatch is how long a watch lasts at least in which nothing happens, unless
	// its client ends it. To client-go one of less than a second is an error, after
	// which it lists again rather than to go on where it was.
	shortestWatch = 1100 * time.Millisecond
)

// DefaultRelistSpread is Options.RelistSpread for a fleet of thousands: lists of as many
// programs come in two minutes rather than at once.
const DefaultRelistSpread = 2 * time.Minute

// watches are the watches that clients have open, of cached agents and others.
type watches struct {
	mu     sync.Mutex
	byFile map[string]map[*liveWatch]bool
	ended  map[string]time.Time // when a view's watch was last ended early
}

// mayEnd reports whether a watch of a view may be ended early now, and takes it for
// ended.
func (w *watches) mayEnd(file string, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.ended, func(_ string, at time.Time) bool { return now.Sub(at) >= endPause })
	if _, lately := w.ended[file]; lately {
		return false
	}
	if w.ended == nil {
		w.ended = map[string]time.Time{}
	}
	w.ended[file] = now
	return true
}

// liveWatch is the body of a watch.
type liveWatch struct {
	io.ReadCloser
	key      Key
	file     string
	start    uint64
	recorded bool
	printed  bool // as a Table: nothing that is recorded
	client   context.Context
	clock    clock.Clock
	began    time.Time
	happened bool // something has come

	ended  atomic.Bool
	close  sync.Once
	closed error
	done   func()
}

// Read implements io.Reader. A watch that was ended ends as if by its timeout.
func (l *liveWatch) Read(b []byte) (int, error) {
	n, err := 0, io.EOF
	if !l.ended.Load() {
		n, err = l.ReadCloser.Read(b)
	}
	l.happened = l.happened || n > 0
	if err == nil {
		return n, nil
	}
	if !l.happened {
		lastAWhile(l.client, l.clock, l.began)
	}
	if l.ended.Load() {
		err = io.EOF
	}
	return n, err
}

// lastAWhile returns when a watch that began then may end, or when its client has ended it.
func lastAWhile(client context.Context, clock clock.Clock, began time.Time) {
	if left := shortestWatch - clock.Since(began); left > 0 {
		timer := clock.NewTimer(left)
		defer timer.Stop()
		select {
		case <-timer.C():
		case <-client.Done():
		}
	}
}

// Close implements io.Closer.
func (l *liveWatch) Close() error {
	l.close.Do(func() {
		l.done()
		l.closed = l.ReadCloser.Close()
	})
	return l.closed
}

func (l *liveWatch) end() {
	l.ended.Store(true)
	_ = l.Close() // the client is told by the end of the body
}

// follow keeps account of a watch while it lasts.
func (s *Store) follow(client context.Context, q Query, body io.ReadCloser, recorded bool) io.ReadCloser {
	l := &liveWatch{
		ReadCloser: body, key: q.Key, file: q.Key.file(), start: q.startVersion(), recorded: recorded, printed: q.format.as == table,
		client: client, clock: s.clock, began: s.clock.Now(),
	}
	l.done = func() { s.watches.remove(l) }
	s.watches.add(l)
	if !recorded && s.view(q.Key) != nil {
		// It began to be cached just now, or can't be. Its view may have to be
		// read, which the live path does not wait for.
		s.recordings.Go(func() { s.unwarmed(l) })
	}
	return l
}

func (w *watches) add(l *liveWatch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byFile == nil {
		w.byFile = map[string]map[*liveWatch]bool{}
	}
	if w.byFile[l.file] == nil {
		w.byFile[l.file] = map[*liveWatch]bool{}
	}
	w.byFile[l.file][l] = true
}

func (w *watches) remove(l *liveWatch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.byFile[l.file], l)
	if len(w.byFile[l.file]) == 0 {
		delete(w.byFile, l.file)
	}
}

// of returns the watches of a view, those that people read apart.
func (w *watches) of(file string) (live []*liveWatch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for l := range w.byFile[file] {
		if !l.printed {
			live = append(live, l)
		}
	}
	return live
}

func (w *watches) any(file string) bool { return len(w.of(file)) > 0 }

// unrecorded returns the watches that are not recorded.
func (w *watches) unrecorded() (live []*liveWatch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, all := range w.byFile {
		for l := range all {
			if !l.recorded && !l.printed {
				live = append(live, l)
			}
		}
	}
	return live
}

// unwarmed notes that a watch goes on whose list was not recorded.
func (s *Store) unwarmed(l *liveWatch) {
	v := s.view(l.key)
	if v == nil || l.printed {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.load(s)
	if v.journal == nil {
		v.shown(s, max(l.start, 1))
	}
}

// expired answers a watch in place of kube-apiserver if its client is to list
// again. Who asks was judged by kube-apiserver, which has answered already.
func (s *Store) expired(q Query, resp *http.Response) (io.ReadCloser, bool) {
	enc, ok := encodingOf(resp.Header.Get("Content-Type"))
	if encoding := resp.Header.Get("Content-Encoding"); !ok || encoding != "" && encoding != "identity" || q.format.as == table {
		return nil, false
	}
	start := q.startVersion()
	if start == 0 || s.demand.get(q.Key.file()) == nil || s.view(q.Key) == nil || !s.demand.disarm(q.Key.file()) {
		return nil, false
	}
	body, err := expiredFrame(enc, start)
	if err != nil {
		klog.ErrorS(err, "Could not end a watch so that its list goes through the cache")
		return nil, false
	}
	_ = resp.Body.Close() // nothing is read of it
	return body, true
}

// expiredFrame is the event with which kube-apiserver refuses a watch from a
// resourceVersion that it no longer knows the changes of.
func expiredFrame(enc capture.Encoding, start uint64) (io.ReadCloser, error) {
	status := errExpired(start, start+1).ErrStatus
	status.Kind, status.APIVersion = "Status", "v1"
	marshal := func() ([]byte, error) { return json.Marshal(&status) }
	if enc == capture.Protobuf {
		marshal = status.Marshal
	}
	raw, err := marshal()
	if err != nil {
		return nil, err
	}
	frame, err := capture.AppendWatchFrame(nil, enc, capture.Error, raw, "v1", "Status")
	return io.NopCloser(&onceReader{frame}), err
}

// onceReader reads bytes, once.
type onceReader struct{ rest []byte }

// Read implements io.Reader.
func (r *onceReader) Read(b []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// disarm reports whether the next watch of a view is to be refused, which this one
// is.
func (d *demand) disarm(file string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.wants[file]
	if w == nil || !w.armed {
		return false
	}
	w.armed = false
	return true
}

// relist ends the watches that are due for it.
func (s *Store) relist() {
	for _, file := range s.demand.due(s.clock.Now(), s.relistSpread, s.disk.status() == nil, s.relists, s.listing, s.watches.any) {
		live := s.watches.of(file)
		s.demand.relisted(pairOfFile(file), len(live))
		klog.InfoS("Ending watches so that their lists go through the cache", "file", file, "watches", len(live))
		for _, l := range live {
			go l.end() // its connection may take a moment
		}
	}
}

// listing reports whether a list of a view is being recorded.
func (s *Store) listing(file string) bool {
	for _, l := range s.watches.of(file) {
		if v := s.view(l.key); v != nil {
			done, _ := v.lists.done(v.lists.latest())
			return !done
		}
	}
	return false
}

// due returns the views whose watches are to be ended now, and arms the answer to
// those that follow.
func (d *demand) due(now time.Time, spread time.Duration, disk bool, relists func(agent, namespace string) bool, listing, watched func(file string) bool) (files []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.behindAt, func(_ string, at time.Time) bool { return now.Sub(at) >= behindPause })
	for file, w := range d.wants {
		wanted := relists(w.holder.agent, w.holder.namespace)
		_, lately := d.behindAt[file]
		switch {
		case w.gap == SecretsDenied || !wanted && !w.behind(disk):
			w.due, w.wait, w.armed = time.Time{}, 0, false
		case w.delivered.Load() == 0 || !watched(file) || listing(file):
		case w.due.IsZero() && wanted:
			w.due = now.Add(rand.N(spread))
		case w.due.IsZero():
			w.due = now.Add(behindWait + rand.N(behindWait))
		case !wanted && (lately || now.Before(d.nextBehind)):
		case !now.Before(w.due):
			if !wanted {
				d.nextBehind, d.behindAt[file] = now.Add(behindPace), now
			}
			w.wait = min(max(2*w.wait, minRelist), maxRelist)
			w.due, w.armed = now.Add(w.wait+rand.N(w.wait/4)), true
			files = append(files, file)
		}
	}
	return files
}

// behind reports whether a view lacks what the hub ought to have kept, and may be able
// to now.
func (w *want) behind(disk bool) bool {
	switch w.fault {
	case "":
		return w.gap == Incomplete || w.lost
	case Incomplete:
		return true
	}
	return w.fault == DiskFailed && disk
}

func (d *demand) relisted(pair string, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.relists[pair] += int64(n)
	d.changed = true
}

// followWatches does what watches and what is missing need, until ctx ends.
func (s *Store) followWatches(ctx context.Context) {
	ticker := s.clock.NewTicker(watchesCheck)
	defer ticker.Stop()
	minute := s.clock.NewTicker(time.Minute)
	defer minute.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
			s.relist()
			s.saveDemand()
		case <-minute.C():
			if s.online() {
				s.demand.idle(s.watches.any)
			}
			s.saveObjects(false)
		}
	}
}
