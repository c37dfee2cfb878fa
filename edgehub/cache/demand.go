package cache

import (
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Missing says in a word why something that a program asked for is not on the disk
// as it was delivered.
type Missing string

// The reasons, the most telling first.
const (
	// NotWarm: somebody watches what was listed before it was cached.
	NotWarm Missing = "NotWarm"
	// TooLarge: the quota has no room for it.
	TooLarge Missing = "TooLarge"
	// DiskFailed: the disk did not take it.
	DiskFailed Missing = "Disk"
	// SecretsDenied: it is a Secret, and a policy keeps those off the disk.
	SecretsDenied Missing = "SecretsDenied"
	// Incomplete: it is not there yet, or behind what was delivered.
	Incomplete Missing = "Incomplete"
)

const (
	// maxWants bounds the views that are known to be missing. One too many makes some
	// leave of the tenant that has the most, see surplus.
	maxWants = 10000
	// maxOverflowed bounds the agents and namespaces that are known to miss more.
	maxOverflowed = 1000
	// overflowMinutes is for how long they are taken to, from the last time on.
	overflowMinutes = 24 * 60
	// idleMinutes is for how long nobody may watch a view whose list is missing
	// before nobody is taken to depend on it: a client that lives watches again
	// within moments, and one that starts lists first.
	idleMinutes = 15
)

// demand is what was asked for and is missing on the disk. It is what a restart of
// the programs without the cloud would fail for, so it outlasts the hub's own.
type demand struct {
	mu         sync.Mutex
	wants      map[string]*want     // by the view's file
	overflowed map[string]int       // pairs that miss more than there is room for in wants, and for how many minutes
	relists    map[string]int64     // watches that were ended, by pair
	behindAt   map[string]time.Time // when a view that is behind was last listed again
	nextBehind time.Time            // before that none is
	changed    bool                 // since it was saved
}

// want is one view that is missing, or behind.
type want struct {
	holder holder
	// gap is what the view itself lacks, and fault why it could not be kept;
	// one of them is set.
	gap, fault Missing
	// delivered is the resourceVersion up to which a watch has shown the view to
	// a client, 0 if none has. The view's recordings write it.
	delivered atomic.Uint64
	idle      int // minutes for which nobody has watched it
	// lost says that the view was there and turned out to be damaged, or may have been
	// there before the hub was killed.
	lost bool

	// due is when its watches are ended next so that their clients list again,
	// wait how long it is until the time after that, and armed says that the
	// next watch is to be answered 410.
	due   time.Time
	wait  time.Duration
	armed bool
}

func (w *want) reason() Missing {
	if w.fault != "" {
		return w.fault
	}
	return w.gap
}

func newDemand() *demand {
	return &demand{wants: map[string]*want{}, overflowed: map[string]int{}, relists: map[string]int64{}, behindAt: map[string]time.Time{}}
}

// want is called with d.mu held.
func (d *demand) want(file string) *want {
	w := d.wants[file]
	if w == nil {
		w = &want{holder: holderOfFile(file)}
		if len(d.wants) >= maxWants {
			d.makeRoom(w.holder)
		}
		d.wants[file] = w
	}
	return w
}

// makeRoom forgets some of what is missing: first what can't be listed again, for it is
// too large, or nobody has been shown it by a watch. d.mu is held.
func (d *demand) makeRoom(own holder) {
	of := func(_ string, w *want) holder { return w.holder }
	last := func(w *want) bool { return w.fault == TooLarge || w.delivered.Load() == 0 }
	for _, file := range surplus(d.wants, own, of, last) {
		pair := d.wants[file].holder.pair()
		delete(d.wants, file)
		if _, known := d.overflowed[pair]; known || len(d.overflowed) < maxOverflowed {
			d.overflowed[pair] = 0
		}
	}
	d.changed = true
}

// surplus is which of the files that something is known of are forgotten when there are
// too many: a sixteenth of what the tenant has that has the most, lest each further one
// looks through all, and first those that are worth the least.
func surplus[V any](files map[string]V, own holder, of func(string, V) holder, least func(V) bool) []string {
	count, byTenant := map[holder]int64{}, map[tenant][]string{}
	for file, v := range files {
		h := of(file, v)
		count[h]++
		byTenant[h.tenant()] = append(byTenant[h.tenant()], file)
	}
	most := byTenant[mostOf(count, own).tenant()]
	slices.SortFunc(most, func(a, b string) int { return first(least(files[b]), least(files[a])) })
	return most[:(len(most)+15)/16]
}

// note says what a view itself lacks, "" for nothing, and up to where it was
// delivered. It returns what is known to be missing, nil if nothing is.
func (d *demand) note(file string, gap Missing, delivered uint64) *want {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.wants[file]
	if gap == "" && w == nil {
		return nil
	}
	w = d.want(file)
	if w.gap != gap {
		w.gap, d.changed = gap, true
	}
	w.delivered.Store(max(w.delivered.Load(), delivered))
	return d.settle(file, w)
}

// settle forgets a view that lacks nothing. d.mu is held.
func (d *demand) settle(file string, w *want) *want {
	if w.gap != "" || w.fault != "" {
		return w
	}
	delete(d.wants, file)
	d.changed = true
	return nil
}

// fault says why a view could not be kept, "" if it was.
func (d *demand) fault(file string, reason Missing) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.wants[file]
	if w == nil && reason == "" {
		return
	}
	if w = d.want(file); w.fault == reason {
		return
	}
	w.fault, d.changed = reason, true
	d.settle(file, w)
}

