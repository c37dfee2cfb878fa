package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// commandLimit is how long a command may take. Nothing waits for one that hangs.
const commandLimit = time.Minute

// output runs a command and returns what it prints.
func output(cmd *exec.Cmd) (string, error) { return outputWithin(commandLimit, cmd) }

func outputWithin(limit time.Duration, cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	what := strings.Join(cmd.Args, " ")
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	late := time.AfterFunc(limit, func() { _ = kill(append(below(cmd.Process.Pid), cmd.Process.Pid)...) })
	err := cmd.Wait()
	if !late.Stop() {
		err = fmt.Errorf("not within %s: %w", limit, err)
	}
	if err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s", what, err, out.String())
	}
	return out.String(), nil
}

// below are the processes that one has started, as nsenter starts what it runs.
func below(pid int) []int { return slices.Collect(maps.Keys(processes(pid))) }

// command runs commands whose words are separated by single spaces.
func command(lines ...string) error {
	for _, line := range lines {
		words := strings.Split(line, " ")
		if _, err := output(exec.Command(words[0], words[1:]...)); err != nil {
			return err
		}
	}
	return nil
}

// eventually calls f until it returns nil, and returns its last error after limit.
func eventually(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", limit, err)
		}
	}
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// seconds prints a duration as all lines do.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// say prints one line about what took how long.
func say(what string, begin time.Time, details string) {
	fmt.Printf("%-50s %6.1f s  %s\n", what, time.Since(begin).Seconds(), details)
}
