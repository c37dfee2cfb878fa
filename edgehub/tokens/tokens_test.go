package tokens

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/edgehub-io/edge-hub/edgehub/identity"
	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
	"github.com/edgehub-io/edge-hub/edgehub/seal"
)

const interval = 500 * time.Millisecond

func key(t testing.TB, text string) *seal.Key {
	t.Helper()
	k, err := seal.NewKey([]byte(text + strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// node is a hub's tokens, on a file system in memory.
type node struct {
	testing.TB
	*Tokens
	options Options
	stop    func()
}

func newNode(t testing.TB, disk journal.FS, change func(*Options)) *node {
	t.Helper()
	n := &node{TB: t, options: Options{FS: disk, Key: key(t, "own"), Now: time.Now, Interval: interval}}
	if change != nil {
		change(&n.options)
	}
	n.start()
	return n
}

func (n *node) start() {
	n.Tokens = Open(n.options)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx) }()
	n.stop = func() { cancel(); <-done; _ = n.Close() }
}

func (n *node) restart() {
	n.stop()
	n.start()
}

// requestFor is what the kubelet asks for a Pod.
func requestFor(pod, audience string) Request {
	body := fmt.Sprintf(`{"spec":{"audiences":[%q],"expirationSeconds":3607,"boundObjectRef":{"name":%q,"uid":"uid-%s"}}}`, audience, pod, pod)
	r := httptest.NewRequest(http.MethodPost, "/api/v1/namespaces/shop/serviceaccounts/app/token", nil)
	return NewRequest(r, "shop", "app", []byte(body))
}

// answerFor is what kube-apiserver answers. serial tells tokens apart.
func answerFor(pod string, serial int, issued, expires time.Time) Answer {
	return signedAnswer("system:serviceaccount:shop:app", pod, serial, issued, expires)
}

func signedAnswer(subject, pod string, serial int, issued, expires time.Time) Answer {
	payload := fmt.Sprintf(`{"sub":%q,"iat":%d,"exp":%d,"jti":"%d","kubernetes.io":{"namespace":"shop","pod":{"name":%q,"uid":"uid-%s"}}}`,
		subject, issued.Unix(), expires.Unix(), serial, pod, pod)
	encode := base64.RawURLEncoding.EncodeToString
	token := encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(payload)) + "." + encode([]byte("signature"))
	body, _ := json.Marshal(authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{Token: token}})
	return Answer{"application/json", body}
}

// keep keeps a token and waits until it is written, in a synctest bubble.
func (n *node) keep(q Request, a Answer) {
	n.Helper()
	n.Keep(q, a)
	synctest.Wait()
}

func (n *node) expect(q Request, want *Answer) {
	n.Helper()
	got, ok := n.Find(q)
	switch {
	case want == nil && ok:
		n.Errorf("found %s", got.Body)
	case want != nil && !ok:
		n.Error("found nothing")
	case want != nil && (got.ContentType != want.ContentType || string(got.Body) != string(want.Body)):
		n.Errorf("found %s, want %s", got.Body, want.Body)
	}
}

func TestTheSameRequestGetsTheSameBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := journaltest.New()
		n := newNode(t, disk, nil)
		now := time.Now()
		first, second := answerFor("a", 1, now, now.Add(time.Hour)), answerFor("a", 2, now, now.Add(2*time.Hour))
		n.keep(requestFor("a", ""), first)
		n.expect(requestFor("a", ""), &first)
		n.keep(requestFor("a", ""), second)
		for range 3 { // and after restarts
			n.expect(requestFor("a", ""), &second)
			n.expect(requestFor("b", ""), nil)
			n.expect(requestFor("a", "vault"), nil)
			n.restart()
		}
		for _, name := range disk.Files() {
			content, _ := disk.Get(name)
			for text := range bytes.Lines(content) {
				var l line
				if err := json.Unmarshal(text, &l); err != nil {
					t.Fatalf("%s: %v", text, err)
				}
				// What is shorter may be in a sealed record by chance.
				for _, plain := range []string{"serviceaccount", base64.StdEncoding.EncodeToString(second.Body)} {
					if bytes.Contains(text, []byte(plain)) || bytes.Contains(l.Sealed, []byte(plain)) {
						t.Errorf("%s can be read: %s", name, text)
					}
				}
			}
		}
		time.Sleep(2 * time.Hour)
		n.expect(requestFor("a", ""), nil)
		n.stop()
	})
}

