// Command bench measures what edge-hub costs beside a direct connection to
// kube-apiserver and beside a plain reverse proxy. All are measured in turn, in
// the same run, on the same real control plane; what counts are the ratios
// between them. It prints one table; docs/benchmarks.md explains its rows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/test/cluster"
)

type options struct {
	bin     string
	rounds  int
	clients int
	only    string
	output  string
	profile string
	timeout time.Duration
}

// section is a part of the table.
type section struct {
	name string
	run  func(context.Context, *bench) error
}

// sections in the order they run. Those that take kube-apiserver away are last.
var sections = []section{
	{"idle", idle},
	{"get", gets},
	{"latency", latency},
	{"list", lists},
	{"pods", pods},
	{"watches", watches},
	{"delay", delay},
	{"node", node},
	{"offline", offline},
	{"boot", boot},
	{"capture", captureCost},
	{"journal", journalBoot},
	{"binary", binarySize},
}

func sectionNames() string {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	return strings.Join(names, ", ")
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "folder with edge-hub")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds; figures are medians over them")
	flag.IntVar(&o.clients, "clients", 8, "concurrent clients of GET")
	flag.StringVar(&o.only, "only", "", "sections to run, separated by commas, all if empty: "+sectionNames())
	flag.StringVar(&o.output, "o", "text", "form of the table: text or markdown")
	flag.StringVar(&o.profile, "profile", "", "folder for CPU and heap profiles of edge-hub in each section; taking them costs time, so don't quote such a run")
	flag.DurationVar(&o.timeout, "timeout", 20*time.Minute, "give up, and print what there is, when the run takes longer")
	flag.Parse()
	klog.LogToStderr(false) // client-go's remarks on watches that end
	klog.SetOutput(io.Discard)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("took longer than %s", o.timeout))
	defer cancel()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		cancel()
		stop()
		os.Exit(1)
	}
}

func (o *options) validate() error {
	if o.output != "text" && o.output != "markdown" {
		return fmt.Errorf("-o %s is neither text nor markdown", o.output)
	}
	if o.rounds < 1 || o.clients < 1 {
		return errors.New("-rounds and -clients must be 1 or more")
	}
	if o.only == "" {
		return nil
	}
	for name := range strings.SplitSeq(o.only, ",") {
		if !slices.ContainsFunc(sections, func(s section) bool { return s.name == name }) {
			return fmt.Errorf("-only %s: no such section, there are %s", name, sectionNames())
		}
	}
	return nil
}

func (o *options) selected(name string) bool {
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), name)
}

// run measures, and prints the table even if a section failed.
func run(ctx context.Context, o options) error {
	if err := o.validate(); err != nil {
		return err
	}
	start := time.Now()
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer b.stop()
	var errs []error
	for _, s := range sections {
		if !o.selected(s.name) {
			continue
		}
		if ctx.Err() != nil {
			errs = append(errs, context.Cause(ctx))
			break
		}
		begin := time.Now()
		if err := b.profiled(ctx, s); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
			fmt.Fprintf(os.Stderr, "%-8s failed: %v\n", s.name, err)
			continue
		}
		fmt.Fprintf(os.Stderr, "%-8s %v\n", s.name, time.Since(begin).Round(100*time.Millisecond))
	}
	fmt.Printf("%s\n\n", b.about(time.Since(start)))
	write := b.table.writeText
	if o.output == "markdown" {
		write = b.table.writeMarkdown
	}
	return errors.Join(append(errs, write(os.Stdout))...)
}

// about says what was measured, and on what.
func (b *bench) about(took time.Duration) string {
	version := func(path string, args ...string) string {
		out, err := exec.Command(path, args...).Output()
		if err != nil {
			return filepath.Base(path) + " " + err.Error()
		}
		return strings.TrimSpace(string(out))
	}
	apiserver, err := cluster.Binary("kube-apiserver")
	if err == nil {
		apiserver = version(apiserver, "--version")
	}
	model := "unknown processor"
	if cpuinfo, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(cpuinfo)) {
			if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%s, kube-apiserver of %s, %s, %d processors (%s), %d rounds, %s, took %v",
		version(b.hubBinary(), "version"), apiserver, runtime.Version(), runtime.NumCPU(), model,
		b.rounds, time.Now().UTC().Format(time.DateOnly), took.Round(time.Second))
}
