package cache

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

const (
	// bookmarkPeriod is how often a held watch is sent a bookmark, as often
	// as kube-apiserver sends one.
	bookmarkPeriod = time.Minute
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
}

// answerWatch replays what the view holds after the asked resourceVersion, and
// then holds the watch until the cloud is back, its timeout or its client's end.
func (s *Store) answerWatch(w http.ResponseWriter, r *http.Request, q Query, cloud Cloud) error {
	sel, err := s.find(q)
	if err != nil {
		return err
	}
	start := q.startVersion()
	if q.SendInitialEvents {
		if asked := parseVersion(q.ResourceVersion); sel.last != 0 && asked > sel.last {
			sel.release()
			return errTooLarge(asked, sel.last)
		}
	}
	ct := contentType(sel.encoding)
	if sel.encoding != capture.JSON {
		ct += ";stream=watch"
	}
	s.head(w, ct, sel.asOf)
	h := &heldWatch{selection: sel, query: q, out: w}
	err = h.begin(start)
	sel.release() // what follows needs no data
	if err == nil {
		err = h.flush()
	}
	if err != nil {
		klog.V(2).InfoS("Watch from the cache ended early", "agent", q.Key.Agent, "resource", q.Key.Resource, "reason", err)
		return nil
	}
	s.hold(r.Context(), h, cloud)
	return nil
}

// errEnded ends a watch after the event that says why.
var errEnded = errors.New("watch cannot be continued")

// begin sends what comes before the watch is held.
func (h *heldWatch) begin(start uint64) error {
	switch {
	case start == 0:
		return h.initial()
	case start < h.base:
		status := errExpired(start, h.base)
		if err := h.sendStatus(status.ErrStatus); err != nil {
			return err
		}
		return errEnded
	default:
		return h.replay(start)
	}
}

func (h *heldWatch) initial() error {
	for _, e := range h.objects {
		raw, selected, err := h.read(e.key, e.pos)
		if err != nil {
			return err
		}
		if selected {
			if err := h.send(capture.Added, raw); err != nil {
				return err
			}
		}
	}
	if h.query.SendInitialEvents && h.query.AllowBookmarks {
		return h.bookmark(true)
	}
	return nil
}

// replay sends the events after start. Where the view is broader than what is
// asked for, an object that comes into the selection is ADDED to it and one
// that leaves it is DELETED.
func (h *heldWatch) replay(start uint64) error {
	for _, e := range h.events {
		if e.version <= start {
			continue
		}
		typ := e.typ
		before := false
		if !h.whole() && e.previous.Length > 0 {
			var err error
			if _, before, err = h.read(e.key, e.previous); err != nil {
				return err
			}
		}
		raw, now, err := h.read(e.key, e.pos)
		if err != nil {
			return err
		}
		if !h.whole() {
			switch {
			case typ == capture.Deleted && !before && !now, !before && !now:
				continue
			case typ == capture.Deleted:
			case !before:
				typ = capture.Added
			case !now:
				if raw, err = h.unselected(e); err != nil {
					return err
				}
				typ = capture.Deleted
			default:
				typ = capture.Modified
			}
		}
		if err := h.send(typ, raw); err != nil {
			return err
		}
	}
	return nil
}

// unselected reads an object that the selection no longer has.
func (h *heldWatch) unselected(e event) ([]byte, error) {
	all := *h.selection
	all.prefix, all.labels, all.fields = "", nil, nil
	all.buf, all.decoded = nil, nil
	raw, _, err := all.read(e.key, e.pos)
	return raw, err
}

// hold keeps the watch open.
func (s *Store) hold(ctx context.Context, h *heldWatch, cloud Cloud) {
	timeout := h.query.Timeout
	if timeout == 0 {
		timeout = minWatch + rand.N(minWatch)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	up := make(chan struct{})
	go func() {
		defer close(up)
		_ = cloud.AwaitUp(ctx) // fails when ctx ends, and so does the watch
	}()
	ticker := s.clock.NewTicker(bookmarkPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-up:
			select {
			case <-s.clock.After(jitter()):
			case <-ctx.Done():
			}
			return
		case <-ticker.C():
			if !h.query.AllowBookmarks {
				continue
			}
			if h.bookmark(false) != nil || h.flush() != nil {
				return
			}
		}
	}
}

func (h *heldWatch) bookmark(initialEventsEnd bool) error {
	return h.send(capture.BookmarkType, capture.Bookmark(h.encoding, h.apiVersion, h.kind, h.version, initialEventsEnd))
}

func (h *heldWatch) send(typ string, raw []byte) (err error) {
	if h.frame, err = capture.AppendWatchFrame(h.frame[:0], h.encoding, typ, raw, h.apiVersion, h.kind); err != nil {
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
	if h.encoding == capture.Protobuf {
		marshal = status.Marshal
	}
	raw, err := marshal()
	if err != nil {
		return err
	}
	if h.frame, err = capture.AppendWatchFrame(h.frame[:0], h.encoding, capture.Error, raw, "v1", "Status"); err != nil {
		return err
	}
	_, err = h.out.Write(h.frame)
	return err
}
