package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/edgehub-io/edge-hub/test/process"
)

// captureCost runs the benchmarks of package capture, beside decoders that
// could have been used instead.
func captureCost(ctx context.Context, b *bench) error {
	split, err := goBenchmark(ctx, "edgehub/capture", "^BenchmarkList$", "10x", "cpu-s/op")
	if err != nil {
		return err
	}
	decoded, err := goBenchmark(ctx, "edgehub/capture", "^BenchmarkDecode$", "1x", "cpu-s/op")
	if err != nil {
		return err
	}
	for _, c := range []struct {
		format, name string
		bound        float64
		others       []string
	}{
		{"JSON", "List/json", .2, []string{"encoding/json", "unstructured"}},
		{"protobuf", "List/protobuf", .02, []string{"typed_protobuf"}},
	} {
		got, ok := split[c.name]
		if !ok {
			return fmt.Errorf("no result of %s in %v", c.name, split)
		}
		work := "capture of 10,000 Pods, " + c.format + ": CPU ("
		for i, other := range c.others {
			if i > 0 {
				work += ", "
			}
			work += fmt.Sprintf("%s %s", other, seconds(decoded["Decode/"+other]))
		}
		b.table.add(work+")").set(cached, "%s", seconds(got)).want(cached, got, "<=", c.bound, seconds)
	}
	return nil
}

// journalBoot runs the journal's own benchmark of what a start costs.
func journalBoot(ctx context.Context, b *bench) error {
	results, err := goBenchmark(ctx, "edgehub/journal", "^BenchmarkOpen$", "10x", "ns/op")
	if err != nil {
		return err
	}
	b.table.add("journal opened and checked, 50,000 records of 1 KB").set(cached, "%s", seconds(results["Open"]/1e9))
	return nil
}

func binarySize(_ context.Context, b *bench) error {
	info, err := os.Stat(b.hubBinary())
	if err != nil {
		return err
	}
	size := float64(info.Size())
	b.table.add("edge-hub's binary").set(cached, "%s", mebibyte(size)).want(cached, size, "<=", 30<<20, mebibyte)
	return nil
}

// goBenchmark runs a benchmark of the repository and returns its results in a
// unit, by name.
func goBenchmark(ctx context.Context, folder, pattern, benchtime, unit string) (map[string]float64, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run=^$", "-bench="+pattern, "-benchtime="+benchtime,
		"-timeout=5m", "github.com/edgehub-io/edge-hub/"+folder)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, process.Tail(string(out), 10))
	}
	results := parseBenchmarks(string(out), unit)
	if len(results) == 0 {
		return nil, fmt.Errorf("%s: no results\n%s", strings.Join(cmd.Args, " "), process.Tail(string(out), 10))
	}
	return results, nil
}

// parseBenchmarks reads the values with a unit from what go test -bench prints
// (https://go.dev/design/14313-benchmark-format), by the benchmark's name less
// its number of processors.
func parseBenchmarks(text, unit string) map[string]float64 {
	results := map[string]float64{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := fields[0]
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			if _, err := strconv.Atoi(name[i+1:]); err == nil {
				name = name[:i]
			}
		}
		for i := 2; i+1 < len(fields); i += 2 {
			if fields[i+1] == unit {
				if v, err := strconv.ParseFloat(fields[i], 64); err == nil {
					results[strings.TrimPrefix(name, "Benchmark")] = v
				}
			}
		}
	}
	return results
}
