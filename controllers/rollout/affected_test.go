package rollout

import (
	"testing"
	"time"
)

func TestAffects(t *testing.T) {
	at := func(minutes int) time.Time { return cutoff.Add(time.Duration(minutes) * time.Minute) }
	never := time.Time{}
	for _, test := range []struct {
		name             string
		caching          caching
		created, started time.Time
		want             bool
		wantUntil        time.Time
	}{
		{"applied later, no hub has seen the agent", caching{applied: at(0)}, at(-1), at(-1), true, at(0).Add(reloadTime)},
		{"while the hubs read it", caching{applied: at(0)}, at(0).Add(reloadTime), at(1), true, at(0).Add(reloadTime)},
		{"created later", caching{applied: at(0)}, at(1), at(1), false, at(0).Add(reloadTime)},
		{"before the node had a hub", caching{applied: at(0), nodeSince: at(5)}, at(4), at(4), true, at(5)},
		{"after the node had one", caching{applied: at(0), nodeSince: at(5)}, at(6), at(6), false, at(5)},
		{"the node had one long ago", caching{applied: at(0), nodeSince: at(-50)}, at(-40), at(-40), true, at(0).Add(reloadTime)},
		{"the hub took it later", caching{applied: at(0), inUse: true, since: at(5)}, at(4), at(4), true, at(5)},
		{"in the same second", caching{applied: at(0), inUse: true, since: at(5)}, at(5), at(5), true, at(5)},
		{"started later", caching{applied: at(0), inUse: true, since: at(5)}, at(6), at(6), false, at(5)},
		{"its containers were started anew", caching{applied: at(0), inUse: true, since: at(5)}, at(-50), at(6), false, at(5)},
		{"none of its containers runs", caching{applied: at(0), inUse: true, since: at(5)}, at(-50), never, false, at(5)},
		{"cached for another reason already", caching{applied: at(0), inUse: true, since: at(-50)}, at(-40), at(-40), false, at(0).Add(reloadTime)},
		{"before that", caching{applied: at(0), inUse: true, since: at(-50)}, at(-51), at(-51), true, at(0).Add(reloadTime)},
		// The node's clock is ten minutes behind: all its times are.
		{"slow clock, an old Pod", caching{applied: at(0), inUse: true, since: at(-10)}, at(-1), at(-11), true, at(0).Add(reloadTime)},
		{"slow clock, a replacement", caching{applied: at(0), inUse: true, since: at(-10)}, at(1), at(-9), false, at(0).Add(reloadTime)},
		{"a clock that was put back, a replacement", caching{applied: at(0), inUse: true, since: at(1)}, at(2), at(-30), false, at(1)},
		// Its clock is two hours ahead: since is still to come.
		{"fast clock, an old Pod", caching{applied: at(0), inUse: true, since: at(120)}, at(-1), at(119), true, at(0).Add(reloadTime)},
		{"fast clock, a replacement", caching{applied: at(0), inUse: true, since: at(120)}, at(1), at(121), false, at(0).Add(reloadTime)},
		{"fast clock, no agent in use", caching{applied: at(0), nodeSince: at(120)}, at(1), at(121), false, at(0).Add(reloadTime)},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, until := test.caching.affects(test.created, test.started, now)
			if got != test.want || !until.Equal(test.wantUntil) {
				t.Errorf("affected %v until %v, want %v until %v", got, until, test.want, test.wantUntil)
			}
		})
	}
}

// TestNoReplacementIsAffected tries every combination of clocks: a Pod that is
// created later than until is never affected, so nothing is restarted for ever.
func TestNoReplacementIsAffected(t *testing.T) {
	times := []time.Time{{}, cutoff.Add(-time.Hour), cutoff, cutoff.Add(reloadTime), cutoff.Add(time.Minute), now, now.Add(time.Hour)}
	for _, since := range times {
		for _, nodeSince := range times {
			for _, started := range times {
				for _, inUse := range []bool{false, true} {
					c := caching{applied: cutoff, inUse: inUse, since: since, nodeSince: nodeSince}
					_, until := c.affects(cutoff.Add(-time.Hour), started, now)
					if until.After(now) {
						t.Errorf("%+v: a restart would wait for a time to come, %v", c, until)
					}
					// Restarted a second later, at the earliest, and looked at much later.
					replaced := until.Add(time.Second)
					if again, _ := c.affects(replaced, started, now); again {
						t.Errorf("%+v: a Pod created at %v and started at %v is affected again", c, replaced, started)
					}
				}
			}
		}
	}
}
