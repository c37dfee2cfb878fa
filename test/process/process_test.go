package process_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edgehub-io/edge-hub/test/process"
)

// TestMain lets the test binary play a parent that dies without cleaning up.
func TestMain(m *testing.M) {
	if os.Getenv("PROCESS_TEST_PARENT") == "" {
		os.Exit(m.Run())
	}
	p, err := process.Start(exec.Command("sleep", "600"))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(p.PID())
	select {}
}

func start(t *testing.T, cmd *exec.Cmd) *process.Process {
	t.Helper()
	p, err := process.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func withTimeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestStartReportsAMissingProgram(t *testing.T) {
	if _, err := process.Start(exec.Command("/nonexistent/program")); err == nil {
		t.Fatal("no error")
	}
}

func TestStopIsGracefulEvenWhenFrozen(t *testing.T) {
	var out process.Output
	cmd := exec.Command("sh", "-c", `trap 'echo stopping; exit 3' TERM; echo ready; while :; do sleep 0.01; done`)
	cmd.Stdout = &out
	p := start(t, cmd)
	if _, err := out.WaitFor(withTimeout(t), 0, "ready"); err != nil {
		t.Fatal(err)
	}
	if err := p.Freeze(); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "ready\nstopping\n" {
		t.Fatalf("output %q", got)
	}
	if err := p.Wait(); err == nil || err.Error() != "exit status 3" {
		t.Fatalf("Wait: %v", err)
	}
	if err := p.Stop(time.Second); err != nil {
		t.Fatalf("second stop: %v", err)
	}
}

func TestStopKillsWhatIgnoresIt(t *testing.T) {
	var out process.Output
	cmd := exec.Command("sh", "-c", `trap '' TERM; echo ready; while :; do sleep 0.01; done`)
	cmd.Stdout = &out
	p := start(t, cmd)
	if _, err := out.WaitFor(withTimeout(t), 0, "ready"); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(50 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if p.Running() {
		t.Fatal("still running")
	}
}

func TestFreezeAndThaw(t *testing.T) {
	in, answers := io.Pipe()
	stdin, w := io.Pipe()
	cmd := exec.Command("cat")
	cmd.Stdin, cmd.Stdout = stdin, answers
	p := start(t, cmd)
	t.Cleanup(func() { w.Close(); in.Close() })
	lines := make(chan string)
	go func() {
		for s := bufio.NewScanner(in); s.Scan(); {
			lines <- s.Text()
		}
	}()
	if err := p.Freeze(); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(w, "hello"); err != nil {
		t.Fatal(err)
	}
	select {
	case line := <-lines:
		t.Fatalf("a frozen process answered %q", line)
	case <-time.After(100 * time.Millisecond):
	}
	if err := p.Thaw(); err != nil {
		t.Fatal(err)
	}
	select {
	case line := <-lines:
		if line != "hello" {
			t.Fatalf("answer %q", line)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a thawed process did not answer")
	}
}

func TestChildrenDieWithTheirParent(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "PROCESS_TEST_PARENT=1")
	var out process.Output
	parent.Stdout = &out
	p := start(t, parent)
	if _, err := out.WaitFor(withTimeout(t), 0, ""); err != nil {
		t.Fatal(err)
	}
	var child int
	if _, err := fmt.Sscan(out.String(), &child); err != nil {
		t.Fatalf("%v in %q", err, out.String())
	}
	if err := syscall.Kill(child, 0); err != nil {
		t.Fatalf("child: %v", err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); alive(child); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the child outlived its parent")
		}
	}
}

// alive is false for a zombie, which init may take its time to reap.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z")
}

func TestOutputWaitFor(t *testing.T) {
	var out process.Output
	fmt.Fprint(&out, "one\ntw")
	mark := out.Len()
	go func() { fmt.Fprint(&out, "o two\none again\n") }()
	if line, err := out.WaitFor(withTimeout(t), 0, "two"); err != nil || line != "two two" {
		t.Fatalf("%q, %v", line, err)
	}
	if line, err := out.WaitFor(withTimeout(t), mark, "one"); err != nil || line != "one again" {
		t.Fatalf("%q, %v", line, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := out.WaitFor(ctx, 0, "three"); err == nil {
		t.Fatal("no error")
	}
	if got := process.Tail(out.String(), 1); got != "one again" {
		t.Fatalf("tail %q", got)
	}
}
