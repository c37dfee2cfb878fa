package cache

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// Quota bounds the bytes of the files in the cache directory; 0 is no bound.
//
// Views that would exceed it make others leave, least recently used first:
// those of a holder that is over its own bound, then those of whoever has the
// most, see rank, until the total fits. So a tenant that has no more than its
// share of what the node leaves loses nothing to another. A list that would itself
// have to leave is not kept, and nothing leaves for it.
//
// Views are counted as well, whatever the quota: what a program may ask for has no
// end, and each has a file and a place in memory, however short it is.
//
// A list that is being recorded takes room beside the view that it will
// replace. For as long as that lasts the lists being recorded may take as much
// again as the quota.
type Quota struct {
	Total int64
	// PerAgent bounds what the ServiceAccounts of one namespace have as one
	// agent, and what any other caller has as one: namespaces are tenants, who
	// must not evict what another has.
	PerAgent int64
	// Of returns a bound in place of PerAgent, ok is false if there is none.
	// namespace is that of the ServiceAccounts, "" for all other callers. It
	// may change its mind. Nil if there never is one.
	Of func(agent, namespace string) (bytes int64, ok bool)
}

func (q Quota) of(h holder) int64 {
	if q.Of != nil {
		if bytes, ok := q.Of(h.agent, h.namespace); ok {
			return bytes
		}
	}
	return q.PerAgent
}

const (
	// maxHolderViews and maxViews bound the files of one holder and of all. A
	// sixteenth leaves with one that is too many, lest each new one sorts all.
	maxHolderViews = 1 << 14
	maxViews       = 1 << 16
)

// ledger accounts for the bytes on the disk, by file. Nothing reads or writes a
// file while it holds mu.
type ledger struct {
	quota Quota
	clock clock.PassiveClock
	over  chan struct{} // signalled when something grew beyond the quota

	maxHolderViews, maxViews int

	mu      sync.Mutex
	files   map[string]*account
	holders map[holder]*share
	readers map[string]int  // how many files an agent and identity have, by directory
	left    map[string]bool // what was removed while a start looks through the disk
	total   int64
	staged  int64 // bytes of lists that are being recorded
}

// account is one view's file.
type account struct {
	file    string
	holder  holder
	size    int64
	objects int       // as far as this process knows
	used    time.Time // when it was last answered from or written to
	asOf    time.Time // when the cloud last confirmed it, if known
	touched bool      // the disk knows of used
	foreign bool      // sealed with another key
}

// share is what one holder has.
type share struct {
	bytes, staged  int64
	views, objects int
}

func newLedger(quota Quota, clock clock.PassiveClock) *ledger {
	return &ledger{quota: quota, clock: clock, maxHolderViews: maxHolderViews, maxViews: maxViews, over: make(chan struct{}, 1), files: map[string]*account{}, holders: map[holder]*share{}, readers: map[string]int{}, left: map[string]bool{}}
}

// agentOfFile is the agent in whose directory a file is.
func agentOfFile(file string) string {
	dir, _, _ := strings.Cut(file, "/")
	if agent, ok := agentOfPath(dir); ok {
		return agent
	}
	return dir
}

// share is called with l.mu held.
func (l *ledger) share(h holder) *share {
	s := l.holders[h]
	if s == nil {
		s = &share{}
		l.holders[h] = s
	}
	return s
}

// put makes an account what it is now. l.mu is held.
func (l *ledger) put(file string, size int64, objects int) *account {
	a := l.files[file]
	if a == nil {
		a = &account{file: file, holder: holderOfFile(file)}
		l.files[file] = a
		l.share(a.holder).views++
		l.readers[readerOfFile(file)]++
	}
	s := l.share(a.holder)
	s.bytes += size - a.size
	l.total += size - a.size
	s.objects += objects - a.objects
	a.size, a.objects = size, objects
	if limit := l.quota.of(a.holder); limit > 0 && s.bytes > limit || l.quota.Total > 0 && l.total > l.quota.Total ||
		s.views > l.maxHolderViews || len(l.files) > l.maxViews {
		l.signal()
	}
	return a
}

func (l *ledger) signal() {
	select {
	case l.over <- struct{}{}:
	default:
	}
}

