package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
	"github.com/edgehub-io/edge-hub/test/report"
)

const syncInterval = 500 * time.Millisecond

// cluster is what kube-apiserver holds: every state of a few namespaces.
type cluster struct {
	version int
	events  []clusterEvent
}

type clusterEvent struct {
	version         int
	typ             string
	namespace, name string
}

// change makes an object come, change or go.
func (c *cluster) change(rng *rand.Rand, namespace string) clusterEvent {
	c.version += 1 + rng.IntN(3)
	name := string(rune('p' + rng.IntN(6)))
	typ := "ADDED"
	if _, ok := c.at(namespace, c.version)[name]; ok {
		typ = []string{"MODIFIED", "MODIFIED", "DELETED"}[rng.IntN(3)]
	}
	ev := clusterEvent{c.version, typ, namespace, name}
	c.events = append(c.events, ev)
	return ev
}

// at is the version of each object in a namespace at some moment.
func (c *cluster) at(namespace string, version int) map[string]int {
	state := map[string]int{}
	for _, ev := range c.events {
		if ev.namespace != namespace || ev.version > version {
			continue
		}
		state[ev.name] = ev.version
		if ev.typ == "DELETED" {
			delete(state, ev.name)
		}
	}
	return state
}

// items are a namespace's objects, as fat as the seed wants them.
func (c *cluster) items(namespace string, version int) (items []string) {
	state := c.at(namespace, version)
	for _, name := range slices.Sorted(mapKeys(state)) {
		items = append(items, fat(namespace, name, state[name]))
	}
	return items
}

func mapKeys(m map[string]int) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// fat is an object whose size depends on its version, up to some pages.
func fat(namespace, name string, version int) string {
	return object(namespace, name, version, "padding", strings.Repeat("x", version*version*37%6000))
}

// answer is what a view is to answer at a version.
func (c *cluster) answer(namespace string, version int) string {
	var out []string
	state := c.at(namespace, version)
	for _, name := range slices.Sorted(mapKeys(state)) {
		out = append(out, fmt.Sprintf("%s@%d", name, state[name]))
	}
	return strings.Join(append(out, fmt.Sprintf("rv=%d", version)), " ")
}

// moment is what a view held at some time: a resourceVersion, 0 for nothing.
type moment struct {
	version int
	since   time.Time
}

// crashView is a view and all it ever held.
type crashView struct {
	agent, namespace string
	resource         string
	moments          []moment
	floor            int // the first moment that a crash may show
	doubtful         bool
}

func (v *crashView) path() string { return "/api/v1/namespaces/" + v.namespace + "/" + v.resource }
func (v *crashView) now() int     { return v.moments[len(v.moments)-1].version }

// crashHistory drives a store over a disk that remembers.
type crashHistory struct {
	fixture
	rng     *rand.Rand
	disk    *journaltest.FS
	cluster cluster
	views   []*crashView
	agents  []string
	faulty  atomic.Bool // the disk fails now and then
	dead    atomic.Bool // the process is killed
	opened  []*Store
	quota   Quota

	crashes, checked int
}

func newCrashHistory(t *testing.T, seed uint64, quota Quota) *crashHistory {
	h := &crashHistory{fixture: fixture{T: t}, quota: quota, rng: rand.New(rand.NewPCG(seed, 5)), disk: journaltest.New(), agents: []string{"app", "other"}}
	for _, agent := range h.agents {
		for _, namespace := range []string{"a", "b"} {
			h.views = append(h.views, &crashView{agent: agent, namespace: namespace, resource: "configmaps", moments: []moment{{}}})
		}
	}
	h.views = append(h.views, &crashView{agent: "app", namespace: "c", resource: "secrets", moments: []moment{{}}})
	faults := rand.New(rand.NewPCG(seed, 6))
	var mu sync.Mutex
	h.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
		mu.Lock()
		defer mu.Unlock()
		if h.dead.Load() {
			return &journaltest.Fault{Err: errors.New("process is gone"), Unheard: true}
		}
		if !h.faulty.Load() || faults.IntN(6) > 0 {
			return nil
		}
		switch op.Kind {
		case journaltest.Sync, journaltest.SyncDir:
			return &journaltest.Fault{Err: []error{syscall.EIO, syscall.ENOSPC}[faults.IntN(2)], Evict: faults.IntN(2) == 0}
		case journaltest.Rename, journaltest.Create, journaltest.Mkdir, journaltest.Remove, journaltest.Truncate:
			return &journaltest.Fault{Err: []error{syscall.EIO, syscall.ENOSPC, syscall.EROFS}[faults.IntN(3)]}
		case journaltest.Write:
			return &journaltest.Fault{Err: []error{syscall.EIO, syscall.ENOSPC, syscall.EROFS}[faults.IntN(3)], Written: faults.IntN(int(op.Size) + 1)}
		}
		return nil
	})
	h.Store = h.start(h.disk)
	return h
}

