package identity

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func refusedAsExpired(t *testing.T, a *Authenticator, token string) bool {
	t.Helper()
	_, err := a.Authenticate(bearer(token))
	return err != nil && strings.Contains(err.Error(), "expired")
}

func TestClockSetBackRevivesNothing(t *testing.T) {
	n := newNode(t)
	a := n.openWith(newCluster())
	token := podToken(nil)

	n.clock.SetTime(start.Add(2 * time.Hour))
	if !refusedAsExpired(t, a, token) {
		t.Fatal("not expired")
	}
	n.clock.SetTime(start)
	if !refusedAsExpired(t, a, token) {
		t.Error("revived in the running hub")
	}
	if err := a.Save(); err != nil {
		t.Fatal(err)
	}
	if b := n.open(); !refusedAsExpired(t, b, token) {
		t.Error("revived by a restart")
	}
	n.clock.SetTime(time.Unix(0, 0))
	b := n.open()
	if !refusedAsExpired(t, b, token) {
		t.Error("revived by a dead clock battery")
	}
	// The time goes on from where it was seen, even though the clock is far behind.
	before := b.Now()
	n.clock.SetTime(time.Unix(600, 0))
	if passed := b.Now().Sub(before); passed != 10*time.Minute {
		t.Errorf("%v passed, want 10m", passed)
	}
}

func TestTimesOfIssueAndUpstreamAdvanceTheClock(t *testing.T) {
	n := newNode(t)
	a := n.openWith(newCluster())
	token := podToken(nil)
	// A newer token shows that it is later than the clock says.
	newer := podToken(map[string]any{"iat": start.Add(3 * time.Hour).Unix(), "exp": start.Add(4 * time.Hour).Unix()})
	if _, err := a.Authenticate(bearer(newer)); err != nil {
		t.Fatal(err)
	}
	if !refusedAsExpired(t, a, token) {
		t.Error("the newer token's time was not noted")
	}

	a = newNode(t).openWith(newCluster())
	a.ObserveTime(start.Add(2 * time.Hour))
	if !refusedAsExpired(t, a, token) {
		t.Error("upstream's time was not noted")
	}

	// What a forger claims is not noted.
	a = newNode(t).openWith(newCluster())
	forged := podToken(map[string]any{"iss": "https://evil.example", "iat": start.Add(9 * time.Hour).Unix(), "exp": start.Add(10 * time.Hour).Unix()})
	observe(t, a, forged, 200)
	a.Authenticate(bearer(forged))
	if refusedAsExpired(t, a, token) {
		t.Error("a forged time of issue was noted")
	}
}

// A clock that was years ahead for a while must not lock every token out for
// good.
func TestCloudHealsAClockThatWasAhead(t *testing.T) {
	token := podToken(nil)
	for name, heal := range map[string]func(*Authenticator){
		"accepted token": func(a *Authenticator) { observe(t, a, token, 200) },
		"date":           func(a *Authenticator) { a.ObserveTime(start) },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.clock.SetTime(start.AddDate(10, 0, 0))
			a := n.openWith(newCluster())
			if err := a.Save(); err != nil {
				t.Fatal(err)
			}
			n.clock.SetTime(start)
			a = n.open()
			if !refusedAsExpired(t, a, token) {
				t.Fatal("the test needs a clock that is ahead")
			}
			heal(a)
			if _, err := a.Authenticate(bearer(token)); err != nil {
				t.Errorf("still refused: %v", err)
			}
			if err := a.Save(); err != nil {
				t.Fatal(err)
			}
			if _, err := n.open().Authenticate(bearer(token)); err != nil {
				t.Errorf("refused again after a restart: %v", err)
			}
		})
	}
}

// While the clock itself is ahead the cloud's word changes nothing, each time it is
// heard.
func TestCloudIsNotHeededWhileTheClockIsAhead(t *testing.T) {
	n := newNode(t)
	n.clock.SetTime(start.Add(time.Hour))
	a := n.open()
	before := a.clock.mark.Load()
	a.ObserveTime(start)
	if a.clock.mark.Load() != before {
		t.Error("the time seen was lowered in vain")
	}
}

func TestClockIsSavedOncePerMinute(t *testing.T) {
	n := newNode(t)
	a := n.open()
	save := func() time.Time {
		t.Helper()
		if err := a.Save(); err != nil {
			t.Fatal(err)
		}
		var state clockState
		if err := json.Unmarshal(must(n.dir.ReadFile(clockFile)), &state); err != nil {
			t.Fatal(err)
		}
		return state.Time
	}
	if got := save(); !got.Equal(start) {
		t.Fatalf("saved %v", got)
	}
	n.clock.SetTime(start.Add(59 * time.Second))
	if got := save(); !got.Equal(start) {
		t.Errorf("saved %v within the minute", got)
	}
	n.clock.SetTime(start.Add(61 * time.Second))
	if got := save(); !got.Equal(start.Add(61 * time.Second)) {
		t.Errorf("saved %v after a minute", got)
	}
}
