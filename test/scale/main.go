// Command scale measures the operator over a fleet: a real control plane, whose
// nodes and Pods are played by kwok, and simulated hubs that report as real ones do.
// It prints a table; docs/scale.md says what it means.
//
//	go run ./test/scale -bin bin              # 1,000 nodes, 10,000 Pods, 200 policies
//	go run ./test/scale -bin bin -nodes 100 -pods 1000 -policies 20
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/klog/v2"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard) // of the hubs' clients, whose errors are told
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o := options{log: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
	}}
	flags := flag.NewFlagSet("scale", flag.ContinueOnError)
	bin := flags.String("bin", "bin", "folder with edge-hub-operator")
	flags.IntVar(&o.nodes, "nodes", 1000, "nodes, each with a hub")
	flags.IntVar(&o.pods, "pods", 10000, "Pods: two DaemonSets have one on each node, Deployments the rest")
	flags.IntVar(&o.policies, "policies", 200, "EdgeHubPolicies, each with an agent and a workload of its own")
	flags.IntVar(&o.restarting, "restarting", 0, "EdgeHubPolicies that restart their Pods; 0 for three of eight, which have half of the default's Pods")
	flags.IntVar(&o.changes, "changes", 2, "policies that are changed one after the other")
	flags.DurationVar(&o.rest, "rest", time.Minute, "how long requests are counted while nothing happens")
	flags.DurationVar(&o.settle, "settle", statusInterval, "how long after a rollout requests count as its own at least")
	flags.DurationVar(&o.reportInterval, "report-interval", 30*time.Second, "how often a hub reports at most")
	flags.BoolVar(&o.leaderElect, "leader-elect", true, "have the operator hold a Lease, which costs requests at rest")
	flags.DurationVar(&o.limit, "limit", 20*time.Minute, "how long all of it may take")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if o.restarting == 0 {
		o.restarting = max(o.policies*3/8, 3)
	}
	if err := o.validate(); err != nil {
		return err
	}
	o.operator = filepath.Join(*bin, "edge-hub-operator")
	ctx, cancel := context.WithTimeoutCause(ctx, o.limit, fmt.Errorf("it took longer than -limit %v", o.limit))
	defer cancel()
	result, err := measure(ctx, o)
	if result != nil {
		result.print(os.Stdout)
	}
	if err != nil && ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	return err
}

// options are the size of the fleet and what is measured.
type options struct {
	operator              string // path of the program
	nodes, pods, policies int
	restarting            int // policies, the first ones, that restart their Pods
	changes               int
	rest                  time.Duration
	settle                time.Duration
	reportInterval        time.Duration
	leaderElect           bool
	limit                 time.Duration
	log                   func(format string, args ...any)
}

func (o *options) validate() error {
	if o.nodes < 1 || o.policies < 4 || o.restarting < 3 || o.restarting >= o.policies {
		return errors.New("there must be a node and 4 policies, of which 3 restart their Pods and one does not")
	}
	if o.changes < 1 || o.changed(o.changes-1) >= o.restarting {
		return errors.New("there must be a change, but not as many as there are policies that restart their Pods")
	}
	if o.replicas() < 1 {
		return fmt.Errorf("%d Pods are too few: two DaemonSets have %d, and %d Deployments need one each", o.pods, 2*o.nodes, o.policies-2)
	}
	return nil
}

// replicas is how many Pods each Deployment has.
func (o *options) replicas() int { return (o.pods - 2*o.nodes) / (o.policies - 2) }

// restartedPods is how many the policies restart.
func (o *options) restartedPods() int { return 2*o.nodes + o.replicas()*(o.restarting-2) }

// allPods is how many Pods there are; o.pods, rounded.
func (o *options) allPods() int { return 2*o.nodes + o.replicas()*(o.policies-2) }
