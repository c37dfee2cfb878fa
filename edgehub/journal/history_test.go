package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
	"github.com/edgehub-io/edge-hub/test/report"
)

const interval = 500 * time.Millisecond

// names are the files of a history, in directories that come and go.
var names = []string{"app/me/pods/a", "app/me/pods/b", "app/you/pods/a", "other/me/x"}

// body is record i of the generation gen of some file.
func body(gen, i, size int) []byte {
	b := fmt.Appendf(nil, `"g":%d,"i":%d,"s":%d,"p":"`, gen, i, size)
	for k := range size {
		b = append(b, byte('a'+(gen*7+i*3+k)%26))
	}
	return append(b, `"}`...)
}

// parseBody checks that a record is one that body made.
func parseBody(t *testing.T, b []byte) (gen, i int) {
	t.Helper()
	var numbers [3]int
	rest := string(b)
	for k, label := range []string{`"g":`, `"i":`, `"s":`} {
		text, after, ok := strings.Cut(strings.TrimPrefix(rest, label), ",")
		n, err := strconv.Atoi(text)
		if !ok || err != nil {
			t.Fatalf("record %.80q was never written", b)
		}
		numbers[k], rest = n, after
	}
	gen, i = numbers[0], numbers[1]
	if !bytes.Equal(b, body(gen, i, numbers[2])) {
		t.Fatalf("record %.80q is not what was written", b)
	}
	return gen, i
}

// state is what a file is for some time: absent, or a generation of records.
type state struct {
	gen       int // 0 if absent
	published int // records when it was published: it is never seen with fewer
	count     int
}

// promise is a moment after which a crash must not show less.
type promise struct {
	at           time.Time
	state, count int
}

// entry is the model of one file.
type entry struct {
	name     string
	states   []state
	file     *journal.File // of the last state
	floor    promise       // what is certain to be there
	promises []promise
	doubtful bool         // an error was reported: nothing is promised for now
	lost     bool         // and its content must be staged anew
	undone   bool         // a removal failed
	suspect  map[int]bool // generations of which a failed sync may have lost pages
}

func (e *entry) last() *state { return &e.states[len(e.states)-1] }

func (e *entry) promise() {
	if e.doubtful {
		return
	}
	e.promises = append(e.promises, promise{time.Now(), len(e.states) - 1, e.last().count})
}

// certain makes the present state the least that a crash may leave.
func (e *entry) certain() {
	e.floor, e.promises = promise{state: len(e.states) - 1, count: e.last().count}, nil
}

// history drives a store and a model of it.
type history struct {
	*testing.T
	rng      *rand.Rand
	fs       *journaltest.FS
	store    *journal.Store
	faulty   bool // errors are injected
	tolerant bool // errors are expected
	dead     atomic.Bool
	gens     int

	mu      sync.Mutex // held while the model changes
	entries []*entry
	staged  []*journal.File

	opened          []*journal.Store
	states, crashes int
}

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{T: t, rng: rand.New(rand.NewPCG(seed, 1)), fs: journaltest.New()}
	for _, name := range names {
		h.entries = append(h.entries, &entry{name: name, states: []state{{}}, suspect: map[int]bool{}})
	}
	h.fs.Inject(h.inject)
	h.open()
	return h
}

func (h *history) open() {
	h.store = h.openStore(h.fs, h.onError)
}

// openStore opens a store that ends with the test at the latest.
func (h *history) openStore(disk *journaltest.FS, onError func(string, error)) *journal.Store {
	s := journal.Open(disk, journal.Options{Interval: interval, OnError: onError})
	h.opened = append(h.opened, s)
	return s
}

var errDead = errors.New("process is gone")

// inject kills the process, makes the disk fail, and lets records come in
// while a file is being made durable.
func (h *history) inject(op journaltest.Op) *journaltest.Fault {
	if h.dead.Load() {
		return &journaltest.Fault{Err: errDead, Unheard: true}
	}
	if !h.mu.TryLock() {
		return nil
	}
	defer h.mu.Unlock()
	switch op.Kind {
	case journaltest.Sync, journaltest.Rename, journaltest.SyncDir:
		if h.rng.IntN(3) == 0 {
			h.append(h.entries[h.rng.IntN(len(h.entries))])
		}
	}
	if h.faulty && h.rng.IntN(8) == 0 {
		switch op.Kind {
		case journaltest.Sync:
			return &journaltest.Fault{Err: syscall.EIO, Evict: h.rng.IntN(2) == 0}
		case journaltest.Write:
			return &journaltest.Fault{Err: syscall.ENOSPC, Written: h.rng.IntN(int(op.Size) + 1)}
		case journaltest.SyncDir, journaltest.Rename, journaltest.Truncate:
			return &journaltest.Fault{Err: syscall.EIO}
		}
	}
	return nil
}

