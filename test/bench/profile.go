package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// profileSeconds is the length of one CPU profile. A section's profiles are
// one after the other; go tool pprof adds up those it is given.
const profileSeconds = 5

// profiled runs a section, with profiles of the hub if they are asked for.
func (b *bench) profiled(ctx context.Context, s section) error {
	if b.profile == "" {
		return s.run(ctx, b)
	}
	if err := os.MkdirAll(b.profile, 0o755); err != nil {
		return err
	}
	sampling, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { b.sampleCPU(sampling, s.name) })
	err := s.run(ctx, b)
	stop()
	wg.Wait()
	if e := b.fetchProfile(ctx, "heap", s.name+"-heap.pprof"); e != nil {
		fmt.Fprintf(os.Stderr, "%-8s no heap profile: %v\n", s.name, e)
	}
	return err
}

// sampleCPU takes CPU profiles until ctx ends. The one that is under way when the
// hub or the section ends is lost.
func (b *bench) sampleCPU(ctx context.Context, name string) {
	for i := 1; ctx.Err() == nil; i++ {
		err := b.fetchProfile(ctx, fmt.Sprintf("profile?seconds=%d", profileSeconds), fmt.Sprintf("%s-cpu-%02d.pprof", name, i))
		if err == nil || ctx.Err() != nil {
			continue
		}
		fmt.Fprintf(os.Stderr, "%-8s a CPU profile is missing: %v\n", name, err)
		select { // the hub may be starting
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (b *bench) fetchProfile(ctx context.Context, what, file string) error {
	url := strings.TrimSuffix(b.hub.metrics, "/metrics") + "/debug/pprof/" + what
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.profile, file), body, 0o644)
}