// forget says that nobody asks for a view any more.
func (d *demand) forget(file string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wants[file] != nil {
		delete(d.wants, file)
		d.changed = true
	}
}

func (d *demand) get(file string) *want {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.wants[file]
}

// reasons are those of the views that are missing, by file.
func (d *demand) reasons() map[string]Missing {
	d.mu.Lock()
	defer d.mu.Unlock()
	reasons := make(map[string]Missing, len(d.wants))
	for file, w := range d.wants {
		reasons[file] = w.reason()
	}
	return reasons
}

// idle forgets what only watches asked for that nobody watches any more. It is
// called every minute in which clients could reach the cloud.
func (d *demand) idle(watched func(file string) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for pair := range d.overflowed {
		if d.overflowed[pair]++; d.overflowed[pair] >= overflowMinutes {
			delete(d.overflowed, pair)
			d.changed = true
		}
	}
	for file, w := range d.wants {
		switch {
		case w.fault != "" || w.delivered.Load() == 0 || watched(file):
			w.idle = 0
		default:
			if w.idle++; w.idle >= idleMinutes {
				delete(d.wants, file)
				d.changed = true
			}
		}
	}
}

// accountOfFile is the agent and the identity that a file belongs to. An identity
// whose name is too long for a directory's is cut short, behind its namespace.
func accountOfFile(file string) (agent, identity string) {
	parts := strings.SplitN(file, "/", 3)
	if len(parts) < 3 {
		return agentOfFile(file), ""
	}
	identity, ok := named(parts[1])
	if !ok {
		identity = parts[1]
	}
	return agentOfFile(file), identity
}

// review forgets what is not to be cached any more, and says of Secrets whether they
// are. It is called before what is denied is removed.
func (s *Store) review(caches func(agent string) bool) {
	denied := func(file string) bool {
		agent, identity := accountOfFile(file)
		return holdsSealed(path.Dir(file)) && s.denySecrets(agent, identity)
	}
	admitted := func(file string) bool {
		agent, identity := accountOfFile(file)
		return caches(agent) && s.admits(agent, identity)
	}
	s.ledger.mu.Lock()
	files := slices.Collect(maps.Keys(s.ledger.files))
	s.ledger.mu.Unlock()
	for _, file := range files {
		if admitted(file) && denied(file) {
			s.demand.note(file, SecretsDenied, 0)
		}
	}
	d := s.demand
	d.mu.Lock()
	defer d.mu.Unlock()
	for file, w := range d.wants {
		switch {
		case !admitted(file):
			delete(d.wants, file)
			d.changed = true
		case denied(file) != (w.gap == SecretsDenied):
			if w.gap = SecretsDenied; !denied(file) {
				w.gap = Incomplete
			}
			w.fault, d.changed = "", true
		}
	}
	for pair := range d.overflowed {
		if !caches(agentOf(pair)) {
			delete(d.overflowed, pair)
		}
	}
	for pair := range d.relists {
		if !caches(agentOf(pair)) {
			delete(d.relists, pair)
		}
	}
}