// TestRequestsDifferByAllThatTheySay.
func TestRequestsDifferByAllThatTheySay(t *testing.T) {
	make := func(path, contentType, accept, body string) Request {
		r := httptest.NewRequest(http.MethodPost, path, nil)
		r.Header.Set("Content-Type", contentType)
		r.Header.Set("Accept", accept)
		return NewRequest(r, "shop", "app", []byte(body))
	}
	const path = "/api/v1/namespaces/shop/serviceaccounts/app/token"
	all := []Request{
		make(path, "a", "b", "c"), make(path+"2", "a", "b", "c"), make(path+"?dryRun=All", "a", "b", "c"),
		make(path, "ab", "", "c"), make(path, "a", "bc", ""), make(path, "a", "b", "cc"), make(path, "", "ab", "c"),
	}
	for i, q := range all {
		if slices.Contains(all[:i], q) {
			t.Errorf("request %d is the same as another", i)
		}
	}
	if all[0] != make(path, "a", "b", "c") {
		t.Error("a request differs from itself")
	}
}

// TestTheNewestTokenThatIsGoodIsFound, though an older one may be good for longer.
func TestTheNewestTokenThatIsGoodIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, journaltest.New(), nil)
		now := time.Now()
		long, short := answerFor("a", 1, now, now.Add(9*time.Hour)), answerFor("a", 2, now.Add(time.Minute), now.Add(time.Hour))
		n.keep(requestFor("a", ""), short)
		n.keep(requestFor("a", ""), long) // which came late
		n.expect(requestFor("a", ""), &short)
		n.restart()
		n.expect(requestFor("a", ""), &short)
		time.Sleep(2 * time.Hour)
		n.expect(requestFor("a", ""), &long)
		n.stop()
	})
}

func TestWhatIsNoAnswerIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, journaltest.New(), nil)
		defer n.stop()
		now := time.Now()
		good := answerFor("a", 1, now, now.Add(time.Hour))
		for name, bad := range map[string]Answer{
			"another ServiceAccount's": signedAnswer("system:serviceaccount:shop:other", "a", 1, now, now.Add(time.Hour)),
			"without expiry":           answerFor("a", 1, now, time.Unix(0, 0)),
			"not JSON":                 {"application/json", []byte("{")},
			"no token":                 {"application/json", []byte("{}")},
			"not a JWT":                {"application/json", []byte(`{"status":{"token":"opaque"}}`)},
			"of another type":          {"text/plain", good.Body},
			"not protobuf":             {"application/vnd.kubernetes.protobuf", good.Body},
			"too large":                {"application/json", []byte(`{"x":"` + strings.Repeat("x", MaxBody) + `",` + string(good.Body[1:]))},
		} {
			n.keep(requestFor("a", ""), bad)
			if n.Len() != 0 {
				t.Errorf("%s is kept", name)
			}
		}
		for _, a := range []Answer{good} {
			if strings.Contains(fmt.Sprintf("%v %+v %#v", a, a, a), "token\":") {
				t.Error("an answer prints its token")
			}
		}
	})
}

// TestWithAnotherKeyThereIsNothing, and without one nothing is kept.
func TestWithAnotherKeyThereIsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := journaltest.New()
		n := newNode(t, disk, nil)
		now := time.Now()
		a := answerFor("a", 1, now, now.Add(time.Hour))
		n.keep(requestFor("a", ""), a)
		n.stop()
		for _, k := range []*seal.Key{key(t, "other"), nil} {
			other := newNode(t, disk, func(o *Options) { o.Key = k })
			other.expect(requestFor("a", ""), nil)
			other.stop()
		}
		n.start()
		n.expect(requestFor("a", ""), &a)
		n.stop()
		other := newNode(t, disk, func(o *Options) { o.Key = key(t, "other") })
		other.keep(requestFor("a", ""), a)
		other.expect(requestFor("a", ""), &a)
		other.stop()
		none := newNode(t, journaltest.New(), func(o *Options) { o.Key = nil })
		none.keep(requestFor("a", ""), a)
		none.expect(requestFor("a", ""), nil)
		none.stop()
	})
}

