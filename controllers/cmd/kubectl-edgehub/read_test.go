package main

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/overview"
	"github.com/edgehub-io/edge-hub/controllers/rollout"
)

// TestAnUnknownConfigurationIsNotHeldAgainstAHub: who may not read kube-system sees
// what the operator sees, if the hub has the current configuration.
func TestAnUnknownConfigurationIsNotHeldAgainstAHub(t *testing.T) {
	g := NewWithT(t)
	applied := metav1.NewTime(time.Now())
	owner := metav1.OwnerReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "app", UID: "set", Controller: ptr.To(true)}
	policy := v1alpha1.EdgeHubPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p"}}
	policy.Spec.PodSelector = &v1alpha1.LabelSelector{}
	policy.Status.Agents = []v1alpha1.AgentStatus{{Name: "app", AppliedTime: applied}}
	for configuration, want := range map[string]rollout.State{"": rollout.Pending, "the-hubs": rollout.Pending, "another": rollout.Waiting} {
		scene := overview.Scene{
			Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "app", UID: "u", CreationTimestamp: metav1.NewTime(applied.Add(-time.Hour)),
				OwnerReferences: []metav1.OwnerReference{owner}}, Spec: corev1.PodSpec{NodeName: "n"}},
			Node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}},
			Hub: &v1alpha1.EdgeHubNode{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: v1alpha1.EdgeHubNodeStatus{
				Configuration: &v1alpha1.NodeConfiguration{Hash: "the-hubs"}}},
			Configuration: configuration, Now: applied.Add(time.Minute),
		}
		g.Expect(observe(t.Context(), nil, &scene, []v1alpha1.EdgeHubPolicy{policy})).To(Succeed())
		g.Expect(scene.Policies[0].Pod.State()).To(Equal(want), configuration)
		scene.Node.Spec.Unschedulable, scene.Policies = true, nil
		g.Expect(observe(t.Context(), nil, &scene, []v1alpha1.EdgeHubPolicy{policy})).To(Succeed())
		g.Expect(overview.Explain(scene).Policies).To(ConsistOf(And(HaveField("State", rollout.Deferred), HaveField("Message", ContainSubstring("its node is cordoned: it is restarted when that is over")))))
	}
}
