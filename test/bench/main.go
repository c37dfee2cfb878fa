// Command bench measures what edge-hub costs beside a direct connection to
// kube-apiserver and beside a plain reverse proxy. All three are measured in
// turn, in the same run, on the same real control plane; what counts are the
// ratios between them.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

type options struct {
	bin     string
	rounds  int
	clients int
	only    string
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "folder with edge-hub")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds; each figure is the median")
	flag.IntVar(&o.clients, "clients", 8, "concurrent clients")
	flag.StringVar(&o.only, "only", "", "part of the name of the sections to run, all if empty")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	start := time.Now()
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer b.stop()
	for _, s := range sections {
		if !b.selected(s.name) {
			continue
		}
		fmt.Printf("\n%s\n", s.name)
		if err := s.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	fmt.Printf("\ndone in %v\n", time.Since(start).Round(time.Second))
	return nil
}
