package install

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const (
	credentialsVariable = "CREDENTIALS_DIRECTORY" // see systemd.exec(5)
	// startMetric is among the metrics of every release of the hub: when its process
	// has started, in seconds since 1970.
	startMetric = "process_start_time_seconds"
	// earliness is more than startMetric may be early: it is reckoned from when the node
	// booted, which the kernel tells in whole seconds.
	earliness = 2 * time.Second
)

// keep has what the options leave open as the installed manifest has it, so that
// whoever upgrades the hub names its image alone.
func (o *Options) keep() error {
	content, err := os.ReadFile(o.path(o.manifest()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var pod corev1.Pod
	if err == nil {
		err = yaml.Unmarshal(content, &pod)
	}
	var servers, nodeIPs []string
	flags := pflag.NewFlagSet("run", pflag.ContinueOnError) // as the hub reads them
	flags.ParseErrorsAllowlist.UnknownFlags = true
	flags.StringSliceVar(&servers, "server", nil, "")
	flags.StringSliceVar(&nodeIPs, "node-ip", nil, "")
	credentials := ""
	for _, c := range pod.Spec.Containers {
		err = errors.Join(err, flags.Parse(slices.Concat(c.Command, c.Args)))
		for _, v := range c.Env {
			if v.Name == credentialsVariable {
				credentials = v.Value
			}
		}
	}
	if err != nil {
		return fmt.Errorf("what is installed can't be kept, remove %s to install anew: %w", o.manifest(), err)
	}
	if o.Servers == nil {
		o.Servers = servers
	}
	if o.NodeIPs == nil {
		o.NodeIPs = nodeIPs
	}
	if o.CredentialsDir == "" && !o.DropCredentials {
		o.CredentialsDir = credentials
	}
	return nil
}

// replace writes the manifest and waits until its hub answers. Where there was another
// one, that one's hub answers until the kubelet has ended it, and the kubelet may be led
// there already. So it waits for another process, and puts the old manifest back if none
// comes, or if ctx ends before. The old one is kept meanwhile: a run after one that was
// killed finds the manifest as it is to be, and has to wait for its hub all the same.
func (o *Options) replace(ctx context.Context, pod []byte) error {
	old, err := os.ReadFile(o.path(o.manifest()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if before, none := os.ReadFile(o.path(beforeFile)); none == nil {
		switch {
		case bytes.Equal(old, pod):
			old = before
		case bytes.Equal(before, pod) && err == nil && o.isBefore(ctx):
			old = before // which the kubelet may have no reason to start again
		}
	}
	if err != nil || bytes.Equal(old, pod) {
		if err := o.write(o.manifest(), pod); err != nil {
			return err
		}
		o.say("%s is written", o.manifest())
		if err := o.answers(ctx, *o); err != nil {
			return fmt.Errorf("the kubelet was not led to the hub: %w", err)
		}
		return os.RemoveAll(o.path(beforeFile))
	}
	err = o.upgrade(ctx, old, pod)
	if err == nil {
		return os.RemoveAll(o.path(beforeFile))
	}
	failed := o.write(o.manifest(), old)
	if failed == nil {
		failed = os.RemoveAll(o.path(beforeFile))
	}
	if failed != nil {
		return fmt.Errorf("the new hub has not taken over: %w; and %s could not be put back, so install the image from before: %w", err, o.manifest(), failed)
	}
	o.say("%s is as it was before", o.manifest())
	return fmt.Errorf("the new hub has not taken over, and %s is as it was before, for the kubelet to start the old one: look into /var/log/pods/kube-system_edge-hub-* and the kubelet's log for the reason, and install again: %w", o.manifest(), err)
}

// isBefore reports whether the hub that runs is from before the manifest.
func (o *Options) isBefore(ctx context.Context) bool {
	started, err := o.started(ctx)
	if err != nil {
		return false
	}
	info, err := os.Stat(o.path(o.manifest()))
	return err == nil && started.Before(info.ModTime().Add(-earliness))
}

// upgrade writes the manifest where there is another one, unless a run that was killed
// did, and waits for its hub.
func (o *Options) upgrade(ctx context.Context, old, pod []byte) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	before, _ := o.started(ctx) // it may not run
	if err := ctx.Err(); err != nil {
		return err
	}
	written := time.Now()
	if is, err := os.ReadFile(o.path(o.manifest())); err == nil && bytes.Equal(is, pod) {
		// What runs may be the new hub.
		info, err := os.Stat(o.path(o.manifest()))
		if err != nil {
			return err
		}
		before, written = time.Time{}, info.ModTime()
	}
	if err := o.write(beforeFile, old); err != nil {
		return err
	}
	if err := o.write(o.manifest(), pod); err != nil {
		return err
	}
	o.say("%s is written", o.manifest())
	err := eventually(ctx, func(ctx context.Context) error {
		started, err := o.started(ctx)
		if err != nil {
			return err
		}
		// When the clock is set a process seems to have started at another time, and
		// is no younger for it.
		if started.Equal(before) || time.Since(started) > time.Since(written)+earliness {
			return errors.New("the old hub still runs")
		}
		return nil
	})
	if err == nil {
		err = o.answers(ctx, *o)
	}
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return err
}

// started is when the hub's process has started, as its metrics at an address tell.
func started(ctx context.Context, address string) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return time.Time{}, err
	}
	// The next connection may be to another process.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return time.Time{}, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), startMetric+" "); ok {
			seconds, err := strconv.ParseFloat(value, 64)
			return time.UnixMilli(int64(seconds * 1000)), err
		}
	}
	if err := lines.Err(); err != nil {
		return time.Time{}, err
	}
	return time.Time{}, fmt.Errorf("%s has no %s: %s", req.URL, startMetric, resp.Status)
}
