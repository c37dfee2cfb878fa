package cache

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/status"
)

// Cloud tells a held watch when it may end.
type Cloud interface {
	// AwaitUp returns when the cloud can be reached, or with ctx's error.
	AwaitUp(ctx context.Context) error
}

// returnJitter is the longest that a held watch goes on once the cloud is
// back, so that not all clients return to it in one moment.
const returnJitter = 3 * time.Second

// Answer writes the answer to a query from the cache. An error, which is a
// Kubernetes Status, means that nothing was written. cloud ends watches.
func (s *Store) Answer(w http.ResponseWriter, r *http.Request, q Query, cloud Cloud) error {
	if !s.withdrawals.settle(r.Context(), q.Key.Identity) {
		return errNotCached(q) // and nobody listens
	}
	if q.gzip && q.Verb != Watch {
		z := &compressed{ResponseWriter: w}
		defer z.release()
		if err := s.answer(z, r, q, cloud); err != nil {
			return status.In(q.errorType, err)
		}
		return z.Close()
	}
	if err := s.answer(w, r, q, cloud); err != nil {
		return status.In(q.errorType, err)
	}
	return nil
}

func (s *Store) answer(w http.ResponseWriter, r *http.Request, q Query, cloud Cloud) error {
	if q.Verb == GetDocument {
		snap, err := s.document(q)
		if err != nil || snap == nil {
			return cmp.Or(err, errNotCached(q))
		}
		defer snap.release()
		return s.answerDocument(w, q, snap)
	}
	if q.invalid != nil {
		return q.invalid
	}
	if err := s.checkFields(q); err != nil {
		return err
	}
	if q.badVersion != nil {
		return q.badVersion
	}
	if q.format.as == table {
		if ok, err := s.answerPrinted(w, q); ok || err != nil {
			return err
		}
		q = q.unprinted()
	}
	switch q.Verb {
	case Get:
		return s.answerGet(w, q)
	case List:
		return s.answerList(w, q)
	default:
		return s.answerWatch(w, r, q, cloud)
	}
}

// CanAnswer reports whether there is data to answer a query from.
func (s *Store) CanAnswer(q Query) bool {
	if q.Key.isDocument() {
		if snap, err := s.document(q); err == nil && snap != nil {
			snap.release()
			return true
		}
		if q.Verb == GetDocument {
			return false
		}
		q = q.unprinted()
	}
	if q.Verb == Get {
		snap, _, err := s.findObject(q)
		if snap != nil {
			snap.release()
		}
		return err == nil || !isNotCached(err) && !apierrors.IsForbidden(err)
	}
	sel, err := s.find(q)
	if sel != nil {
		sel.release()
	}
	return err == nil || !isNotCached(err)
}

// unprinted is a query for the objects that a Table is printed of.
func (q Query) unprinted() Query {
	q.Key.Representation, q.Key.Document = "", ""
	return q
}

// head writes the header of an answer. Cache-Status is RFC 9211, Age RFC 9111:
// the seconds since the cloud last confirmed the data.
func (s *Store) head(w http.ResponseWriter, contentType string, asOf time.Time) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-cache, private")
	s.noteAge(w, asOf)
	w.WriteHeader(http.StatusOK)
}

// noteAge says that an answer comes from the cache, be it an error, and how old what
// it is derived from is.
func (s *Store) noteAge(w http.ResponseWriter, asOf time.Time) {
	age := max(0, int64(s.clock.Since(asOf)/time.Second))
	w.Header().Set("Cache-Status", "edge-hub; hit; detail=cloud-unreachable")
	w.Header().Set("Age", strconv.FormatInt(age, 10))
}

