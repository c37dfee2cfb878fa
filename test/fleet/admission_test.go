package fleet

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/edgehub-io/edge-hub/api/hubidentity"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/edgehub/report"
)

// TestAHubWritesItsOwnEdgeHubNodeOnly: what a node that was taken over can't do to
// the rest of the fleet.
func TestAHubWritesItsOwnEdgeHubNodeOnly(t *testing.T) {
	w := newWorld(t, map[string]string{"cache_agents": app}, "--report=false")
	as := func(user string, groups ...string) kubernetes.Interface {
		config, err := w.cluster.RESTConfigFor(user, groups...)
		w.Expect(err).NotTo(HaveOccurred())
		return kubernetes.NewForConfigOrDie(config)
	}
	apply := func(client kubernetes.Interface, name, subresource string, metadata map[string]any) error {
		object := map[string]any{"apiVersion": "edgehub.io/v1alpha1", "kind": "EdgeHubNode", "metadata": map[string]any{"name": name}}
		maps.Copy(object["metadata"].(map[string]any), metadata)
		if subresource != "" {
			object["status"] = map[string]any{"version": "v1"}
		}
		body, err := json.Marshal(object)
		w.Expect(err).NotTo(HaveOccurred())
		return client.Discovery().RESTClient().Patch(types.ApplyPatchType).
			AbsPath("/apis/edgehub.io/v1alpha1/edgehubnodes/"+name+subresource).Param("fieldManager", "edge-hub").Param("force", "true").
			Body(body).Do(t.Context()).Error()
	}
	ownedBy := func(owner map[string]any) map[string]any { return map[string]any{"ownerReferences": []any{owner}} }
	nodeOf := func(name string) map[string]any {
		node, err := w.client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		w.Expect(err).NotTo(HaveOccurred())
		return map[string]any{"apiVersion": "v1", "kind": "Node", "name": name, "uid": string(node.UID)}
	}
	with := func(owner map[string]any, field string, value any) map[string]any {
		owner = maps.Clone(owner)
		owner[field] = value
		return owner
	}
	one, two := as(hubidentity.User("edge-1"), hubidentity.Group), as(hubidentity.User("edge-2"), hubidentity.Group)
	kubelet := as(hubidentity.NodeUserPrefix+"edge-1", hubidentity.NodeGroup)
	own := nodeOf("edge-1")

	// The binding takes a moment to be in force.
	w.Eventually(func() error { return apply(two, "edge-1", "", ownedBy(own)) }).Should(MatchError(ContainSubstring("own Node only")))
	owned := func(more map[string]any) map[string]any {
		all := ownedBy(own)
		maps.Copy(all, more)
		return all
	}
	forged := map[string]map[string]any{
		"no owner":                 {},
		"another Node":             ownedBy(nodeOf("edge-2")),
		"another kind":             ownedBy(with(own, "kind", "Pod")),
		"a controller":             ownedBy(with(own, "controller", true)),
		"not even no controller":   ownedBy(with(own, "controller", false)),
		"an owner that is blocked": ownedBy(with(own, "blockOwnerDeletion", true)),
		"two owners":               {"ownerReferences": []any{own, nodeOf("edge-2")}},
		"labels":                   owned(map[string]any{"labels": map[string]any{"a": "b"}}),
		"annotations":              owned(map[string]any{"annotations": map[string]any{"a": "b"}}),
		"finalizers":               owned(map[string]any{"finalizers": []any{"example.com/never"}}),
	}
	for _, when := range []string{"created", "changed"} {
		for name, metadata := range forged {
			err := apply(one, "edge-1", "", metadata)
			w.Expect(err).To(MatchError(ContainSubstring("edge-hub-nodes")), fmt.Sprintf("%s, %s", name, when))
		}
		for name, client := range map[string]kubernetes.Interface{"another hub": two, "the kubelet": kubelet} {
			w.Expect(apply(client, "edge-1", "", ownedBy(own))).To(MatchError(ContainSubstring("forbidden")), name)
		}
		w.Expect(apply(one, "edge-1", "", ownedBy(own))).To(Succeed())
		w.Expect(apply(one, "edge-1", "/status", nil)).To(Succeed())
	}
	for name, client := range map[string]kubernetes.Interface{"another hub": two, "the kubelet": kubelet} {
		w.Expect(apply(client, "edge-1", "/status", nil)).To(MatchError(ContainSubstring("forbidden")), name)
	}
	remove := func(client kubernetes.Interface, name string) error {
		return client.Discovery().RESTClient().Delete().AbsPath("/apis/edgehub.io/v1alpha1/edgehubnodes/" + name).Do(t.Context()).Error()
	}
	for name, client := range map[string]kubernetes.Interface{"another hub": two, "the kubelet": kubelet} {
		w.Expect(remove(client, "edge-1")).To(MatchError(ContainSubstring("forbidden")), name)
	}
	w.Expect(remove(two, "")).To(MatchError(ContainSubstring("forbidden")), "all of them")
	w.Expect(remove(one, "edge-1")).To(Succeed(), "its own")
	w.Expect(apply(one, "edge-1", "", ownedBy(own))).To(Succeed(), "anew")

	w.Expect(w.applyLargest(one)).To(Succeed())

	// Labels of somebody else's do not keep the hub from reporting, nor does it
	// take them away.
	output, err := w.cluster.Kubectl("label", "ehn", "edge-1", "site=north").CombinedOutput()
	w.Expect(err).NotTo(HaveOccurred(), "%s", output)
	w.Expect(apply(one, "edge-1", "", ownedBy(own))).To(Succeed())
	w.Expect(apply(one, "edge-1", "/status", nil)).To(Succeed())
	output, err = w.cluster.Kubectl("get", "ehn", "edge-1", "-o", "jsonpath={.metadata.labels.site} {.status.version}").CombinedOutput()
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(string(output)).To(Equal("north v1"))
}

// applyLargest writes the largest report that there can be: no tenant can make a node's
// so large that it is refused.
func (w *world) applyLargest(client kubernetes.Interface) error {
	w.Helper()
	var state report.State
	for i := range 2 * v1alpha1.MaxNodeAgents {
		agent := report.Agent{Pair: report.Pair{Agent: fmt.Sprintf("%0128d", i), Namespace: fmt.Sprintf("%063d", i%10)}, Since: time.Now(), Relists: 1 << 62}
		agent.Missing = map[string]int{v1alpha1.NodeAgentTooLarge: 1000}
		agent.Example = map[string]string{v1alpha1.NodeAgentTooLarge: strings.Repeat("x", 1000)}
		for j := range v1alpha1.MaxAgentPods {
			agent.Pods = append(agent.Pods, v1alpha1.NodePod{Name: strings.Repeat("x", 253), UID: types.UID(fmt.Sprintf("%036d", j))})
		}
		state.Agents = append(state.Agents, agent)
		state.Uncached = append(state.Uncached, agent.Pair)
	}
	status := state.Status()
	for i := range status.Conditions {
		status.Conditions[i].LastTransitionTime = metav1.Now()
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": "edgehub.io/v1alpha1", "kind": "EdgeHubNode", "metadata": map[string]any{"name": "edge-1"}, "status": status,
	})
	w.Expect(err).NotTo(HaveOccurred())
	object, err := client.Discovery().RESTClient().Patch(types.ApplyPatchType).
		AbsPath("/apis/edgehub.io/v1alpha1/edgehubnodes/edge-1/status").Param("fieldManager", "edge-hub").Param("force", "true").
		Body(body).Do(w.Context()).Raw()
	w.Logf("a report of %d bytes is an object of %d", len(body), len(object))
	return err
}
