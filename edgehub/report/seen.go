package report

import (
	"cmp"
	"encoding/json"
	"errors"
	"hash/maphash"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

const (
	// seenGrain is how exactly it is known when somebody was seen last. It keeps
	// what a request costs small.
	seenGrain = time.Minute
	// maxRecent bounds the callers that are known to have been seen within it.
	maxRecent = 4096
	// maxPairs bounds the agents that are remembered, and pairAge is how long one
	// that is not cached keeps others of its namespace out.
	maxPairs = 512
	pairAge  = 10 * time.Minute
	// podAge is how long a caller is taken to exist that nobody tells of.
	podAge = 24 * time.Hour
	// maxReads bounds what is remembered of what a pair has read, maxNamespaceReads
	// of what a namespace has, and maxAllReads of all.
	maxReads          = 128
	maxNamespaceReads = 1024
	maxAllReads       = 4096
	// seenFile keeps it over a restart of the hub, below the state directory.
	seenFile = "report/seen.json"
)

// Pair is an agent with the namespace of the ServiceAccounts that use it, "" for
// callers that are no ServiceAccounts.
type Pair struct {
	Agent     string `json:"agent"`
	Namespace string `json:"namespace,omitempty"`
}

func comparePairs(a, b Pair) int {
	return cmp.Or(cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.Namespace, b.Namespace))
}

// Seen is who was seen to send which User-Agent, and what they have read while that
// was not cached: a program reads when it starts what it needs to start, and what of
// that went past the cache is not on disk until somebody reads it again. However much
// a client makes up, it stays small. It is safe for concurrent use.
type Seen struct {
	seed maphash.Seed
	now  func() time.Time

	mu      sync.Mutex
	recent  map[uint64]time.Time // when a caller was last noted
	pairs   map[Pair]*sighting
	changed bool // more than times has, since it was saved
}

// sighting is what was seen of one pair.
type sighting struct {
	last time.Time
	// callers are Pods by UID, and under "" all others together.
	callers map[types.UID]caller
	// reads are those that went past the cache, by the file that they are to be
	// kept in, and when they were last made. They are forgotten with the last
	// caller that was there by then.
	reads map[string]time.Time
}

type caller struct {
	name        string
	first, last time.Time
	kept        time.Time // when it first read something that was cached
	lost        bool      // it has read more than is remembered, past the cache or before that was removed
}

// NewSeen returns one that has seen nobody. now must not go back from one run of the
// hub to the next, unless it was wrong.
func NewSeen(now func() time.Time) *Seen {
	return &Seen{seed: maphash.MakeSeed(), now: now, recent: map[uint64]time.Time{}, pairs: map[Pair]*sighting{}}
}

// Due reports whether a caller is worth being noted: it was not, within a minute.
// credential tells callers of one agent apart, such as an Authorization header. Reads
// are told apart from the rest, and from each other by what read says of them.
func (s *Seen) Due(agent, credential string, read ...string) bool {
	var h maphash.Hash
	h.SetSeed(s.seed)
	for _, text := range append([]string{agent, credential}, read...) {
		_, _ = h.WriteString(text)
		_ = h.WriteByte(0) // which no header or URL has
	}
	sum := h.Sum64()
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.recent[sum]; ok && now.Sub(last) < seenGrain {
		return false
	}
	if len(s.recent) >= maxRecent {
		clear(s.recent)
	}
	s.recent[sum] = now
	return true
}

// Request is one that kube-apiserver has granted.
type Request struct {
	Pair
	// Pod and UID are those of the caller's Pod, "" if it is not known.
	Pod string
	UID types.UID
	// Cached says that what the pair reads is cached: it displaces others if need be.
	Cached bool
	// Read is the file that it is kept in, or would be if it were, "" for a
	// request that a program does not depend on when it starts.
	Read string
}