// TestTokensOfPodsThatAreGoneAreDropped: at once for who asks, and from the disk
// some time later.
func TestTokensOfPodsThatAreGoneAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := journaltest.New()
		existence := map[string]identity.Existence{"stays": identity.Exists, "goes": identity.Exists, "new": identity.Gone}
		seen := time.Now().Add(-time.Minute)
		n := newNode(t, disk, func(o *Options) {
			o.Pods = func(_, name, _ string) (identity.Existence, time.Duration) { return existence[name], time.Since(seen) }
		})
		now := time.Now()
		answers := map[string]Answer{}
		for _, name := range []string{"stays", "goes", "new"} {
			answers[name] = answerFor(name, 1, now, now.Add(time.Hour))
			n.keep(requestFor(name, ""), answers[name])
		}
		// The kubelet was told of its Pods before this token was issued.
		for name, a := range answers {
			n.expect(requestFor(name, ""), &a)
		}
		existence["goes"], existence["new"] = identity.Gone, identity.Exists
		seen = time.Now().Add(time.Second)
		time.Sleep(2 * time.Second)
		n.expect(requestFor("goes", ""), nil)
		before, _ := disk.Get(fileName)
		time.Sleep(sweepPeriod + time.Minute)
		if after, _ := disk.Get(fileName); n.Len() != 2 || len(after) >= len(before) {
			t.Errorf("%d tokens are kept in %d bytes after %d", n.Len(), len(after), len(before))
		}
		n.restart()
		for _, name := range []string{"stays", "new"} {
			a := answers[name]
			n.expect(requestFor(name, ""), &a)
		}
		n.stop()
	})
}

// TestWhatIsKeptIsBounded in memory and on the disk.
func TestWhatIsKeptIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := journaltest.New()
		n := newNode(t, disk, nil)
		defer n.stop()
		now := time.Now()
		var last Answer
		for i := range 3 * maxTokens {
			pod := fmt.Sprint("pod-", i%(maxTokens+100))
			last = answerFor(pod, i, now.Add(time.Duration(i)*time.Second), now.Add(time.Hour+time.Duration(i)*time.Second))
			n.keep(requestFor(pod, ""), last)
		}
		if n.Len() > maxTokens {
			t.Errorf("%d tokens", n.Len())
		}
		n.expect(requestFor(fmt.Sprint("pod-", (3*maxTokens-1)%(maxTokens+100)), ""), &last)
		time.Sleep(time.Minute)
		content, _ := disk.Get(fileName)
		if limit := 4 * maxTokens * 1500; len(content) > limit || len(disk.Files()) != 1 {
			t.Errorf("%d bytes in %v", len(content), disk.Files())
		}
	})
}

// TestEveryCrashLeavesTokensThatWereIssued: of those that were kept more than two
// intervals earlier the newest that was, and nothing else, whatever the disk makes
// of the rest.
func TestEveryCrashLeavesTokensThatWereIssued(t *testing.T) {
	for seed := range uint64(15) {
		synctest.Test(t, func(t *testing.T) { crashes(t, seed) })
	}
}

type issue struct {
	serial int
	answer Answer
	when   time.Time
}

func crashes(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 7))
	disk := journaltest.New()
	var faulty atomic.Bool
	disk.Inject(func(op journaltest.Op) *journaltest.Fault {
		if faulty.Load() && (op.Kind == journaltest.Sync || op.Kind == journaltest.Write) {
			return &journaltest.Fault{Err: errors.New("disk fails")}
		}
		return nil
	})
	n := newNode(t, disk, nil)
	issued := map[string][]issue{}
	type moment struct {
		ops  int
		when time.Time
	}
	moments := []moment{{disk.Len(), time.Now()}}
	sound := true // the disk has not failed yet: what was kept is there
	var failedAt time.Time
	for serial := range 60 {
		if rng.IntN(12) == 0 {
			faulty.Store(true)
			if sound {
				sound, failedAt = false, time.Now()
			}
		}
		pod := fmt.Sprint("pod-", rng.IntN(4))
		now := time.Now()
		a := answerFor(pod, serial, now.Add(time.Duration(serial)*time.Second), now.Add(24*time.Hour))
		n.keep(requestFor(pod, ""), a)
		issued[pod] = append(issued[pod], issue{serial, a, now})
		time.Sleep(time.Duration(rng.IntN(900)) * time.Millisecond)
		faulty.Store(false)
		if rng.IntN(15) == 0 {
			n.restart()
		}
		synctest.Wait()
		moments = append(moments, moment{disk.Len(), time.Now()})
	}
	n.stop()
	for range 40 {
		ops := rng.IntN(disk.Len() + 1)
		when := moments[0].when
		for _, m := range moments {
			if m.ops <= ops {
				when = m.when
			}
		}
		after := newNode(t, disk.Crash(ops, rng), nil)
		for pod, all := range issued {
			got, ok := after.Find(requestFor(pod, ""))
			least := -1
			for _, i := range all {
				if i.when.Add(2 * interval).Before(when) {
					least = i.serial
				}
			}
			serial := -1
			for _, i := range all {
				if ok && string(i.answer.Body) == string(got.Body) {
					serial = i.serial
				}
			}
			if ok && serial < 0 {
				t.Fatalf("seed %d: %s was never issued", seed, got.Body)
			}
			if serial < least && (sound || when.Before(failedAt)) {
				t.Fatalf("seed %d: after %d operations %s has token %d, want at least %d", seed, ops, pod, serial, least)
			}
		}
		// What is kept next is found.
		a := answerFor("next", 1, time.Now(), time.Now().Add(time.Hour))
		after.keep(requestFor("next", ""), a)
		after.expect(requestFor("next", ""), &a)
		after.stop()
	}
}

