package identity

import (
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

const (
	saveInterval   = time.Second
	saveRetryAfter = 30 * time.Second

	refreshInterval   = 10 * time.Minute
	refreshMinSpacing = 10 * time.Second
	refreshTimeout    = 10 * time.Second
)

// Run keeps the disk up to date, at most about once a second, until ctx is done;
// then it saves what is left. Meanwhile it refreshes the issuer's keys with fetch
// (see Refresh): at once, every ten minutes, soon after a failure, and soon after
// upstream accepts a ServiceAccount token signed by a key it has not seen.
func (a *Authenticator) Run(ctx context.Context, fetch func(ctx context.Context, path string) ([]byte, error)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { a.keepRefreshed(ctx, fetch) })

	ticker := time.NewTicker(saveInterval)
	defer ticker.Stop()
	var failed bool
	for {
		select {
		case <-ctx.Done():
			if err := a.Save(); err != nil {
				klog.ErrorS(err, "Saving the identity state failed")
			}
			return
		case <-ticker.C:
		}
		err := a.Save()
		if err != nil {
			klog.ErrorS(err, "Saving the identity state failed, will retry", "after", saveRetryAfter)
			ticker.Reset(saveRetryAfter)
		} else if failed {
			ticker.Reset(saveInterval)
		}
		failed = err != nil
	}
}

// Save writes what has changed since the last save.
func (a *Authenticator) Save() error {
	return errors.Join(a.tokens.save(a.dir), a.clock.save(a.dir))
}

func (a *Authenticator) keepRefreshed(ctx context.Context, fetch func(context.Context, string) ([]byte, error)) {
	for {
		tryCtx, cancel := context.WithTimeout(ctx, refreshTimeout)
		err := a.Refresh(tryCtx, fetch)
		cancel()
		if err != nil && ctx.Err() == nil {
			// Away from the cloud this is the ordinary state; the readiness page shows it.
			klog.V(2).InfoS("Could not refresh the ServiceAccount token keys", "err", err, "known", a.KeysKnown())
		}
		if !sleep(ctx, refreshMinSpacing, nil) {
			return
		}
		if err == nil && !sleep(ctx, refreshInterval-refreshMinSpacing, a.keysWanted) {
			return
		}
	}
}

// wantKeys asks keepRefreshed for a refresh.
func (a *Authenticator) wantKeys() {
	select {
	case a.keysWanted <- struct{}{}:
	default:
	}
}

// sleep waits for d or for wake, and tells whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-wake:
	}
	return true
}
