package cache

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
)

// busy keeps the one that withdraws from going on until release is called, as a
// slow disk does.
func (f *fixture) busy(q Query) (release func()) {
	f.Helper()
	v := f.view(q.Key)
	v.mu.Lock()
	f.refused(q, http.StatusForbidden)
	for { // until it is taken, for the rest to wait behind it
		f.withdrawals.mu.Lock()
		n := len(f.withdrawals.waiting)
		f.withdrawals.mu.Unlock()
		if n == 0 {
			return v.mu.Unlock
		}
		runtime.Gosched()
	}
}

// refused passes an answer that is an error, and waits for nothing.
func (f *fixture) refused(q Query, code int) {
	f.Helper()
	rc := f.Record(q, answerOf(code, strings.NewReader("{}")))
	_, _ = io.Copy(io.Discard, rc)
	rc.Close()
}

// waiting is how many refusals of an identity wait.
func (f *fixture) waiting(identity string) int {
	f.withdrawals.mu.Lock()
	defer f.withdrawals.mu.Unlock()
	return f.withdrawals.count[identity]
}

func TestTheSameRefusalWaitsOnce(t *testing.T) {
	f := newFixture(t, "app", "other")
	busy := f.queryAs("other", "busy", inA, "")
	f.record(busy, listOf(10))
	f.record(f.query(inA), listOf(10, object("a", "x", 3)))
	release := f.busy(busy)
	for range 1000 {
		f.refused(f.query(oneInA), http.StatusNotFound)
		f.refused(f.asking("", oneInA, asMetadata), http.StatusNotFound)
		f.refused(f.query(labelsInA), http.StatusForbidden)
		f.refused(f.query(inA+watchList), http.StatusForbidden)
	}
	if n := f.waiting("me"); n != 3 {
		t.Errorf("%d wait, want one for the object and two for the namespace, its lists and its watches", n)
	}
	release()
	f.recordings.Wait()
	f.expect(inA, "503")
	if f.waiting("me") != 0 || f.withdrawals.working {
		t.Error("the work does not end")
	}
}

// TestAFloodOfRefusalsIsBoundedAndNoneIsPassedOver, and costs nobody else anything.
func TestAFloodOfRefusalsIsBoundedAndNoneIsPassedOver(t *testing.T) {
	const secretOfMe = "/api/v1/namespaces/a/secrets/x"
	services := strings.Replace(inA, "configmaps", "services", 1)
	for name, c := range map[string]struct {
		path string // of the nth
		most int
		lost []string // besides what was refused
		kept []string
	}{
		"of objects": {path: inA + "/made-up-%d", most: maxWithdrawals + 1, lost: []string{inA, oneInA}, kept: []string{services}},
		"of objects with long names": {path: inA + "/" + strings.Repeat("x", maxWithdrawalTextLength) + "%d", most: 1,
			lost: []string{inA, oneInA}, kept: []string{services}},
		"of resources": {path: "/api/v1/namespaces/a/made-up-%d/x", most: maxWithdrawals + maxResourcesWithdrawn + 1,
			lost: []string{inA, oneInA, services}},
		"of resources with long names": {path: "/api/v1/namespaces/a/" + strings.Repeat("x", maxWithdrawalTextLength) + "%d/x", most: 1,
			lost: []string{inA, oneInA, services}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, "app", "other")
			busy := f.queryAs("other", "busy", inA, "")
			f.record(busy, listOf(10))
			all := []string{inA, oneInA, services}
			for _, path := range all {
				body := listOf(10, object("a", "x", 3))
				if path == oneInA {
					body = single("a", "x", 3)
				}
				f.record(f.query(path), body)
				f.record(f.queryAs("app", "you", path, ""), body)
			}
			f.record(f.query(secretOfMe), strings.Replace(single("a", "x", 3), "ConfigMap", "Secret", 1))
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			f.open("app", "other") // memory knows of nothing, the disk does

			f.record(busy, listOf(10))
			release := f.busy(busy)
			for i := range 5000 {
				f.refused(f.query(fmt.Sprintf(c.path, i)), http.StatusNotFound)
				f.refused(f.query(secretOfMe), http.StatusForbidden) // the one that is not made up
			}
			if n := f.waiting("me"); n > c.most+1 {
				t.Errorf("%d wait, want %d at most", n, c.most)
			}
			release()
			f.recordings.Wait()
			if n := len(f.dirs); n > 20 {
				t.Errorf("made-up names have left %d directories in memory", n)
			}
			for range 2 {
				if code, body := f.ask(f.query(secretOfMe)); code == http.StatusOK {
					t.Errorf("what was refused is answered: %s", body)
				}
				for _, path := range c.lost {
					if code, _ := f.ask(f.query(path)); code != http.StatusServiceUnavailable {
						t.Errorf("%s: %d", path, code)
					}
				}
				for _, path := range c.kept {
					if code, _ := f.ask(f.query(path)); code != http.StatusOK {
						t.Errorf("%s: %d, and was not refused", path, code)
					}
				}
				for _, path := range all {
					if code, _ := f.ask(f.queryAs("app", "you", path, "")); code != http.StatusOK {
						t.Errorf("another identity's %s: %d", path, code)
					}
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
				f.open("app", "other")
			}
		})
	}
}

