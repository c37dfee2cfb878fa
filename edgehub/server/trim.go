package server

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"k8s.io/klog/v2"
)

const (
	// trimPeriod is how often memory is looked at, and trimBusy how often it is given
	// back at most while the hub is busy: it would soon be taken again.
	trimPeriod = time.Second
	trimBusy   = 10 * time.Second
	// trimQuiet is what the hub may take in a trimPeriod when nothing happens.
	trimQuiet = 256 << 10
	// trimGrowth is what is worth the processor time of a collection, if it is a
	// quarter of what is held.
	trimGrowth = 4 << 20
	// trimRest is what is worth it when nothing happens any more, of what was taken
	// since: the end of a burst leaves that behind, though it held as much before.
	trimRest = 2 << 20
)

// trim gives memory back that a burst needed, such as lists of many megabytes or
// the start of all Pods of a node: Go's runtime would keep most of it for minutes,
// and edge nodes have little. The first time is when most of what starting takes has
// been done.
func trim(ctx context.Context) {
	ticker := time.NewTicker(trimPeriod)
	defer ticker.Stop()
	var trimmed, takenThen, taken uint64
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		holds, taking := resident()
		quiet := taking-taken < trimQuiet
		taken = taking
		if !last.IsZero() && !(quiet && taking-takenThen >= trimRest) &&
			(holds < trimmed+max(trimGrowth, trimmed/4) || !quiet && time.Since(last) < trimBusy) {
			continue
		}
		debug.FreeOSMemory()
		if err := unmapProgram(); err != nil {
			klog.V(2).InfoS("Pages of the program stay mapped", "reason", err)
		}
		last = time.Now()
		trimmed, taken = resident()
		takenThen = taken
	}
}

// resident is how many bytes of the heap the operating system has given, and how many
// the program has ever taken of it.
func resident() (bytes, taken uint64) {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/heap/allocs:bytes"},
	}
	metrics.Read(samples)
	for i, s := range samples {
		switch {
		case s.Value.Kind() != metrics.KindUint64:
		case i < 3:
			bytes += s.Value.Uint64()
		default:
			taken = s.Value.Uint64()
		}
	}
	return bytes, taken
}
