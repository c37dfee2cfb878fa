// Command e2e runs a real edge node on this machine and unplugs it: a cloud with
// etcd, two kube-apiservers, kube-controller-manager, kube-scheduler and the operator,
// and an edge node with containerd, runc, kubelet, kube-proxy and edge-hub, each in
// namespaces of its own, joined by one link. Everything runs below one process, so
// that the kernel ends and unmounts all of it together with that process.
//
// It needs root, Debian's packages and the programs that make e2e builds:
//
//	make e2e E2E='-run reboot'
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

// The roles that this program plays when it starts itself in new namespaces.
const (
	roleCloud = "cloud"
	roleNode  = "node"
	roleTrial = "trial"
)

// exitImpossible is the exit code if this machine can't run a node, as of a test that
// is skipped elsewhere.
const exitImpossible = 77

type options struct {
	bin   string // programs that make e2e builds
	dir   string // everything that is written, logs too
	only  string // regular expression of scenarios
	keep  bool
	limit time.Duration // of everything
	check bool
}

func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("e2e", flag.ExitOnError)
	f.StringVar(&o.bin, "bin", "bin", "folder with the programs that make e2e builds")
	f.StringVar(&o.dir, "dir", "/var/tmp/edge-hub-e2e", "folder for all that is written; it is emptied first")
	f.StringVar(&o.only, "run", "", "regular expression: run the scenarios whose name matches")
	f.BoolVar(&o.keep, "keep", false, "keep the folder with its logs; after a failure the logs are kept anyway")
	f.DurationVar(&o.limit, "limit", 25*time.Minute, "how long all of it may take")
	f.BoolVar(&o.check, "check", false, "run nothing: say whether this machine can, and exit with 77 and the reason if not")
	return f
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "e2e:", err)
	if errors.Is(err, errImpossible) {
		os.Exit(exitImpossible)
	}
	os.Exit(1)
}

func run(ctx context.Context, args []string) error {
	role := ""
	if len(args) > 0 && (args[0] == roleCloud || args[0] == roleNode || args[0] == roleTrial) {
		role, args = args[0], args[1:]
	}
	var o options
	if err := o.flags().Parse(args); err != nil {
		return err
	}
	if _, err := regexp.Compile(o.only); err != nil {
		return err
	}
	switch role {
	case roleNode:
		return runNode(o.dir)
	case roleCloud:
		return runCloud(ctx, o)
	case roleTrial:
		return runTrial()
	}
	if o.check {
		return possible(ctx)
	}
	if os.Geteuid() != 0 {
		return errors.New("network namespaces, mounts and containers need root")
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, o.limit, fmt.Errorf("it took longer than %s", o.limit))
	defer cancel()
	err := runSandbox(ctx, o)
	result := "all is well"
	if err != nil {
		result = "FAILED"
	}
	say("total", begin, result)
	return err
}