// TestWhatIsRefusedIsNotAnsweredEvenBeforeItIsWithdrawn: a slow disk delays the
// answer, and those of nobody else.
func TestWhatIsRefusedIsNotAnsweredEvenBeforeItIsWithdrawn(t *testing.T) {
	f := newFixture(t)
	slow, you := f.queryAs("app", "busy", inA, ""), f.queryAs("app", "you", inA, "")
	f.record(slow, listOf(10))
	for _, q := range []Query{f.query(inA), you} {
		f.record(q, listOf(10, object("a", "x", 3)))
	}
	release := f.busy(slow)
	f.refused(f.query(inA), http.StatusForbidden)
	if code, _ := f.ask(you); code != http.StatusOK {
		t.Errorf("another identity is answered %d", code)
	}
	if code, body := f.ask(f.query(inA)); code != http.StatusServiceUnavailable { // which does not wait
		t.Errorf("before it is withdrawn: %d %s", code, body)
	}
	answered := make(chan error)
	go func() {
		r := httptest.NewRequest(http.MethodGet, inA, nil).WithContext(t.Context())
		answered <- f.Answer(httptest.NewRecorder(), r, f.query(inA), reachable{})
	}()
	release()
	if err := <-answered; err == nil {
		t.Error("what was refused is answered")
	}
	f.recordings.Wait()
}

// TestRefusalsOfManyIdentitiesAreBounded: what is more than all may have costs each
// identity its own, once.
func TestRefusalsOfManyIdentitiesAreBounded(t *testing.T) {
	var l withdrawals
	for i := range 100 {
		for n := range maxWithdrawals * 2 {
			q := Query{Verb: Get, Key: Key{Agent: "app", Identity: fmt.Sprint(i), Version: "v1", Resource: "configmaps", Namespace: "a", Name: fmt.Sprint(n)}}
			if start := l.add(withdrawalOf(q, http.StatusNotFound), 1); start != (i == 0 && n == 0) {
				t.Fatalf("%d of %d starts the work: %v", n, i, start)
			}
		}
	}
	if n := len(l.waiting); n > maxAllWithdrawals+100 {
		t.Errorf("%d wait", n)
	}
	all := map[string]bool{}
	for w, _, ok := l.next(); ok; w, _, ok = l.next() {
		if w.verb == 0 {
			all[w.key.Identity] = true
		}
	}
	if len(all) != 100 {
		t.Errorf("%d identities lose all of the resource, want each", len(all))
	}
	if l.working || len(l.known) != 0 || len(l.count) != 0 {
		t.Errorf("left behind: %+v", &l)
	}
}
