package cache

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

// errOtherKind ends the recording of an answer that is not of the kind its
// view holds, such as a Table.
var errOtherKind = errors.New("not the kind of object that is cached")

// Record returns a body that reads as resp.Body does while a copy of it goes
// to the cache, or resp.Body itself if the answer is not to be cached. The
// copy takes its own time: the body's reader does not wait for the disk. Watches
// are given to Record whether or not their agent is cached: it may be while they
// last. They end when Options.Relists wants it. asked is the moment before the request
// was sent.
func (s *Store) Record(q Query, resp *http.Response, asked Moment) io.ReadCloser {
	if resp.StatusCode == http.StatusNotModified && q.Verb == GetDocument && q.invalid == nil {
		etag := resp.Header.Get("ETag")
		s.recordings.Go(func() { s.confirmDocument(q, etag, asked) })
		return resp.Body
	}
	if resp.StatusCode != http.StatusOK {
		// Who may read it is asked before what is wrong with the options.
		s.withdraw(q, resp.StatusCode, asked)
		if q.invalid == nil && (resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusNotFound) {
			s.demand.forget(q.Key.file())
		}
		return resp.Body
	}
	if q.invalid != nil {
		return resp.Body // not understood as kube-apiserver understands it
	}
	if q.Verb != Watch {
		return s.record(q, resp, asked)
	}
	if body, ok := s.expired(q, resp); ok {
		return body
	}
	passed := resp.Body
	body := s.record(q, resp, asked)
	return s.follow(resp.Request.Context(), q, body, body != passed)
}

func (s *Store) record(q Query, resp *http.Response, asked Moment) io.ReadCloser {
	enc, ok := encodingOf(resp.Header.Get("Content-Type"))
	foreign := enc == capture.Protobuf && IsCustom(q.Key.Group) && q.Key.Representation != partialObjectMetadata
	if (!ok || foreign) && q.Verb != GetDocument {
		s.unrecorded(q)
		return resp.Body
	}
	compressed := false
	switch resp.Header.Get("Content-Encoding") {
	case "", "identity":
	case "gzip":
		compressed = true
	default:
		s.unrecorded(q)
		return resp.Body
	}
	v, release := s.use(q.Key)
	if v == nil {
		if q.Key.sealed() {
			s.unrecorded(q)
		}
		return resp.Body
	}
	isList := q.Verb != Watch || q.SendInitialEvents
	if now := s.clock.Now(); isList && !(s.refusals.allows(v.file, now) && s.losses.allows(v.file, now)) {
		s.metrics.notRecorded.WithLabelValues("paused").Inc()
		release()
		return resp.Body
	}
	r := &recording{
		store: s, query: q, view: v, encoding: enc,
		contentType: resp.Header.Get("Content-Type"), etag: resp.Header.Get("ETag"),
		moment: asked, done: func() {}, release: release,
	}
	if q.Verb == Watch || q.Continue != "" {
		r.earlier = v.lists.latest()
	}
	if isList {
		r.done = v.lists.begin()
	}
	start := func() *pipe {
		p := newPipe(&s.budget, isList)
		if q.Verb == Watch {
			p.mayEnd = func() bool { return s.disk.status() == nil && s.watches.mayEnd(v.file, s.clock.Now()) }
		}
		s.recordings.Add(1)
		if q.Verb != Watch {
			s.unfinished.Add(1)
		}
		go func() {
			defer s.recordings.Done()
			if q.Verb != Watch {
				defer s.unfinished.Add(-1)
			}
			defer release()
			defer p.abandon()
			defer r.drained.finish()
			defer func() { r.done() }()
			r.finish(r.run(p, compressed))
		}()
		return p
	}
	if q.Verb == Get && !compressed {
		return &smallTee{tee: tee{body: resp.Body}, recording: r, start: start}
	}
	t := &tee{body: resp.Body}
	if q.Verb == Watch {
		t.ending = func() { r.drained.begin(&v.lists) }
	}
	t.pipe = start()
	return t
}

// tee is a response body that is recorded as it is read.
type tee struct {
	body   io.ReadCloser
	pipe   *pipe
	ending func() // called before a client sees the end, nil for nothing
}

