package fleet

import (
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/test/hub"
)

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
