package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestASmallFleet runs what make scale runs, over a fleet that is small, and holds
// the operator to what does not depend on how quick the machine is.
func TestASmallFleet(t *testing.T) {
	operator := filepath.Join(t.TempDir(), "edge-hub-operator")
	if out, err := exec.Command("go", "build", "-o", operator, "../../controllers/cmd/edge-hub-operator").CombinedOutput(); err != nil {
		t.Fatalf("build the operator: %v\n%s", err, out)
	}
	o := options{
		operator: operator, nodes: 12, pods: 44, policies: 12, restarting: 11, changes: 2,
		rest: 10 * time.Second, reportInterval: 2 * time.Second, log: t.Logf,
		// Without a Lease, for an operator that can't renew it ends.
		leaderElect: false,
	}
	if err := o.validate(); err != nil {
		t.Fatal(err)
	}
	r, err := measure(t.Context(), o)
	if r != nil {
		var table bytes.Buffer
		r.print(&table)
		t.Logf("\n%s", &table)
	}
	if err != nil {
		t.Fatal(err)
	}
	// Each Pod is restarted once, and none twice.
	if got := r.all.evictions(); got != r.all.pods {
		t.Errorf("%d Pods were evicted for all policies, want %d", got, r.all.pods)
	}
	if got, want := r.series.evictions(), len(r.changes)*o.replicas(); got != want {
		t.Errorf("%d Pods were evicted for %d changes, want %d", got, len(r.changes), want)
	}
	if got := r.quiet.evictions(); got != 0 {
		t.Errorf("%d Pods were evicted for a policy that restarts none", got)
	}
	// A change of one policy costs a write of the ConfigMap and little else.
	for name, requests := range map[string]requests{"all policies": r.all.operator, "a change": r.quiet.operator} {
		if got := requests["patch configmaps"] + requests["apply configmaps"]; got < 1 || got > 3 {
			t.Errorf("the ConfigMap was written %d times for %s: %v", got, name, requests)
		}
	}
	if got := r.quiet.operator.total(); got > 12 {
		t.Errorf("a change that restarts nothing costs %d requests: %v", got, r.quiet.operator)
	}
	// Each hub takes a change, and reports that once or, if it came in two, twice.
	if got := r.quiet.reports(); got < o.nodes || got > 2*o.nodes {
		t.Errorf("%d hubs sent %d reports for a change", o.nodes, got)
	}
	// At rest nothing is written or read.
	if rest := r.rest.but("watch "); rest.total() > 0 {
		t.Errorf("at rest the operator asks for %v", rest)
	}
	if rest := r.restHubs.but("watch ", "list "); rest.total() > 0 {
		t.Errorf("at rest the hubs ask for %v", rest)
	}
	for what := range r.all.operator {
		if strings.Contains(what, "(403)") {
			t.Errorf("the operator lacks rights: %s", what)
		}
	}
	for what := range r.all.hubs {
		if strings.Contains(what, "(4") && !strings.Contains(what, "(404)") {
			t.Errorf("hubs are refused: %s", what)
		}
	}
}

func TestRequestsAreCounted(t *testing.T) {
	log := filepath.Join(t.TempDir(), "audit.log")
	entry := func(stage, verb, user, resource, code string) string {
		return `{"stage":"` + stage + `","verb":"` + verb + `","user":{"username":"` + user + `"},"objectRef":{"resource":"` + resource + `"},"responseStatus":{"code":` + code + `}}`
	}
	const operator, hub = "system:serviceaccount:edge-hub-system:edge-hub-operator", "edgehub:node:n"
	lines := []string{
		entry("ResponseComplete", "patch", operator, "configmaps", "200"),
		entry("ResponseStarted", "watch", operator, "pods", "200"),
		entry("ResponseComplete", "watch", operator, "pods", "200"),
		entry("ResponseComplete", "patch", operator, "configmaps", "409"),
		entry("ResponseComplete", "patch", hub, "edgehubnodes", "200"),
		`{"stage":"ResponseComplete","verb":"pa`, // that is being written
	}
	if err := os.WriteFile(log, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	a := auditLog{path: log}
	all, hubs, err := a.between(0, 0)
	if err != nil || all.String() != "1 patch configmaps, 1 patch configmaps (409), 1 watch pods" || hubs.String() != "1 patch edgehubnodes" {
		t.Errorf("the operator: %v; hubs: %v; %v", all, hubs, err)
	}
	if rest := all.but("configmaps"); rest.total() != 1 {
		t.Errorf("the rest is %v", rest)
	}
	whole := int64(len(strings.Join(lines[:len(lines)-1], "\n")) + 1)
	if mark, err := a.mark(); err != nil || mark != whole {
		t.Errorf("marked at %d, %v, want where the last whole line ends, %d", mark, err, whole)
	}
	later, _, err := a.between(int64(len(lines[0])+1), 0)
	if err != nil || later.total() != 2 {
		t.Errorf("later there are %v, %v", later, err)
	}
}

func TestOptions(t *testing.T) {
	full := options{nodes: 1000, pods: 10000, policies: 200, restarting: 75, changes: 5}
	if err := full.validate(); err != nil || full.allPods() < 9800 || full.allPods() > 10000 || 2*full.restartedPods() < full.allPods()*9/10 {
		t.Errorf("%d Pods, of which %d restart, %v", full.allPods(), full.restartedPods(), err)
	}
	for _, o := range []options{
		{nodes: 10, pods: 20, policies: 5, restarting: 3, changes: 1},
		{nodes: 10, pods: 100, policies: 3, restarting: 3, changes: 1},
		{nodes: 10, pods: 100, policies: 5, restarting: 4, changes: 3},
		{nodes: 10, pods: 100, policies: 5, restarting: 5, changes: 1},
	} {
		if o.validate() == nil {
			t.Errorf("%+v is valid", o)
		}
	}
}
