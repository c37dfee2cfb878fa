// Package cache keeps what programs read from kube-apiserver, as views, and
// answers the same reads while kube-apiserver can't.
//
// A view is one (agent, identity, resource, scope): a list and the watch events
// that followed, in one journal file. Store.Record copies answers of
// kube-apiserver into views as they stream by; Store.Answer serves a request
// from the view it would have read, or from a broader one of the same agent
// and identity.
package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/seal"
)

// Options are a Store's settings.
type Options struct {
	FS       journal.FS            // the cache directory
	Registry prometheus.Registerer // nil for none
	Clock    clock.WithTicker      // nil for the real one
	Journal  journal.Options
	Quota    Quota
	// Listed says which agents metrics name; others are "other". Nil names
	// every agent.
	Listed func(agent string) bool
	// Key is what Secrets are sealed with. Without one they are not kept.
	Key *seal.Key
	// DenySecrets reports whether the Secrets that an identity reads under an
	// agent must not be kept. It must be quick, must not call the Store, and may
	// change its mind; call SetAgents when it has. Nil denies none.
	DenySecrets func(agent, identity string) bool
	// Admits reports whether anything that an identity reads under a cached agent
	// may be kept. The same holds for it; nil admits everybody.
	Admits func(agent, identity string) bool
	// AlwaysCached reports whether an agent is one that nobody has used before it was
	// cached; nil if none is.
	AlwaysCached func(agent string) bool
	// Relists reports whether watches of the ServiceAccounts of a namespace, as an
	// agent, whose list was not cached are ended, so that their clients list
	// again. The same holds for it; nil relists nobody.
	Relists func(agent, namespace string) bool
	// RelistSpread is within which time, at random, a watch is ended for the first
	// time: what one change of the configuration asks for is asked for on every
	// node. It is DefaultRelistSpread if zero.
	RelistSpread time.Duration
	// Online reports whether clients can reach the cloud; nil if they always can.
	Online func() bool
	// State is the directory for what the Store must know of the cache when it is
	// opened again. Nil forgets.
	State *os.Root
}

// Store is all views of a node.
type Store struct {
	journal     *journal.Store
	clock       clock.WithTicker
	opened      time.Time
	before      sets.Set[string] // agents of which an earlier run has left a directory
	always      func(agent string) bool
	metrics     *metrics
	budget      budget
	pages       pages
	recordings  sync.WaitGroup
	unfinished  atomic.Int64 // recordings of answers that end by themselves
	withdrawals withdrawals
	moments     moments

	sealKey      *seal.Key // nil for none
	denySecrets  func(agent, identity string) bool
	admits       func(agent, identity string) bool
	relists      func(agent, namespace string) bool
	relistSpread time.Duration
	online       func() bool
	demand       *demand
	watches      watches

	state        *os.Root // nil for none
	saving       sync.Mutex
	saveAfter    time.Time // before that it would fail again
	savedObjects time.Time
	lastObjects  map[string]int

	ledger   *ledger
	disk     *disk
	refusals refusals
	reliefs  reliefs
	losses   losses
	closing  context.Context
	close    context.CancelFunc

	agentsMu sync.Mutex    // one SetAgents at a time
	scanned  chan struct{} // closed once what a start finds on the disk is accounted for

	// The live path takes mu, and views.mu: nothing reads or writes a file
	// while it holds one of them.
	mu     sync.Mutex
	caches func(agent string) bool // nil until the first SetAgents
	dirs   map[directory]*views
	absent map[directory]refused // of what is not in dirs yet
}