func (h *history) onError(name string, err error) {
	if h.dead.Load() {
		return
	}
	if !h.tolerant {
		h.Errorf("%s: %v", name, err)
	}
	// The injected append may hold the lock, in this goroutine or another.
	go func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, e := range h.entries {
			if e.name == name {
				h.doubt(e)
				if errors.Is(err, journal.ErrUnwritten) {
					continue
				}
				e.lost = true
				for _, s := range e.states {
					e.suspect[s.gen] = s.gen > 0
				}
			}
		}
	}()
}

func (h *history) doubt(e *entry) { e.doubtful, e.promises = true, nil }

func (h *history) size() int {
	switch h.rng.IntN(120) {
	case 0:
		return 60<<10 + h.rng.IntN(20<<10)
	case 1, 2, 3, 4, 5, 6, 7, 8, 9:
		return h.rng.IntN(5000)
	}
	return h.rng.IntN(300)
}

// append appends some records to the live file.
func (h *history) append(e *entry) {
	if e.file == nil {
		return
	}
	for range 1 + h.rng.IntN(3) {
		if _, err := e.file.Append(body(e.last().gen, e.last().count, h.size())); err != nil {
			h.failed(e, err)
			return
		}
		e.last().count++
	}
	if h.rng.IntN(4) > 0 {
		if err := e.file.Flush(); err != nil {
			h.failed(e, err)
			return
		}
	}
	e.promise()
}

func (h *history) failed(e *entry, err error) {
	if !h.tolerant {
		h.Errorf("%s: %v", e.name, err)
	}
	h.doubt(e)
}

// stage writes a new generation and publishes it, or not.
func (h *history) stage(e *entry) {
	f, err := h.store.Stage(e.name)
	if err != nil {
		h.failed(e, err)
		return
	}
	h.gens++
	s := state{gen: h.gens}
	for range 1 + h.rng.IntN(5) {
		if _, err := f.Append(body(s.gen, s.count, h.size())); err != nil {
			h.failed(e, errors.Join(err, f.Discard()))
			return
		}
		s.count++
	}
	switch h.rng.IntN(10) {
	case 0:
		if err := f.Discard(); err != nil {
			h.Error(err)
		}
		return
	case 1:
		h.staged = append(h.staged, f)
		return
	}
	s.published = s.count
	e.states = append(e.states, s)
	if err := f.Publish(); err != nil {
		e.states = e.states[:len(e.states)-1]
		h.failed(e, errors.Join(err, f.Discard()))
		return
	}
	h.closeFile(e)
	e.file, e.doubtful, e.lost = f, false, false
	e.promise()
}

func (h *history) closeFile(e *entry) {
	if e.file != nil {
		if err := e.file.Close(); err != nil {
			h.Error(err)
		}
	}
	e.file = nil
}

// remove removes one file, or all below a directory.
func (h *history) remove(name string) {
	var below []*entry
	for _, e := range h.entries {
		if e.name == name || strings.HasPrefix(e.name, name+"/") {
			below = append(below, e)
			e.states = append(e.states, state{})
			h.closeFile(e)
		}
	}
	h.mu.Unlock() // what is being made durable comes first
	err := h.store.RemoveAll(name)
	h.mu.Lock()
	for _, e := range below {
		e.undone = err != nil
		if err != nil {
			h.failed(e, err)
			continue
		}
		e.doubtful, e.lost = false, false
		e.certain()
	}
}

