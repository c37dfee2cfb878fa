package oracle

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	counts "github.com/edgehub-io/edge-hub/test/report"
)

// TestOfflineAnswersAreAWatchCaches asks a third server, made of
// kube-apiserver's own handlers and watch cache over the same etcd.
//
// While etcd runs, it must answer as kube-apiserver does. That shows that it can
// be relied upon, and what it lacks. Then etcd is ended as well. The third
// server's watch caches stand still where the hub's views do, a state that no
// kube-apiserver can be kept in. What they still answer (from 0, from what they
// remember, from before that, from one more than they know) the hub must answer
// alike. What they don't, because it has to be read from etcd, the hub must
// answer as kube-apiserver did.
//
// One such server has begun before anything was changed, like the programs that
// watched the changes, and another one after, like those that listed then.
func TestOfflineAnswersAreAWatchCaches(t *testing.T) {
	w := newWorld(t, agents())
	early := w.embed()
	h, streams := w.record()
	late := w.embed()

	requests := slices.DeleteFunc(matrix(), func(q request) bool { return q.res.custom })
	w.catchUp(early, requests, h)
	w.catchUp(w.direct(), requests, h)
	live, known := w.askEach(w.direct(), requests, h.of), w.askEach(early, requests, h.of)
	faithful := newLedger(embeddedDiffers, nil)
	for i, q := range requests {
		faithful.add(cell{&program{agent: "embedded"}, q, live[i], known[i]}, func(c *cell) {
			c.want, c.got = w.again(w.direct(), q, h.of), w.again(early, q, h.of)
		})
	}
	faithful.tell(t, "the embedded apiserver and kube-apiserver")

	w.goOffline()
	w.awaitRecorded(streams, h)
	w.Expect(w.cluster.Kill()).To(Succeed())
	requests, live, known = only(requests, live, known, "configmaps", "secrets", "pods", "services", "nodes")
	// Reasons to differ from kube-apiserver are reasons here, too.
	offline := newLedger(nil, causeOf)
	for agent, server := range map[string]caller{"follows": early, "lists": late} {
		p := programs[slices.IndexFunc(programs, func(p *program) bool { return p.agent == agent })]
		w.compareFrozen(p, requests, w.withoutEtcd(p, server, requests, live, known, h), h, offline)
	}
	offline.tell(t, "the hub and a watch cache without etcd")
}

// compareFrozen asks the hub as a program and compares.
func (w *world) compareFrozen(p *program, requests []request, want []*answer, h *history, found *ledger) {
	w.Helper()
	views := &viewVersions{world: w, program: p, known: map[string]string{}}
	ask := func(i int) *answer {
		v := h.next(requests[i].res)
		v.current = views.of(requests[i], v.current)
		v.newer = following(v.current)
		a, err := w.viaHub(p.agent).ask(w.within(30*time.Second), requests[i], v)
		if err != nil {
			return &answer{header: http.Header{}, body: []byte(err.Error())}
		}
		return a
	}
	got := make([]*answer, len(requests))
	inTwoGoes(requests, func(i int) { got[i] = ask(i) })
	// Here a watch cache remembers no more than the program's views, so that
	// is no reason for a watch to differ.
	early := *p
	early.late = false
	for i, q := range requests {
		c := cell{p, q, want[i], got[i]}
		if q.verb == "watch" {
			c.program = &early
		}
		found.add(c, func(c *cell) { c.got = ask(i) })
	}
}

// withoutEtcd returns what is to be expected of a server that has no etcd but
// the data. That is what kube-apiserver answered, unless the watch cache has
// begun too late to know and says so. Of the reads that have to be consistent
// only a few are asked for, because each takes until it times out.
func (w *world) withoutEtcd(p *program, c caller, requests []request, live, known []*answer, h *history) []*answer {
	w.Helper()
	want := slices.Clone(live)
	var asked []request
	var at []int
	for i, q := range requests {
		if q.verb == "watch" || q.get("resourceVersion") != "" || i%50 == 0 {
			asked, at = append(asked, q), append(at, i)
		}
	}
	var same, expired, lost int
	for n, a := range w.askEach(c, asked, h.next) {
		i := at[n]
		switch {
		case a.needsEtcd():
			lost++
		case len(compare(known[i], a)) == 0:
			same++
		case p.late && a.watch && a.expired():
			expired++
			want[i] = a
		default:
			w.Errorf("without etcd the watch cache says something else: %s: %v", asked[n], compare(known[i], a))
		}
	}
	counts.Line(w.T, "as for %s: without etcd %d of %d answers stay the same, %d are 410 Expired, and %d fail", p.agent, same, len(asked), expired, lost)
	return want
}

// needsEtcd reports whether a server failed, other than by having waited for a
// resourceVersion in vain.
func (a *answer) needsEtcd() bool {
	for ; a != nil; a = a.next {
		body := string(a.body)
		if a.code >= http.StatusInternalServerError && !strings.Contains(body, "Too large resource version") ||
			a.watch && strings.Contains(body, context.DeadlineExceeded.Error()) {
			return true
		}
	}
	return false
}

// next is like of, but the future is the very next resourceVersion.
func (h *history) next(r *resource) versions {
	v := h.of(r)
	v.newer = following(v.current)
	return v
}

func following(version string) string {
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return version
	}
	return strconv.FormatUint(n+1, 10)
}

// only keeps the requests for some resources with their answers.
func only(requests []request, live, known []*answer, names ...string) (q []request, l, k []*answer) {
	for i, r := range requests {
		if slices.Contains(names, r.res.Resource) {
			q, l, k = append(q, r), append(l, live[i]), append(k, known[i])
		}
	}
	return q, l, k
}

// catchUp makes a server's watch caches learn what the resourceVersion is now,
// which they do for a consistent read.
func (w *world) catchUp(c caller, requests []request, h *history) {
	w.Helper()
	done := map[*resource]bool{}
	for _, q := range requests {
		if !done[q.res] {
			done[q.res] = true
			v, _ := w.versionOf(c, ask("list", q.res, ""))
			w.Expect(v).To(Equal(h.now), "%s", q.res)
		}
	}
}

// askEach asks a server everything.
func (w *world) askEach(c caller, requests []request, of func(*resource) versions) []*answer {
	w.Helper()
	start := time.Now()
	answers, errs := make([]*answer, len(requests)), make([]error, len(requests))
	inTwoGoes(requests, func(i int) {
		answers[i], errs[i] = c.ask(w.within(30*time.Second), requests[i], of(requests[i].res))
	})
	for _, err := range errs {
		w.Expect(err).NotTo(HaveOccurred())
	}
	w.Logf("%s answered %d requests in %v", c.server, len(requests), time.Since(start).Round(time.Millisecond))
	return answers
}

func (w *world) again(c caller, q request, of func(*resource) versions) *answer {
	w.Helper()
	a, err := c.ask(w.within(30*time.Second), q, of(q.res))
	w.Expect(err).NotTo(HaveOccurred())
	return a
}

// inTwoGoes asks the watches after all else: they end by the clock, and what
// keeps the machine busy would cut them short.
func inTwoGoes(requests []request, do func(i int)) {
	var lists, watches []int
	for i, q := range requests {
		if q.verb == "watch" {
			watches = append(watches, i)
		} else {
			lists = append(lists, i)
		}
	}
	parallel(len(lists), 64, func(i int) { do(lists[i]) })
	parallel(len(watches), 150, func(i int) { do(watches[i]) })
}
