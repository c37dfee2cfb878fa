// Command edge-app stands for a business program that runs in a Pod: it finds
// the apiserver with rest.InClusterConfig, watches the ConfigMaps and Services
// of its namespace through client-go's informers with their defaults, and prints
// what it sees. It knows nothing of edge-hub.
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
	var o options
	flag.StringVar(&o.config, "config", "", "name of a ConfigMap to read and print at start, besides watching all")
	flag.BoolVar(&o.once, "once", false, "exit when everything has been read once")
	flag.DurationVar(&o.timeout, "timeout", 0, "give up when the first reading takes longer; 0 is never")
	flag.StringVar(&o.server, "server", "", "URL of the apiserver, instead of where InClusterConfig finds it")
	flag.StringVar(&o.readyz, "readyz", "", "address to answer /readyz on, with 200 once everything has been read")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "edge-app:", err)
		os.Exit(1)
	}
}

type options struct {
	config  string
	once    bool
	timeout time.Duration
	readyz  string
	server  string
}
