package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"
)

// TestMain lets this program be the process whose clock is set: for each line that it
// reads it prints what time it is, and how much has passed.
func TestMain(m *testing.M) {
	if os.Getenv("E2E_CLOCK") == "" {
		os.Exit(m.Run())
	}
	begin := time.Now()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println(time.Now().Unix(), int(time.Since(begin).Seconds()))
	}
}

func TestAProcessHasAClockOfItsOwn(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip(errNoClock)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "E2E_CLOCK=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	answers := bufio.NewReader(out)
	// Its vdso is mapped a moment after exec has closed what Start waits for.
	fmt.Fprintln(in)
	if _, err := answers.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	for _, ahead := range []time.Duration{0, 2 * time.Hour, 0} {
		if err := setClock(cmd.Process.Pid, ahead); errors.Is(err, fs.ErrPermission) {
			t.Skip(err)
		} else if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(in)
		var now int64
		var passed int
		if _, err := fmt.Fscanln(answers, &now, &passed); err != nil {
			t.Fatal(err)
		}
		if off := time.Until(time.Unix(now, 0)) - ahead; off.Abs() > time.Minute || passed > 60 {
			t.Errorf("set to %s ahead, it is off by %s, and %d s have passed", ahead, off, passed)
		}
	}
}