// judge notes whether a view is complete, and up to what its clients were shown.
// v.mu is held.
func (v *view) judge(s *Store) {
	gap := Missing("")
	switch {
	case v.removed:
		return
	case v.journal == nil && v.delivered > 0:
		gap = NotWarm
	case v.journal == nil, v.last != 0 && v.delivered > v.last:
		gap = Incomplete
	}
	if gap != "" || v.want != nil {
		lost := gap == NotWarm && v.want == nil && s.mayHaveLost(v.key.Agent)
		if v.want = s.demand.note(v.file, gap, v.delivered); lost {
			s.demand.lose(v.want)
		}
	}
}

// afterStart is for how long after a start clients come back that the hub had when it
// ended: they try again at least every 30 seconds.
const afterStart = 5 * time.Minute

// mayHaveLost reports whether a view that nobody knew to be missing may have been on
// the disk if the hub had not been killed, or somebody had not removed it: its list was
// delivered through the hub.
func (s *Store) mayHaveLost(agent string) bool {
	return s.state != nil && (s.before.Has(agent) || s.always(agent)) && s.clock.Since(s.opened) <= afterStart
}

// lose notes that a view was lost, or may have been.
func (d *demand) lose(w *want) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w.lost, d.changed = true, true
}

// shown notes that a watch shows its client the view as of a version, whether or
// not it is recorded. v.mu is held.
func (v *view) shown(s *Store, version uint64) {
	if version > v.delivered {
		v.delivered = version
		if v.want != nil {
			v.want.delivered.Store(version)
		}
	}
	if v.want == nil {
		v.judge(s)
	}
}

// faulted has the view's watches count for a fault that was noted of it: they are what
// is ended for it to be listed again. v.mu is held.
func (v *view) faulted(s *Store) {
	if v.want = s.demand.get(v.file); v.want != nil {
		v.want.delivered.Store(max(v.want.delivered.Load(), v.delivered))
	}
}

// mended ends a fault that has lost nothing, or what another watch has made up for:
// the view is as far as its clients, and what came last could be written. v.mu is held.
func (v *view) mended(s *Store) {
	if v.delivered <= v.last && s.disk.status() == nil {
		s.refusals.mended(v.file)
	}
	v.judge(s)
}

// asked notes that the recording's client asks for the view.
func (r *recording) asked() {
	v := r.view
	v.mu.Lock()
	defer v.mu.Unlock()
	v.load(r.store)
	v.judge(r.store)
}

// confirmed notes that the cloud has answered what the view holds.
func (r *recording) confirmed() {
	v := r.view
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.want == nil {
		return
	}
	if !r.store.refusals.has(v.file) {
		r.store.demand.fault(v.file, "")
	}
	v.judge(r.store)
}

// unrecorded notes that an answer can't be recorded.
func (s *Store) unrecorded(q Query) {
	if q.format.as == table {
		return // printed for people
	}
	file := q.Key.file()
	d := q.Key.directory()
	s.mu.Lock()
	cached := s.caches != nil && s.caches(d.agent) && s.admits(d.agent, d.identity)
	s.mu.Unlock()
	switch {
	case !cached:
	case d.sealed() && s.denySecrets(d.agent, d.identity):
		s.demand.note(file, SecretsDenied, 0)
	case !s.ledger.knows(file):
		s.demand.note(file, Incomplete, 0)
	}
}

// missingFor is what a reason that something is not kept means to its programs.
func missingFor(reason string) Missing {
	switch reason {
	case reasonQuota, overAgentQuota, overTotalQuota:
		return TooLarge
	case reasonOverflow:
		return Incomplete
	}
	return DiskFailed
}

// incomplete counts the views that are missing, or behind, by reason: those of a
// fault in detail.
func (s *Store) incomplete() map[string]int {
	count := s.refusals.count()
	for file, reason := range s.demand.reasons() {
		switch {
		case s.refusals.has(file):
		case reason == NotWarm:
			count["not_warm"]++
		case reason == SecretsDenied:
			count["secrets_denied"]++
		default:
			count["incomplete"]++
		}
	}
	return count
}
