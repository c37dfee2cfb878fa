// Command demo tells what edge-hub is for, on this machine's loopback and
// without root: a program that reads from kube-apiserver through edge-hub keeps
// reading when kube-apiserver is gone. Each step shows the command a user would
// type and checks its result; the first that fails ends the demo with exit code 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	bin := flag.String("bin", "bin", "folder with edge-hub, edge-hub-operator and edge-app")
	config := flag.String("config", "config", "folder with the manifests")
	keep := flag.Bool("keep", false, "leave the folder with all data and logs behind")
	timeout := flag.Duration("timeout", 3*time.Minute, "give up when the demo takes longer")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, *timeout, fmt.Errorf("the demo took longer than %s", *timeout))
	defer cancel()
	if err := run(ctx, *bin, *config, *keep); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, bin, config string, keep bool) (err error) {
	d, err := newDemo(bin, config)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && !errors.Is(ctx.Err(), context.Canceled) { // not on Ctrl-C
			d.showLogs(os.Stderr)
		}
		err = errors.Join(err, d.stop(keep))
	}()

	begin := time.Now()
	d.say.headline("edge-hub: a Pod's reads survive the loss of the cloud")
	d.say.note("DIR=%s", d.dir)
	for i, step := range steps {
		d.say.step(i+1, step.title)
		if err := step.run(d, ctx); err != nil {
			return fmt.Errorf("step %d (%s) failed: %w", i+1, step.title, err)
		}
	}
	d.say.headline(fmt.Sprintf("All %d steps passed in %.0f s.", len(steps), time.Since(begin).Seconds()))
	return nil
}

// steps is the story. Each step builds on the ones before.
var steps = []struct {
	title string
	run   func(*demo, context.Context) error
}{
	{"The cloud: a Kubernetes control plane with a program's ServiceAccount and configuration", (*demo).startCloud},
	{"The cloud: install the EdgeHubPolicy API and the operator", (*demo).startOperator},
	{"The edge node: start edge-hub in front of kube-apiserver", (*demo).startHub},
	{"Apply an EdgeHubPolicy: the running hub begins to cache edge-app", (*demo).applyPolicy},
	{"Start edge-app, an unmodified InClusterConfig program, as a Pod behind edge-hub", (*demo).startApp},
	{"Look at what edge-hub did: its log and the files it keeps", (*demo).inspect},
	{"Confirm it for the whole fleet: would edge-app start without the cloud now?", (*demo).confirm},
	{"The cloud dies: kill -9 kube-apiserver, and ask at once", (*demo).loseCloud},
	{"Restart edge-app without the cloud: it reads the same data", (*demo).restartAppOffline},
	{"Nobody else gets that data", (*demo).refuseOthers},
	{"The node reboots without the cloud: kill -9 and restart edge-hub", (*demo).restartHubOffline},
	{"The cloud returns: edge-app, started without it, follows live again", (*demo).returnCloud},
	{"The cloud hangs: freeze kube-apiserver with SIGSTOP", (*demo).freezeCloud},
	{"Delete the EdgeHubPolicy: edge-hub forgets edge-app", (*demo).removePolicy},
}
