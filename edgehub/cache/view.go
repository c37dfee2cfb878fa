package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

var (
	errFormat    = errors.New("unknown format")
	errNotLegal  = errors.New("records out of order")
	errRemoved   = errors.New("agent is no longer cached")
	errOutdated  = errors.New("list is older than the view")
	errUnchanged = errors.New("view holds this already")
)

// view is one view's state. Its data is in its file; memory holds what is
// needed to extend it, and the index only while it answers.
type view struct {
	key  Key
	file string

	mu      sync.Mutex
	removed bool       // its agent is no longer cached
	loaded  bool       // the fields below say what the disk holds
	journal *viewFile  // nil if there is nothing complete
	stray   bool       // a file lies in its place that is not its content
	head    endRecord  // the list's own record
	base    uint64     // resourceVersion of the list; changes before it are unknown
	last    uint64     // resourceVersion up to which the view is complete
	listed  int64      // bytes of the file that are the list
	objects int        // none in a document
	index   *index     // nil unless it was asked for
	used    time.Time  // when the index was last asked for
	asOf    time.Time  // when the cloud last confirmed the content
	answer  lastAnswer // that the content was recorded from, if it is one object

	// advanced is when last became what it is, as far as this process has seen it;
	// asked is when the content was last asked for, and restored when the cluster turned
	// out to have been taken back to an earlier state.
	advanced, asked, restored Moment

	// seen is last as of some moment ago, for those who must not wait for mu.
	seen  atomic.Uint64
	lists inflight
	// delivered is the resourceVersion up to which a watch has shown the view to
	// a client, as far as that is not in last; want is what it lacks, nil if it is
	// complete.
	delivered uint64
	want      *want
	// users are the recordings of it, and idle says that nobody has looked it up for
	// a while. Both are the directory's, with its mu held. A view that was retired is
	// another one's predecessor, and has nothing.
	users   int
	idle    bool
	retired bool

	// withdrawn is when the content was last withdrawn. What was asked for before
	// that does not become the content.
	withdrawn Moment
	granted   granted
}

// granted is what an identity was granted of a view since that was last withdrawn, as far
// as this process has seen it: when it last asked for a list, for a watch, and for a watch
// that was refused.
type granted struct{ list, watch, watchRefused Moment }

// inflight are the lists of a view that are being recorded, and the watches that have
// ended and are.
type inflight struct {
	mu    sync.Mutex
	began uint64        // how many ever have
	left  []uint64      // which of them are not done, by their number in ascending order
	next  chan struct{} // closed when another one is done, nil if nobody waits for it
}

// drain is a watch whose body may end before its recording does.
type drain struct {
	mu   sync.Mutex
	over bool
	end  func()
}

// begin says that the body ends.
func (d *drain) begin(i *inflight) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.over && d.end == nil {
		d.end = i.begin()
	}
}

// finish says that the recording has ended.
func (d *drain) finish() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over = true; d.end != nil {
		d.end()
	}
}

// begin registers a list; end must be called when it is recorded or given up.
func (i *inflight) begin() (end func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.began++
	n := i.began
	i.left = append(i.left, n)
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		at, _ := slices.BinarySearch(i.left, n)
		i.left = slices.Delete(i.left, at, at+1)
		if i.next != nil {
			close(i.next)
			i.next = nil
		}
	}
}

// latest is the number of the one that began last, for done.
func (i *inflight) latest() uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.began
}

// done reports whether those up to a number are. If not, another is closed when one
// more is.
func (i *inflight) done(upTo uint64) (done bool, another <-chan struct{}) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.left) == 0 || i.left[0] > upTo {
		return true, nil
	}
	if i.next == nil {
		i.next = make(chan struct{})
	}
	return false, i.next
}

// version is the view's resourceVersion as its clients know it.
func (v *view) version() string {
	if v.last == 0 {
		return v.head.ResourceVersion // not an integer: opaque
	}
	return strconv.FormatUint(v.last, 10)
}

// advance says up to which resourceVersion the view is complete from now on.
func (v *view) advance(version uint64, now Moment) {
	v.last, v.advanced = version, now
	v.seen.Store(version)
}

