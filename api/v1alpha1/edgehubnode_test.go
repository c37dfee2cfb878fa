package v1alpha1_test

import (
	"fmt"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// report asks kube-apiserver whether a hub may report status, YAML.
func report(t *testing.T, status string) (*unstructured.Unstructured, error) {
	t.Helper()
	nodes := dynamic.NewForConfigOrDie(controlPlane.RESTConfig()).Resource(v1alpha1.GroupVersion.WithResource("edgehubnodes"))
	object := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte("apiVersion: edgehub.io/v1alpha1\nkind: EdgeHubNode\nmetadata: {name: node-1}\nstatus: "+status), &object.Object); err != nil {
		t.Fatal(err)
	}
	// As hubs do: the status first, which fails if there is none yet.
	bare := object.DeepCopy()
	delete(bare.Object, "status")
	options := metav1.ApplyOptions{FieldManager: "edge-hub", Force: true}
	if _, err := nodes.Apply(t.Context(), "node-1", bare, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { controlPlane.Kubectl("delete", "ehn", "node-1", "--ignore-not-found").Run() })
	return nodes.ApplyStatus(t.Context(), "node-1", object, options)
}

const agentRow = `name: a, since: "2026-01-01T00:00:00Z", offlineReady: true`

func TestReportsAreAccepted(t *testing.T) {
	g := NewWithT(t)
	for _, status := range []string{
		`{}`,
		`{version: v1.2.3, reportTime: "2026-01-01T00:00:00Z", cachingSince: "2026-01-01T00:00:00Z", configuration: {hash: v1-0123456789abcdef, appliedTime: "2026-01-01T00:00:00Z"},
		  agentsReady: 1/2, objects: 5, bytes: 123456789012, size: 115Gi, agentsOmitted: 3, uncached: [{name: x, namespace: shop}, {name: x}]}`,
		`{agents: [{` + agentRow + `}, {` + agentRow + `, namespace: shop, reason: NotWarm, message: m, views: 3, incomplete: 1, objects: 9, bytes: 99, relists: 2, pods: [{name: p, uid: u}]}]}`,
		fmt.Sprintf(`{agents: [%s]}`, many(v1alpha1.MaxNodeAgents, `{name: a%d, since: "2026-01-01T00:00:00Z", offlineReady: false}`)),
		fmt.Sprintf(`{uncached: [%s]}`, many(v1alpha1.MaxNodeUncached, `{name: a%d}`)),
		fmt.Sprintf(`{agents: [{%s, pods: [%s]}]}`, agentRow, many(v1alpha1.MaxAgentPods, `{name: p, uid: u%d}`)),
	} {
		_, err := report(t, status)
		g.Expect(err).NotTo(HaveOccurred(), status)
	}
	stored, err := report(t, `{agents: [{`+agentRow+`}]}`)
	g.Expect(err).NotTo(HaveOccurred())
	agents, _, _ := unstructured.NestedSlice(stored.Object, "status", "agents")
	g.Expect(agents).To(HaveLen(1), "what is reported no longer goes")
	g.Expect(agents[0]).To(HaveKeyWithValue("namespace", ""), "the key of callers that are no ServiceAccounts")
}

// TestReportsAreBounded shows that no hub can make its object grow without end.
func TestReportsAreBounded(t *testing.T) {
	for _, test := range []struct{ status, field, want string }{
		{fmt.Sprintf(`{agents: [%s]}`, many(v1alpha1.MaxNodeAgents+1, `{name: a%d, since: "2026-01-01T00:00:00Z", offlineReady: false}`)), "status.agents", "Too many"},
		{fmt.Sprintf(`{uncached: [%s]}`, many(v1alpha1.MaxNodeUncached+1, `{name: a%d}`)), "status.uncached", "Too many"},
		{fmt.Sprintf(`{agents: [{%s, pods: [%s]}]}`, agentRow, many(v1alpha1.MaxAgentPods+1, `{name: p, uid: u%d}`)), "status.agents[0].pods", "Too many"},
		{`{agents: [{` + agentRow + `, message: ` + strings.Repeat("x", 513) + `}]}`, "status.agents[0].message", "Too long"},
		{`{agents: [{name: ` + strings.Repeat("x", 129) + `, since: "2026-01-01T00:00:00Z", offlineReady: true}]}`, "status.agents[0].name", "Too long"},
		{`{agents: [{name: a, offlineReady: true}]}`, "status.agents[0].since", "Required value"},
		{`{agents: [{name: a, since: "2026-01-01T00:00:00Z"}]}`, "status.agents[0].offlineReady", "Required value"},
		{`{configuration: {hash: ` + strings.Repeat("x", 65) + `}}`, "status.configuration.hash", "Too long"},
		{`{version: ` + strings.Repeat("x", 129) + `}`, "status.version", "Too long"},
		{fmt.Sprintf(`{conditions: [%s]}`, many(17, `{type: C%d, status: "True", reason: R, message: m, lastTransitionTime: "2026-01-01T00:00:00Z"}`)), "status.conditions", "Too many"},
	} {
		_, err := report(t, test.status)
		if err == nil || !strings.Contains(err.Error(), test.field) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.80s: message does not name %s and say %q: %v", test.status, test.field, test.want, err)
		}
	}
}