// Open returns the store over a cache directory. It reads no view before one is
// asked for.
func Open(options Options) *Store {
	s := &Store{clock: options.Clock, scanned: make(chan struct{}), dirs: map[directory]*views{}, absent: map[directory]refused{}, sealKey: options.Key, denySecrets: options.DenySecrets}
	if s.denySecrets == nil {
		s.denySecrets = func(string, string) bool { return false }
	}
	if s.admits = options.Admits; s.admits == nil {
		s.admits = func(string, string) bool { return true }
	}
	if s.clock == nil {
		s.clock = clock.RealClock{}
	}
	if s.relists = options.Relists; s.relists == nil {
		s.relists = func(string, string) bool { return false }
	}
	s.relistSpread = cmp.Or(options.RelistSpread, DefaultRelistSpread)
	if s.online = options.Online; s.online == nil {
		s.online = func() bool { return true }
	}
	s.opened = s.clock.Now()
	s.state, s.demand = options.State, newDemand()
	s.refusals.demand = s.demand
	s.restoreDemand()
	s.budget.left = pipesLimit
	s.closing, s.close = context.WithCancel(context.Background())
	s.ledger = newLedger(options.Quota, s.clock)
	s.metrics = newMetrics()
	s.disk = &disk{fs: options.FS, clock: s.clock, metrics: s.metrics, failed: make(chan struct{}, 1)}
	options.Journal.OnError = s.lost
	options.Journal.OnStaged = s.ledger.grewStaged
	s.journal = journal.Open(journal.Observe(options.FS, s.disk.observe), options.Journal)
	s.before = s.agentsOnDisk()
	if s.always = options.AlwaysCached; s.always == nil {
		s.always = func(string) bool { return false }
	}
	if options.Registry != nil {
		s.metrics.register(options.Registry, s, options.Listed)
	}
	return s
}

// agentsOnDisk are those that have a directory.
func (s *Store) agentsOnDisk() sets.Set[string] {
	agents := sets.Set[string]{}
	entries, err := s.journal.ReadDir(".")
	if err != nil {
		klog.ErrorS(err, "Could not look for what an earlier run has cached")
	}
	for _, e := range entries {
		if agent, ok := agentOfPath(e.Name()); ok && e.IsDir() {
			agents.Insert(agent)
		}
	}
	return agents
}

// Run does the store's housekeeping until ctx ends.
func (s *Store) Run(ctx context.Context) {
	var quota sync.WaitGroup
	defer quota.Wait()
	quota.Go(func() { s.keepWithinQuota(ctx) })
	quota.Go(func() { s.followWatches(ctx) })
	ticker := s.clock.NewTicker(time.Minute)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
			s.pages.expire(false)
			s.forgetIndexes()
			s.retire()
		}
	}
}