// load reads the view's file once. v.mu is held.
func (v *view) load(s *Store) {
	if v.loaded || v.removed || v.retired {
		return
	}
	v.loaded = true
	if v.want = s.demand.get(v.file); v.want != nil {
		v.delivered = max(v.delivered, v.want.delivered.Load())
	}
	var l loader
	file, err := s.openFile(v.file, l.read)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case errors.Is(err, errOtherKey):
		v.stray = true // absent until a list replaces it
		return
	case err == nil && !l.ended:
		err = fmt.Errorf("list without end: %w", journal.ErrCorrupt)
		_ = file.Close() // removed below
	}
	if err == nil && l.key != v.key {
		err = fmt.Errorf("holds another view: %w", journal.ErrCorrupt)
		_ = file.Close()
	}
	if err != nil && !isDamage(err) {
		klog.ErrorS(err, "Could not read a cache file", "file", v.file)
		v.loaded = false // for another try
		return
	}
	if err != nil {
		s.removeDamaged(v.file, err)
		v.judge(s)
		s.demand.lose(v.want)
		return
	}
	v.journal, v.head, v.base, v.listed = file, l.end, l.base, l.listed
	v.advance(l.last, 0) // before this process was asked anything
	v.asOf = file.ModTime()
	v.objects = l.objects
	s.ledger.set(v)
}

// removeDamaged removes a file whose content is of no use to anybody.
func (s *Store) removeDamaged(file string, err error) {
	klog.ErrorS(err, "Dropping a cache file that can't be read", "file", file)
	s.metrics.dropped.Inc()
	if err := s.journal.RemoveAll(file); err != nil {
		klog.ErrorS(err, "Could not remove it", "file", file)
	}
	s.ledger.gone(file)
}

// loader checks that a file's records are those of a view, in a legal order.
type loader struct {
	key        Key
	end        endRecord
	base, last uint64
	listed     int64
	objects    int
	started    bool
	ended      bool
	index      *index // filled if set
	until      uint64 // if set, events behind this version are left out
}

func (l *loader) read(pos journal.Position, body []byte) error {
	rec, err := parseRecord(body)
	if err != nil {
		return err
	}
	switch string(rec.typ) {
	case recordView:
		if l.started {
			return fmt.Errorf("%w: %w", errNotLegal, journal.ErrCorrupt)
		}
		h, err := rec.header()
		if err != nil {
			return err
		}
		l.started, l.key = true, h.Key
		return nil
	case recordEnd:
		if !l.started || l.ended {
			return fmt.Errorf("%w: %w", errNotLegal, journal.ErrCorrupt)
		}
		if err := rec.unmarshal(&l.end); err != nil {
			return err
		}
		l.ended, l.base = true, parseVersion(l.end.ResourceVersion)
		l.last, l.listed = l.base, pos.Offset+int64(pos.Length)
		return nil
	}
	version := parseVersion(string(rec.version))
	if l.ended && version > l.last {
		l.last = version
	}
	if l.ended && l.until != 0 && version > l.until {
		return nil
	}
	l.objects += objectsMore(string(rec.typ))
	if l.index != nil {
		l.index.add(rec, pos)
	}
	return nil
}

// install makes a staged list the view's content. It was asked for at a moment, and
// consistent says that the client wanted the newest state, not any. v.mu is held.
func (v *view) install(s *Store, staged *viewFile, end endRecord, asked Moment, consistent bool) error {
	if v.removed || v.retired {
		return errRemoved
	}
	v.load(s)
	version := parseVersion(end.ResourceVersion)
	back, err := v.goesBack(version, asked, consistent)
	if err != nil {
		return err
	}
	if err := v.put(s, staged, end, asked); err != nil {
		return err
	}
	if back {
		v.restored = s.moments.now()
	}
	return nil
}

// put makes a staged list the view's content, whatever that is now. v.mu is held.
func (v *view) put(s *Store, staged *viewFile, end endRecord, asked Moment) error {
	if err := staged.Publish(); err != nil {
		return err
	}
	version := parseVersion(end.ResourceVersion)
	if version < v.last {
		v.delivered = 0 // was of what is no more
	}
	if v.journal != nil {
		_ = v.journal.Close() // replaced; its readers hold their own reference
	}
	v.journal, v.head, v.base, v.stray, v.asked = staged, end, version, false, asked
	v.advance(version, s.moments.now())
	v.listed, v.index, v.asOf = staged.Size(), nil, s.clock.Now()
	v.objects = end.Count
	if v.key.isDocument() {
		v.objects = 0
	}
	return nil
}

// goesBack reports whether a list takes the view back, or says that the list is
// outdated: another client's list or watch has brought the view further, or may have
// while this one was on its way. Only a cluster that was restored from a backup
// answers a consistent read with less than it had said before it was asked. A
// refusal is of no state, and ends with any answer to what was asked after it; that
// there is no such object only with one that is not older.
func (v *view) goesBack(version uint64, asked Moment, consistent bool) (bool, error) {
	switch {
	case asked <= v.withdrawn, asked <= v.restored, version == 0 && asked < v.asked:
		return false, errOutdated
	case v.journal == nil || version >= v.last || version == 0, v.head.Refused == http.StatusForbidden, consistent && v.head.Refused != 0:
		return false, nil
	case !consistent || asked <= v.advanced:
		return false, errOutdated
	}
	return true, nil
}