// restart ends the process, gracefully or not, and starts another one.
func (h *history) restart(graceful bool) {
	if !graceful {
		h.dead.Store(true)
	}
	h.mu.Unlock()
	err := h.store.Close()
	synctest.Wait()
	h.mu.Lock()
	if err != nil && graceful && !h.tolerant {
		h.Errorf("close: %v", err)
	}
	for _, f := range h.staged {
		_ = f.Discard() // of a dead store
	}
	h.staged = nil
	for _, e := range h.entries {
		if graceful && !e.doubtful && err == nil {
			e.certain()
		}
		if e.file != nil {
			_ = e.file.Close() // of a dead store
		}
		e.file = nil
	}
	h.dead.Store(false)
	h.open()
	faulty := h.faulty
	h.faulty = false
	for _, e := range h.entries {
		h.reopen(e)
	}
	h.faulty = faulty
}

// reopen makes what a new process finds the present state.
func (h *history) reopen(e *entry) {
	file, at, count := h.read(h.store, e)
	// What a failed sync lost is still read, until the power goes: only
	// staging it anew makes it durable.
	// And what a failed removal left comes back.
	e.promises = nil
	found := e.states[at]
	e.file, e.lost = file, e.suspect[found.gen]
	e.doubtful = e.lost || file == nil && e.undone
	found.count = count
	// It may be older than what was known before; the rest never was.
	e.states = append(e.states, found)
	e.promise()
}

