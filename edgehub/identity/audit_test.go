package identity

import (
	"bytes"
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/klog/v2"
)

// gracious is a node whose cloud is away and that grants an hour to tokens that
// expired an hour after start.
func gracious(t *testing.T) *node {
	n := newNode(t)
	n.options.ExpiredGrace = time.Hour
	n.options.Offline = func() bool { return true }
	return n
}

func TestExpiredTokensAreAcceptedWithinTheGraceAlone(t *testing.T) {
	for _, tc := range []struct {
		name  string
		grace time.Duration
		after time.Duration // since start
		why   string        // of the refusal, "" if there is none
	}{
		{name: "none by default", after: 61*time.Minute + time.Second, why: "expired at 2026-03-01T13:00:00Z"},
		{name: "at the end of the grace", grace: time.Hour, after: 2 * time.Hour},
		{name: "after the grace", grace: time.Hour, after: 2*time.Hour + time.Second, why: "expired"},
		{name: "the most there is", grace: MaxExpiredGrace, after: 25 * time.Hour},
		{name: "after the most there is", grace: MaxExpiredGrace, after: 25*time.Hour + time.Second, why: "expired"},
		{name: "a grace within the leeway takes nothing away", grace: time.Second, after: time.Hour + 59*time.Second},
		{name: "nor adds anything", grace: time.Second, after: 61*time.Minute + time.Second, why: "expired"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := gracious(t)
			n.options.ExpiredGrace = tc.grace
			a := n.openWith(newCluster())
			n.clock.SetTime(start.Add(tc.after))
			id, err := a.Authenticate(bearer(podToken(nil)))
			if tc.why == "" && (err != nil || id.Key != edgeAppKey) {
				t.Errorf("refused: %v", err)
			}
			if tc.why != "" && (err == nil || !strings.Contains(err.Error(), tc.why)) {
				t.Errorf("%v, %v; want a refusal that says %q", id, err, tc.why)
			}
			if proven, ok := a.Proven(bearer(podToken(nil))); ok != (err == nil) || proven != id {
				t.Errorf("%v, %v is proven", proven, ok)
			}
		})
	}
}

func TestTheGraceForgivesNothingButTheExpiry(t *testing.T) {
	expired := start.Add(90 * time.Minute)
	for _, tc := range []struct {
		name, token, why string
		change           func(*node)
		before           func(*testing.T, *Authenticator)
	}{
		{name: "while the cloud is there", why: "expired", change: func(n *node) { n.options.Offline = func() bool { return false } }},
		{name: "when it is not known whether it is", why: "expired", change: func(n *node) { n.options.Offline = nil }},
		{name: "of a Pod that was deleted", why: "which was deleted", change: func(n *node) {
			n.options.Pods = func(string, string, string) (Existence, time.Duration) { return Gone, 0 }
		}},
		{name: "of a Pod on another node", why: "on node node-1", change: func(n *node) { n.options.Node = Node{Name: "node-2"} }},
		{name: "that the cloud has refused", why: "refused this token", before: func(t *testing.T, a *Authenticator) { observe(t, a, podToken(nil), 401) }},
		{name: "for another audience", token: podToken(map[string]any{"aud": []string{"vault"}}), why: "another audience"},
		{name: "from another issuer", token: podToken(map[string]any{"iss": "https://evil.example"}), why: "another issuer"},
		{name: "forged", token: rawToken(map[string]any{"alg": "none"}, podClaims(nil), nil), why: "algorithm"},
		{name: "not yet valid", token: podToken(map[string]any{"nbf": expired.Add(5 * time.Minute).Unix()}), why: "not valid before"},
		{name: "of nobody this cluster knows, though the cloud took it", token: hs256([]byte("shared")), why: "expired",
			before: func(t *testing.T, a *Authenticator) { observe(t, a, hs256([]byte("shared")), 200) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := gracious(t)
			if tc.change != nil {
				tc.change(n)
			}
			if tc.token == "" {
				tc.token = podToken(nil)
			}
			a := n.openWith(newCluster())
			if tc.before != nil {
				tc.before(t, a)
			}
			n.clock.SetTime(expired)
			if id, err := a.Authenticate(bearer(tc.token)); err == nil || !strings.Contains(err.Error(), tc.why) {
				t.Errorf("%v, %v; want a refusal that says %q", id, err, tc.why)
			}
		})
	}
}

