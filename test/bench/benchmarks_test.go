package main

import (
	"maps"
	"testing"
)

func TestParseBenchmarks(t *testing.T) {
	const text = `goos: linux
BenchmarkList/json-2         	      10	 118370417 ns/op	 351.29 MB/s	         0.1187 cpu-s/op
BenchmarkList/protobuf       	      10	   4567 ns/op	         0.0046 cpu-s/op
BenchmarkOther-with-dash-2   	       1	   1 ns/op
PASS
`
	if got := parseBenchmarks(text, "cpu-s/op"); !maps.Equal(got, map[string]float64{"List/json": .1187, "List/protobuf": .0046}) {
		t.Errorf("cpu-s/op is %v", got)
	}
	if got := parseBenchmarks(text, "ns/op"); got["Other-with-dash"] != 1 || len(got) != 3 {
		t.Errorf("ns/op is %v", got)
	}
}
