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
	// that is not cached keeps others out.
	maxPairs = 512
	pairAge  = 10 * time.Minute
	// podAge is how long a Pod is taken to exist that nobody tells of.
	podAge = 24 * time.Hour
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

// Seen is who was seen to send which User-Agent. However many a client makes up, it
// stays small. It is safe for concurrent use.
type Seen struct {
	seed maphash.Seed

	mu     sync.Mutex
	recent map[uint64]time.Time // when a caller was last noted
	pairs  map[Pair]*sighting
}

// sighting is what was seen of one pair.
type sighting struct {
	last time.Time
	pods map[types.UID]podSighting
}

type podSighting struct {
	name string
	last time.Time
}

// NewSeen returns one that has seen nobody.
func NewSeen() *Seen {
	return &Seen{seed: maphash.MakeSeed(), recent: map[uint64]time.Time{}, pairs: map[Pair]*sighting{}}
}

// Due reports whether a caller is worth being noted: it was not, within a minute.
// credential tells callers of one agent apart, such as an Authorization header.
func (s *Seen) Due(agent, credential string) bool {
	var h maphash.Hash
	h.SetSeed(s.seed)
	_, _ = h.WriteString(agent)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(credential)
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

// Note says that a caller was seen that kube-apiserver has accepted. podName and
// podUID are those of its Pod, "" if it is not known. cached says that the pair is
// cached: it displaces others if need be.
func (s *Seen) Note(pair Pair, podName string, podUID types.UID, cached bool) {
	if hubconfig.ValidateAgent(pair.Agent) != nil {
		return
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.pairs[pair]
	if seen == nil {
		if len(s.pairs) >= maxPairs && !s.makeRoom(now, cached) {
			return
		}
		seen = &sighting{pods: map[types.UID]podSighting{}}
		s.pairs[pair] = seen
	}
	seen.last = now
	if podUID == "" || podName == "" {
		return
	}
	if _, known := seen.pods[podUID]; !known && len(seen.pods) >= v1alpha1.MaxAgentPods {
		delete(seen.pods, oldest(seen.pods))
	}
	seen.pods[podUID] = podSighting{podName, now}
}

// makeRoom forgets the pair that was not seen for longest. s.mu is held.
func (s *Seen) makeRoom(now time.Time, must bool) bool {
	var first Pair
	var last time.Time
	for pair, seen := range s.pairs {
		if last.IsZero() || seen.last.Before(last) {
			first, last = pair, seen.last
		}
	}
	if !must && now.Sub(last) < pairAge {
		return false
	}
	delete(s.pairs, first)
	return true
}

func oldest(pods map[types.UID]podSighting) types.UID {
	return slices.MinFunc(slices.Collect(maps.Keys(pods)), func(a, b types.UID) int {
		return pods[a].last.Compare(pods[b].last)
	})
}

// Forget forgets the Pods that are gone, as gone says of one that was seen last at
// some time, and those that nobody has seen for long.
func (s *Seen) Forget(gone func(namespace, name string, uid types.UID, last time.Time) bool) {
	type pod struct {
		pair Pair
		uid  types.UID
		podSighting
	}
	s.mu.Lock()
	var all []pod
	for pair, seen := range s.pairs {
		for uid, p := range seen.pods {
			all = append(all, pod{pair, uid, p})
		}
	}
	s.mu.Unlock()
	for _, p := range all { // gone may read files
		if time.Since(p.last) < podAge && !gone(p.pair.Namespace, p.name, p.uid, p.last) {
			continue
		}
		s.mu.Lock()
		if seen := s.pairs[p.pair]; seen != nil && seen.pods[p.uid] == p.podSighting {
			delete(seen.pods, p.uid)
		}
		s.mu.Unlock()
	}
}

// Sighting is a pair, when it was last seen, and with which Pods, sorted by name.
type Sighting struct {
	Pair
	Last time.Time
	Pods []v1alpha1.NodePod
}

// All returns all that was seen, sorted by agent and namespace.
func (s *Seen) All() []Sighting {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Sighting, 0, len(s.pairs))
	for pair, seen := range s.pairs {
		one := Sighting{Pair: pair, Last: seen.last}
		for uid, p := range seen.pods {
			one.Pods = append(one.Pods, v1alpha1.NodePod{Name: p.name, UID: uid})
		}
		slices.SortFunc(one.Pods, func(a, b v1alpha1.NodePod) int {
			return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
		})
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Sighting) int { return comparePairs(a.Pair, b.Pair) })
	return all
}

// Save writes it to a state directory.
func (s *Seen) Save(state *os.Root) error {
	b, err := json.Marshal(s.All())
	if err != nil {
		return err
	}
	return journal.WriteFile(state, seenFile, b)
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
		if time.Since(one.Last) > podAge {
			continue
		}
		seen := &sighting{last: one.Last, pods: map[types.UID]podSighting{}}
		for _, p := range one.Pods[:min(len(one.Pods), v1alpha1.MaxAgentPods)] {
			seen.pods[p.UID] = podSighting{p.Name, one.Last}
		}
		s.pairs[one.Pair] = seen
	}
}