// answerGet serves one object, from its own view or from a list it is in.
func (s *Store) answerGet(w http.ResponseWriter, q Query) error {
	snap, e, err := s.findObject(q)
	if known, ok := errors.AsType[knownError](err); ok {
		s.noteAge(w, known.asOf)
	}
	if err != nil {
		return err
	}
	defer snap.release()
	s.noteAge(w, snap.asOf)
	// What is known of one object alone has no version but the object's.
	if asked := parseVersion(q.ResourceVersion); snap.key.Name == "" && snap.last != 0 && asked > snap.last {
		return errTooLarge(asked, snap.last)
	}
	sel, err := s.formed(newSelection(snap, q), q)
	if err != nil {
		return err
	}
	raw, _, err := sel.object(e.key, e.pos)
	if err != nil {
		s.giveUp(snap, err)
		return apierrors.NewInternalError(err)
	}
	body, err := sel.encode(raw)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if !q.gzip {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	s.head(w, sel.mediaType, snap.asOf)
	_, _ = w.Write(body) // the client may be gone
	return nil
}

// knownError is an error that follows from what is cached.
type knownError struct {
	error
	asOf time.Time
}

// Unwrap makes the error itself known to errors.As.
func (e knownError) Unwrap() error { return e.error }

// findObject returns the newest state of an object among all views that may
// hold it. A complete list without it, newer than any state of it, proves that
// it is gone, and so does a 404.
func (s *Store) findObject(q Query) (best *snapshot, found entry, err error) {
	name := objectKey(q.Key.Namespace, q.Key.Name)
	var absent uint64
	var asOf time.Time // of what proves it
	proven, forbidden := false, false
	prove := func(snap *snapshot) {
		if !proven || snap.last >= absent {
			absent, asOf = snap.last, snap.asOf
		}
		proven = true
	}
	for _, v := range s.mayHold(q.Key) {
		snap, err := v.snapshot(s)
		if err != nil || snap == nil {
			continue
		}
		if e, ok := find(snap.objects, name); ok {
			if best == nil || e.version > found.version {
				if best != nil {
					best.release()
				}
				best, found = snap, e
				continue
			}
		} else if snap.head.Refused != 0 {
			prove(snap)
			forbidden = forbidden || snap.head.Refused == http.StatusForbidden
		} else if v.key.LabelSelector == "" && v.key.Name == "" && (v.key.FieldSelector == "" || v.key.FieldSelector == "metadata.name="+q.Key.Name) {
			prove(snap)
		}
		snap.release()
	}
	switch {
	case forbidden:
		if best != nil {
			best.release()
		}
		return nil, entry{}, knownError{errRefused(q), asOf}
	case proven && (best == nil || absent >= found.version):
		if best != nil {
			best.release()
		}
		return nil, entry{}, knownError{apierrors.NewNotFound(groupResource(q.Key), q.Key.Name), asOf}
	case best == nil:
		return nil, entry{}, errNotCached(q)
	}
	return best, found, nil
}

// mayHold returns the views that may hold the object that is asked for: its own, that
// of the whole object, and lists.
func (s *Store) mayHold(want Key) (views []*view) {
	whole := want
	whole.Representation = ""
	for _, key := range []Key{want, whole} {
		if v := s.known(key); v != nil && !slices.Contains(views, v) {
			views = append(views, v)
		}
	}
	for _, v := range s.listsOf(want.directory()) {
		if have := v.key; (have.Namespace == "" || have.Namespace == want.Namespace) && (have.Representation == "" || have.Representation == want.Representation) {
			views = append(views, v)
		}
	}
	return views
}

// chunk reads a piece of a document. Both buffers are used and returned.
func (s *snapshot) chunk(pos journal.Position, buf, decoded []byte) ([]byte, []byte, error) {
	rec, buf, err := s.record(pos, buf)
	if err != nil {
		return buf, decoded, err
	}
	decoded, _, err = rec.data(decoded)
	return buf, decoded, err
}

// abort breaks an answer off that has begun, so that its client can't take it
// for a complete one, and gives up a view that can't be read.
func (s *Store) abort(snap *snapshot, err error) {
	s.giveUp(snap, err)
	panic(http.ErrAbortHandler)
}

// giveUp drops a view whose file turned out to be damaged, unless it has been
// replaced since.
func (s *Store) giveUp(snap *snapshot, err error) {
	klog.ErrorS(err, "Could not answer from the cache", "agent", snap.key.Agent, "resource", snap.key.Resource)
	v := s.view(snap.key)
	if v == nil || !isDamage(err) {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.journal != snap.journal {
		return
	}
	v.dropDamaged(s)
}

// jitter is how long a watch goes on after the cloud is back.
func jitter() time.Duration { return rand.N(returnJitter) }