func (h *crashHistory) start(disk *journaltest.FS) *Store {
	h.Helper()
	s := Open(Options{FS: disk, Journal: journal.Options{Interval: syncInterval}, Quota: h.quota, Key: sealKey})
	h.opened = append(h.opened, s)
	if err := s.SetAgents(sets.New(h.agents...).Has); err != nil {
		h.Fatal(err)
	}
	if h.limited() {
		s.scan()
	}
	return s
}

// limited reports whether views may be evicted, or not be kept.
func (h *crashHistory) limited() bool { return h.quota.Total > 0 }

func (h *crashHistory) queryOf(v *crashView, options string) Query {
	return h.queryAs(v.agent, "me", v.path()+options, "")
}

// became notes what a view holds from now on.
func (h *crashHistory) became(v *crashView, version int) {
	if h.limited() && version > 0 && h.held(v) != version {
		return
	}
	v.moments = append(v.moments, moment{version, time.Now()})
}

// list lets a client list a view: whole, in pages, as a WatchList, or cut off.
func (h *crashHistory) list(v *crashView) {
	h.cluster.change(h.rng, v.namespace)
	version := h.cluster.version
	items := h.cluster.items(v.namespace, version)
	switch h.rng.IntN(6) {
	case 0: // cut off
		body := pageOf(version, "", items...)
		rc := h.Record(h.queryOf(v, ""), answerOf(http.StatusOK, strings.NewReader(body)))
		_, _ = io.CopyN(io.Discard, rc, int64(h.rng.IntN(len(body)-2)))
		rc.Close()
		h.recordings.Wait()
		return
	case 1, 2:
		token, options := "", "?limit=2"
		for page := 0; ; page++ {
			if h.rng.IntN(8) == 0 {
				return // the client asks for no more
			}
			n := min(2, len(items))
			token = ""
			if n < len(items) {
				token = fmt.Sprintf("t%d-%d", version, page)
			}
			h.record(h.queryOf(v, options), pageOf(version, token, items[:n]...))
			if items = items[n:]; token == "" {
				break
			}
			options = "?limit=2&continue=" + token
		}
	case 3:
		s := h.stream(h.queryOf(v, "?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"))
		for _, item := range items {
			s.send(eventOf("ADDED", item))
		}
		if h.rng.IntN(4) == 0 {
			s.end()
			return
		}
		s.send(bookmarkOf(version, true))
		s.end()
	default:
		h.record(h.queryOf(v, ""), pageOf(version, "", items...))
	}
	h.became(v, version)
}

// watch lets a client watch on from what the view holds.
func (h *crashHistory) watch(v *crashView) {
	if v.now() == 0 {
		h.list(v)
		return
	}
	s := h.stream(h.queryOf(v, follow+strconv.Itoa(v.now())))
	send := func(ev clusterEvent) {
		s.send(eventOf(ev.typ, fat(ev.namespace, ev.name, ev.version)))
		synctest.Wait()
		h.became(v, ev.version)
	}
	for _, ev := range h.cluster.events {
		if ev.namespace == v.namespace && ev.version > v.now() {
			send(ev)
		}
	}
	for range h.rng.IntN(5) {
		send(h.cluster.change(h.rng, v.namespace))
	}
	if h.rng.IntN(3) == 0 {
		h.cluster.version += 2
		s.send(bookmarkOf(h.cluster.version, false))
		synctest.Wait()
		h.became(v, h.cluster.version)
	}
	s.end()
}

