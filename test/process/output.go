package process

import (
	"context"
	"fmt"
	"strings"
	"sync"
)

// Output collects what a process prints and lets others wait for it. The zero
// value is ready to be the Stdout and Stderr of an [os/exec.Cmd].
type Output struct {
	mu      sync.Mutex
	text    []byte
	changed chan struct{} // closed and replaced on each write
}

// Write appends p.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
	return len(p), nil
}

// String is everything printed so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

// Len is the number of bytes printed so far, a mark for [Output.WaitFor].
func (o *Output) Len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.text)
}

// WaitFor waits for a complete line that contains substring, among what was
// printed after the first from bytes, and returns it without its newline.
func (o *Output) WaitFor(ctx context.Context, from int, substring string) (string, error) {
	for {
		text, changed := o.after(from)
		if line, ok := findLine(text, substring); ok {
			return line, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("no line with %q was printed: %w", substring, context.Cause(ctx))
		}
	}
}

func (o *Output) after(from int) (text string, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.changed == nil {
		o.changed = make(chan struct{})
	}
	return string(o.text[min(from, len(o.text)):]), o.changed
}

func findLine(text, substring string) (string, bool) {
	for line := range strings.Lines(text) {
		if strings.HasSuffix(line, "\n") && strings.Contains(line, substring) {
			return strings.TrimSuffix(line, "\n"), true
		}
	}
	return "", false
}

// Tail returns the last n lines of text, for error messages.
func Tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
