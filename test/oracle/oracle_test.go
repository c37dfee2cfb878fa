package oracle

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/edgehub-io/edge-hub/test/hub"
)

func TestMain(m *testing.M) {
	code := m.Run()
	hub.Cleanup()
	os.Exit(code)
}

// history is what the matrix needs to know of what was written.
type history struct {
	base   string
	now    string
	middle map[string]string // by resource
	last   map[string]string
}

func (h *history) of(r *resource) versions {
	v := versions{current: h.now, base: h.base, middle: h.middle[r.Resource], newer: h.now + "000"}
	return v
}

// TestOfflineAnswersAreKubeAPIServers asks both the same.
func TestOfflineAnswersAreKubeAPIServers(t *testing.T) {
	w := newWorld(t, agents())
	h, streams := w.record()
	requests := matrix()
	start := time.Now()
	want := w.askLive(requests, h)
	requests, want = withForeignTokens(requests, want)
	t.Logf("kube-apiserver answered %d requests in %v", len(requests), time.Since(start).Round(time.Millisecond))
	still, _ := w.versionOf(w.direct(), ask("list", resourceNamed("nodes"), ""))
	w.Expect(still).To(Equal(h.now), "somebody writes while answers are compared")

	w.goOffline()
	w.awaitRecorded(streams, h)
	found := newReport()
	for _, p := range programs {
		start := time.Now()
		n := w.askHub(p, requests, want, h, found)
		t.Logf("%s: %d answers compared in %v", p.agent, n, time.Since(start).Round(time.Millisecond))
	}
	found.tell(t)
}

// record lets the programs read and things change.
func (w *world) record() (*history, []*stream) {
	w.Helper()
	h := &history{middle: map[string]string{}, last: map[string]string{}}
	h.base, _ = w.versionOf(w.direct(), ask("list", resourceNamed("nodes"), ""))
	streams := w.run(false)
	still, _ := w.versionOf(w.direct(), ask("list", resourceNamed("nodes"), ""))
	w.Expect(still).To(Equal(h.base), "somebody writes while programs begin")
	var mu sync.Mutex
	w.Expect(w.writer.change(w.Context(), func(r *resource, middle, last string) {
		mu.Lock()
		defer mu.Unlock()
		h.middle[r.Resource], h.last[r.Resource] = middle, last
	})).To(Succeed())
	for _, s := range streams {
		w.Eventually(s.complete).WithTimeout(20 * time.Second).Should(Succeed())
	}
	h.now, _ = w.versionOf(w.direct(), ask("list", resourceNamed("nodes"), ""))
	w.run(true)
	return h, streams
}

// awaitRecorded waits until the hub has taken in what it has passed on.
func (w *world) awaitRecorded(streams []*stream, h *history) {
	w.Helper()
	for _, s := range streams {
		w.Eventually(func() (string, error) {
			v, ok := w.versionOf(w.viaHub(s.agent), s.scope.request("list", s.res).with(param{"limit", "1"}))
			if !ok {
				return "", fmt.Errorf("not there")
			}
			return v, nil
		}).WithTimeout(10*time.Second).Should(atLeast(h.lastIn(s)), "%s %s %+v", s.agent, s.res, s.scope)
	}
	for _, p := range programs {
		if !p.late || p.agent == "gets" || p.agent == "metadata" || p.agent == "tables" {
			continue
		}
		for _, r := range resources {
			w.Eventually(func() string {
				v, _ := w.versionOf(w.viaHub(p.agent), ask("list", r, "").with(param{"limit", "1"}))
				return v
			}).WithTimeout(10*time.Second).Should(Equal(h.now), "%s %s", p.agent, r)
		}
	}
}

// lastIn is the version that a stream's view must have reached. Only the last
// namespace's last change is known.
func (h *history) lastIn(s *stream) string {
	if s.scope.namespace == "" || s.scope.namespace == namespaces[len(namespaces)-1] {
		return h.last[s.res.Resource]
	}
	return h.base
}

