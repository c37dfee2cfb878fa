package identity

import (
	"encoding/json"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

const (
	// clockGrain is how far the time on disk may lag behind, and therefore how
	// far a clock that is set back across a restart can go back unnoticed.
	clockGrain = time.Minute
	// clockSkew is how far the time seen may be ahead of the cloud's before the
	// cloud's is believed.
	clockSkew = 5 * time.Minute
)

// steadyClock is the node's clock, except that it never goes back: it returns
// the clock's time or the largest time ever seen plus what has passed since by
// the monotonic clock, whichever is later. Edge nodes lose their clock with their
// power, and an expired token must not come back to life because of it.
//
// The largest time seen comes from the clock itself, from when verified tokens
// were issued, and from the cloud. Only the cloud can lower it (see limit): a node
// whose clock was far ahead for a while would otherwise refuse every token for
// good.
type steadyClock struct {
	clock clock.PassiveClock
	mark  atomic.Pointer[clockMark]
	saved atomic.Int64 // UnixNano of the time on disk
}

// clockMark says that the time was seen when the clock read at.
type clockMark struct {
	seen time.Time
	at   time.Time
}

type clockState struct {
	Version int       `json:"version"`
	Time    time.Time `json:"time"`
}

func openClock(dir *os.Root, c clock.PassiveClock) (*steadyClock, error) {
	s := &steadyClock{clock: c}
	now := c.Now()
	s.mark.Store(&clockMark{seen: now.Round(0), at: now})
	data, err := readState(dir, clockFile)
	if err != nil {
		return nil, fmt.Errorf("read clock: %w", err)
	}
	if data == nil {
		return s, nil
	}
	var state clockState
	if err := json.Unmarshal(data, &state); err != nil {
		klog.ErrorS(err, "The largest time seen is damaged, starting from the node's clock", "file", clockFile)
		return s, nil
	}
	s.saved.Store(state.Time.UnixNano())
	s.raise(state.Time)
	if behind := s.now().Sub(now); behind > clockSkew {
		klog.InfoS("The node's clock is behind a time seen before; token expiry is judged by the later time",
			"clock", now.UTC().Format(time.RFC3339), "seen", state.Time.UTC().Format(time.RFC3339))
	}
	return s, nil
}

// now returns the time, remembering it once it has moved by the clock's grain.
func (s *steadyClock) now() time.Time {
	now := s.clock.Now()
	m := s.mark.Load()
	floor := m.seen.Add(max(0, s.clock.Since(m.at)))
	if floor.After(now) {
		return floor
	}
	if now.Sub(m.seen) >= clockGrain {
		// If this loses against another goroutine, that one has just as good a time.
		s.mark.CompareAndSwap(m, &clockMark{seen: now.Round(0), at: now})
	}
	return now
}

// raise notes that it is t or later.
func (s *steadyClock) raise(t time.Time) {
	for {
		m := s.mark.Load()
		at := s.clock.Now()
		if !t.After(m.seen.Add(max(0, s.clock.Since(m.at)))) {
			return
		}
		if s.mark.CompareAndSwap(m, &clockMark{seen: t.Round(0), at: at}) {
			return
		}
	}
}

// limit notes that it is t or earlier, on the word of the cloud. Nothing can be
// done while the node's clock itself is ahead: its time would be seen again at
// once.
func (s *steadyClock) limit(t time.Time) {
	m := s.mark.Load()
	at := s.clock.Now()
	floor := m.seen.Add(max(0, s.clock.Since(m.at)))
	if floor.Sub(t) <= clockSkew || at.Sub(t) > clockSkew {
		return
	}
	if !s.mark.CompareAndSwap(m, &clockMark{seen: t.Round(0), at: at}) {
		return
	}
	klog.InfoS("A time seen before was ahead of the cloud's, taking the cloud's",
		"seen", floor.UTC().Format(time.RFC3339), "cloud", t.UTC().Format(time.RFC3339))
}

// save writes the largest time seen, at most once per grain.
func (s *steadyClock) save(dir *os.Root) error {
	now := s.now().UTC()
	if moved := now.Sub(time.Unix(0, s.saved.Load())); moved >= 0 && moved < clockGrain {
		return nil
	}
	data, err := json.Marshal(clockState{Version: 1, Time: now})
	if err != nil {
		return err
	}
	if err := writeState(dir, clockFile, data); err != nil {
		return fmt.Errorf("save clock: %w", err)
	}
	s.saved.Store(now.UnixNano())
	return nil
}
