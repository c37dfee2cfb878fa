package journaltest

import (
	"bytes"
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
)

const (
	sectorSize = 512
	pageSize   = 4096
)

// fileState is what is known of a file's bytes on the disk: those that were
// synced, and what may or may not have followed them.
type fileState struct {
	disk    []byte
	start   []byte // as it was read when the last sync began
	pending []int  // writes and truncations since, as indexes of the log
}

// dirState is the same of a directory.
type dirState struct {
	disk    map[string]*node
	pending []int
}

// Crash returns a file system as it may be found after a power loss that came
// behind the first n operations. What was synced is there. Of what was not,
// rng chooses: every write may be lost, alone or with what followed, in units
// of sectors or pages; the last may be torn at any byte; a file may have grown
// without its data, or have its data and not its length; and the changes of
// each directory may be there up to some moment, or any of them.
func (f *FS) Crash(n int, rng *rand.Rand) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := crash{log: f.log[:n], rng: rng, files: map[*node]*fileState{}, dirs: map[*node]*dirState{}, made: map[*node]*node{}}
	for i := range c.log {
		c.replay(i)
	}
	crashed := &FS{root: c.build(f.root), counts: map[Kind]int{}, nodes: f.nodes}
	for _, made := range c.made {
		crashed.used += int64(len(made.data))
	}
	return crashed
}

// onDisk is what the disk is certain to hold of a file. f.mu is held.
func (f *FS) onDisk(n *node) []byte {
	c := crash{log: f.log, files: map[*node]*fileState{}, dirs: map[*node]*dirState{}}
	for i := range c.log {
		if c.log[i].node == n {
			c.replay(i)
		}
	}
	return slices.Clone(c.file(n).disk)
}

type crash struct {
	log   []record
	rng   *rand.Rand // nil: nothing unsynced survives
	files map[*node]*fileState
	dirs  map[*node]*dirState
	made  map[*node]*node
}

func (c *crash) file(n *node) *fileState {
	s := c.files[n]
	if s == nil {
		s = &fileState{disk: n.initialData, start: n.initialData}
		c.files[n] = s
	}
	return s
}

func (c *crash) directory(n *node) *dirState {
	s := c.dirs[n]
	if s == nil {
		s = &dirState{disk: map[string]*node{}}
		for name, child := range n.initialEntries {
			s.disk[name] = child
		}
		c.dirs[n] = s
	}
	return s
}

func (c *crash) replay(i int) {
	r := &c.log[i]
	switch r.kind {
	case Write, Truncate:
		s := c.file(r.node)
		s.pending = append(s.pending, i)
	case Create, Mkdir, Rename, Remove:
		s := c.directory(r.node)
		s.pending = append(s.pending, i)
	case Sync:
		c.sync(c.file(r.node), r)
	case SyncDir:
		s := c.directory(r.node)
		for len(s.pending) > 0 && s.pending[0] < r.upTo {
			c.apply(s.disk, s.pending[0])
			s.pending = s.pending[1:]
		}
	}
}

// sync brings the pages to the disk that were written to since the last sync.
// If it failed they count as clean, and any of them may not have arrived.
func (c *crash) sync(s *fileState, r *record) {
	covered := 0
	for covered < len(s.pending) && s.pending[covered] < r.upTo {
		covered++
	}
	dirty := c.touched(s, s.pending[:covered])
	size := int64(len(r.data))
	if r.failed && c.chance() {
		size = int64(len(s.disk))
	}
	disk := resize(slices.Clone(s.disk), size)
	for _, page := range dirty {
		if r.failed && c.chance() {
			continue
		}
		copyBlock(disk, r.data, page*pageSize, pageSize)
	}
	s.disk, s.start, s.pending = disk, r.data, s.pending[covered:]
}

// chance is whether something bad happens that need not.
func (c *crash) chance() bool { return c.rng == nil || c.rng.IntN(2) == 0 }

// touched returns the pages that operations write to, in order.
func (c *crash) touched(s *fileState, ops []int) []int64 {
	pages := map[int64]bool{}
	size := int64(len(s.start))
	for _, i := range ops {
		r := &c.log[i]
		from, to := r.offset, r.offset+int64(len(r.data))
		if r.kind == Truncate {
			from, to = min(size, r.size), max(size, r.size)
			size = r.size
		} else {
			from = min(from, size)
			size = max(size, to)
		}
		for page := from / pageSize; page*pageSize < to; page++ {
			pages[page] = true
		}
	}
	return slices.Sorted(maps.Keys(pages))
}

