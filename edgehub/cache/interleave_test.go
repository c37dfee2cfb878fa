package cache

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
	"github.com/edgehub-io/edge-hub/test/report"
)

// interleaving is a kube-apiserver and many clients of one view, whose requests
// overlap in every way: what is asked, decided upon, answered and read of each of
// them happens one step at a time, in an order that a seed says.
type interleaving struct {
	fixture
	rng     *rand.Rand
	disk    *journaltest.FS
	cluster cluster
	busy    int // how often something changes
	flights []*flight
	known   []int // resourceVersions that clients were told
	open    []*io.PipeWriter

	floor     int    // the view is at least there, once it is anywhere
	absent    bool   // and may be nowhere
	refusedAt Moment // when it was refused last
	checked   int
	seen      map[string]int // how often what was found
}

// flight is a request, as the steps that are left of it.
type flight struct{ steps []func() }

const namespace = "a"

func newInterleaving(t *testing.T, seed uint64) *interleaving {
	h := &interleaving{fixture: fixture{T: t}, rng: rand.New(rand.NewPCG(seed, 9)), disk: journaltest.New(), absent: true, seen: map[string]int{}}
	h.busy = []int{1, 4, 12}[seed%3]
	for range 3 {
		h.cluster.change(h.rng, namespace)
	}
	h.start()
	return h
}

func (h *interleaving) start() {
	h.Store = Open(Options{FS: h.disk, Journal: journal.Options{Interval: syncInterval}, Key: sealKey})
	if err := h.SetAgents(sets.New("app").Has); err != nil {
		h.Fatal(err)
	}
}

func (h *interleaving) begin(steps ...func()) *flight {
	f := &flight{steps: steps}
	h.flights = append(h.flights, f)
	return f
}

// then adds what follows the steps there are.
func (f *flight) then(steps ...func()) { f.steps = append(f.steps, steps...) }

// body is a response whose bytes come when they are sent.
func (h *interleaving) body(q Query, asked Moment) (send func(string), end func(error)) {
	r, w := io.Pipe()
	h.open = append(h.open, w)
	rc := h.Store.Record(q, answerOf(http.StatusOK, r), asked)
	go func() {
		_, _ = io.Copy(io.Discard, rc)
		rc.Close()
	}()
	return func(s string) { _, _ = io.WriteString(w, s) }, func(err error) { w.CloseWithError(err) }
}

// between is a version that kube-apiserver may answer with.
func (h *interleaving) between(from, to int) int { return from + h.rng.IntN(to-from+1) }

// list asks for the view, whole or in pages.
func (h *interleaving) list() {
	limit := []int{0, 0, 1, 2}[h.rng.IntN(4)]
	options, oldest, newest := "?", -1, -1
	switch h.rng.IntN(6) {
	case 0:
		options, oldest = "?resourceVersion=0&", max(1, h.cluster.version-20)
	case 1:
		oldest = h.between(1, h.cluster.version)
		options = fmt.Sprintf("?resourceVersionMatch=NotOlderThan&resourceVersion=%d&", oldest)
	case 2:
		oldest = h.between(1, h.cluster.version)
		newest = oldest
		options = fmt.Sprintf("?resourceVersionMatch=Exact&resourceVersion=%d&", oldest)
	default: // the newest
		oldest = h.cluster.version
	}
	if strings.Contains(options, "=0&") {
		limit = 0
	}
	if limit > 0 {
		options += fmt.Sprintf("limit=%d&", limit)
	}
	first := h.Asked()
	var f *flight
	f = h.begin(func() {
		version := h.between(oldest, h.cluster.version)
		if newest >= 0 {
			version = newest
		}
		h.page(f, options, first, version, h.cluster.items(namespace, version), limit, 0)
	})
}

// page answers a list, or a part of it.
func (h *interleaving) page(f *flight, options string, asked Moment, version int, items []string, limit, number int) {
	n, token := len(items), ""
	if limit > 0 && limit < n {
		n, token = limit, fmt.Sprintf("t%d-%d-%d", version, limit, number)
	}
	text := pageOf(version, token, items[:n]...)
	var send func(string)
	var end func(error)
	cut := h.rng.IntN(len(text))
	f.then(
		func() { send, end = h.body(h.query(inA+options), asked) },
		func() { send(text[:cut]) },
		func() {
			if h.rng.IntN(10) == 0 {
				end(io.ErrUnexpectedEOF)
				f.steps = nil
				return
			}
			send(text[cut:])
		},
		func() {
			end(nil)
			if token == "" {
				h.known = append(h.known, version)
			}
		},
	)
	if token != "" {
		f.then(func() {
			asked := h.Asked()
			limited := fmt.Sprintf("?limit=%d&continue=%s", limit, token)
			f.then(func() { h.page(f, limited, asked, version, items[n:], limit, number+1) })
		})
	}
}

// watch watches on from what a client was told.
func (h *interleaving) watch() {
	if len(h.known) == 0 {
		return
	}
	start := h.known[h.rng.IntN(len(h.known))]
	asked := h.Asked()
	var f *flight
	f = h.begin(func() {
		send, end := h.body(h.query(inA+follow+strconv.Itoa(start)), asked)
		f.then(func() { h.events(f, start, send, end) })
	})
}

