package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/klog/v2"
)

// batches remembers what was written at once.
type batches struct {
	mu    sync.Mutex
	texts []string
}

func (b *batches) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.texts = append(b.texts, string(text))
	return len(text), nil
}

func (b *batches) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	texts := b.texts
	b.texts = nil
	return texts
}

func TestLinesWaitForEachOtherButNotForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out batches
		l := &logLines{w: &out}
		for range 3 {
			for _, line := range []string{"one\n", "two\n"} {
				_, _ = l.Write([]byte(line))
			}
			time.Sleep(logDelay - time.Nanosecond)
			if got := out.take(); len(got) != 0 {
				t.Errorf("%q is written early", got)
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			if got := out.take(); len(got) != 1 || got[0] != "one\ntwo\n" {
				t.Errorf("%q is written", got)
			}
		}
	})
}

func TestLinesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out batches
		l := &logLines{w: &out}
		line := []byte(strings.Repeat("x", 1023) + "\n")
		for range 100 {
			_, _ = l.Write(line)
		}
		l.Flush()
		got := out.take()
		if all := strings.Join(got, ""); all != strings.Repeat(string(line), 100) {
			t.Errorf("%d bytes are written", len(all))
		}
		for _, batch := range got {
			if len(batch) > logBuffer {
				t.Errorf("%d bytes are written at once", len(batch))
			}
		}
	})
}

// TestALogThatNobodyTakesHoldsUpNobody: what has no room is lost and counted, what
// has is written when the log is taken again.
func TestALogThatNobodyTakesHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, out, taken := stalled()
		line := []byte(strings.Repeat("x", 1023) + "\n")
		const lines, fit = 1000, (logBatch + logBuffer) / 1024
		start := time.Now()
		for range lines {
			_, _ = l.Write(line)
			l.Flush()
		}
		if d := time.Since(start); d > logPatience {
			t.Errorf("writers were held up for %v", d)
		}
		close(taken)
		synctest.Wait()
		l.Flush()
		all := strings.Join(out.take(), "")
		kept := strings.Count(all, string(line))
		if want := fmt.Sprintf("%d lines of the log are lost", lines-kept); kept > fit || kept < logBuffer/1024 || !strings.Contains(all, want) {
			t.Errorf("%d lines are written, and not %q", kept, want)
		}
		_, _ = l.Write([]byte("next\n"))
		l.Flush()
		if got := out.take(); len(got) != 1 || got[0] != "next\n" {
			t.Errorf("%q is written later", got)
		}
	})
}

// TestAHubOutlivesWhoReadsItsLog, which a pipe that is broken would end at once.
func TestAHubOutlivesWhoReadsItsLog(t *testing.T) {
	const alive = 77
	if os.Getenv("EDGE_HUB_TEST_LOG") != "" {
		c := command()
		c.SetArgs([]string{"run"})
		_ = c.Execute() // it lacks nearly everything
		_, _ = lines.Write([]byte("does anybody hear me?\n"))
		lines.Close()
		os.Exit(alive)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	_ = r.Close()
	hub := exec.Command(os.Args[0], "-test.run=^TestAHubOutlivesWhoReadsItsLog$")
	hub.Env, hub.Stderr = append(os.Environ(), "EDGE_HUB_TEST_LOG=1"), w
	var exit *exec.ExitError
	if err := hub.Run(); !errors.As(err, &exit) || exit.ExitCode() != alive {
		t.Error(err)
	}
}

// TestAFloodHidesNoWarning: there is room for warnings when there is none for others.
func TestAFloodHidesNoWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, out, taken := stalled()
		for range 1000 {
			_, _ = l.Write([]byte(strings.Repeat("x", 1023) + "\n"))
		}
		_, _ = urgentLines{l}.Write([]byte("warning\n"))
		close(taken)
		l.Close()
		if all := strings.Join(out.take(), ""); !strings.Contains(all, "warning\n") {
			t.Error("the warning is lost")
		}
	})
}

// TestASlowLogHoldsUpOnce whoever has lines, not with each batch.
func TestASlowLogHoldsUpOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out batches
		l := &logLines{w: writerFunc(func(b []byte) (int, error) {
			time.Sleep(logPatience * 3 / 2)
			return out.Write(b)
		})}
		line := []byte(strings.Repeat("x", 1023) + "\n")
		var held time.Duration
		for range 20_000 {
			start := time.Now()
			_, _ = l.Write(line)
			held += time.Since(start)
			time.Sleep(500 * time.Microsecond)
		}
		if held > logPatience {
			t.Errorf("writers were held up for %v", held)
		}
		l.Close()
	})
}

// TestTheLastLinesAreWritten, also to a log that is slow.
func TestTheLastLinesAreWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out batches
		l := &logLines{w: writerFunc(func(b []byte) (int, error) {
			time.Sleep(2 * logPatience)
			return out.Write(b)
		})}
		for range 3 {
			_, _ = l.Write([]byte("line\n"))
			l.Flush()
		}
		_, _ = l.Write([]byte("last\n"))
		l.Close()
		if all := strings.Join(out.take(), ""); all != "line\nline\nline\nlast\n" {
			t.Errorf("%q is written", all)
		}
		forever := make(chan struct{})
		defer close(forever)
		l.w = writerFunc(func(b []byte) (int, error) {
			<-forever
			return len(b), nil
		})
		_, _ = l.Write([]byte("never\n"))
		start := time.Now()
		l.Close()
		if d := time.Since(start); d > lastPatience {
			t.Errorf("the end is held up for %v", d)
		}
	})
}

// stalled returns a log of which out takes nothing until taken is closed.
func stalled() (l *logLines, out *batches, taken chan struct{}) {
	out, taken = &batches{}, make(chan struct{})
	return &logLines{w: writerFunc(func(b []byte) (int, error) {
		<-taken
		return out.Write(b)
	})}, out, taken
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestWarningsAndErrorsDoNotWait(t *testing.T) {
	state := klog.CaptureState()
	defer state.Restore()
	logging := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(logging)
	var out batches
	l := &logLines{w: &out}
	if err := logTo(l, logging); err != nil {
		t.Fatal(err)
	}
	klog.Info("information")
	klog.Warning("a warning")
	klog.ErrorS(nil, "an error")
	got := out.take()
	if len(got) != 2 || !strings.Contains(got[0], "information\n") || !strings.Contains(got[0], "a warning\n") || !strings.Contains(got[1], "an error") {
		t.Errorf("%q is written", got)
	}
	l.Flush()
	if got := out.take(); len(got) != 0 {
		t.Errorf("%q is written twice", got)
	}
}