// TestADiskThatFailsCostsWhatIsOnIt and no more.
func TestADiskThatFailsCostsWhatIsOnIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := journaltest.New()
		var faulty atomic.Bool
		disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if faulty.Load() && (op.Changes() || op.Kind == journaltest.Sync) {
				return &journaltest.Fault{Err: errors.New("disk fails")}
			}
			return nil
		})
		n := newNode(t, disk, nil)
		now := time.Now()
		a, b := answerFor("a", 1, now, now.Add(time.Hour)), answerFor("b", 1, now, now.Add(time.Hour))
		faulty.Store(true)
		n.keep(requestFor("a", ""), a)
		n.expect(requestFor("a", ""), nil)
		faulty.Store(false)
		n.keep(requestFor("a", ""), a)
		time.Sleep(2 * interval)
		faulty.Store(true)
		n.keep(requestFor("b", ""), b)
		n.expect(requestFor("a", ""), &a)
		time.Sleep(2 * interval)
		faulty.Store(false)
		n.keep(requestFor("b", ""), b)
		n.restart()
		n.expect(requestFor("a", ""), &a)
		n.expect(requestFor("b", ""), &b)
		n.stop()
	})
}

// TestAFileThatCannotBeReadIsGivenUp: what was read before the sector that fails
// is not half there.
func TestAFileThatCannotBeReadIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := journaltest.New()
		n := newNode(t, disk, nil)
		now := time.Now()
		const many = 200 // more than is read at once
		for i := range many {
			n.keep(requestFor(fmt.Sprint("pod-", i), ""), answerFor(fmt.Sprint("pod-", i), i, now, now.Add(time.Hour)))
		}
		n.stop()
		reads := 0
		disk.Inject(func(op journaltest.Op) *journaltest.Fault {
			if op.Kind != journaltest.Read {
				return nil
			}
			if reads++; reads < 2 {
				return nil
			}
			return &journaltest.Fault{Err: errors.New("unreadable sector")}
		})
		n.start()
		if reads < 2 {
			t.Fatal("the file was read at once")
		}
		n.expect(requestFor("pod-0", ""), nil)
		if n.Len() != 0 {
			t.Errorf("%d tokens of a file that can't be read", n.Len())
		}
		disk.Inject(nil)
		next := answerFor("next", 1, now, now.Add(time.Hour))
		n.keep(requestFor("next", ""), next)
		n.expect(requestFor("next", ""), &next)
		n.restart()
		n.expect(requestFor("next", ""), &next)
		n.stop()
	})
}

// TestATokenThatIsNotKeptIsCounted: while the disk hangs no more than so many wait.
func TestATokenThatIsNotKeptIsCounted(t *testing.T) {
	tokens := Open(Options{FS: journaltest.New(), Key: key(t, "own"), Now: time.Now, Interval: interval}) // and nobody writes
	now := time.Now()
	for i := range queued + 3 {
		tokens.Keep(requestFor("a", ""), answerFor("a", i, now, now.Add(time.Hour)))
	}
	if got := testutil.ToFloat64(tokens.dropped); got != 3 {
		t.Errorf("%v tokens were dropped", got)
	}
	if err := tokens.Close(); err != nil {
		t.Error(err)
	}
}

func FuzzClaims(f *testing.F) {
	good := answerFor("a", 1, time.Unix(1e9, 0), time.Unix(2e9, 0))
	f.Add(good.ContentType, good.Body)
	var t authenticationv1.TokenRequest
	_ = json.Unmarshal(good.Body, &t)
	raw, _ := t.Marshal()
	envelope, _ := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{Kind: "TokenRequest", APIVersion: "authentication.k8s.io/v1"}, Raw: raw}).Marshal()
	f.Add("application/vnd.kubernetes.protobuf", append([]byte("k8s\x00"), envelope...))
	if c, err := claimsOf(Answer{"application/vnd.kubernetes.protobuf", append([]byte("k8s\x00"), envelope...)}); err != nil || c.Expires != 2e9 {
		f.Fatal(c, err)
	}
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		c, err := claimsOf(Answer{contentType, body})
		if err == nil && c.check(c.Subject) == nil && c.Expires == 0 {
			t.Error("a token without expiry")
		}
	})
}