// TestAClockSetBackLengthensNoGrace: the largest time that was ever seen counts.
func TestAClockSetBackLengthensNoGrace(t *testing.T) {
	n := gracious(t)
	a := n.openWith(newCluster())
	n.clock.SetTime(start.Add(90 * time.Minute))
	if _, err := a.Authenticate(bearer(podToken(nil))); err != nil {
		t.Fatalf("within the grace: %v", err)
	}
	n.clock.SetTime(start.Add(3 * time.Hour))
	if !refusedAsExpired(t, a, podToken(nil)) {
		t.Fatal("the grace has passed")
	}
	n.clock.SetTime(start.Add(90 * time.Minute))
	if !refusedAsExpired(t, a, podToken(nil)) {
		t.Error("revived in the running hub")
	}
	if err := a.Save(); err != nil {
		t.Fatal(err)
	}
	if !refusedAsExpired(t, n.open(), podToken(nil)) {
		t.Error("revived by a restart")
	}
}

func TestGraceIsBounded(t *testing.T) {
	for _, grace := range []time.Duration{-time.Second, MaxExpiredGrace + 1} {
		n := newNode(t)
		if _, err := Open(Options{StateDir: n.dir, ExpiredGrace: grace}); err == nil || !strings.Contains(err.Error(), "between 0 and 24h0m0s") {
			t.Errorf("%v: %v", grace, err)
		}
	}
}

// TestExpiredTokensAreAudited in the log, once a minute for each identity, and in
// the metrics, each time.
func TestExpiredTokensAreAudited(t *testing.T) {
	log := captureLog(t)
	n := gracious(t)
	a := n.openWith(newCluster())
	other := podToken(serviceAccount("default", "other", "uid-2"))
	lines := func() int {
		klog.Flush()
		return strings.Count(log.String(), "Accepted an expired token")
	}
	expect := func(when string, wantLines int, wantGrace, wantRefused float64) {
		t.Helper()
		grace, refused := testutil.ToFloat64(a.audit.accepted), testutil.ToFloat64(a.audit.refused)
		if got := lines(); got != wantLines || grace != wantGrace || refused != wantRefused {
			t.Errorf("%s: %d lines, %v accepted, %v refused; want %d, %v, %v", when, got, grace, refused, wantLines, wantGrace, wantRefused)
		}
	}
	ask := func(token string) { _, _ = a.Authenticate(bearer(token)) }
	ask(podToken(nil))
	expect("in date", 0, 0, 0)
	n.clock.SetTime(start.Add(90 * time.Minute))
	a.Proven(bearer(podToken(nil)))
	expect("not asked for data", 0, 0, 0)
	for range 3 {
		ask(podToken(nil))
		ask(podToken(map[string]any{"jti": "another of the same"}))
	}
	expect("one identity", 1, 6, 0)
	ask(other)
	expect("another identity", 2, 7, 0)
	n.clock.SetTime(start.Add(91 * time.Minute))
	ask(podToken(nil))
	expect("a minute later", 3, 8, 0)
	n.clock.SetTime(start.Add(3 * time.Hour))
	ask(podToken(nil))
	expect("after the grace", 3, 8, 1)
	if text := log.String(); !strings.Contains(text, `user="system:serviceaccount:default:edge-app"`) || !strings.Contains(text, `pod="edge-app-0"`) ||
		!strings.Contains(text, `expired="2026-03-01T13:00:00Z" until="2026-03-01T14:00:00Z"`) || strings.Contains(text, strings.Split(other, ".")[2]) {
		t.Errorf("the log says %s", text)
	}
}

// captureLog returns what is logged while the test runs.
func captureLog(t *testing.T) *bytes.Buffer {
	t.Helper()
	state := klog.CaptureState()
	t.Cleanup(state.Restore)
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	for name, value := range map[string]string{"logtostderr": "false", "one_output": "true", "stderrthreshold": "FATAL"} { // as the hub does
		if err := flags.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	log := &bytes.Buffer{}
	klog.SetOutput(log)
	return log
}
