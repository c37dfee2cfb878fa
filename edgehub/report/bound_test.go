package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// TestStatusIsBounded, whatever a node has seen.
func TestStatusIsBounded(t *testing.T) {
	var s State
	for i := range 2 * v1alpha1.MaxNodeAgents {
		a := ready(fmt.Sprintf("app-%04d", i), 1)
		if i%2 == 1 {
			a.Missing = map[string]int{v1alpha1.NodeAgentDisk: 1}
			a.Example = map[string]string{v1alpha1.NodeAgentDisk: strings.Repeat("ü", 10000)}
		}
		a.Pods = make([]v1alpha1.NodePod, 2*v1alpha1.MaxAgentPods)
		s.Agents = append(s.Agents, a)
		s.Uncached = append(s.Uncached, Pair{Agent: fmt.Sprint(i)})
	}
	s.Agents = append(s.Agents, ready(strings.Repeat("x", 1000), 1))
	s.ConfigProblem = errors.New(strings.Repeat("x", 1<<20))
	status := s.Status()
	if len(status.Agents) != v1alpha1.MaxNodeAgents || status.AgentsOmitted != v1alpha1.MaxNodeAgents || len(status.Uncached) != v1alpha1.MaxNodeUncached {
		t.Errorf("%d agents, %d omitted, %d uncached", len(status.Agents), status.AgentsOmitted, len(status.Uncached))
	}
	for _, a := range status.Agents {
		if a.OfflineReady || len(a.Pods) > v1alpha1.MaxAgentPods || len(a.Message) > maxMessage {
			t.Fatalf("%s: ready %v, %d Pods, a message of %d bytes", a.Name, a.OfflineReady, len(a.Pods), len(a.Message))
		}
	}
	if status.AgentsReady != "256/512" {
		t.Errorf("%s are ready", status.AgentsReady)
	}
	for _, c := range status.Conditions {
		if len(c.Message) > maxCondition {
			t.Errorf("the message of %s has %d bytes", c.Type, len(c.Message))
		}
	}
}

// TestTheLargestReport fits into what etcd takes, 1.5 MiB with what kube-apiserver adds
// to say who owns which field.
func TestTheLargestReport(t *testing.T) {
	status := largest(10, 128).Status()
	b, err := json.Marshal(status)
	if err != nil {
		t.Fatal(err)
	}
	pods := 0
	for _, a := range status.Agents {
		pods += len(a.Pods)
	}
	t.Logf("%d bytes, %d Pods", len(b), pods)
	if len(b) > 1<<20 || pods > v1alpha1.MaxNodePods || pods < v1alpha1.MaxNodePods*3/4 {
		t.Errorf("%d bytes, %d Pods", len(b), pods)
	}
}

// largest is a State of which everything is as long as it may be.
func largest(namespaces, pods int) (s State) {
	name := func(i, n int) string { return fmt.Sprintf("%0*d", n, i) }
	for i := range 2 * v1alpha1.MaxNodeAgents {
		a := ready(name(i, maxAgentName), math.MaxInt64/1000)
		a.Namespace, a.Relists = name(i%namespaces, 63), math.MaxInt64
		a.Missing = map[string]int{v1alpha1.NodeAgentSecretsDenied: math.MaxInt32}
		a.Example = map[string]string{v1alpha1.NodeAgentSecretsDenied: strings.Repeat("x", 1000)}
		for j := range pods {
			a.Pods = append(a.Pods, v1alpha1.NodePod{Name: name(j, 253), UID: types.UID(name(i*pods+j, 36))})
		}
		s.Agents = append(s.Agents, a)
		s.Uncached = append(s.Uncached, Pair{name(i, maxAgentName), name(0, 63)})
	}
	return s
}

// TestPodsAreSharedByNamespaces: the few of one are not crowded out by the many of
// another.
func TestPodsAreSharedByNamespaces(t *testing.T) {
	agents := func(namespace string, pods ...int) (all []v1alpha1.NodeAgent) {
		for i, n := range pods {
			all = append(all, v1alpha1.NodeAgent{Name: fmt.Sprint(i), Namespace: namespace, Pods: make([]v1alpha1.NodePod, n)})
		}
		return all
	}
	many := make([]int, 200)
	for i := range many {
		many[i] = v1alpha1.MaxAgentPods
	}
	for name, test := range map[string]struct {
		agents []v1alpha1.NodeAgent
		want   string
	}{
		"there is room":    {agents("a", 128, 3, 128), "128 3 128"},
		"exactly":          {agents("a", 128, 128, 128, 128, 128, 128, 128, 128), "128 128 128 128 128 128 128 128"},
		"one agent more":   {agents("a", 128, 128, 128, 128, 128, 128, 128, 128, 10), "126 126 126 126 126 126 126 126 10"},
		"a crowd":          {append(agents("few", 100, 20), agents("crowd", many...)...), "100 20 4 4 4"},
		"no room for each": {append(agents("a", many...), append(agents("b", many...), agents("c", 128, 128)...)...), "1 1 1 1 1"},
	} {
		boundPods(test.agents)
		var got []string
		total := 0
		for _, a := range test.agents {
			got = append(got, fmt.Sprint(len(a.Pods)))
			total += len(a.Pods)
		}
		if text := strings.Join(got, " "); !strings.HasPrefix(text+" ", test.want+" ") || total > v1alpha1.MaxNodePods {
			t.Errorf("%s: %d Pods: %s", name, total, text)
		}
	}
}
