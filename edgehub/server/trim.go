package server

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"k8s.io/klog/v2"
)

const (
	// trimPeriod is how often memory is looked at.
	trimPeriod = 10 * time.Second
	// trimStart is when most of what starting takes has been done.
	trimStart = time.Second
	// trimGrowth is what is worth the processor time of a collection.
	trimGrowth = 6 << 20
)

// trim gives memory back that a burst needed, such as lists of many megabytes or
// the start of all Pods of a node: Go's runtime would keep most of it for minutes,
// and edge nodes have little.
func trim(ctx context.Context) {
	timer := time.NewTimer(trimStart)
	defer timer.Stop()
	var trimmed uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(trimPeriod)
		if trimmed != 0 && resident() < trimmed+trimGrowth {
			continue
		}
		debug.FreeOSMemory()
		if err := unmapProgram(); err != nil {
			klog.V(2).InfoS("Pages of the program stay mapped", "reason", err)
		}
		trimmed = resident()
	}
}

// resident is how many bytes of the heap the operating system has given.
func resident() (bytes uint64) {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	for _, s := range samples {
		if s.Value.Kind() == metrics.KindUint64 {
			bytes += s.Value.Uint64()
		}
	}
	return bytes
}
