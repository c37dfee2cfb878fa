package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/edgehub/cache"
)

// TestReasonsAreTheAPIs: the cache has its own names for them.
func TestReasonsAreTheAPIs(t *testing.T) {
	for _, reason := range []cache.Missing{cache.NotWarm, cache.TooLarge, cache.DiskFailed, cache.SecretsDenied, cache.Incomplete} {
		row := Agent{Missing: map[string]int{string(reason): 1}}.row()
		if row.OfflineReady || row.Reason != string(reason) {
			t.Errorf("%s is reported as %+v", reason, row)
		}
	}
}

func TestStatus(t *testing.T) {
	since := time.Date(2026, 3, 1, 8, 30, 0, 5e8, time.UTC)
	large := Agent{Pair: Pair{"large", ""}, Since: since, Bytes: 3 << 20, Objects: 5,
		Missing: map[string]int{v1alpha1.NodeAgentIncomplete: 1, v1alpha1.NodeAgentTooLarge: 2},
		Example: map[string]string{v1alpha1.NodeAgentTooLarge: "pods.v1.core/_all", v1alpha1.NodeAgentIncomplete: "nodes.v1.core/_all"}}
	for _, test := range []struct {
		name                    string
		state                   State
		ready, size, conditions string
	}{
		{"nothing yet", State{}, "0/0", "0", "Connected=True/Reporting OfflineReady=True/NothingAsked CacheWritable=True/Writable"},
		{"ready", State{Hash: "v1-1", Agents: []Agent{ready("app", 10)}}, "1/1", "1000",
			"Connected=True/Reporting OfflineReady=True/Complete ConfigValid=True/Valid CacheWritable=True/Writable"},
		{"not ready", State{Hash: "v1-1", Agents: []Agent{ready("app", 10), large}, ConfigProblem: errors.New("bad"), DiskProblem: errors.New("full")}, "1/2", "3.0Mi",
			"Connected=True/Reporting OfflineReady=False/AgentsNotReady(large (TooLarge)) ConfigValid=False/Malformed(bad) CacheWritable=False/NotWritable(full)"},
		{"unasked", State{Agents: []Agent{{Pair: Pair{"app", "shop"}, Unasked: true}}}, "0/1", "0",
			"Connected=True/Reporting OfflineReady=False/AgentsNotReady(app of shop (NotRestarted)) CacheWritable=True/Writable"},
		{"unknown", State{Agents: []Agent{{Pair: Pair{"app", "shop"}, Views: 1, Unknown: true}}}, "0/1", "0",
			"Connected=True/Reporting OfflineReady=False/AgentsNotReady(app of shop (NotRestarted)) CacheWritable=True/Writable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			status := test.state.Status()
			var conditions []string
			for _, c := range status.Conditions {
				text := fmt.Sprintf("%s=%s/%s", c.Type, c.Status, c.Reason)
				if c.Message != "" {
					text += "(" + c.Message + ")"
				}
				conditions = append(conditions, text)
			}
			if got := strings.Join(conditions, " "); got != test.conditions {
				t.Errorf("conditions %s\nwant       %s", got, test.conditions)
			}
			if status.AgentsReady != test.ready || status.Size != test.size {
				t.Errorf("%s ready, %s; want %s, %s", status.AgentsReady, status.Size, test.ready, test.size)
			}
		})
	}
	row := large.row()
	if row.Since.Nanosecond() != 0 || row.Incomplete != 3 || row.Message != "pods.v1.core/_all and 1 more: more than the quota has room for: "+
		"raise the quota, or narrow what the program lists and watches; nodes.v1.core/_all: not on disk yet, or behind what was delivered" {
		t.Errorf("%+v", row)
	}
}

func TestSize(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0", 1023: "1023", 1024: "1.0Ki", 10 << 10: "10Ki", 1023 << 10: "1.0Mi", 12 << 20: "12Mi",
		1<<30 - 1: "1.0Gi", 3 << 29: "1.5Gi", 999 << 40: "999Ti", 1<<63 - 1: "8.0Ei",
	} {
		if got := size(bytes); got != want {
			t.Errorf("%d bytes are %s, want %s", bytes, got, want)
		}
	}
}

// TestCompareIgnoresOrder, which is kube-apiserver's.
func TestCompareIgnoresOrder(t *testing.T) {
	s := State{Hash: "v1-1", Agents: []Agent{ready("a", 1), ready("b", 2)}, Uncached: []Pair{{"c", ""}, {"d", ""}}}
	s.Agents[0].Pods = []v1alpha1.NodePod{{Name: "a", UID: "2"}, {Name: "b", UID: "1"}}
	next := s.Status()
	b, err := json.Marshal(dated(&v1alpha1.EdgeHubNodeStatus{}, &next, time.Unix(2000, 0), time.Time{}))
	if err != nil {
		t.Fatal(err)
	}
	var last v1alpha1.EdgeHubNodeStatus
	if err := json.Unmarshal(b, &last); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(last.Conditions)
	slices.Reverse(last.Agents)
	slices.Reverse(last.Uncached)
	slices.Reverse(last.Agents[1].Pods)
	if got := compare(&last, &next); got != same {
		t.Errorf("differs: %v", got)
	}
	last.Agents[1].Pods[0].UID = "3"
	if got := compare(&last, &next); got != significant {
		t.Errorf("another Pod: %v", got)
	}
}