// read opens a file and checks that it is in a legal state, not below the floor.
func (h *history) read(store *journal.Store, e *entry) (file *journal.File, at, count int) {
	h.Helper()
	gen := 0
	file, err := store.Open(e.name, func(_ journal.Position, b []byte) error {
		g, i := parseBody(h.T, b)
		if count == 0 {
			gen = g
		}
		if g != gen || i != count {
			h.Fatalf("%s: record %d of generation %d follows record %d of %d", e.name, i, g, count-1, gen)
		}
		count++
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.Fatalf("%s: %v", e.name, err)
	}
	if file != nil && count == 0 {
		h.Fatalf("%s is empty", e.name)
	}
	for at = len(e.states) - 1; at >= e.floor.state; at-- {
		s := e.states[at]
		if s.gen == gen && s.published <= count && count <= s.count && (at > e.floor.state || count >= e.floor.count) {
			return file, at, count
		}
	}
	h.Fatalf("%s holds %d records of generation %d; legal is one of %+v from %+v on", e.name, count, gen, e.states, e.floor)
	return nil, 0, 0
}

// step does one thing, lets the store do what is due, and looks at crashes.
func (h *history) step(samples int) {
	h.mu.Lock()
	before := h.fs.Len()
	floors := make([]promise, len(h.entries))
	for i, e := range h.entries {
		floors[i] = e.floor
	}
	e := h.entries[h.rng.IntN(len(h.entries))]
	if e.lost && h.rng.IntN(2) == 0 {
		h.stage(e)
	}
	switch h.rng.IntN(24) {
	case 0:
		h.remove(e.name)
	case 1:
		h.remove(strings.Split(e.name, "/")[0])
	case 2:
		h.restart(true)
	case 3:
		h.restart(false)
	case 4, 5, 6, 7, 8, 9:
		h.stage(e)
	case 10, 11, 12, 13:
		pause := time.Duration(h.rng.Int64N(int64(3 * interval / 2)))
		h.mu.Unlock()
		time.Sleep(pause)
		h.mu.Lock()
	default:
		h.append(e)
	}
	h.mu.Unlock()
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	reached := make([]promise, len(h.entries))
	for i, e := range h.entries {
		for len(e.promises) > 0 && now.Sub(e.promises[0].at) >= interval {
			e.floor, e.promises = e.promises[0], e.promises[1:]
		}
		reached[i] = e.floor
	}
	after := h.fs.Len()
	for range samples {
		n := before + h.rng.IntN(after-before+1)
		for i, e := range h.entries {
			if e.floor = floors[i]; n == after {
				e.floor = reached[i]
			}
		}
		h.crash(h.fs.Crash(n, h.rng))
	}
	for i, e := range h.entries {
		e.floor = reached[i]
	}
}

// found is what a process finds after a crash.
type found struct {
	file      *journal.File
	at, count int
}

// recover reads everything as a process does that starts on a disk.
func (h *history) recover(disk *journaltest.FS) (*journal.Store, []found) {
	h.Helper()
	h.states++
	store := h.openStore(disk, func(name string, err error) { h.Errorf("after the crash: %s: %v", name, err) })
	var all []found
	for _, e := range h.entries {
		file, at, count := h.read(store, e)
		all = append(all, found{file, at, count})
		if err := store.RemoveStaged(path.Dir(e.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.Fatal(err)
		}
	}
	for _, name := range disk.Files() {
		if !slices.Contains(names, name) {
			h.Fatalf("%s is left behind", name)
		}
	}
	return store, all
}

// crash checks what is left after a power loss, and that work goes on from it.
func (h *history) crash(disk *journaltest.FS) {
	h.Helper()
	h.crashes++
	store, first := h.recover(disk)
	same := func(disk *journaltest.FS, more int) {
		h.Helper()
		store, second := h.recover(disk)
		for i := range first {
			want := first[i].count
			if first[i].file != nil {
				want += more
			}
			if second[i].count != want || h.entries[i].states[second[i].at].gen != h.entries[i].states[first[i].at].gen {
				h.Fatalf("%s: recovered %+v and then %+v, %d more", h.entries[i].name, first[i], second[i], more)
			}
		}
		h.end(store, second)
	}
	switch h.rng.IntN(4) {
	case 0: // it crashes again while it recovers
		same(disk.Crash(h.rng.IntN(disk.Len()+1), h.rng), 0)
		h.end(store, first)
	case 1: // it goes on from there, and ends gracefully
		for i, f := range first {
			if f.file == nil {
				continue
			}
			e := h.entries[i]
			s := &e.states[f.at]
			if _, err := f.file.Append(body(s.gen, f.count, h.size())); err != nil {
				h.Fatal(err)
			}
			defer func(s *state, count int) { s.count = count }(s, s.count)
			s.count = max(s.count, f.count+1)
		}
		h.end(store, first)
		same(disk.Crash(disk.Len(), h.rng), 1)
	default:
		h.end(store, first)
	}
	if n := disk.Handles(); n != 0 {
		h.Fatalf("%d files are still open", n)
	}
}

func (h *history) end(store *journal.Store, all []found) {
	h.Helper()
	for _, f := range all {
		if f.file != nil {
			if err := f.file.Close(); err != nil {
				h.Fatal(err)
			}
		}
	}
	if err := store.Close(); err != nil {
		h.Fatal(err)
	}
}

// run runs a history of up to so many steps to its end.
func (h *history) run(steps, samples int) {
	for range 1 + h.rng.IntN(steps) {
		h.step(samples)
	}
	h.mu.Lock()
	h.faulty = false
	h.restart(true)
	for _, e := range h.entries {
		h.closeFile(e)
	}
	h.mu.Unlock()
	if err := h.store.Close(); err != nil {
		h.Error(err)
	}
	if n := h.fs.Handles(); n != 0 {
		h.Errorf("%d files are still open", n)
	}
}

// abandon ends what a failed test leaves running.
func (h *history) abandon() {
	if !h.Failed() {
		return
	}
	h.dead.Store(true)
	for _, s := range h.opened {
		_ = s.Close()
	}
}

// histories runs many, and says which one failed.
func histories(t *testing.T, count, steps, samples int, prepare func(*history)) {
	if testing.Short() {
		count /= 10
	}
	states, crashes := 0, 0
	for seed := range uint64(count) {
		ok := t.Run("", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHistory(t, seed)
				prepare(h)
				defer h.abandon()
				h.run(steps, samples)
				states += h.states
				crashes += h.crashes
			})
		})
		if !ok {
			t.Fatalf("seed %d", seed)
		}
	}
	report.Line(t, "%d histories, %d crashes, %d disk states recovered", count, crashes, states)
}

func TestEveryCrashLeavesALegalPrefix(t *testing.T) {
	histories(t, 1000, 20, 2, func(*history) {})
}

func TestEveryCrashOfAFailingDiskLeavesALegalPrefix(t *testing.T) {
	histories(t, 1000, 20, 2, func(h *history) { h.faulty, h.tolerant = true, true })
}

func TestEveryCrashOfAFullDiskLeavesALegalPrefix(t *testing.T) {
	histories(t, 150, 40, 2, func(h *history) {
		h.fs.Capacity = 20 << 10
		h.tolerant = true
	})
}
