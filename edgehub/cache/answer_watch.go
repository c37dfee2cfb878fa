package cache

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

const (
	// bookmarkPeriod is how often a held watch is sent a bookmark, and
	// bookmarkAhead how long before its timeout it is sent the last one. Both are
	// kube-apiserver's.
	bookmarkPeriod = time.Minute
	bookmarkAhead  = 2 * time.Second
	// minWatch is the shortest time that a watch without timeoutSeconds is
	// held; the longest is twice as much. Both are kube-apiserver's.
	minWatch = 30 * time.Minute
)

// heldWatch is a watch that is answered from the cache.
type heldWatch struct {
	*selection
	query Query
	out   http.ResponseWriter
	frame []byte
	// printed says that the headers of a Table were sent.
	printed bool
}

// answerWatch replays what the view holds after the asked resourceVersion, and
// then holds the watch until the cloud is back, its timeout or its client's end.
func (s *Store) answerWatch(w http.ResponseWriter, r *http.Request, q Query, cloud Cloud) error {
	sel, err := s.find(q)
	if err != nil && s.holdPrinted(w, r, q, cloud) {
		return nil
	}
	if err != nil {
		return err
	}
	h := &heldWatch{selection: sel, query: q, out: w}
	if h.selection, err = s.formed(sel, q); err == nil && q.format.mediaType == typeYAML {
		err = errNotAcceptable(streamTypes)
	}
	if err != nil {
		sel.release()
		return err
	}
	if q.gzip && q.initial && q.AllowBookmarks { // as kube-apiserver compresses a WatchList
		h.out = &memberWriter{ResponseWriter: w}
	}
	ctx, cancel := q.deadline(r.Context())
	defer cancel()
	s.noteAge(w, sel.asOf)
	s.head(h.out, sel.streamType(), sel.asOf)
	err = h.begin(ctx, s.clock, q.startVersion())
	if isDamage(err) {
		s.giveUp(sel.snapshot, err)
	}
	sel.release() // what follows needs no data
	if err == nil || errors.Is(err, errEnded) {
		err = errors.Join(err, h.flush())
	}
	if err != nil {
		klog.V(2).InfoS("Watch from the cache ended early", "agent", q.Key.Agent, "resource", q.Key.Resource, "reason", err)
		return nil
	}
	s.hold(ctx, h, cloud)
	return nil
}

// deadline ends a watch as late as the client wants it, or as kube-apiserver does.
func (q Query) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	timeout := q.Timeout
	if timeout == 0 {
		timeout = minWatch + rand.N(minWatch)
	}
	return context.WithTimeout(ctx, timeout)
}

// holdPrinted holds a watch that goes on from a Table, of whose objects nothing is
// known: nothing changes while the cloud is away.
func (s *Store) holdPrinted(w http.ResponseWriter, r *http.Request, q Query, cloud Cloud) bool {
	if q.format.as != table || q.format.mediaType != typeJSON || q.startVersion() == 0 {
		return false
	}
	t, err := s.printed(q)
	if t == nil || err != nil {
		return false
	}
	asOf, version := t.asOf, parseVersion(t.meta.ResourceVersion)
	t.release()
	if version != q.startVersion() {
		return false
	}
	q.AllowBookmarks = false // one would be of an unknown kind
	ctx, cancel := q.deadline(r.Context())
	defer cancel()
	s.head(w, q.format.streamType(), asOf)
	h := &heldWatch{query: q, out: w}
	if h.flush() == nil {
		s.hold(ctx, h, cloud)
	}
	return true
}

// errEnded ends a watch after the event that says why.
var errEnded = errors.New("watch cannot be continued")

// begin sends what comes before the watch is held.
func (h *heldWatch) begin(ctx context.Context, clock clock.WithTicker, start uint64) error {
	asked := parseVersion(h.query.ResourceVersion)
	switch {
	case start == 0 && h.query.fromNow:
		return nil
	case start == 0 && h.last != 0 && asked > h.last:
		return h.await(ctx, clock, asked)
	case start == 0:
		return h.initial()
	case start < h.base:
		return h.refuse(errExpired(start, h.base))
	default:
		return h.replay(start)
	}
}

// versionPatience is how long kube-apiserver lets a client wait for a
// resourceVersion that it has not seen yet.
const versionPatience = 3 * time.Second

// await answers a watch for a state that is newer than the view, which it will
// stay while the cloud is away.
func (h *heldWatch) await(ctx context.Context, clock clock.WithTicker, asked uint64) error {
	if err := h.flush(); err != nil {
		return err
	}
	select {
	case <-clock.After(versionPatience):
	case <-ctx.Done(): // its timeout, or nobody listens any more
	}
	return h.refuse(errTooLarge(asked, h.last))
}

// refuse ends a watch with an event that says why.
func (h *heldWatch) refuse(err *apierrors.StatusError) error {
	if err := h.sendStatus(err.ErrStatus); err != nil {
		return err
	}
	return errEnded
}

