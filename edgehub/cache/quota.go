package cache

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/utils/clock"
)

// Quota bounds the bytes of the files in the cache directory; 0 is no bound.
//
// Views that would exceed it make others leave, least recently used first:
// those of an agent that is over its own bound, then those of whichever agent
// has the most, until the total fits. So an agent that has no more than its
// share of the total loses nothing to another. A list that would itself have to
// leave is not kept, and nothing leaves for it.
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
	// agent, and what all other callers together have: namespaces are tenants,
	// who must not evict what another has.
	PerAgent int64
	// Of returns a bound in place of PerAgent, ok is false if there is none.
	// namespace is that of the ServiceAccounts, "" for all other callers. It
	// may change its mind. Nil if there never is one.
	Of func(agent, namespace string) (bytes int64, ok bool)
}

func (q Quota) of(holder string) int64 {
	if q.Of != nil {
		agent, namespace, _ := strings.Cut(holder, holderSeparator)
		if bytes, ok := q.Of(agent, namespace); ok {
			return bytes
		}
	}
	return q.PerAgent
}

// holderSeparator is in no agent.
const holderSeparator = "\x00"

// holderOfFile is on whose account a file is: an agent, followed by the namespace
// if it holds what a ServiceAccount has read.
func holderOfFile(file string) string {
	agent := agentOfFile(file)
	_, rest, _ := strings.Cut(file, "/")
	// Names are shortened at their end.
	if account, ok := strings.CutPrefix(rest, serviceaccount.ServiceAccountUsernamePrefix); ok {
		if namespace, _, ok := strings.Cut(account, ":"); ok {
			return agent + holderSeparator + namespace
		}
	}
	return agent
}

// agentOf is the agent of a holder.
func agentOf(holder string) string {
	agent, _, _ := strings.Cut(holder, holderSeparator)
	return agent
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
	holders map[string]*share
	readers map[string]int // how many files an agent and identity have, by directory
	total   int64
	staged  int64 // bytes of lists that are being recorded
}

// account is one view's file.
type account struct {
	file    string
	holder  string
	size    int64
	objects int       // as far as this process knows
	used    time.Time // when it was last answered from or written to
	asOf    time.Time // when the cloud last confirmed it, if known
	touched bool      // the disk knows of used
}

// share is what one holder has.
type share struct {
	bytes, staged  int64
	views, objects int
}

func newLedger(quota Quota, clock clock.PassiveClock) *ledger {
	return &ledger{quota: quota, clock: clock, maxHolderViews: maxHolderViews, maxViews: maxViews, over: make(chan struct{}, 1), files: map[string]*account{}, holders: map[string]*share{}, readers: map[string]int{}}
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
func (l *ledger) share(agent string) *share {
	s := l.holders[agent]
	if s == nil {
		s = &share{}
		l.holders[agent] = s
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
	a.used, a.asOf, a.touched = l.clock.Now(), v.asOf, false
}

// found accounts for a file that was there when the hub started.
func (l *ledger) found(file string, size int64, objects int, used time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files[file] == nil {
		a := l.put(file, size, objects)
		a.used, a.touched = used, true
	}
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

// forget drops an agent that has nothing. l.mu is held.
func (l *ledger) forget(agent string) {
	if *l.holders[agent] == (share{}) {
		delete(l.holders, agent)
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

// knows reports whether a file is accounted for.
func (l *ledger) knows(file string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.files[file] != nil
}

// grewStaged is told by the journal of lists that are being recorded.
func (l *ledger) grewStaged(file string, bytes int64) {
	agent := holderOfFile(file)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.share(agent).staged += bytes
	l.staged += bytes
	l.forget(agent)
}

// mayStage reports whether a list that has a size so far may grow on.
func (l *ledger) mayStage(v *view) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := l.quota.of(holderOfFile(v.file))
	s := l.holders[holderOfFile(v.file)]
	return s == nil || (limit == 0 || s.staged <= limit) && (l.quota.Total == 0 || l.staged <= l.quota.Total)
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
	agent, total := "", l.total
	bytes, views := map[string]int64{}, map[string]int64{}
	count := int64(len(l.files))
	for name, s := range l.holders {
		bytes[name], views[name] = s.bytes, int64(s.views)
	}
	if file != "" {
		agent = holderOfFile(file)
		grown := size
		if a := l.files[file]; a != nil {
			grown -= a.size
		} else {
			views[agent]++
			count++
		}
		bytes[agent] += grown
		total += grown
	}
	queues := map[string][]*account{}
	next := func(agent, reason string) bool {
		queue, sorted := queues[agent]
		if !sorted {
			queue = l.leastRecentlyUsed(agent, file)
		}
		if len(queue) == 0 {
			return false
		}
		a := queue[0]
		queues[agent] = queue[1:]
		limit := l.quota.of(agent)
		tooLarge := limit > 0 && a.size > limit || l.quota.Total > 0 && a.size > l.quota.Total
		leave = append(leave, eviction{a.file, agentOf(agent), a.size, reason, tooLarge})
		bytes[agent] -= a.size
		total -= a.size
		views[agent]--
		count--
		return true
	}
	for _, name := range slices.Sorted(maps.Keys(bytes)) {
		if file != "" && name != agent {
			continue // what others have grown to is no matter of this list
		}
		for limit := l.quota.of(name); limit > 0 && bytes[name] > limit; {
			if !next(name, overAgentQuota) {
				return nil, false
			}
		}
		if most := int64(l.maxHolderViews); views[name] > most {
			for views[name] > most-most/16 && next(name, overAgentQuota) {
			}
		}
	}
	if most := int64(l.maxViews); count > most {
		for count > most-most/16 && next(largest(views, agent), overTotalQuota) {
		}
	}
	for l.quota.Total > 0 && total > l.quota.Total {
		if !next(largest(bytes, agent), overTotalQuota) {
			return nil, false
		}
	}
	return leave, true
}

// largest is the agent that has the most; if several do, preferably one.
func largest(bytes map[string]int64, preferred string) string {
	most := preferred
	for _, name := range slices.Sorted(maps.Keys(bytes)) {
		if bytes[name] > bytes[most] || most == "" {
			most = name
		}
	}
	return most
}

// leastRecentlyUsed returns an agent's files except one. l.mu is held.
func (l *ledger) leastRecentlyUsed(agent, except string) []*account {
	var queue []*account
	for _, a := range l.files {
		if a.holder == agent && a.file != except {
			queue = append(queue, a)
		}
	}
	slices.SortFunc(queue, func(a, b *account) int {
		return cmp.Or(a.used.Compare(b.used), strings.Compare(a.file, b.file))
	})
	return queue
}

// displaced returns what leaves next when the disk is full: the least recently
// used file of the agent that has the most, a file and what is being staged for
// it excepted.
func (l *ledger) displaced(except string) (eviction, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	bytes := map[string]int64{}
	for name, s := range l.holders {
		bytes[name] = s.bytes + s.staged
	}
	queue := l.leastRecentlyUsed(largest(bytes, holderOfFile(except)), except)
	if len(queue) == 0 {
		return eviction{}, false
	}
	return eviction{queue[0].file, agentOf(queue[0].holder), queue[0].size, diskFull, false}, true
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
