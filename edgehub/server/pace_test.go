package server

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// TestAFloodWaitsForCollections: many requests wait where memory is short, each for
// one collection, and nobody does otherwise.
func TestAFloodWaitsForCollections(t *testing.T) {
	var p pace
	flood := func() (collections uint32) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 10 * paceBytes / paceRequest {
			p.take(paceRequest)
		}
		runtime.ReadMemStats(&after)
		return after.NumGC - before.NumGC
	}
	if n := flood(); n > 2 {
		t.Errorf("%d collections with memory enough", n)
	}
	p.collected(true, 0)
	if n := flood(); n < 9 {
		t.Errorf("%d collections with memory short", n)
	}
	p.collected(false, 0)
	if n := flood(); n > 2 {
		t.Errorf("%d collections with memory enough again", n)
	}
}

// TestACollectionIsCountedOnce, though two tell of it: what has come since counts
// for the next one.
func TestACollectionIsCountedOnce(t *testing.T) {
	var p pace
	p.collected(true, 0)
	first := make(chan struct{})
	p.waiting, p.taken = first, 2*paceBytes
	p.collected(true, 0)
	select {
	case <-first:
	default:
		t.Fatal("those that wait are not released")
	}
	second := make(chan struct{})
	p.waiting, p.taken = second, paceBytes+1
	p.mu.Lock()
	p.release(first)
	p.mu.Unlock()
	select {
	case <-second:
		t.Error("those that wait for the next one are released, too")
	default:
	}
	if p.taken != paceBytes+1 {
		t.Errorf("%d bytes are taken", p.taken)
	}
}

// TestMemoryIsShortWhereMuchIsInUse, and is no more when the hub ends: nobody would
// notice collections then.
func TestMemoryIsShortWhereMuchIsInUse(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var p pace
	beFrugal(ctx, &p)
	await := func(short bool) {
		t.Helper()
		for range 1000 {
			runtime.GC()
			p.mu.Lock()
			is := p.short
			p.mu.Unlock()
			if is == short {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("memory is short: %v", !short)
	}
	for range frugalAbove >> 20 {
		sink = append(sink, make([]byte, 1<<20))
	}
	defer func() { sink = nil }()
	await(true)
	cancel()
	await(false)
}
