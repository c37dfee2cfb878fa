package fleet

import (
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/test/hub"
)

// TestAnEdgeHubNodeThatIsDeletedIsBack, each time, and it is its hub that notices.
func TestAnEdgeHubNodeThatIsDeletedIsBack(t *testing.T) {
	w := newWorld(t, map[string]string{"cache_agents": app})
	w.Expect(w.get(configMaps)).To(Equal(200))
	w.Eventually(w.row).Should(Equal("true"))
	for range 2 {
		before := w.node().UID
		output, err := w.cluster.Kubectl("delete", "ehn", hub.NodeName).CombinedOutput()
		w.Expect(err).NotTo(HaveOccurred(), "%s", output)
		w.Eventually(w.row).Should(Equal("true"))
		w.Expect(w.node().UID).NotTo(Equal(before))
	}
	// With its Node, as the garbage collector does.
	nodes := w.client.CoreV1().Nodes()
	w.Expect(nodes.Delete(t.Context(), hub.NodeName, metav1.DeleteOptions{})).To(Succeed())
	output, err := w.cluster.Kubectl("delete", "ehn", hub.NodeName).CombinedOutput()
	w.Expect(err).NotTo(HaveOccurred(), "%s", output)
	w.Consistently(w.row, 5*time.Second, time.Second).Should(BeEmpty())
	node, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: hub.NodeName}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	w.Eventually(w.row).Should(Equal("true"))
	w.Expect(w.node().OwnerReferences[0].UID).To(Equal(node.UID))
}

// TestKubectlShowsWhatANodeHasCached: the columns that take the place of logging in
// on each node to look.
func TestKubectlShowsWhatANodeHasCached(t *testing.T) {
	data := map[string]string{"cache_agents": app}
	w := newWorld(t, data)
	w.Expect(w.get(configMaps)).To(Equal(200))
	w.Eventually(w.row).Should(Equal("true"))
	output, err := w.cluster.Kubectl("get", "edgehubnodes").CombinedOutput()
	w.Expect(err).NotTo(HaveOccurred(), "%s", output)
	w.Expect(string(output)).To(MatchRegexp(`NAME +CONNECTED +OFFLINE-READY +AGENTS +OBJECTS +BYTES +CONFIGURATION +REPORTED +AGE\n` +
		`edge-1 +True +True +1/1 +3 +[0-9.]+Ki? +` + hashOf(data) + ` +\w+ +\w+\n`))
	t.Logf("%s", output)

	node := w.node()
	w.Expect(node.OwnerReferences).To(HaveLen(1))
	owner, err := w.client.CoreV1().Nodes().Get(t.Context(), hub.NodeName, metav1.GetOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(node.OwnerReferences[0]).To(Equal(metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: hub.NodeName, UID: owner.UID}))
	agent := w.agent()
	w.Expect(agent.Pods).To(Equal([]v1alpha1.NodePod{{Name: w.pod.Name, UID: w.pod.UID}}), "learned from the token")
	w.Expect(agent.Objects).To(Equal(int64(3)))
	w.Expect(agent.Since.Time).To(BeTemporally("~", time.Now(), time.Minute))

	// One that is not cached is seen.
	w.Expect(w.send(hub.Request{Path: configMaps, Token: w.token, UserAgent: "other-app/2"}).Code).To(Equal(200))
	w.Eventually(func() []v1alpha1.UncachedAgent { return w.node().Status.Uncached }).
		Should(Equal([]v1alpha1.UncachedAgent{{Name: "other-app", Namespace: namespace}}))

	// Once it is, its Pod is known, and that nobody knows what it needs.
	w.configure(map[string]string{"cache_agents": app + ",other-app"})
	other := func() string {
		for _, agent := range w.node().Status.Agents {
			if agent.Name == "other-app" {
				return fmt.Sprintf("%v, %d Pods: %s: %s", agent.OfflineReady, len(agent.Pods), agent.Reason, agent.Message)
			}
		}
		return ""
	}
	w.Eventually(other).Should(Equal("false, 1 Pods: NotRestarted: configmaps.v1.core/shop: read before the agent was cached, and not since: restart its Pods"))
	w.Expect(w.send(hub.Request{Path: configMaps, Token: w.token, UserAgent: "other-app/2"}).Code).To(Equal(200))
	w.Eventually(other).Should(Equal("true, 1 Pods: : "))
	w.Expect(w.node().Status.Uncached).To(BeEmpty())
}
