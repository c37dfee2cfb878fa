package rollout

import (
	"fmt"
	"slices"
	"time"

	// The image of the operator has no time zones.
	_ "time/tzdata"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// Window reports whether restarts may begin at now, and if not, when they may
// next. A nil window is always open. The error is for a person: the time zone is
// not known, or validation would have refused the window.
//
// Times of day are those of a clock on the wall: on the day on which it is put
// forward a time that it skips is as much later, and of two that it shows twice the
// first one counts.
func Window(window *v1alpha1.RestartWindow, now time.Time) (open bool, opens time.Time, err error) {
	if window == nil {
		return true, time.Time{}, nil
	}
	zone, err := time.LoadLocation(window.TimeZone)
	if err != nil {
		return false, time.Time{}, fmt.Errorf("spec.restart.window.timeZone: %w", err)
	}
	start, err := time.Parse("15:04", window.Start)
	if err != nil {
		return false, time.Time{}, fmt.Errorf("spec.restart.window.start: %w", err)
	}
	end, err := time.Parse("15:04", window.End)
	if err != nil {
		return false, time.Time{}, fmt.Errorf("spec.restart.window.end: %w", err)
	}
	length := 0 // days
	if !end.After(start) {
		length = 1
	}
	year, month, day := now.In(zone).Date()
	at := func(offset int, clock time.Time) time.Time {
		return onWall(time.Date(year, month, day+offset, clock.Hour(), clock.Minute(), 0, 0, time.UTC), zone)
	}
	// The window of yesterday may last until today; a week later each day has had
	// its turn, save that the clock skipped it.
	for offset := -1; offset <= 14; offset++ {
		from, until := at(offset, start), at(offset+length, end)
		// A start that is skipped may be later than the end, and there is no window then.
		if !opensOn(window, from.Weekday()) || !now.Before(until) || !from.Before(until) {
			continue
		}
		if !now.Before(from) {
			return true, time.Time{}, nil
		}
		return false, from, nil
	}
	return false, time.Time{}, fmt.Errorf("spec.restart.window: it never opens")
}

// onWall returns when a clock on the wall of zone shows what one in UTC shows at shown.
// time.Date does not say which of two times it returns where the clock is put forward
// or back.
func onWall(shown time.Time, zone *time.Location) time.Time {
	at := func(days int) (at time.Time, shows bool) {
		_, offset := shown.AddDate(0, 0, days).In(zone).Zone()
		at = shown.Add(-time.Duration(offset) * time.Second).In(zone)
		_, there := at.Zone()
		return at, there == offset
	}
	// The offset before a change comes first: by it a time that is skipped is later,
	// and one that is shown twice the first of the two.
	before, shows := at(-1)
	if after, late := at(1); !shows && late {
		return after
	}
	return before
}

func opensOn(window *v1alpha1.RestartWindow, day time.Weekday) bool {
	return len(window.Days) == 0 || slices.Contains(window.Days, v1alpha1.Weekday(day.String()))
}
