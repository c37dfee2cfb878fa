package rollout

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

func TestWindow(t *testing.T) {
	window := func(start, end, zone string, days ...v1alpha1.Weekday) *v1alpha1.RestartWindow {
		return &v1alpha1.RestartWindow{Start: start, End: end, TimeZone: zone, Days: days}
	}
	for _, test := range []struct {
		name   string
		window *v1alpha1.RestartWindow
		now    string // RFC 3339
		opens  string // empty if it is open
	}{
		{"none", nil, "2026-01-01T12:00:00Z", ""},
		{"before", window("22:00", "23:00", "UTC"), "2026-01-01T21:59:59Z", "2026-01-01T22:00:00Z"},
		{"at the start", window("22:00", "23:00", "UTC"), "2026-01-01T22:00:00Z", ""},
		{"at the end", window("22:00", "23:00", "UTC"), "2026-01-01T23:00:00Z", "2026-01-02T22:00:00Z"},
		{"no zone is UTC", window("22:00", "23:00", ""), "2026-01-01T22:30:00Z", ""},
		{"across midnight, evening", window("22:00", "05:30", "UTC"), "2026-01-01T23:00:00Z", ""},
		{"across midnight, morning", window("22:00", "05:30", "UTC"), "2026-01-01T05:29:59Z", ""},
		{"across midnight, closed", window("22:00", "05:30", "UTC"), "2026-01-01T05:30:00Z", "2026-01-01T22:00:00Z"},
		{"all day", window("07:00", "07:00", "UTC"), "2026-01-01T06:59:59Z", ""},
		{"another zone", window("22:00", "23:00", "Europe/Berlin"), "2026-01-01T21:30:00Z", ""},
		{"another day there", window("00:00", "06:00", "Asia/Shanghai", "Friday"), "2026-01-01T17:00:00Z", ""},
		{"a day of the week", window("22:00", "23:00", "UTC", "Saturday", "Sunday"), "2026-01-01T22:30:00Z", "2026-01-03T22:00:00Z"},
		{"the night of a day belongs to it", window("22:00", "05:00", "UTC", "Thursday"), "2026-01-02T04:00:00Z", ""},
		{"the night before does not", window("22:00", "05:00", "UTC", "Thursday"), "2026-01-01T04:00:00Z", "2026-01-01T22:00:00Z"},
		{"a week later", window("22:00", "23:00", "UTC", "Thursday"), "2026-01-01T23:00:00Z", "2026-01-08T22:00:00Z"},
		// Clocks went from 02:00 to 03:00 on 29 March 2026, and from 03:00 to 02:00 on 25 October.
		{"a time that is skipped", window("02:30", "04:00", "Europe/Berlin"), "2026-03-29T00:50:00Z", "2026-03-29T01:30:00Z"},
		{"a window that is skipped whole", window("02:10", "02:50", "Europe/Berlin"), "2026-03-29T01:20:00Z", ""},
		{"a window that ends before it begins", window("02:30", "03:15", "Europe/Berlin"), "2026-03-29T00:50:00Z", "2026-03-30T00:30:00Z"},
		{"an hour that comes twice", window("02:00", "04:00", "Europe/Berlin"), "2026-10-25T02:30:00Z", ""},
		{"and is longer", window("02:00", "04:00", "Europe/Berlin"), "2026-10-25T03:00:00Z", "2026-10-26T01:00:00Z"},
		{"a time that comes twice", window("02:30", "04:00", "Europe/Berlin"), "2026-10-25T00:20:00Z", "2026-10-25T00:30:00Z"},
		{"and ends a window once", window("01:00", "02:30", "Europe/Berlin"), "2026-10-25T00:30:00Z", "2026-10-26T00:00:00Z"},
		// West of Greenwich, from 02:00 to 03:00 on 8 March, and from 02:00 to 01:00 on 1 November.
		{"a time that is skipped in the west", window("02:30", "04:00", "America/New_York"), "2026-03-08T06:50:00Z", "2026-03-08T07:30:00Z"},
		{"a window that is skipped whole in the west", window("02:10", "02:50", "America/New_York"), "2026-03-08T07:20:00Z", ""},
		{"a window that begins before it", window("01:00", "02:30", "America/New_York"), "2026-03-08T06:50:00Z", ""},
		{"a time that comes twice in the west", window("01:30", "03:00", "America/New_York"), "2026-11-01T05:20:00Z", "2026-11-01T05:30:00Z"},
		{"a day that is skipped", window("10:00", "11:00", "Pacific/Apia", "Friday"), "2011-12-30T10:30:00Z", "2012-01-05T20:00:00Z"},
	} {
		t.Run(test.name, func(t *testing.T) {
			now, err := time.Parse(time.RFC3339, test.now)
			if err != nil {
				t.Fatal(err)
			}
			open, opens, err := Window(test.window, now)
			if err != nil || open != (test.opens == "") {
				t.Fatalf("open %v, %v", open, err)
			}
			if !open && opens.UTC().Format(time.RFC3339) != test.opens {
				t.Errorf("opens at %v, want %v", opens.UTC(), test.opens)
			}
		})
	}
}

func TestWindowThatIsNone(t *testing.T) {
	for _, test := range []struct{ start, end, zone, want string }{
		{"22:00", "23:00", "Europe/Atlantis", "spec.restart.window.timeZone: unknown time zone Europe/Atlantis"},
		{"25:00", "23:00", "UTC", "spec.restart.window.start"},
		{"22:00", "x", "UTC", "spec.restart.window.end"},
	} {
		open, _, err := Window(&v1alpha1.RestartWindow{Start: test.start, End: test.end, TimeZone: test.zone}, time.Now())
		if open || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("open %v, error %v, want %s", open, err, test.want)
		}
	}
}

// TestWindowOpensWhenItSays shows that a window which is closed opens exactly when
// it says, in any zone, on any day of the year.
func TestWindowOpensWhenItSays(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 0))
	zones := []string{"UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Australia/Lord_Howe", "Asia/Shanghai"}
	days := []v1alpha1.Weekday{"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
	for range 20000 {
		clock := func() string { return time.Unix(random.Int64N(1440)*60, 0).UTC().Format("15:04") }
		window := &v1alpha1.RestartWindow{Start: clock(), End: clock(), TimeZone: zones[random.IntN(len(zones))]}
		for range random.IntN(4) {
			window.Days = append(window.Days, days[random.IntN(7)])
		}
		now := time.Unix(1767225600+random.Int64N(365*86400), 0)
		open, opens, err := Window(window, now)
		switch {
		case err != nil:
			t.Fatalf("%+v at %v: %v", window, now, err)
		case open:
			continue
		case !opens.After(now) || opens.Sub(now) > 8*24*time.Hour+time.Hour:
			t.Fatalf("%+v at %v opens at %v", window, now, opens)
		}
		if open, _, _ := Window(window, opens); !open {
			t.Fatalf("%+v is not open at %v, as it said at %v", window, opens, now)
		}
		if open, _, _ := Window(window, opens.Add(-time.Second)); open {
			t.Fatalf("%+v is open a second before %v", window, opens)
		}
	}
}
