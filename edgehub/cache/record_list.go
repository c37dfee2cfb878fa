package cache

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/url"
	"strings"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

// staging is a list that is being recorded, perhaps page by page.
type staging struct {
	file   *viewFile
	count  int
	head   endRecord
	relief relief
	// asked is the moment of the first page's request, and consistent says that it
	// was for the newest state: the other pages are of the same.
	asked      Moment
	consistent bool
}

func (r *recording) stage() (*staging, error) {
	r.view.mu.Lock()
	removed := r.view.removed
	r.view.mu.Unlock()
	if removed {
		return nil, errRemoved // its directory is gone, and is not made again
	}
	r.store.discovered(r.view.key.directory()) // makes room of what a crash left beside it
	file, err := r.store.stageFile(r.view)
	if err != nil {
		return nil, err
	}
	return &staging{file: file, asked: r.moment, consistent: r.query.ResourceVersion == ""}, nil
}

// object appends a listed object.
func (r *recording) object(st *staging, o *capture.Object) (err error) {
	if o.Name == "" && r.query.Verb != Get {
		return errOtherKind // as metrics are: nothing tells one from another
	}
	if st.head.Kind == "" {
		st.head.Kind, st.head.APIVersion = o.Kind, o.APIVersion
	}
	err = r.grow(st, func() (err error) {
		_, r.scratch, err = appendObject(st.file, r.scratch, recordObject, o)
		return err
	})
	st.head.Typed = st.head.Typed || o.Kind != ""
	st.count++
	return err
}

// list records one page of a list, and installs the list with the last one.
func (r *recording) list(body io.Reader) (err error) {
	st, err := r.openList()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = st.file.Discard() // nothing of it is used
		}
	}()
	meta, err := capture.List(body, r.encoding, capture.ListHandler{
		Begin: func(m capture.ListMeta) error { return r.beginList(st, m) },
		Item:  func(o capture.Object) error { return r.object(st, &o) },
	})
	if err != nil {
		return err
	}
	if meta.Continue != "" {
		r.store.pages.put(r.view, meta.Continue, st)
		return nil
	}
	if st.count == 0 {
		st.head.Typed = meta.Sorted || r.query.Key.Representation != ""
	}
	return r.install(st)
}

func (r *recording) openList() (*staging, error) {
	if r.query.Continue == "" {
		return r.stage()
	}
	// The client may ask for a page before the one in front of it was
	// recorded, though not before it was delivered.
	for {
		done, another := r.view.lists.done(r.earlier)
		if st := r.store.pages.take(r.view, r.query.Continue); st != nil {
			return st, nil
		}
		if done {
			return nil, errOutdated
		}
		<-another
	}
}

func (r *recording) beginList(st *staging, m capture.ListMeta) error {
	if err := r.expect(m.Kind); err != nil {
		return err
	}
	if r.query.Continue != "" && m.ResourceVersion != st.head.ResourceVersion {
		// An expired token was continued with the newest state: the
		// pages don't make one list.
		return errOutdated
	}
	st.head.ResourceVersion, st.head.ListKind, st.head.Sorted = m.ResourceVersion, m.Kind, m.Sorted
	if st.head.Kind == "" {
		st.head.Kind, st.head.APIVersion = strings.TrimSuffix(m.Kind, "List"), m.APIVersion
	}
	if r.query.Continue == "" && m.Continue == "" && r.holds(m.ResourceVersion, true) {
		return errUnchanged
	}
	return nil
}

// holds reports whether the view is at a version already, so that recording
// the same again would change nothing. One that is not kept as it should be may
// be in memory alone. unmoved says that it has to be the very list: a view that was
// brought to the version by bookmarks has objects as they were shown before, and the
// default of a custom resource's definition changes how they are shown, not their version.
func (r *recording) holds(version string, unmoved bool) bool {
	r.view.mu.Lock()
	defer r.view.mu.Unlock()
	r.view.load(r.store)
	if r.view.journal == nil || r.view.head.Refused != 0 || r.view.head.ResourceVersion == "" || r.view.version() != version || unmoved && r.view.last != r.view.base || r.store.refusals.has(r.view.file) {
		return false
	}
	r.view.confirm(r.store, r.moment)
	return true
}

// holdsObject reports whether the view holds an object as it is shown now.
func (r *recording) holdsObject(o *capture.Object) bool {
	if !r.holds(o.ResourceVersion, false) {
		return false
	}
	snap, err := r.view.snapshot(r.store)
	if err != nil || snap == nil {
		return false
	}
	defer snap.release()
	if len(snap.objects) != 1 {
		return false
	}
	rec, _, err := snap.record(snap.objects[0].pos, nil)
	if err != nil {
		return false
	}
	raw, encoding, err := rec.data(nil)
	return err == nil && (encoding != o.Encoding || bytes.Equal(raw, o.Raw))
}

// confirm notes that the cloud has answered, to what was asked at a moment, what the
// view holds. v.mu is held.
func (v *view) confirm(s *Store, asked Moment) {
	v.asOf, v.asked = s.clock.Now(), max(v.asked, asked)
	s.ledger.use(v)
}

