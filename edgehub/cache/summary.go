package cache

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

// Usage is what one agent has cached on behalf of the ServiceAccounts of one
// namespace, or on behalf of all other callers together, and what it misses.
type Usage struct {
	Agent     string
	Namespace string // "" for callers that are no ServiceAccounts
	Views     int
	Objects   int // as far as is known without reading files
	Bytes     int64
	// Missing counts the views that were asked for and are not on the disk as
	// they were delivered, and Example names one for each reason, as
	// RESOURCE.VERSION.GROUP/SCOPE.
	Missing map[Missing]int
	Example map[Missing]string
	// Relists are the watches that were ended so that their lists go through the
	// cache.
	Relists int64
}

// Usages returns what there is of each agent and namespace that has something, or
// misses something, ordered by both. It reads no file.
func (s *Store) Usages() []Usage {
	all := map[string]*Usage{}
	of := func(pair string) *Usage {
		u := all[pair]
		if u == nil {
			agent, namespace := splitPair(pair)
			u = &Usage{Agent: agent, Namespace: namespace, Missing: map[Missing]int{}, Example: map[Missing]string{}}
			all[pair] = u
		}
		return u
	}
	s.ledger.mu.Lock()
	for holder, share := range s.ledger.holders {
		if share.views > 0 {
			u := of(holder.pair())
			u.Views += share.views
			u.Objects += share.objects
			u.Bytes += share.bytes
		}
	}
	s.ledger.mu.Unlock()
	s.demand.mu.Lock()
	for file, w := range s.demand.wants {
		u, reason := of(w.holder.pair()), w.reason()
		u.Missing[reason]++
		if name := shortFile(file); u.Example[reason] == "" || name < u.Example[reason] {
			u.Example[reason] = name
		}
	}
	for pair := range s.demand.overflowed {
		of(pair).Missing[Incomplete]++
	}
	for pair, n := range s.demand.relists {
		if all[pair] != nil {
			all[pair].Relists = n
		}
	}
	s.demand.mu.Unlock()
	usages := make([]Usage, 0, len(all))
	for _, pair := range slices.Sorted(maps.Keys(all)) {
		usages = append(usages, *all[pair])
	}
	return usages
}

// shortFile is a view's file for people, less whose it is.
func shortFile(file string) string {
	dir, name := path.Split(file)
	return path.Join(path.Base(dir), strings.TrimSuffix(name, fileSuffix))
}

// The files in the state directory.
const (
	// missingFile is what is missing. It is written soon after that changes.
	missingFile = "cache/missing.json"
	// objectsFile is how many objects views have, lest they all have to be read
	// to say so. It is written when the hub ends, and now and then.
	objectsFile = "cache/objects.json"
	// objectsPeriod is how often that is.
	objectsPeriod = 10 * time.Minute
	// saveRetry is how long after a failure it is tried again.
	saveRetry = 30 * time.Second
)

// missingState is the content of missingFile.
type missingState struct {
	Version    int              `json:"version"`
	Missing    []missingView    `json:"missing,omitempty"`
	Overflowed []string         `json:"overflowed,omitempty"`
	Relists    map[string]int64 `json:"relists,omitempty"`
}

type missingView struct {
	File      string  `json:"file"`
	Gap       Missing `json:"gap,omitempty"`
	Fault     Missing `json:"fault,omitempty"`
	Delivered uint64  `json:"delivered,omitempty"`
	Lost      bool    `json:"lost,omitempty"`
}

// restoreDemand reads what an earlier run missed.
func (s *Store) restoreDemand() {
	var state missingState
	if !s.readState(missingFile, &state) {
		return
	}
	d := s.demand
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range state.Missing {
		if w := d.want(m.File); m.Gap+m.Fault != "" {
			w.gap, w.fault, w.lost = m.Gap, m.Fault, m.Lost
			w.delivered.Store(m.Delivered)
		}
	}
	for _, pair := range state.Overflowed {
		d.overflowed[pair] = 0
	}
	maps.Copy(d.relists, state.Relists)
	d.changed = false
}

// saveDemand writes what is missing, if that has changed.
func (s *Store) saveDemand() {
	s.saving.Lock()
	defer s.saving.Unlock()
	d := s.demand
	if s.state == nil || s.clock.Now().Before(s.saveAfter) {
		return
	}
	d.mu.Lock()
	if !d.changed {
		d.mu.Unlock()
		return
	}
	d.changed = false
	state := missingState{Version: 1, Overflowed: slices.Sorted(maps.Keys(d.overflowed)), Relists: maps.Clone(d.relists)}
	for _, file := range slices.Sorted(maps.Keys(d.wants)) {
		w := d.wants[file]
		state.Missing = append(state.Missing, missingView{file, w.gap, w.fault, w.delivered.Load(), w.lost})
	}
	d.mu.Unlock()
	if !s.writeState(missingFile, state) {
		s.saveAfter = s.clock.Now().Add(saveRetry)
		d.mu.Lock()
		d.changed = true
		d.mu.Unlock()
	}
}

// restoreObjects returns how many objects views had, by file.
func (s *Store) restoreObjects() (objects map[string]int) {
	s.readState(objectsFile, &objects)
	return objects
}

// saveObjects writes how many objects views have, at the end or if it is time.
func (s *Store) saveObjects(end bool) {
	s.saving.Lock()
	defer s.saving.Unlock()
	if s.state == nil || !end && s.clock.Since(s.savedObjects) < objectsPeriod {
		return
	}
	s.savedObjects = s.clock.Now()
	objects := map[string]int{}
	s.ledger.mu.Lock()
	for file, a := range s.ledger.files {
		if a.objects > 0 {
			objects[file] = a.objects
		}
	}
	s.ledger.mu.Unlock()
	if !maps.Equal(objects, s.lastObjects) && s.writeState(objectsFile, objects) {
		s.lastObjects = objects
	}
}

func (s *Store) readState(name string, into any) bool {
	if s.state == nil {
		return false
	}
	b, err := s.state.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		klog.ErrorS(err, "Ignoring what an earlier run knew of the cache", "file", name)
	}
	return err == nil
}

func (s *Store) writeState(name string, state any) bool {
	b, err := json.Marshal(state)
	if err == nil {
		err = journal.WriteFile(s.state, name, b)
	}
	if err != nil {
		klog.ErrorS(err, "Could not keep what is known of the cache", "file", name)
	}
	return err == nil
}
