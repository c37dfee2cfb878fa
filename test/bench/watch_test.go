package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestFollow(t *testing.T) {
	var text strings.Builder
	for version := range 5 {
		fmt.Fprintf(&text, `{"type":"MODIFIED","object":{"metadata":{"resourceVersion":"%d"},"data":{"resourceVersion":"7"}}}`+"\n", version+10)
	}
	for last, want := range map[uint64]int{10: 1, 12: 3, 13: 4} {
		a, err := follow(strings.NewReader(text.String()), func() uint64 { return last })
		if err != nil || len(a.at) != want || int(a.bytes) != want*text.Len()/5 {
			t.Errorf("up to %d: %d events of %d bytes, %v", last, len(a.at), a.bytes, err)
		}
	}
	if a, err := follow(strings.NewReader(text.String()), func() uint64 { return 0 }); err == nil || len(a.at) != 5 {
		t.Errorf("a watch that ended early: %d events, %v", len(a.at), err)
	}
	if _, err := follow(strings.NewReader("{}\n"), func() uint64 { return 0 }); err == nil {
		t.Error("an event without a version was followed")
	}
}

func TestJoin(t *testing.T) {
	start := time.Now()
	direct := map[uint64]time.Time{1: start, 2: start, 3: start}
	var r delayResult
	if err := r.join(direct, map[uint64]time.Time{1: start.Add(1), 2: start.Add(2), 3: start.Add(3), 4: start}); err != nil {
		t.Fatal(err)
	}
	if r.p50[0] != 2 || r.p99[0] != 3 {
		t.Errorf("p50 %d, p99 %d", r.p50[0], r.p99[0])
	}
	if err := r.join(direct, map[uint64]time.Time{1: start}); err == nil {
		t.Error("lost events were not noticed")
	}
}

func TestOptions(t *testing.T) {
	good := options{rounds: 1, clients: 1, output: "text"}
	for _, c := range []struct {
		name   string
		change func(*options)
		valid  bool
	}{
		{"defaults", func(*options) {}, true},
		{"sections", func(o *options) { o.only = "get,boot" }, true},
		{"no such section", func(o *options) { o.only = "get,boots" }, false},
		{"no such form", func(o *options) { o.output = "html" }, false},
		{"no rounds", func(o *options) { o.rounds = 0 }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := good
			c.change(&o)
			if err := o.validate(); (err == nil) != c.valid {
				t.Errorf("error is %v", err)
			}
		})
	}
	o := options{only: "get,boot"}
	if !o.selected("boot") || o.selected("list") {
		t.Error("the wrong sections are selected")
	}
}