// parallel does something for each of n at once, width at a time.
func parallel(n, width int, do func(i int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, width)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			do(i)
		})
	}
	wg.Wait()
}

// waits reports whether an answer takes a second or more, though no work.
func waits(q request) bool {
	return q.verb == "watch" || strings.Contains(fmt.Sprint(q.params), "{newer}")
}

// concurrently asks quick requests a few at a time and the others all at once.
func concurrently(requests []request, do func(i int)) {
	var quick, slow []int
	for i, q := range requests {
		if waits(q) {
			slow = append(slow, i)
		} else {
			quick = append(quick, i)
		}
	}
	parallel(len(slow), 500, func(i int) { do(slow[i]) })
	parallel(len(quick), 6, func(i int) { do(quick[i]) })
}

func (w *world) askLive(requests []request, h *history) []*answer {
	w.Helper()
	answers, errs := make([]*answer, len(requests)), make([]error, len(requests))
	concurrently(requests, func(i int) {
		answers[i], errs[i] = w.direct().ask(w.within(30*time.Second), requests[i], h.of(requests[i].res))
	})
	for _, err := range errs {
		w.Expect(err).NotTo(HaveOccurred())
	}
	return answers
}

// askHub asks the hub what a program may ask, and reports the differences.
func (w *world) askHub(p *program, requests []request, want []*answer, h *history, found *report) int {
	w.Helper()
	var mine []request
	var wants []*answer
	for i, q := range requests {
		if p.asks(q) && (p.late || !q.foreign) {
			mine, wants = append(mine, q), append(wants, want[i])
		}
	}
	views := &viewVersions{world: w, program: p, known: map[string]string{}}
	got, errs := make([]*answer, len(mine)), make([]error, len(mine))
	concurrently(mine, func(i int) {
		v := h.of(mine[i].res)
		v.current = views.of(mine[i], v.current)
		got[i], errs[i] = w.viaHub(p.agent).ask(w.within(30*time.Second), mine[i], v)
	})
	for i, q := range mine {
		if errs[i] != nil {
			found.add(cell{p, q, wants[i], &answer{}}, []difference{{"request", "an answer", errs[i].Error()}})
			continue
		}
		found.add(cell{p, q, wants[i], got[i]}, compare(wants[i], got[i]))
	}
	return len(mine)
}

// viewVersions are the resourceVersions of the views that a program's requests
// are answered from.
type viewVersions struct {
	*world
	program *program
	mu      sync.Mutex
	known   map[string]string
}

func (v *viewVersions) of(q request, otherwise string) string {
	plain := ask("list", q.res, q.namespace).with(param{"limit", "1"})
	for _, name := range []string{"labelSelector", "fieldSelector"} {
		if s := q.get(name); s != "" {
			plain = plain.with(param{name, s})
		}
	}
	key := plain.String()
	v.mu.Lock()
	version, ok := v.known[key]
	v.mu.Unlock()
	if ok {
		return version
	}
	version, ok = v.versionOf(v.viaHub(v.program.agent), plain)
	if !ok {
		version = otherwise
	}
	v.mu.Lock()
	v.known[key] = version
	v.mu.Unlock()
	return version
}

// withForeignTokens adds, for some lists in pages, requests for the second page
// with the token that kube-apiserver gave: a program may lose the cloud between
// two pages.
func withForeignTokens(requests []request, want []*answer) ([]request, []*answer) {
	var more []request
	var answers []*answer
	for i, q := range requests {
		if q.walk && q.get("limit") == "4" && len(q.params) == 1 && want[i].next != nil {
			next := want[i].next
			second := &answer{code: next.code, header: next.header, body: next.body, vers: next.vers}
			q = q.with(param{"continue", continueOf(want[i])})
			q.walk, q.foreign = false, true
			more, answers = append(more, q), append(answers, second)
		}
	}
	return append(more, requests...), append(answers, want...)
}
