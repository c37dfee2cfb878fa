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
// system has given: soon after it, or now and then while it goes on.
func TestMemoryOfABurstIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		go trim(ctx)
		time.Sleep(trimPeriod * 3 / 2)
		holds := func() uint64 {
			bytes, _ := resident()
			return bytes
		}
		burst := func() {
			t.Helper()
			before := holds()
			for range 64 {
				sink = append(sink, make([]byte, 1<<20))
			}
			if grown := holds() - before; grown < 60<<20 {
				t.Fatalf("a burst of 64 MiB took %d bytes", grown)
			}
			sink = nil
		}
		before := holds()
		burst()
		time.Sleep(2 * trimPeriod) // in the first of which it was
		synctest.Wait()
		if after := holds(); after > before+16<<20 {
			t.Errorf("%d bytes before the burst, %d after", before, after)
		}
		burst()
		given := 0
		for range 2 * trimBusy / trimPeriod {
			sink = append(sink[:0], make([]byte, 2*trimQuiet))
			time.Sleep(trimPeriod)
			synctest.Wait()
			if holds() < before+16<<20 {
				given++
				burst()
			}
		}
		if given < 1 || given > 2 {
			t.Errorf("memory is given back %d times while the hub is busy", given)
		}
		cancel()
	})
}

// TestMemoryOfTheEndOfABurstIsGivenBackToo, though memory was given back when the burst
// held it still.
func TestMemoryOfTheEndOfABurstIsGivenBackToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go trim(ctx)
		time.Sleep(trimPeriod * 3 / 2)
		before, _ := resident()
		for range 64 {
			sink = append(sink, make([]byte, 1<<20))
		}
		time.Sleep(2 * trimPeriod)
		synctest.Wait()
		if held, _ := resident(); held < before+60<<20 {
			t.Fatalf("a burst of 64 MiB took %d bytes", held-before)
		}
		sink = [][]byte{make([]byte, trimRest)} // the end of it takes little more
		time.Sleep(2 * trimPeriod)
		synctest.Wait()
		if after, _ := resident(); after > before+16<<20 {
			t.Errorf("%d bytes before the burst, %d after", before, after)
		}
		sink = nil
	})
}

// TestWhatIsInUseMovesTheMemoryLimit, up and down, lest the hub do nothing but
// collect or keep what it needs no more.
func TestWhatIsInUseMovesTheMemoryLimit(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	beFrugal(ctx, &pace{})
	await := func(reached func(limit int64) bool) {
		t.Helper()
		var limit int64
		for range 1000 {
			runtime.GC()
			if limit = debug.SetMemoryLimit(-1); reached(limit) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("the limit is %d MiB", limit>>20)
	}
	for range 64 {
		sink = append(sink, make([]byte, 1<<20))
	}
	await(func(limit int64) bool { return limit > 64<<20 && limit < 128<<20 })
	sink = nil
	await(func(limit int64) bool { return limit < 64<<20 })
}

// TestAHubThatHasEndedLeavesTheMemoryLimitAlone, also when it is told of one more
// collection: the limit is that of whatever runs next.
func TestAHubThatHasEndedLeavesTheMemoryLimitAlone(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	ctx, cancel := context.WithCancel(t.Context())
	var p pace
	beFrugal(ctx, &p)
	cancel()
	const others = 1 << 40
	debug.SetMemoryLimit(others)
	p.mu.Lock()
	p.short = true // until it is told
	p.mu.Unlock()
	for range 64 { // which would move the limit
		sink = append(sink, make([]byte, 1<<20))
	}
	defer func() { sink = nil }()
	for told := false; !told; time.Sleep(time.Millisecond) {
		runtime.GC()
		p.mu.Lock()
		told = !p.short
		p.mu.Unlock()
	}
	time.Sleep(10 * time.Millisecond) // for the limit, which must not move
	if limit := debug.SetMemoryLimit(-1); limit != others {
		t.Errorf("the limit is %d MiB", limit>>20)
	}
}

func TestFrugalLimit(t *testing.T) {
	for used, want := range map[int64]int64{0: frugalAbove, 33 << 20: frugalAbove, 40 << 20: 43 << 20, 40<<20 + 1: 44 << 20, 100 << 20: 116 << 20} {
		if got := frugalLimit(used); got != want {
			t.Errorf("with %d bytes in use the limit is %d", used, got)
		}
	}
}

func TestOperatorsMemoryLimit(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "off")
	before := debug.SetMemoryLimit(-1)
	beFrugal(t.Context(), &pace{})
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