// remove takes an agent off the list of cached ones, and puts it back.
func (h *crashHistory) remove(v *crashView) {
	for _, w := range h.views {
		if w.agent == v.agent {
			h.became(w, 0)
		}
	}
	others := sets.New(h.agents...).Delete(v.agent)
	err := h.SetAgents(others.Has)
	for _, w := range h.views {
		if w.agent == v.agent && err == nil {
			w.floor = len(w.moments) - 1
		}
	}
	// What could not be removed for good is tried again.
	if err := h.SetAgents(sets.New(h.agents...).Has); err != nil && !h.faulty.Load() {
		h.Error(err)
	}
	if err != nil && !h.faulty.Load() {
		h.Errorf("remove: %v", err)
	}
}

// restart ends the hub, gracefully or not, and starts it again.
func (h *crashHistory) restart(graceful bool) {
	h.dead.Store(!graceful)
	err := h.Close()
	synctest.Wait()
	h.dead.Store(false)
	for _, v := range h.views {
		if graceful && err == nil && !v.doubtful {
			v.floor = len(v.moments) - 1
		}
	}
	h.Store = h.start(h.disk)
	for _, v := range h.views {
		at := h.check(h.Store, v)
		v.moments = append(v.moments, moment{v.moments[at].version, time.Now()})
	}
}

// check asks a store for a view, and returns which of the view's moments the
// answer shows.
func (h *crashHistory) check(s *Store, v *crashView) int {
	h.Helper()
	h.checked++
	f := fixture{T: h.T, Store: s}
	got := f.namesOf(h.queryOf(v, ""))
	for range 3 {
		if got != "0" || !h.faulty.Load() && !(v.doubtful && s == h.Store) {
			break
		}
		// The disk lost what it had of the answer: nothing of it is taken
		// for the whole, and the next one is of what is left.
		synctest.Wait()
		got = f.namesOf(h.queryOf(v, ""))
	}
	if got == "503" && h.limited() {
		return 0 // evicted
	}
	for at := len(v.moments) - 1; at >= v.floor; at-- {
		want := "503"
		if version := v.moments[at].version; version > 0 {
			want = h.cluster.answer(v.namespace, version)
		}
		if got == want {
			if want != "503" {
				h.replays(f, v, v.moments[at].version)
			}
			return at
		}
	}
	h.Fatalf("%s %s is answered %q; legal are its moments from %d on: %v", v.agent, v.path(), got, v.floor, v.moments)
	return 0
}

// How object writes what is looked at.
var (
	listHead   = regexp.MustCompile(`^\{"kind":"ConfigMapList","apiVersion":"v1","metadata":\{"resourceVersion":"(\d+)"`)
	listedName = regexp.MustCompile(`"name":"(\w+)"[^{}]*"namespace"`)
	listedData = regexp.MustCompile(`"data":\{"at":"(\d+)"\}`)
	watchEvent = regexp.MustCompile(`^\{"type":"(\w+)","object":.*"data":\{"at":"(\d+)"\}.*"name":"(\w+)"`)
)

// namesOf is names for any query.
func (f *fixture) namesOf(q Query) string {
	f.Helper()
	code, body := f.ask(q)
	if code != http.StatusOK {
		return fmt.Sprint(code)
	}
	var out []string
	for _, m := range listedName.FindAllStringSubmatch(body, -1) {
		out = append(out, m[1])
	}
	for i, m := range listedData.FindAllStringSubmatch(body, -1) {
		if i >= len(out) {
			f.Fatalf("not a list: %s", body)
		}
		out[i] += "@" + m[1]
	}
	m := listHead.FindStringSubmatch(body)
	if m == nil {
		f.Fatalf("not a list: %s", body)
	}
	return strings.Join(append(out, "rv="+m[1]), " ")
}