// AwaitScan waits until Run has found what an earlier run has left on the disk, which
// Usages and Unkept don't know of before. An error is ctx's.
func (s *Store) AwaitScan(ctx context.Context) error {
	select {
	case <-s.scanned:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close waits for the recordings, whose bodies must have ended, and makes
// everything durable.
func (s *Store) Close() error {
	s.recordings.Wait()
	s.pages.expire(true)
	s.close()
	s.saveDemand()
	s.saveObjects(true)
	return s.journal.Close()
}

// SetAgents says which agents are cached. Views of others are removed, on disk
// as in memory, and so are those that Options.DenySecrets denies or Options.Admits
// does not admit. Until it is
// called nothing is cached, and nothing is removed.
func (s *Store) SetAgents(caches func(agent string) bool) error {
	s.agentsMu.Lock()
	defer s.agentsMu.Unlock()
	s.review(caches)
	// From here on no view of another agent is made or found; those that
	// exist are ended without s.mu, which the live path takes.
	s.mu.Lock()
	s.caches = caches
	gone := map[directory]*views{}
	for dir, views := range s.dirs {
		if !caches(dir.agent) || s.denies(dir) {
			gone[dir] = views
			delete(s.dirs, dir)
		}
	}
	s.mu.Unlock()
	var errs []error
	remove := map[string]bool{}
	for dir, views := range gone {
		views.remove()
		if !caches(dir.agent) {
			remove[agentPath(dir.agent)] = true
		} else { // the disk may not tell of it yet
			errs = append(errs, s.removeDirectory(dir.path()))
		}
	}
	entries, err := s.journal.ReadDir(".")
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, e := range entries {
		if agent, ok := agentOfPath(e.Name()); e.IsDir() && (!ok || !caches(agent)) || remove[e.Name()] {
			klog.InfoS("Removing the cache of an agent that is no longer listed", "directory", e.Name())
			errs = append(errs, s.journal.RemoveAll(e.Name()))
			s.ledger.gone(e.Name())
		}
	}
	errs = append(errs, s.removeDenied(), s.journal.SyncRemoved())
	s.refusals.keep(caches)
	for _, l := range s.watches.unrecorded() {
		s.unwarmed(l)
	}
	s.ledger.signal() // the quota may have changed as well
	return errors.Join(errs...)
}

// KeepAgents says which agents are cached, and leaves what there is of others
// for a later SetAgents.
func (s *Store) KeepAgents(caches func(agent string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.caches = caches
}

// isDamage reports whether an error says that a file's content is of no use,
// rather than that it could not be read.
func isDamage(err error) bool {
	return errors.Is(err, journal.ErrCorrupt) || errors.Is(err, errFormat) || errors.Is(err, errNotLegal)
}

// isUseless reports whether an error says that a file can't become a view, unless
// the hub is started with another key.
func isUseless(err error) bool { return isDamage(err) || errors.Is(err, errOtherKey) }

var errStop = errors.New("read enough")

// keyOf reads a file's first record.
func (s *Store) keyOf(file string) (key Key, err error) {
	f, err := s.openFile(file, func(_ journal.Position, body []byte) error {
		rec, err := parseRecord(body)
		if err != nil {
			return err
		}
		if string(rec.typ) != recordView {
			return errNotLegal
		}
		h, err := rec.header()
		if err != nil {
			return err
		}
		key = h.Key
		return errStop
	})
	if errors.Is(err, errStop) {
		return key, nil
	}
	if err == nil {
		err = errors.Join(fmt.Errorf("empty: %w", journal.ErrCorrupt), f.Close())
	}
	return key, err
}

// Knows reports whether the store holds anything of an identity under an agent.
func (s *Store) Knows(agent, identity string) bool {
	if s.ledger.has(path.Dir(directory{agent: agent, identity: identity, resource: "x"}.path())) {
		return true
	}
	// Not all of the disk may be accounted for yet.
	entries, err := s.journal.ReadDir(path.Dir(directory{agent: agent, identity: identity, resource: "x"}.path()))
	return err == nil && len(entries) > 0
}

// forgetIndexes frees the indexes that no answer used lately.
func (s *Store) forgetIndexes() {
	for _, v := range s.all() {
		v.mu.Lock()
		if v.index != nil && s.clock.Since(v.used) > time.Minute {
			v.index = nil
		}
		v.mu.Unlock()
	}
}

// lost is told by the journal that a file did not become durable.
func (s *Store) lost(name string, err error) {
	// The journal's goroutine must not wait for a view's lock, whose holder
	// may be waiting for the journal.
	if errors.Is(err, journal.ErrUnwritten) {
		go s.relieveEvents(name, err) // the file is complete, in part in memory
		return
	}
	go s.writeAnew(name, err)
}

// writeAnew writes a view anew that the disk has lost, at once the first time
// and then less and less often. Meanwhile it is answered from what can be read.
func (s *Store) writeAnew(name string, cause error) {
	var v *view
	for _, other := range s.all() {
		if other.file == name {
			v = other
		}
	}
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	news := s.failed(v, cause)
	lost := v.journal
	if pause := s.losses.pause(name, s.clock.Now()); pause > 0 {
		v.mu.Unlock()
		select {
		case <-s.clock.After(pause):
		case <-s.closing.Done():
		}
		v.mu.Lock()
	}
	if lost == nil || v.journal != lost {
		return // dropped, or replaced by a list
	}
	if err := s.rewrite(v); err != nil {
		s.failed(v, err)
		return
	}
	if news {
		s.refusals.kept(name)
		v.judge(s)
	}
}

// failed accounts for a view of which something could not be written, and
// reports whether that is news. v.mu is held.
func (s *Store) failed(v *view, err error) bool {
	reason := faultOf(err)
	if reason == "" {
		reason = reasonOther
	}
	klog.V(2).InfoS("A view could not be written", "file", v.file, "reason", err)
	news := s.refusals.behind(v.file, reason)
	v.faulted(s)
	return news
}
