package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// twoServers kills one of two kube-apiservers, makes the other one refuse too, and
// brings back first the one and then the other. Who is asked is read in their own logs.
func twoServers(o options) func(context.Context, *world) (string, error) {
	return func(ctx context.Context, w *world) (string, error) {
		before := w.programs()
		pid, err := w.anyOf("edge-app")
		if err != nil {
			return "", err
		}
		c, err := callerIn(pid, "edge-app")
		if err != nil {
			return "", err
		}
		s := &servers{w: w, caller: c}
		var times []string
		for _, step := range []struct {
			what    string
			happens func() error
			up      [2]float64 // the two endpoints then
			asked   [2]bool    // who is, for what comes then
		}{
			{"both are asked", func() error { return nil }, [2]float64{1, 1}, [2]bool{true, true}},
			{"the second is killed and leaves", func() error { return kill(w.second.PID()) }, [2]float64{1, 0}, [2]bool{true, false}},
			{"the first refuses, the cache answers", func() error { return refuse(w.port()) }, [2]float64{0, 0}, [2]bool{false, false}},
			{"the second is started and asked", func() error { return w.startSecond(ctx, o) }, [2]float64{0, 1}, [2]bool{false, true}},
			{"the first is back and asked", func() error { return refuse() }, [2]float64{1, 1}, [2]bool{true, true}},
		} {
			if err := step.happens(); err != nil {
				return "", err
			}
			took, err := s.arrive(ctx, step.up, step.asked)
			if err != nil {
				return "", fmt.Errorf("%s: %w", step.what, err)
			}
			times = append(times, step.what+" "+seconds(took))
		}
		moved, err := s.watchesMove(ctx)
		if err != nil {
			return "", err
		}
		if err := w.settle(ctx); err != nil {
			return "", err
		}
		if err := w.sameContainers(before); err != nil {
			return "", err
		}
		if _, err := w.changeGreeting(ctx, "two-servers"); err != nil {
			return "", err
		}
		_, err = w.changeGreeting(ctx, greeting)
		return fmt.Sprintf("%s, and has the first watch %s later; no request failed", strings.Join(times, ", "), seconds(moved)), err
	}
}

// watchesMove waits until a watch comes to the first kube-apiserver.
func (s *servers) watchesMove(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	since, err := s.w.count()
	if err != nil {
		return 0, err
	}
	err = eventually(ctx, 2*time.Minute, func() error {
		r, err := since.at(0)
		if err == nil && r.watches == 0 {
			err = errors.New("no watch has moved to the kube-apiserver that returned")
		}
		return err
	})
	return time.Since(begin), err
}

type servers struct {
	w      *world
	caller *caller
}

// arrive waits until the hub says of the endpoints what it should, and returns how long
// that took. Then it asks 20 times and looks who was asked. Nothing may fail, before or
// after.
func (s *servers) arrive(ctx context.Context, up [2]float64, asked [2]bool) (time.Duration, error) {
	begin := time.Now()
	var broken error
	if err := eventually(ctx, 30*time.Second, func() error {
		if _, err := s.caller.ask(); err != nil {
			broken = fmt.Errorf("a request failed after %s: %w", seconds(time.Since(begin)), err)
			return nil
		}
		for i, server := range []string{s.w.serverURL(), s.w.secondURL()} {
			u, err := url.Parse(server)
			if err != nil {
				return err
			}
			if now, err := s.w.metric("edgehub_upstream_endpoint_up", u.Host); err != nil || now != up[i] {
				return errors.Join(fmt.Errorf("of %s the hub says %v", server, now), err)
			}
		}
		return nil
	}); err != nil || broken != nil {
		return 0, errors.Join(err, broken)
	}
	took := time.Since(begin)
	since, err := s.w.count()
	if err != nil {
		return 0, err
	}
	const times = 20
	for range times {
		cached, err := s.caller.ask()
		if err != nil {
			return 0, err
		}
		if cloud := asked[0] || asked[1]; cached == cloud {
			return 0, fmt.Errorf("the answer comes from the cache: %t", cached)
		}
	}
	for i, want := range asked {
		r, err := since.at(i)
		if err != nil {
			return 0, err
		}
		if got := r.what["get configmaps"]; (got > 0) != want {
			return 0, fmt.Errorf("kube-apiserver %d was asked %d times of %d", i+1, got, times)
		}
	}
	return took, nil
}