// replays checks that a watch is told of all events up to a version, in order,
// or that it came too late.
func (h *crashHistory) replays(f fixture, v *crashView, version int) {
	h.Helper()
	from := max(1, version-h.rng.IntN(12))
	code, body := f.ask(h.queryOf(v, follow+strconv.Itoa(from)))
	if code != http.StatusOK && h.faulty.Load() {
		return // the disk lost the view between the two questions
	}
	if code != http.StatusOK {
		h.Fatalf("watch of %s is answered %d %s", v.path(), code, body)
	}
	if strings.Contains(body, `"reason":"Expired"`) {
		return
	}
	var got, want []string
	for line := range strings.Lines(body) {
		m := watchEvent.FindStringSubmatch(line)
		if m == nil {
			h.Fatalf("not an event: %s", line)
		}
		got = append(got, m[1]+" "+m[3]+"@"+m[2])
	}
	for _, ev := range h.cluster.events {
		if ev.namespace == v.namespace && ev.version > from && ev.version <= version {
			want = append(want, fmt.Sprintf("%s %s@%d", ev.typ, ev.name, ev.version))
		}
	}
	if h.faulty.Load() && len(got) < len(want) {
		want = want[:len(got)] // the disk lost the rest, and so the watch ended
	}
	if !slices.Equal(got, want) {
		h.Fatalf("watch of %s from %d is told %v, want %v", v.path(), from, got, want)
	}
}

func (h *crashHistory) step(samples int) {
	before := h.disk.Len()
	floors := make([]int, len(h.views))
	for i, v := range h.views {
		floors[i] = v.floor
	}
	v := h.views[h.rng.IntN(len(h.views))]
	switch h.rng.IntN(20) {
	case 0:
		h.remove(v)
	case 1:
		h.restart(true)
	case 2:
		h.restart(false)
	case 3:
		same := slices.DeleteFunc(slices.Clone(h.views), func(w *crashView) bool { return w.path() != v.path() })
		for _, w := range same { // under any agent: it is the identity that is refused
			h.became(w, 0)
		}
		h.refuse(h.queryOf(v, ""), http.StatusForbidden)
		for _, w := range same {
			if !h.faulty.Load() {
				w.floor = len(w.moments) - 1
			}
		}
	case 4, 5:
		time.Sleep(time.Duration(h.rng.Int64N(int64(3 * syncInterval / 2))))
	case 6:
		h.compact(v)
	case 7, 8, 9, 10, 11:
		h.list(v)
	default:
		h.watch(v)
	}
	synctest.Wait()
	for _, v := range h.views {
		for at := len(v.moments) - 1; at > v.floor && !v.doubtful; at-- {
			// That a view is gone is promised by what removed it.
			if m := v.moments[at]; m.version > 0 && time.Since(m.since) >= syncInterval {
				v.floor = at
			}
		}
	}
	reached := make([]int, len(h.views))
	for i, v := range h.views {
		reached[i] = v.floor
	}
	after := h.disk.Len()
	for range samples {
		n := before + h.rng.IntN(after-before+1)
		for i, v := range h.views {
			if v.floor = floors[i]; n == after {
				v.floor = reached[i]
			}
		}
		h.crash(h.disk.Crash(n, h.rng))
	}
	for i, v := range h.views {
		v.floor = reached[i]
	}
}

// compact writes a view anew, as it happens when its events take much room.
func (h *crashHistory) compact(v *crashView) {
	if view := h.view(h.queryOf(v, "").Key); view != nil && v.now() > 0 {
		view.mu.Lock()
		defer view.mu.Unlock()
		view.load(h.Store)
		if view.journal == nil {
			return
		}
		if err := h.rewrite(view); err != nil && !h.faulty.Load() && h.disk.Capacity == 0 {
			h.Error(err)
		}
	}
}

// crash starts a hub on what a crash left.
func (h *crashHistory) crash(disk *journaltest.FS) {
	h.Helper()
	h.crashes++
	h.expectSealed(disk)
	s := h.start(disk)
	found := make([]int, len(h.views))
	for i, v := range h.views {
		found[i] = h.check(s, v)
	}
	// It is there the next time as well, whether that start ends well or not.
	again := disk.Crash(h.rng.IntN(disk.Len()+1), h.rng)
	if err := s.Close(); err != nil {
		h.Fatal(err)
	}
	if h.rng.IntN(4) > 0 {
		return
	}
	if h.rng.IntN(2) == 0 {
		again = disk.Crash(disk.Len(), h.rng)
	}
	h.crashes++
	s = h.start(again)
	for i, v := range h.views {
		if at := h.check(s, v); v.moments[at].version != v.moments[found[i]].version {
			h.Fatalf("%s is at %d and then at %d", v.path(), v.moments[found[i]].version, v.moments[at].version)
		}
	}
	if err := s.Close(); err != nil {
		h.Fatal(err)
	}
}