// objectsMore is by how many objects a record makes a view larger.
func objectsMore(typ string) int {
	switch typ {
	case recordObject, capture.Added:
		return 1
	case capture.Deleted:
		return -1
	}
	return 0
}

// drop forgets the view's content and removes its file. v.mu is held.
func (v *view) drop(s *Store) error {
	v.load(s)
	if v.journal == nil && v.loaded && !v.stray {
		return nil
	}
	v.forget(s)
	err := s.journal.RemoveAll(v.file)
	v.stray = err != nil // and to be removed by another try
	return err
}

// dropDamaged drops a view that turned out to be damaged. v.mu is held.
func (v *view) dropDamaged(s *Store) {
	s.metrics.dropped.Inc()
	if err := v.drop(s); err != nil {
		s.failed(v, err)
	}
	if v.want != nil {
		s.demand.lose(v.want)
	}
}

// forget gives up the view's content; its file is removed by whoever calls.
// v.mu is held.
func (v *view) forget(s *Store) {
	lost := v.journal != nil && v.head.Refused == 0
	if v.journal != nil {
		_ = v.journal.Close() // its file is removed
	}
	v.journal, v.index, v.head, v.base, v.loaded, v.stray = nil, nil, endRecord{}, 0, true, false
	v.advance(0, s.moments.now())
	s.ledger.gone(v.file)
	if lost {
		v.judge(s)
	}
}

// extend appends an event that is newer than the view. v.mu is held.
func (v *view) extend(s *Store, ev *capture.Event, version uint64, scratch []byte) ([]byte, error) {
	if ev.Type == capture.BookmarkType {
		if err := appendBookmark(v.journal, ev.Object.ResourceVersion); err != nil {
			return scratch, err
		}
		v.advance(version, s.moments.now())
		return scratch, nil
	}
	pos, scratch, err := appendObject(v.journal, scratch, ev.Type, &ev.Object)
	if err != nil {
		return scratch, err
	}
	v.advance(version, s.moments.now())
	v.objects += objectsMore(ev.Type)
	if v.index != nil {
		v.index.apply(ev.Type, objectKey(ev.Object.Namespace, ev.Object.Name), version, pos)
	}
	return scratch, nil
}

// snapshot returns the view's content for an answer, nil if it has none. The
// caller releases it.
func (v *view) snapshot(s *Store) (*snapshot, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.load(s)
	if v.journal == nil {
		return nil, nil
	}
	if v.index == nil {
		l := loader{index: newIndex()}
		if err := v.journal.Scan(l.read); err != nil && !isDamage(err) {
			return nil, err
		} else if err != nil {
			klog.ErrorS(err, "Dropping a cache file that went bad", "file", v.file)
			v.dropDamaged(s)
			return nil, nil
		}
		v.index = l.index
	}
	v.used = s.clock.Now()
	s.ledger.use(v)
	if !v.journal.Acquire() {
		return nil, errRemoved
	}
	return &snapshot{
		key: v.key, journal: v.journal, head: v.head, base: v.base, last: v.last,
		version: v.version(), asOf: v.asOf, advanced: v.advanced,
		objects: v.index.list(), events: slices.Clip(v.index.events), chunks: v.index.chunks,
	}, nil
}

// snapshot is a view at one moment. It stays as it is while the view goes on.
type snapshot struct {
	key        Key
	journal    *viewFile
	head       endRecord
	base, last uint64
	version    string
	asOf       time.Time
	advanced   Moment
	objects    []entry
	events     []event
	chunks     []journal.Position
}

// rewind takes the snapshot back to a version that its journal still tells.
func (s *snapshot) rewind(version uint64) error {
	l := loader{index: newIndex(), until: version}
	if err := s.journal.Scan(l.read); err != nil {
		return apierrors.NewInternalError(err)
	}
	s.objects, s.events, s.last, s.version = l.index.list(), nil, version, strconv.FormatUint(version, 10)
	return nil
}

// record reads a record into buf, which is returned to be used again.
func (s *snapshot) record(pos journal.Position, buf []byte) (record, []byte, error) {
	buf, err := grow(buf, int(pos.Length))
	if err != nil {
		return record{}, buf, err
	}
	body, err := s.journal.Read(pos, buf)
	if err != nil {
		return record{}, buf, err
	}
	rec, err := parseRecord(body)
	return rec, buf, err
}

func (s *snapshot) release() { _ = s.journal.Release() } // reading only