// set accounts for a view that is on the disk and was read or written just now.
// v.mu is held.
func (l *ledger) set(v *view) {
	size := v.journal.Size()
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.put(v.file, size, v.objects)
	a.used, a.asOf, a.touched, a.foreign = l.clock.Now(), v.asOf, false, false
}

// found accounts for a file that was there when the hub started, unless it was removed
// since.
func (l *ledger) found(file string, size int64, objects int, used time.Time, foreign bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := file; name != "."; name = path.Dir(name) {
		if l.left[name] {
			return
		}
	}
	if l.files[file] == nil {
		a := l.put(file, size, objects)
		a.used, a.touched, a.foreign = used, true, foreign
	}
}

// complete says that a start has found all there is.
func (l *ledger) complete() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = nil
}

// use says that a view was answered from, or confirmed by the cloud.
func (l *ledger) use(v *view) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.files[v.file]; a != nil {
		a.used, a.asOf, a.touched = l.clock.Now(), v.asOf, false
	}
}

// gone says that a file was removed, or a directory with all it holds.
func (l *ledger) gone(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left != nil {
		l.left[name] = true
	}
	if l.files[name] != nil {
		l.remove(name)
		return
	}
	for file := range l.files {
		if strings.HasPrefix(file, name+"/") {
			l.remove(file)
		}
	}
}

// remove is called with l.mu held.
func (l *ledger) remove(file string) {
	a := l.put(file, 0, 0)
	delete(l.files, file)
	l.share(a.holder).views--
	if reader := readerOfFile(file); l.readers[reader] > 1 {
		l.readers[reader]--
	} else {
		delete(l.readers, reader)
	}
	l.forget(a.holder)
}

// forget drops a holder that has nothing. l.mu is held.
func (l *ledger) forget(h holder) {
	if *l.holders[h] == (share{}) {
		delete(l.holders, h)
	}
}

// readerOfFile is the directory of an agent and identity that a file is in.
func readerOfFile(file string) string { return path.Dir(path.Dir(file)) }

// has reports whether an agent and identity have a file, by their directory.
func (l *ledger) has(reader string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.readers[reader] > 0
}

// knows reports whether a file is accounted for, and of use.
func (l *ledger) knows(file string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.files[file]
	return a != nil && !a.foreign
}

// grewStaged is told by the journal of lists that are being recorded.
func (l *ledger) grewStaged(file string, bytes int64) {
	h := holderOfFile(file)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.share(h).staged += bytes
	l.staged += bytes
	l.forget(h)
}

// mayStage reports whether a list that has a size so far may grow on. If that is
// only because of what others stage, other is whoever stages the most.
func (l *ledger) mayStage(v *view) (ok bool, other *holder) {
	own := holderOfFile(v.file)
	l.mu.Lock()
	defer l.mu.Unlock()
	s, limit := l.holders[own], l.quota.of(own)
	switch {
	case s == nil:
		return true, nil
	case limit > 0 && s.staged > limit:
		return false, nil
	case l.quota.Total == 0 || l.staged <= l.quota.Total:
		return true, nil
	}
	staged := map[holder]int64{}
	for h, s := range l.holders {
		staged[h] = s.staged
	}
	if most := mostOf(staged, own); most != own {
		return false, &most
	}
	return false, nil
}

// admit makes room for a list that is complete: it returns the files that must
// leave for it, and counts it from now on. ok is false if it must not be kept.
func (l *ledger) admit(v *view, size int64) (leave []eviction, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	objects := 0
	if a := l.files[v.file]; a != nil {
		objects = a.objects
	}
	if leave, ok = l.plan(v.file, size); ok {
		l.put(v.file, size, objects).used = l.clock.Now()
	}
	return leave, ok
}

// settle takes back what admit has counted for a view that did not become what
// it was to be. v.mu is held.
func (l *ledger) settle(v *view) {
	if v.journal != nil {
		l.set(v)
	} else {
		l.gone(v.file)
	}
}

// excess returns the files that must leave because something has grown.
func (l *ledger) excess() []eviction {
	l.mu.Lock()
	defer l.mu.Unlock()
	leave, _ := l.plan("", 0)
	return leave
}

// eviction is a file that must leave, and why.
type eviction struct {
	file, agent string
	size        int64
	reason      string
	tooLarge    bool // it does not fit alone
}