func (t *tee) Read(b []byte) (int, error) {
	n, err := t.body.Read(b)
	if n > 0 && !t.pipe.write(b[:n]) {
		// The client goes on from what it was sent, which is what is recorded.
		n, err = 0, io.EOF
	}
	if err != nil {
		t.end(err)
	}
	return n, err
}

func (t *tee) end(err error) {
	if t.ending != nil {
		t.ending()
	}
	t.pipe.close(err)
}

// Close implements io.Closer. A body closed before its end is incomplete.
func (t *tee) Close() error {
	t.end(io.ErrUnexpectedEOF)
	return t.body.Close()
}

// recording is one answer on its way into the cache.
type recording struct {
	store       *Store
	query       Query
	view        *view
	encoding    capture.Encoding
	contentType string
	etag        string
	moment      Moment // before it was asked for
	earlier     uint64 // up to which lists in flight it may continue them
	done        func() // tells watches that wait for this one
	drained     drain
	release     func() // of the view
	sum         uint64 // of a small answer, 0 if it is not known
	scratch     []byte
}

func (r *recording) run(p *pipe, compressed bool) error {
	if r.query.Verb != Watch || r.query.SendInitialEvents {
		r.asked()
	}
	var body io.Reader = p
	if compressed {
		members := newMembers(p)
		defer members.release()
		body = members
	}
	switch {
	case r.query.Key.Representation == table:
		return r.table(body)
	case r.query.Verb == List:
		return r.list(body)
	case r.query.Verb == Watch:
		return r.watch(body, p)
	case r.query.Verb == Get:
		return r.get(body)
	default:
		return r.document(body)
	}
}

// finish accounts for how a recording ended. The view is as it was unless the
// recording was complete, so an error is worth no more than a note.
func (r *recording) finish(err error) {
	var notList *capture.NotListError
	outcome := "incomplete"
	switch {
	case err == nil:
		r.listGranted()
		r.store.granted(r.query, r.moment)
		return
	case errors.Is(err, errUnchanged):
		r.listGranted()
		r.confirmed()
		return
	case errors.Is(err, errOtherKind), errors.As(err, &notList):
		outcome = "other_kind"
	case errors.Is(err, errOutdated), errors.Is(err, errRemoved):
		outcome = "outdated"
	case errors.Is(err, errOverflow), errors.Is(err, capture.ErrBusy):
		outcome = "overflow"
		r.store.refusals.behind(r.view.file, reasonOverflow)
		r.faulted()
	case (errors.Is(err, errCut) || errors.Is(err, io.ErrUnexpectedEOF)) && r.query.Verb == Watch:
		return // who ends a watch, or loses it in the middle of an event, goes on from the event before
	case errors.Is(err, errCut):
	case errors.Is(err, errQuota):
		outcome = "quota"
		r.store.refusals.refuse(r.view.file, reasonQuota, r.store.clock.Now())
	case faultOf(err) != "":
		outcome = "disk"
		r.store.refusals.refuse(r.view.file, faultOf(err), r.store.clock.Now())
		if isFull(err) {
			r.store.reliefs.failed(r.store.clock.Now())
		}
		r.faulted()
	default:
		r.store.demand.fault(r.view.file, Incomplete) // what it was is not known
		r.faulted()
	}
	r.store.metrics.notRecorded.WithLabelValues(outcome).Inc()
	klog.V(2).InfoS("Answer was not cached", "agent", r.query.Key.Agent, "resource", r.query.Key.Resource, "reason", err)
}

// faulted notes up to where the client was shown the view nevertheless: its watch, or the
// one that follows its list, goes on.
func (r *recording) faulted() {
	v := r.view
	v.mu.Lock()
	defer v.mu.Unlock()
	if r.query.SendInitialEvents {
		v.delivered = max(v.delivered, 1) // of the state that they were
	}
	v.faulted(r.store)
}

// expect checks that an answer's objects are whole if the view's are, and
// metadata alone if that is what the view holds.
func (r *recording) expect(kind string) error {
	kind = strings.TrimSuffix(kind, "List")
	if kind == table || kind == "Status" || (kind == partialObjectMetadata) != (r.query.Key.Representation == partialObjectMetadata) {
		return errOtherKind
	}
	return nil
}