// expectSealed checks that nothing on a disk tells of a Secret.
func (h *crashHistory) expectSealed(disk *journaltest.FS) {
	h.Helper()
	for _, name := range disk.Files() {
		content, err := disk.Get(name)
		if err != nil {
			h.Fatal(err)
		}
		if strings.Contains(name, "/secrets.") && (bytes.Contains(content, []byte("padding")) || bytes.Contains(content, []byte("OBJECT"))) {
			h.Fatalf("%s is not sealed: %.400s", name, content)
		}
	}
}

// stop ends what a test leaves running.
func (h *crashHistory) stop() {
	h.dead.Store(h.Failed())
	for _, s := range h.opened {
		_ = s.Close()
	}
}

// silence keeps what is logged of thousands of failures out of the output.
func silence(t *testing.T) {
	state := klog.CaptureState()
	t.Cleanup(state.Restore)
	klog.SetLogger(klog.Logger{}) // which discards
}

func crashHistories(t *testing.T, count int, quota Quota, run func(*crashHistory)) {
	silence(t)
	if testing.Short() {
		count /= 10
	}
	crashes, checked := 0, 0
	for seed := range uint64(count) {
		ok := t.Run("", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newCrashHistory(t, seed, quota)
				defer h.stop()
				run(h)
				crashes += h.crashes
				checked += h.checked
			})
		})
		if !ok {
			t.Fatalf("seed %d", seed)
		}
	}
	report.Line(t, "%d histories, %d crashes, %d views checked", count, crashes, checked)
}

func TestEveryCrashLeavesViewsThatOnceWere(t *testing.T) {
	crashHistories(t, 50, Quota{}, func(h *crashHistory) {
		for range 25 {
			h.step(2)
		}
	})
}

// repair lets the disk work again and every view be listed: whatever was, the
// views are right from then on.
func (h *crashHistory) repair() {
	h.Helper()
	h.faulty.Store(false)
	h.disk.Capacity = 0
	if !h.recheck() || h.Status().Disk != nil {
		h.Fatalf("the disk counts as failing: %v", h.Status().Disk)
	}
	for _, v := range h.views {
		h.cluster.change(h.rng, v.namespace)
		h.record(h.queryOf(v, ""), pageOf(h.cluster.version, "", h.cluster.items(v.namespace, h.cluster.version)...))
		h.became(v, h.cluster.version)
	}
	time.Sleep(syncInterval)
	synctest.Wait()
	for _, v := range h.views {
		v.floor = len(v.moments) - 1
		h.check(h.Store, v)
	}
	for range 5 {
		h.crash(h.disk.Crash(h.disk.Len(), h.rng))
	}
}

// live checks what the running hub would answer. Nothing is promised of it
// while the disk fails, but that it once was.
func (h *crashHistory) live() {
	h.Helper()
	for _, v := range h.views {
		h.check(h.Store, v)
	}
}

func TestEveryCrashOfAFailingDiskLeavesViewsThatOnceWere(t *testing.T) {
	crashHistories(t, 35, Quota{}, func(h *crashHistory) {
		for _, v := range h.views {
			v.doubtful = true
		}
		for range 25 {
			h.faulty.Store(h.rng.IntN(3) > 0)
			h.step(2)
			h.faulty.Store(false)
			h.live()
		}
		h.repair()
	})
}

func TestEveryCrashOfAFullDiskLeavesViewsThatOnceWere(t *testing.T) {
	crashHistories(t, 20, Quota{}, func(h *crashHistory) {
		for _, v := range h.views {
			v.doubtful = true
		}
		h.disk.Capacity = 30 << 10
		for range 30 {
			h.step(1)
			h.live()
		}
		h.repair()
	})
}