// Note says that a request was seen.
func (s *Seen) Note(r Request) {
	if hubconfig.ValidateAgent(r.Agent) != nil {
		return
	}
	if r.UID == "" || r.Pod == "" {
		r.UID, r.Pod = "", ""
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.pairs[r.Pair]
	if seen == nil {
		if len(s.pairs) >= maxPairs && !s.makeRoom(now, r) {
			return
		}
		seen = &sighting{callers: map[types.UID]caller{}, reads: map[string]time.Time{}}
		s.pairs[r.Pair] = seen
	}
	seen.last = now
	c, known := seen.callers[r.UID]
	if !known {
		c = seen.admit()
		if c.first.IsZero() {
			c.first = now
		}
		s.changed = true
	}
	c.name, c.last = r.Pod, now
	switch {
	case r.Read == "":
	case r.Cached:
		if c.kept.IsZero() {
			c.kept, s.changed = now, true
		}
	case !s.remember(r, seen, now) && !c.lost:
		c.lost, s.changed = true, true
	}
	seen.callers[r.UID] = c
}

// admit makes room for a caller. One that takes the place of another answers for
// what that has read.
func (seen *sighting) admit() (c caller) {
	if len(seen.callers) <= v1alpha1.MaxAgentPods {
		return caller{}
	}
	first := slices.MinFunc(slices.Collect(maps.Keys(seen.callers)), func(a, b types.UID) int {
		return seen.callers[a].last.Compare(seen.callers[b].last)
	})
	c = seen.callers[first]
	delete(seen.callers, first)
	return c
}

// remember notes a read that went past the cache. It reports whether there was room.
// s.mu is held.
func (s *Seen) remember(r Request, seen *sighting, now time.Time) bool {
	if _, known := seen.reads[r.Read]; !known {
		if len(seen.reads) >= maxReads {
			return false
		}
		all, namespace := 0, 0
		for pair, other := range s.pairs {
			all += len(other.reads)
			if pair.Namespace == r.Namespace {
				namespace += len(other.reads)
			}
		}
		if namespace >= maxNamespaceReads || all >= maxAllReads {
			return false
		}
		s.changed = true
	}
	seen.reads[r.Read] = now
	return true
}

// makeRoom forgets a pair of the namespace that has the most: the one that was not
// seen for longest. s.mu is held.
func (s *Seen) makeRoom(now time.Time, r Request) bool {
	count := map[string]int{}
	most := r.Namespace
	for pair := range s.pairs {
		count[pair.Namespace]++
	}
	for namespace, n := range count {
		if n > count[most] {
			most = namespace
		}
	}
	var first Pair
	var last time.Time
	for pair, seen := range s.pairs {
		if pair.Namespace == most && (last.IsZero() || seen.last.Before(last)) {
			first, last = pair, seen.last
		}
	}
	if !r.Cached && most == r.Namespace && now.Sub(last) < pairAge {
		return false
	}
	delete(s.pairs, first)
	s.changed = true
	return true
}

// Removed says that what is cached is what admits lets pass, and all else is removed: of
// what callers have read of that nothing is known any more. Times alone don't tell, for
// since when a pair is cached is by the node's clock, which may be behind that of Seen.
func (s *Seen) Removed(admits func(agent, namespace string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for pair, seen := range s.pairs {
		if admits(pair.Agent, pair.Namespace) {
			continue
		}
		for uid, c := range seen.callers {
			if !c.kept.IsZero() && !c.lost {
				c.lost, s.changed = true, true
				seen.callers[uid] = c
			}
		}
	}
}

// Forget forgets the Pods that are gone, as gone says of one that was seen last at
// some time, those that it knows nothing of and nobody has seen for long, and what
// only they have read.
func (s *Seen) Forget(gone func(namespace, name string, uid types.UID, last time.Time) (gone, known bool)) {
	type one struct {
		pair Pair
		uid  types.UID
		caller
	}
	s.mu.Lock()
	var all []one
	now := s.now()
	for pair, seen := range s.pairs {
		if seen.noLaterThan(now) {
			s.changed = true
		}
		for uid, c := range seen.callers {
			all = append(all, one{pair, uid, c})
		}
	}
	s.mu.Unlock()
	for _, c := range all {
		isGone, known := false, false
		if c.uid != "" {
			isGone, known = gone(c.pair.Namespace, c.name, c.uid, c.last) // may read files
		}
		if !isGone && (known || s.now().Sub(c.last) < podAge) {
			continue
		}
		s.mu.Lock()
		if seen := s.pairs[c.pair]; seen != nil && seen.callers[c.uid] == c.caller {
			delete(seen.callers, c.uid)
			seen.forgetReads()
			s.changed = true
		}
		s.mu.Unlock()
	}
}

// noLaterThan puts right what was seen at a time that the cloud has put back since, and
// reports whether there was such.
func (seen *sighting) noLaterThan(now time.Time) (changed bool) {
	limit := func(t time.Time) time.Time {
		if !t.After(now) {
			return t
		}
		changed = true
		return now
	}
	seen.last = limit(seen.last)
	for uid, c := range seen.callers {
		c.first, c.last, c.kept = limit(c.first), limit(c.last), limit(c.kept)
		seen.callers[uid] = c
	}
	for read, made := range seen.reads {
		seen.reads[read] = limit(made)
	}
	return changed
}

// forgetReads forgets what nobody has read who is still there.
func (seen *sighting) forgetReads() {
	maps.DeleteFunc(seen.reads, func(_ string, made time.Time) bool {
		for _, c := range seen.callers {
			if !c.first.After(made) {
				return false
			}
		}
		return true
	})
}

// Sighting is what was seen of a pair.
type Sighting struct {
	Pair
	Last    time.Time            `json:"last"`
	Callers []Caller             `json:"callers,omitempty"`
	Reads   map[string]time.Time `json:"reads,omitempty"`
}

// Caller is a Pod, or with neither name nor UID all callers that are none.
type Caller struct {
	Name  string    `json:"name,omitempty"`
	UID   types.UID `json:"uid,omitempty"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Kept  time.Time `json:"kept,omitzero"`
	Lost  bool      `json:"lost,omitempty"`
}

// Pods are those that were seen.
func (s *Sighting) Pods() (pods []v1alpha1.NodePod) {
	for _, c := range s.Callers {
		if c.UID != "" {
			pods = append(pods, v1alpha1.NodePod{Name: c.Name, UID: c.UID})
		}
	}
	return pods
}

// Unknown reports whether it is not known what callers have read before the pair
// began to be cached: it was more than is remembered, or it was cached once before and
// removed since.
func (s *Sighting) Unknown(since time.Time) bool {
	return slices.ContainsFunc(s.Callers, func(c Caller) bool {
		return c.Lost || !c.Kept.IsZero() && c.Kept.Before(since)
	})
}

// Asked reports whether a caller has read since the pair began to be cached, or was
// not there before.
func (s *Sighting) Asked(since time.Time) bool {
	return slices.ContainsFunc(s.Callers, func(c Caller) bool {
		return !c.First.Before(since) || !c.Kept.IsZero() && !c.Kept.Before(since)
	})
}

// All returns all that was seen, sorted by agent and namespace, and callers by name.
func (s *Seen) All() []Sighting {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Sighting, 0, len(s.pairs))
	for pair, seen := range s.pairs {
		one := Sighting{Pair: pair, Last: seen.last, Reads: maps.Clone(seen.reads)}
		for uid, c := range seen.callers {
			one.Callers = append(one.Callers, Caller{c.name, uid, c.first, c.last, c.kept, c.lost})
		}
		slices.SortFunc(one.Callers, func(a, b Caller) int {
			return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
		})
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Sighting) int { return comparePairs(a.Pair, b.Pair) })
	return all
}

// Changed reports whether more than times has changed since Save.
func (s *Seen) Changed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Save writes it to a state directory.
func (s *Seen) Save(state *os.Root) error {
	s.mu.Lock()
	s.changed = false
	s.mu.Unlock()
	b, err := json.Marshal(s.All())
	if err == nil {
		err = journal.WriteFile(state, seenFile, b)
	}
	if err != nil {
		s.mu.Lock()
		s.changed = true
		s.mu.Unlock()
	}
	return err
}

// Load reads what Save has written. That it can't is no harm: it is soon seen again.
func (s *Seen) Load(state *os.Root) {
	b, err := state.ReadFile(seenFile)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var all []Sighting
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		klog.ErrorS(err, "Ignoring which User-Agents an earlier run has seen", "file", seenFile)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range all[:min(len(all), maxPairs)] {
		if len(one.Pods()) == 0 && s.now().Sub(one.Last) > podAge {
			continue
		}
		seen := &sighting{last: one.Last, callers: map[types.UID]caller{}, reads: map[string]time.Time{}}
		for _, c := range one.Callers[:min(len(one.Callers), v1alpha1.MaxAgentPods+1)] {
			seen.callers[c.UID] = caller{c.Name, c.First, c.Last, c.Kept, c.Lost}
		}
		maps.Copy(seen.reads, one.Reads)
		s.pairs[one.Pair] = seen
	}
}