// versions returns a file's content after each pending operation, what the
// disk holds first.
func (c *crash) versions(s *fileState) [][]byte {
	versions := [][]byte{s.disk}
	content := slices.Clone(s.start)
	for _, i := range s.pending {
		r := &c.log[i]
		if r.kind == Truncate {
			content = resize(content, r.size)
		} else {
			content = writeAt(slices.Clip(content), r.data, r.offset)
		}
		versions = append(versions, slices.Clone(content))
	}
	return versions
}

// content chooses what the disk holds of a file.
func (c *crash) content(s *fileState) []byte {
	if len(s.pending) == 0 {
		return s.disk
	}
	switch c.rng.IntN(8) {
	case 0:
		return s.disk
	case 1:
		return c.mix(s, pageSize, 0) // all of it, except what a failed sync lost
	case 2, 3:
		return c.torn(s)
	case 4:
		return c.mix(s, pageSize, 1)
	case 5:
		// Grown, and nothing in it.
		versions := c.versions(s)
		return resize(slices.Clone(s.disk), int64(len(versions[len(versions)-1])))
	default:
		return c.mix(s, sectorSize, 2)
	}
}

// torn lets the pending operations through up to one of them, and of that one
// the beginning.
func (c *crash) torn(s *fileState) []byte {
	disk := slices.Clone(s.disk)
	last := c.rng.IntN(len(s.pending))
	for k, i := range s.pending[:last+1] {
		r := &c.log[i]
		switch {
		case r.kind == Truncate && k < last:
			disk = resize(disk, r.size)
		case r.kind == Truncate:
		case k < last:
			disk = writeAt(disk, r.data, r.offset)
		default:
			disk = writeAt(disk, r.data[:c.rng.IntN(len(r.data)+1)], r.offset)
		}
	}
	return disk
}

// mix lets each block show the file at some moment. disorder is how much: 0
// shows the last moment, 1 the first or the last, 2 any.
func (c *crash) mix(s *fileState, block int64, disorder int) []byte {
	versions := c.versions(s)
	newest := len(versions) - 1
	choose := func() int {
		switch disorder {
		case 0:
			return newest
		case 1:
			return newest * c.rng.IntN(2)
		}
		return c.rng.IntN(len(versions))
	}
	longest := 0
	for _, v := range versions {
		longest = max(longest, len(v))
	}
	out := resize(slices.Clone(s.disk), int64(longest))
	for _, page := range c.touched(s, s.pending) {
		for at := page * pageSize; at < (page+1)*pageSize; at += block {
			copyBlock(out, versions[choose()], at, block)
		}
	}
	return resize(out, int64(len(versions[choose()])))
}

// copyBlock copies one block, taking zeros for what lies behind src's end.
func copyBlock(dst, src []byte, at, size int64) {
	if at >= int64(len(dst)) {
		return
	}
	to := dst[at:min(at+size, int64(len(dst)))]
	clear(to)
	if at < int64(len(src)) {
		copy(to, src[at:])
	}
}

func (c *crash) apply(entries map[string]*node, i int) {
	r := &c.log[i]
	switch r.kind {
	case Create, Mkdir:
		entries[r.name] = r.child
	case Remove:
		delete(entries, r.name)
	case Rename:
		if entries[r.name] == r.child {
			delete(entries, r.name)
		}
		entries[r.to] = r.child
	}
}

// entries chooses what the disk holds of a directory.
func (c *crash) entries(s *dirState) map[string]*node {
	some := c.rng.IntN(4)
	until := c.rng.IntN(len(s.pending) + 1)
	for k, i := range s.pending {
		switch {
		case some == 0: // none
		case some == 1 || some == 2 && k < until || some == 3 && c.chance():
			c.apply(s.disk, i)
		}
	}
	return s.disk
}

// build makes the tree below a node as the disk has it.
func (c *crash) build(n *node) *node {
	if made := c.made[n]; made != nil {
		return made
	}
	made := &node{id: n.id, dir: n.dir, links: 1, modTime: n.modTime, used: n.used}
	c.made[n] = made
	if !n.dir {
		made.initialData = c.content(c.file(n))
		made.data = bytes.Clone(made.initialData)
		return made
	}
	made.entries, made.initialEntries = map[string]*node{}, map[string]*node{}
	entries := c.entries(c.directory(n))
	// In an order that a seed repeats, whatever the names are.
	names := slices.SortedFunc(maps.Keys(entries), func(a, b string) int {
		return cmp.Or(cmp.Compare(entries[a].id, entries[b].id), cmp.Compare(a, b))
	})
	for _, name := range names {
		made.entries[name] = c.build(entries[name])
		made.initialEntries[name] = made.entries[name]
	}
	return made
}
