// Package process runs the programs of a test or the demo as children that
// cannot outlive it, and does to them what happens to real ones: a graceful
// stop, kill -9, a freeze.
package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// A Process is a started program. Its methods may be called from several
// goroutines at once.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // what Wait returned; to be read after done
}

// Start starts cmd as a child that the kernel kills when this process ends,
// however that happens, and that a Ctrl-C in the terminal does not reach: who
// started it decides how it stops. Fields of cmd.SysProcAttr other than
// Pdeathsig and Setpgid are kept.
func Start(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.Setpgid = true
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = 5 * time.Second
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	return p, nil
}

// run starts the child and waits for it on one OS thread. The kernel sends the
// parent death signal when the thread that forked ends, and the Go runtime ends
// idle threads when a goroutine locked to them returns; holding the thread until
// the child is gone keeps the two lifetimes equal (prctl(2), PR_SET_PDEATHSIG).
func (p *Process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	p.err = p.cmd.Wait()
	close(p.done)
}

// PID is the process id; it stays what it was after the process has ended.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and its output has been read.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the process and returns nil when it exited with
// code 0, otherwise what [exec.Cmd.Wait] returns.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Running reports whether the process has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal sends a signal; a process that has ended already is no error.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to process %d: %w", sig, p.PID(), err)
	}
	return nil
}

// Kill ends the process with SIGKILL, frozen or not, and waits until it is gone.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// Stop asks the process to end with SIGTERM, thawing it if need be, and kills
// it if it is still there after grace. The exit code is not an error.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := p.Thaw(); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(grace):
		return p.Kill()
	}
}

// Freeze stops every thread of the process with SIGSTOP and returns once they
// stand still. The kernel keeps accepting connections for it and
// acknowledging what is sent: to its clients it looks hung, not gone.
func (p *Process) Freeze() error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	deadline := time.Now().Add(5 * time.Second)
	for !p.stopped() {
		if !p.Running() || time.Now().After(deadline) {
			return fmt.Errorf("process %d did not stop on SIGSTOP", p.PID())
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// Thaw lets a frozen process go on.
func (p *Process) Thaw() error { return p.Signal(syscall.SIGCONT) }

// stopped reports whether every thread is in state T (proc_pid_stat(5)).
func (p *Process) stopped() bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID()))
	if err != nil || len(threads) == 0 {
		return false
	}
	for _, path := range threads {
		stat, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // the thread ended meanwhile
		}
		// The name before the state is in parentheses and may hold any byte.
		name := strings.LastIndexByte(string(stat), ')')
		if err != nil || name < 0 || !strings.HasPrefix(string(stat[name+1:]), " T") {
			return false
		}
	}
	return true
}