func (h *heldWatch) initial() error {
	for _, e := range h.objects {
		raw, selected, err := h.object(e.key, e.pos)
		if err != nil {
			return err
		}
		if selected {
			if err := h.send(capture.Added, raw); err != nil {
				return err
			}
		}
	}
	if h.query.initial && h.query.AllowBookmarks {
		return h.bookmark(true)
	}
	return nil
}

// replay sends the events after start.
func (h *heldWatch) replay(start uint64) error {
	for _, e := range h.events {
		if e.version <= start {
			continue
		}
		send := h.transition
		if h.whole() {
			send = h.unchanged
		}
		if err := send(e); err != nil {
			return err
		}
	}
	return nil
}

func (h *heldWatch) unchanged(e event) error {
	raw, _, err := h.object(e.key, e.pos)
	if err != nil {
		return err
	}
	return h.send(e.typ, raw)
}

// transition sends an event of a broader view as it is seen in a selection: an
// object that comes into it is ADDED, and one that leaves it is DELETED, shown
// as it was before at the version at which it left, as kube-apiserver does it.
func (h *heldWatch) transition(e event) error {
	var before []byte
	var was bool
	if e.previous.Length > 0 {
		raw, selected, err := h.object(e.key, e.previous)
		if err != nil {
			return err
		}
		if selected {
			before, was = slices.Clone(raw), true
		}
	}
	raw, is, err := h.object(e.key, e.pos)
	switch {
	case err != nil:
		return err
	case e.typ == capture.Deleted && (is || was):
		if !is {
			return h.left(before, e.version)
		}
		return h.send(capture.Deleted, raw)
	case e.typ == capture.Deleted:
		return nil
	case is && was:
		return h.send(capture.Modified, raw)
	case is:
		return h.send(capture.Added, raw)
	case was:
		return h.left(before, e.version)
	}
	return nil
}

func (h *heldWatch) left(before []byte, version uint64) error {
	raw, err := capture.AppendWithVersion(nil, before, h.read, strconv.FormatUint(version, 10))
	if err != nil {
		return err
	}
	return h.send(capture.Deleted, raw)
}

// hold keeps the watch open.
func (s *Store) hold(ctx context.Context, h *heldWatch, cloud Cloud) {
	began := s.clock.Now()
	up := make(chan struct{})
	go func() {
		defer close(up)
		_ = cloud.AwaitUp(ctx) // fails when ctx ends, and so does the watch
	}()
	ticker := s.clock.NewTicker(bookmarkPeriod)
	defer ticker.Stop()
	var last <-chan time.Time
	if deadline, ok := ctx.Deadline(); ok {
		if left := time.Until(deadline) - bookmarkAhead; left > 0 {
			last = s.clock.After(left)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-up:
			select {
			case <-s.clock.After(jitter()):
				lastAWhile(ctx, s.clock, began)
			case <-ctx.Done():
			}
			return
		case <-ticker.C():
			if !h.remind() {
				return
			}
		case <-last:
			if !h.remind() {
				return
			}
		}
	}
}

// remind sends a bookmark, if the client takes one and the view is not behind it. It
// reports whether the watch may go on.
func (h *heldWatch) remind() bool {
	if !h.query.AllowBookmarks || h.query.startVersion() > h.last {
		return true
	}
	return h.bookmark(false) == nil && h.flush() == nil
}

func (h *heldWatch) bookmark(initialEventsEnd bool) error {
	raw, err := bookmark(h.read, h.apiVersion, h.kind, h.version, initialEventsEnd)
	if err != nil {
		return err
	}
	return h.send(capture.BookmarkType, raw)
}

func (h *heldWatch) send(typ string, raw []byte) (err error) {
	if h.printer != nil {
		// The headers come with the first event alone.
		if raw, err = h.appendTable(nil, raw, h.printed); err != nil {
			return err
		}
		h.printed = true
		return h.sendObject(typ, raw, h.metaVersion, table)
	}
	return h.sendObject(typ, raw, h.apiVersion, h.kind)
}

func (h *heldWatch) sendObject(typ string, raw []byte, apiVersion, kind string) (err error) {
	if h.mediaType == typeCBOR {
		h.frame, err = appendCBORFrame(h.frame[:0], typ, raw, apiVersion, kind)
	} else {
		h.frame, err = capture.AppendWatchFrame(h.frame[:0], h.read, typ, raw, apiVersion, kind)
	}
	if err != nil {
		return err
	}
	_, err = h.out.Write(h.frame)
	return err
}

func (h *heldWatch) flush() error { return http.NewResponseController(h.out).Flush() }

// sendStatus sends the ERROR event that ends a watch.
func (h *heldWatch) sendStatus(status metav1.Status) error {
	status.Kind, status.APIVersion = "Status", "v1"
	marshal := func() ([]byte, error) { return json.Marshal(&status) }
	if h.read == capture.Protobuf {
		marshal = status.Marshal
	}
	raw, err := marshal()
	if err != nil {
		return err
	}
	return h.sendObject(capture.Error, raw, "v1", "Status")
}
