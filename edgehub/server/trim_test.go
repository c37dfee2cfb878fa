package server

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"
)

var sink [][]byte

// TestMemoryOfABurstIsGivenBack lets a burst pass and looks at what the operating
// system has given.
func TestMemoryOfABurstIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		go trim(ctx)
		time.Sleep(trimStart + trimPeriod/2)
		before := resident()
		for range 64 {
			sink = append(sink, make([]byte, 1<<20))
		}
		if grown := resident() - before; grown < 60<<20 {
			t.Fatalf("a burst of 64 MiB took %d bytes", grown)
		}
		sink = nil
		time.Sleep(trimPeriod)
		synctest.Wait()
		if after := resident(); after > before+16<<20 {
			t.Errorf("%d bytes before the burst, %d after", before, after)
		}
		cancel()
	})
}

// TestWhatIsInUseMovesTheMemoryLimit, lest the hub do nothing but collect.
func TestWhatIsInUseMovesTheMemoryLimit(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	for used, want := range map[uint64]int64{0: frugalAbove, 10 << 20: frugalAbove, 100 << 20: 172 << 20} {
		beFrugal(used)
		if got := debug.SetMemoryLimit(-1); got != want {
			t.Errorf("with %d bytes in use the limit is %d", used, got)
		}
	}
	t.Setenv("GOMEMLIMIT", "off")
	before := debug.SetMemoryLimit(-1)
	beFrugal(1 << 40)
	if debug.SetMemoryLimit(-1) != before {
		t.Error("an operator's limit is not respected")
	}
}

// TestUnmappedPagesComeBack: a program that lost its pages goes on.
func TestUnmappedPagesComeBack(t *testing.T) {
	for range 3 {
		if err := unmapProgram(); err != nil {
			t.Fatal(err)
		}
		runtime.GC()
		if f := runtime.FuncForPC(0); f != nil {
			t.Error(f)
		}
	}
}
