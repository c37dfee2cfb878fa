package server

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// frugalAbove is what Go's runtime may hold before it collects garbage
	// more often than when the heap has doubled. A hub may take 64 MB, and the
	// program itself is 20 MB of that.
	frugalAbove = 36 << 20
	// frugalGarbage is what may wait to be collected when more than that is in
	// use. Less would have the hub do nothing but collect.
	frugalGarbage = 3 << 20
	// unmapPeriod is how often pages of the program that nothing needs at the moment
	// are let go while memory is short. It takes a millisecond.
	unmapPeriod = 250 * time.Millisecond
)

// beFrugal has garbage that a burst leaves behind collected before the next burst
// takes new memory, until ctx ends. It costs processor time, the more the nearer
// to the limit, so each collection moves the limit to what it found in use. An
// operator's own GOMEMLIMIT is respected.
func beFrugal(ctx context.Context, pace *pace) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit, unmapped := int64(frugalAbove), time.Now()
	debug.SetMemoryLimit(limit)
	afterCollections(func() bool {
		used, goesOn := inUse(), ctx.Err() == nil
		short, next := used > frugalAbove-2*frugalGarbage && goesOn, frugalLimit(used)
		pace.collected(short, int(next-used))
		if short && time.Since(unmapped) > unmapPeriod {
			_ = unmapProgram() // trim says why it can't
			unmapped = time.Now()
		}
		// To set the limit stops the program for a moment.
		if goesOn && next != limit {
			limit = next
			debug.SetMemoryLimit(limit)
		}
		return goesOn
	})
}

// frugalLimit is the memory limit for a hub that has so many bytes in use.
func frugalLimit(used int64) int64 {
	const step = 1 << 20
	garbage := max(frugalGarbage, used/4-3*frugalGarbage)
	return max(frugalAbove, (used+garbage+step-1)/step*step)
}

// afterCollections calls f after each collection of garbage, until f returns false.
func afterCollections(f func() bool) {
	type fallen struct{ of *int } // large enough to be collected alone
	runtime.AddCleanup(&fallen{new(int)}, func(f func() bool) {
		if f() {
			afterCollections(f)
		}
	}, f)
}

// inUse is how many bytes Go's runtime holds that the latest collection has not
// found to be garbage, its own data and stacks among them.
func inUse() int64 {
	samples := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, // the living and others
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(samples)
	var bytes int64
	for i, s := range samples {
		if s.Value.Kind() != metrics.KindUint64 {
			continue
		}
		if i < 2 {
			bytes += int64(s.Value.Uint64())
		} else {
			bytes -= int64(s.Value.Uint64())
		}
	}
	return bytes
}