// watchList lists by watching.
func (h *interleaving) watchList() {
	asked, oldest := h.Asked(), h.cluster.version
	var f *flight
	f = h.begin(func() {
		version := h.between(oldest, h.cluster.version)
		send, end := h.body(h.query(inA+watchList), asked)
		for _, item := range h.cluster.items(namespace, version) {
			f.then(func() { send(eventOf("ADDED", item) + "\n") })
		}
		f.then(func() {
			send(bookmarkOf(version, true) + "\n")
			h.known = append(h.known, version)
			f.then(func() { h.events(f, version, send, end) })
		})
	})
}

// events goes on with a watch that has shown a version.
func (h *interleaving) events(f *flight, shown int, send func(string), end func(error)) {
	if h.rng.IntN(12) == 0 {
		end(nil)
		return
	}
	for _, ev := range h.cluster.events {
		if ev.version > shown {
			send(eventOf(ev.typ, fat(ev.namespace, ev.name, ev.version)) + "\n")
			h.known = append(h.known, ev.version)
			f.then(func() { h.events(f, ev.version, send, end) })
			return
		}
	}
	shown = max(shown, h.cluster.version)
	if h.rng.IntN(3) == 0 {
		send(bookmarkOf(shown, false) + "\n")
	}
	f.then(func() { h.events(f, shown, send, end) })
}

// get asks for one object.
func (h *interleaving) get() {
	name, asked := string(rune('p'+h.rng.IntN(6))), h.Asked()
	oldest := h.cluster.version
	var f *flight
	f = h.begin(func() {
		q := h.query(inA + "/" + name)
		version, found := h.cluster.at(namespace, h.between(oldest, h.cluster.version))[name]
		if !found {
			f.then(func() {
				h.Store.Record(q, answerOf(http.StatusNotFound, strings.NewReader("{}")), asked).Close()
			})
			return
		}
		text := `{"kind":"ConfigMap","apiVersion":"v1",` + fat(namespace, name, version)[1:]
		var send func(string)
		var end func(error)
		f.then(func() { send, end = h.body(q, asked) }, func() { send(text) }, func() { end(nil) })
	})
}

// refuse refuses a list. What comes after it was granted anew.
func (h *interleaving) refuseList() {
	asked := h.Asked()
	h.begin(func() {}, func() {
		h.refusedAt, h.absent, h.floor = h.moments.now(), true, 0
		h.Store.Record(h.query(inA), answerOf(http.StatusForbidden, strings.NewReader("{}")), asked).Close()
	})
}

func (h *interleaving) evict() {
	h.absent, h.floor = true, 0
	if h.rng.IntN(2) == 0 {
		h.Store.evict(eviction{file: h.query(inA).Key.file(), agent: "app", reason: overTotalQuota})
		return
	}
	if _, err := h.Remove(func(k Key) bool { return k.Name == "" }); err != nil {
		h.Fatal(err)
	}
}

func (h *interleaving) compact() {
	v := h.view(h.query(inA).Key)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.load(h.Store); v.journal != nil {
		if err := h.rewrite(v); err != nil {
			h.Error(err)
		}
	}
}

// land lets every flight end somehow.
func (h *interleaving) land() {
	for len(h.flights) > 0 && h.rng.IntN(30) > 0 {
		h.fly()
	}
	h.flights = nil
	h.disconnect()
}

// restart ends the hub as it is meant to be ended, and starts it again.
func (h *interleaving) restart() {
	h.land()
	if err := h.Close(); err != nil {
		h.Fatal(err)
	}
	h.start()
	h.refusedAt = 0 // what is on the disk was asked for in another life
}

// disconnect ends what is left of bodies.
func (h *interleaving) disconnect() {
	for _, w := range h.open {
		w.CloseWithError(io.ErrUnexpectedEOF)
	}
	h.open = nil
	synctest.Wait()
}

// fly takes one step of some request.
func (h *interleaving) fly() {
	i := h.rng.IntN(len(h.flights))
	f := h.flights[i]
	step := f.steps[0]
	f.steps = f.steps[1:]
	step()
	if len(f.steps) == 0 {
		h.flights = append(h.flights[:i], h.flights[i+1:]...)
	}
}

func (h *interleaving) step() {
	switch n := h.rng.IntN(100); {
	case n < h.busy:
		h.cluster.change(h.rng, namespace)
	case n < 18:
		h.list()
	case n < 24:
		h.watch()
	case n < 27:
		h.watchList()
	case n < 31:
		h.get()
	case n < 32:
		h.evict()
	case n < 33:
		h.refuseList()
	case n < 34:
		h.compact()
	default:
		if len(h.flights) > 0 {
			h.fly()
		}
	}
	if len(h.flights) > 12 {
		h.fly()
	}
	synctest.Wait()
	h.check()
}

var objectData = regexp.MustCompile(`"data":\{"at":"(\d+)"\}`)

