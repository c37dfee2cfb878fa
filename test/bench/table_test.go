package main

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name  string
		goals []goal
		want  string
		met   string
	}{
		{"no target", nil, "", ""},
		{"met", []goal{{cached, "<=", 25e6, 24e6, megabyte}}, "<= 25.0 MB", "met"},
		{"at the bound", []goal{{cached, "<=", 2, 2, ratio}}, "<= 2.00", "met"},
		{"below is not at", []goal{{cached, "<", 2, 2, ratio}}, "< 2.00", "missed by 0.00"},
		{"too low", []goal{{uncached, ">=", .85, .8, ratio}}, ">= 0.85", "missed by 0.05"},
		{"too late", []goal{{cached, "<=", .1, .35, seconds}}, "<= 100ms", "missed by 250ms"},
		{"not measured", []goal{{cached, "<=", .1, math.NaN(), seconds}}, "<= 100ms", "not measured"},
		{"both met", []goal{{uncached, ">=", .85, .9, ratio}, {cached, ">=", .8, .9, ratio}},
			"not cached >= 0.85; cached >= 0.80", "met"},
		{"one met", []goal{{uncached, ">=", .85, .9, ratio}, {cached, ">=", .8, .7, ratio}},
			"not cached >= 0.85; cached >= 0.80", "not cached met; cached missed by 0.10"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := row{goals: c.goals}
			if got := r.target(); got != c.want {
				t.Errorf("target is %q, want %q", got, c.want)
			}
			if got := r.met(); got != c.met {
				t.Errorf("verdict is %q, want %q", got, c.met)
			}
		})
	}
}

func TestTable(t *testing.T) {
	var tab table
	tab.add("GET | rate").set(direct, "%d/s", 100).set(cached, "90/s").want(cached, .9, ">=", .8, ratio)
	tab.add("RSS")
	var text, markdown strings.Builder
	if err := tab.writeText(&text); err != nil {
		t.Fatal(err)
	}
	if err := tab.writeMarkdown(&markdown); err != nil {
		t.Fatal(err)
	}
	want := `| work | direct | plain ReverseProxy | edge-hub, not cached | edge-hub, cached | target | met? |
|---|---|---|---|---|---|---|
| GET \| rate | 100/s | - | - | 90/s | >= 0.80 | met |
| RSS | - | - | - | - | - | - |
`
	if markdown.String() != want {
		t.Errorf("Markdown is\n%s\nwant\n%s", markdown.String(), want)
	}
	lines := strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")
	if len(lines) != 3 || strings.Index(lines[0], "target") != strings.Index(lines[1], ">= 0.80") {
		t.Errorf("text is not in columns:\n%s", text.String())
	}
}

func TestSeconds(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s":      0,
		"123ns":   123,
		"-45.6µs": -45_600,
		"1.23ms":  1_234_567,
		"45.6ms":  45_555_555,
		"999ms":   999_400_000,
		"12.3s":   12_345_678_901,
		"123s":    123_456_000_000,
	} {
		if got := span(d); got != want {
			t.Errorf("%d ns is %s, want %s", d, got, want)
		}
	}
}

func TestPercentile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i))
	}
	for p, want := range map[float64]time.Duration{.5: 51, .99: 100, 1: 100} {
		if got := percentile(hundred, p); got != want {
			t.Errorf("percentile %v is %d, want %d", p, got, want)
		}
	}
	if hundred[0] != 100 {
		t.Error("the values were reordered")
	}
	if got := percentile(nil, .5); got != 0 {
		t.Errorf("percentile of nothing is %d", got)
	}
}
