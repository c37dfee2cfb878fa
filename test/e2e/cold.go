package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// coldCache takes the cloud from a hub that has cached nothing: what runs goes on, what
// starts is told why it gets nothing, and the return mends all.
func coldCache(ctx context.Context, w *world) (string, error) {
	if err := w.cut(unplugged); err != nil {
		return "", err
	}
	before := w.programs()
	cache := filepath.Join(w.node.dir, "/etc/kubernetes/cache")
	entries, err := os.ReadDir(cache)
	if err != nil {
		return "", err
	}
	if err := w.kill("edge-hub"); err != nil {
		return "", err
	}
	for _, entry := range entries { // the directory itself is mounted
		if err := os.RemoveAll(filepath.Join(cache, entry.Name())); err != nil {
			return "", err
		}
	}
	if err := eventually(ctx, time.Minute, w.hubReady); err != nil {
		return "", err
	}
	// One that ended while its cache went away may have written it back.
	if left, err := filepath.Glob(filepath.Join(cache, "edge-app", "*", "*", "*")); err != nil || len(left) > 0 {
		return "", fmt.Errorf("the cache is not cold: %v, %w", left, err)
	}
	if err := pause(ctx, 5*time.Second); err != nil {
		return "", err
	}
	after := w.programs()
	delete(before, "edge-hub")
	delete(after, "edge-hub")
	if err := same(before, after); err != nil {
		return "", err
	}

	begin := w.now()
	for _, program := range []string{"edge-app", "controller-app"} {
		if err := w.kill(program); err != nil {
			return "", err
		}
	}
	cold := append(w.readers(), w.podsOf("controller-")...)
	reason := "" // as the Pods print it
	if err := eventually(ctx, time.Minute, func() error {
		for _, pod := range w.readers() { // of a refusal of discovery client-go shows nothing
			line, err := w.lineSince(pod, "reachable", begin)
			if err != nil {
				return err
			}
			if line == "" {
				return fmt.Errorf("%s was not told why it gets nothing", pod)
			}
			reason = line
		}
		return nil
	}); err != nil {
		return "", err
	}
	told := time.Since(begin.Time)
	back := w.now()
	if err := w.settle(ctx); err != nil {
		return "", fmt.Errorf("after the return: %w", err)
	}
	took, err := w.restarted(ctx, time.Minute, cold, back)
	if err != nil {
		return "", fmt.Errorf("after the return: %w", err)
	}
	if err := w.offlineReadySoon(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("what ran went on; %d Pods that started cold were told why within %s (%q), and are ready %s after the return",
		len(cold), seconds(told), reason, seconds(took)), nil
}

// offlineReadySoon waits until the cache is warm again, as the node reports it.
func (w *world) offlineReadySoon(ctx context.Context) error {
	return eventually(ctx, 90*time.Second, func() error {
		return errors.Join(w.offlineReady(ctx, []string{"edge-app", "controller-app"}))
	})
}