// install completes a staged list and makes it the view's content.
func (r *recording) install(st *staging) error {
	st.head.Type, st.head.Count = recordEnd, st.count
	err := r.grow(st, func() error { return appendJSON(st.file, st.head) })
	if err == nil {
		err = r.grow(st, st.file.Flush)
	}
	if err == nil {
		err = r.store.admit(r.view, st.file.Size())
	}
	if err != nil {
		return err
	}
	back, err := r.replace(st)
	if err == nil && back {
		r.store.restored(r.view, parseVersion(st.head.ResourceVersion), st.asked)
	}
	return err
}

// replace makes a completed list the view's content, and reports whether that took the
// cluster back.
func (r *recording) replace(st *staging) (back bool, err error) {
	r.view.mu.Lock()
	defer r.view.mu.Unlock()
	defer r.store.ledger.settle(r.view)
	if r.query.Verb == Watch && st.asked <= r.view.granted.watchRefused {
		return false, errOutdated
	}
	before := r.view.restored
	if err := r.view.install(r.store, st.file, st.head, st.asked, st.consistent); err != nil {
		return false, err
	}
	r.store.refusals.kept(r.view.file)
	r.view.judge(r.store)
	return r.view.restored != before, nil
}

// restored drops the other views of a resource that turned out to have been taken back
// to an earlier state: those at a version that the cluster has yet to come to. They would
// look newer than what is.
func (s *Store) restored(told *view, version uint64, asked Moment) {
	for _, v := range s.siblings(told.key.directory()) {
		if v == told || v.key.isDocument() {
			continue
		}
		v.mu.Lock()
		if v.load(s); v.journal != nil && v.last > version && max(v.asked, v.advanced) < asked {
			v.restored = s.moments.now()
			if err := v.drop(s); err != nil {
				s.failed(v, err)
			}
		}
		v.mu.Unlock()
	}
}

// grow appends to a staged list, for which it makes room on a full disk.
func (r *recording) grow(st *staging, write func() error) error {
	for {
		err := write()
		switch {
		case err == nil && r.store.mayStage(r.view):
			return nil
		case err == nil:
			return errQuota
		case !r.store.relieve(r.view.file, &st.relief, st.file.Size(), err):
			return err
		}
	}
}

// mayStage reports whether a list may grow on, if need be in place of others that
// wait for a page.
func (s *Store) mayStage(v *view) bool {
	for {
		ok, other := s.ledger.mayStage(v)
		if ok || other == nil || !s.pages.dropOf(*other) {
			return ok
		}
	}
}

// get records a single object.
func (r *recording) get(body io.Reader) error {
	o, err := capture.Single(body, r.encoding)
	if err != nil {
		return err
	}
	if err := r.expect(o.Kind); err != nil {
		return err
	}
	if r.holdsObject(&o) {
		r.remember()
		return errUnchanged
	}
	st, err := r.stage()
	if err != nil {
		return err
	}
	st.head.ResourceVersion = o.ResourceVersion
	if err = r.object(st, &o); err == nil {
		err = r.install(st)
	}
	if err != nil {
		return errors.Join(err, st.file.Discard())
	}
	r.remember()
	return nil
}

// table records a Table, as it is: what a server prints for people can't be made
// of anything else.
func (r *recording) table(body io.Reader) error {
	const head = `{"kind":"Table",`
	peek := bufio.NewReaderSize(body, 4<<10)
	if b, err := peek.Peek(len(head)); err != nil || string(b) != head {
		return errors.Join(errOtherKind, err)
	}
	if err := r.document(peek); err != nil {
		return err
	}
	r.store.dropPages(r)
	return nil
}

// dropPages drops the pages of earlier Tables of the same objects, which nobody asks
// for again once their first page is another one.
func (s *Store) dropPages(r *recording) {
	if paged(r.query.Key) {
		return
	}
	for _, v := range s.siblings(r.query.Key.directory()) {
		if k := v.key; k.Representation == table && paged(k) && k.Namespace == r.query.Key.Namespace &&
			k.LabelSelector == r.query.Key.LabelSelector && k.FieldSelector == r.query.Key.FieldSelector {
			v.dropPage(s, r.moment)
		}
	}
}

// paged reports whether a Table is a page behind the first.
func paged(k Key) bool {
	query, _, _ := strings.Cut(k.Document, " ")
	params, err := url.ParseQuery(query)
	return err != nil || params.Has("continue")
}

// dropPage drops the view if it was asked for before a moment.
func (v *view) dropPage(s *Store, before Moment) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.load(s); v.asked >= before {
		return
	}
	if err := v.drop(s); err != nil {
		s.failed(v, err)
	}
	v.want = nil
	s.demand.forget(v.file)
}

// document records any other answer as it is.
func (r *recording) document(body io.Reader) error {
	st, err := r.stage()
	if err != nil {
		return err
	}
	st.head.ContentType, st.head.ETag = r.contentType, r.etag
	buf := make([]byte, 32<<10)
	for err == nil {
		var n int
		if n, err = body.Read(buf); n > 0 {
			var e error
			if e = r.grow(st, func() (err error) {
				r.scratch, err = appendChunk(st.file, r.scratch, buf[:n])
				return err
			}); e != nil {
				err = e
			}
			st.count++
		}
	}
	if err == io.EOF {
		err = r.install(st)
	}
	if err != nil {
		return errors.Join(err, st.file.Discard())
	}
	return nil
}
