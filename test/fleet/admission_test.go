package fleet

import (
	"encoding/json"
	"fmt"
	"maps"
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/edgehub-io/edge-hub/api/hubidentity"
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
	err := one.Discovery().RESTClient().Delete().AbsPath("/apis/edgehub.io/v1alpha1/edgehubnodes/edge-1").Do(t.Context()).Error()
	w.Expect(err).To(MatchError(ContainSubstring("forbidden")))

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