// Why a view is evicted: the values of a metric's label.
const (
	overAgentQuota = "agent_quota"
	overTotalQuota = "total_quota"
	diskFull       = "disk_full"
)

// plan says what must leave if a file had a size; ok is false if that would
// include the file itself. Without a file it says what must leave as it is.
// l.mu is held.
func (l *ledger) plan(file string, size int64) (leave []eviction, ok bool) {
	own, total := holder{}, l.total
	bytes, views := map[holder]int64{}, map[holder]int64{}
	count := int64(len(l.files))
	for h, s := range l.holders {
		bytes[h], views[h] = s.bytes, int64(s.views)
	}
	if file != "" {
		own = holderOfFile(file)
		grown := size
		if a := l.files[file]; a != nil {
			grown -= a.size
		} else {
			views[own]++
			count++
		}
		bytes[own] += grown
		total += grown
	}
	queues := queues{ledger: l, except: file}
	next := func(h holder, reason string) bool {
		a := queues.next(h)
		if a == nil {
			return false
		}
		limit := l.quota.of(h)
		tooLarge := limit > 0 && a.size > limit || l.quota.Total > 0 && a.size > l.quota.Total
		leave = append(leave, eviction{a.file, h.agent, a.size, reason, tooLarge})
		bytes[h] -= a.size
		total -= a.size
		views[h]--
		count--
		return true
	}
	holders := []holder{own} // what others have grown to is no matter of a list
	if file == "" {
		holders = slices.SortedFunc(maps.Keys(bytes), holder.compare)
	}
	for _, h := range holders {
		for limit := l.quota.of(h); limit > 0 && bytes[h] > limit; {
			if !next(h, overAgentQuota) {
				return nil, false
			}
		}
		if most := int64(l.maxHolderViews); views[h] > most {
			for views[h] > most-most/16 && next(h, overAgentQuota) {
			}
		}
	}
	if most := int64(l.maxViews); count > most {
		for r := rankingOf(views, own); count > most-most/16 && next(r.most().holder, overTotalQuota); {
			r.take(1)
		}
	}
	if l.quota.Total > 0 && total > l.quota.Total {
		for r := rankingOf(bytes, own); total > l.quota.Total; {
			if !next(r.most().holder, overTotalQuota) {
				return nil, false
			}
			r.take(leave[len(leave)-1].size)
		}
	}
	return leave, true
}

// queues are the files of each holder except one, the least recently used first.
// The ledger's mu is held as long as they are used.
type queues struct {
	ledger *ledger
	except string
	files  map[holder][]*account
	sorted map[holder]bool
}

// next takes the file of a holder that leaves next, nil if there is none.
func (q *queues) next(h holder) *account {
	if q.files == nil {
		q.files, q.sorted = map[holder][]*account{}, map[holder]bool{}
		for _, a := range q.ledger.files {
			if a.file != q.except {
				q.files[a.holder] = append(q.files[a.holder], a)
			}
		}
	}
	queue := q.files[h]
	if len(queue) == 0 {
		return nil
	}
	if !q.sorted[h] {
		q.sorted[h] = true
		slices.SortFunc(queue, func(a, b *account) int {
			return cmp.Or(a.used.Compare(b.used), strings.Compare(a.file, b.file))
		})
	}
	q.files[h] = queue[1:]
	return queue[0]
}

// displaced returns what leaves next when the disk is full: the least recently
// used file of whoever has the most, a file and what is being staged for it
// excepted.
func (l *ledger) displaced(except string) (eviction, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	bytes := map[holder]int64{}
	for h, s := range l.holders {
		bytes[h] = s.bytes + s.staged
	}
	queues, own := queues{ledger: l, except: except}, holderOfFile(except)
	for r := rankingOf(bytes, own); ; r.take(r.most().amount) {
		most := r.most().holder
		if a := queues.next(most); a != nil {
			return eviction{a.file, a.holder.agent, a.size, diskFull, false}, true
		}
		if most == own {
			return eviction{}, false
		}
	}
}

// untouched returns the accounts of files whose use the disk does not know of,
// and takes it for told.
func (l *ledger) untouched() (all []account) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.files {
		if !a.touched {
			a.touched = true
			all = append(all, *a)
		}
	}
	return all
}