// check asks the cache, and compares what it says with what was at the version that
// it says it of.
func (h *interleaving) check() {
	h.Helper()
	h.checked++
	got := h.namesOf(h.query(inA))
	listed := map[string]int{}
	switch {
	case got == "503" && h.absent:
		h.seen["nothing"]++
	case got == "503":
		h.Fatal("what was recorded is gone")
	default:
		version, _ := strconv.Atoi(got[strings.LastIndex(got, "rv=")+3:])
		if want := h.cluster.answer(namespace, version); got != want {
			h.Fatalf("the view says %q, and it was %q", got, want)
		}
		if version < h.floor {
			h.Fatalf("the view went back from %d to %d", h.floor, version)
		}
		if asked := h.view(h.query(inA).Key).asked; asked <= h.refusedAt && h.refusedAt != 0 {
			h.Fatalf("the view was asked for at %d, and refused at %d", asked, h.refusedAt)
		}
		if version > h.floor {
			h.seen["news"]++
		}
		h.floor, h.absent = version, false
		listed = h.cluster.at(namespace, version)
		h.replay(version)
	}
	for name := 'p'; name < 'p'+6; name++ {
		h.checkObject(string(name), listed[string(name)])
	}
}

// checkObject asks for an object that the list shows at a version, 0 if it doesn't.
func (h *interleaving) checkObject(name string, listed int) {
	h.Helper()
	code, body := h.ask(h.query(inA + "/" + name))
	switch code {
	case http.StatusOK:
		at, _ := strconv.Atoi(objectData.FindStringSubmatch(body)[1])
		if h.cluster.at(namespace, at)[name] != at || at < listed {
			h.Fatalf("%s is shown at %d, and in the list at %d: %v", name, at, listed, h.cluster.events)
		}
		if listed == 0 && !h.absent && at <= h.floor {
			h.Fatalf("%s is shown at %d, and the list of %d is without it", name, at, h.floor)
		}
	case http.StatusNotFound:
		if listed == 0 {
			return
		}
		for _, ev := range h.cluster.events {
			if ev.name == name && ev.typ == "DELETED" && ev.version > listed {
				return
			}
		}
		h.Fatalf("%s is not found, and the list shows it at %d: %v", name, listed, h.cluster.events)
	}
}

// replay watches from some version on.
func (h *interleaving) replay(version int) {
	h.Helper()
	from := h.between(max(1, version-10), version)
	_, body := h.ask(h.query(inA + follow + strconv.Itoa(from)))
	if strings.Contains(body, `"reason":"Expired"`) {
		return
	}
	var got, want []string
	for line := range strings.Lines(body) {
		if m := watchEvent.FindStringSubmatch(line); m != nil {
			got = append(got, m[1]+" "+m[3]+"@"+m[2])
		}
	}
	for _, ev := range h.cluster.events {
		if ev.version > from && ev.version <= version {
			want = append(want, fmt.Sprintf("%s %s@%d", ev.typ, ev.name, ev.version))
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		h.Fatalf("a watch from %d on is told %v, and what happened until %d is %v", from, got, version, want)
	}
}

// settle checks that a list and a watch of a client that is alone are recorded,
// whatever was.
func (h *interleaving) alone() {
	h.Helper()
	h.land()
	h.cluster.change(h.rng, namespace)
	version := h.cluster.version
	h.record(h.query(inA), pageOf(version, "", h.cluster.items(namespace, version)...))
	h.expectAt(version)
	send, end := h.body(h.query(inA+follow+strconv.Itoa(version)), h.Asked())
	ev := h.cluster.change(h.rng, namespace)
	send(eventOf(ev.typ, fat(ev.namespace, ev.name, ev.version)) + "\n")
	h.expectAt(ev.version)
	end(nil)
}

func (h *interleaving) expectAt(version int) {
	h.Helper()
	synctest.Wait()
	if got, want := h.namesOf(h.query(inA)), h.cluster.answer(namespace, version); got != want {
		h.Fatalf("the view says %q, want %q", got, want)
	}
	h.check()
}

// TestWhateverOverlapsAViewSaysWhatWas: lists, pages of lists, watches, WatchLists,
// GETs, refusals, evictions and compactions of one view, in every order of what
// happens of them. What the view says at a version is what was at that version, it
// does not go back, and nothing comes back that was refused.
func TestWhateverOverlapsAViewSaysWhatWas(t *testing.T) {
	silence(t)
	count := 100
	if testing.Short() {
		count /= 10
	}
	checked, seen := 0, map[string]int{}
	for seed := range uint64(count) {
		ok := t.Run("", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newInterleaving(t, seed)
				defer func() {
					h.disconnect()
					_ = h.Close()
				}()
				for range 250 {
					h.step()
				}
				h.alone()
				if h.rng.IntN(4) == 0 {
					h.restart()
					h.check()
					h.alone()
				}
				checked += h.checked
				for what, n := range h.seen {
					seen[what] += n
				}
			})
		})
		if !ok {
			t.Fatalf("seed %d", seed)
		}
	}
	if seen["news"] < 5*count || seen["nothing"] < count {
		t.Errorf("too little happens: %v", seen)
	}
	report.Line(t, "%d interleavings, %d checks, %d times something new", count, checked, seen["news"])
}
