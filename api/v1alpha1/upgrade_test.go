package v1alpha1_test

import (
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// olderPolicies were made under the CRD before quota and secrets.
const olderPolicies = `
metadata: {name: small}
spec: {cacheAgents: [edge-app]}
---
metadata: {name: large}
spec:
  cacheAgents: [line-controller, Kubernetes Java Client, "a@b", "...", Kubelet]
  podSelector:
    matchLabels: {example.com/app: ""}
    matchExpressions:
    - {key: app, operator: In, values: [line-controller, gateway]}
    - {key: canary, operator: DoesNotExist}
  nodeSelector: {matchLabels: {node-role.kubernetes.io/edge: ""}}
  restart: {strategy: Never, maxUnavailable: 10%, minReadySeconds: 30, paused: true}
status:
  observedGeneration: 1
  restarted: 1/2
  agents: [{name: line-controller, appliedTime: "2026-01-01T00:00:00Z"}]
  pods: {matched: 2, restarted: 1, pending: 1, unavailable: 0, deferred: 0, unmanaged: 0}
  conditions:
  - {type: Ready, status: "True", reason: Ready, message: m, lastTransitionTime: "2026-01-01T00:00:00Z", observedGeneration: 1}
`

// TestPoliciesSurviveAnUpgrade makes policies under the CRD as it was, kept in
// testdata, and shows that under the present one they read the same with their
// defaults, and can be written whole, by kubectl apply, and in their status.
func TestPoliciesSurviveAnUpgrade(t *testing.T) {
	g := NewWithT(t)
	present, err := controlPlane.Kubectl("get", "crd", "edgehubpolicies.edgehub.io", "-o", "jsonpath={.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties}").Output()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(present)).To(ContainSubstring(`"quota"`))
	useCRD(g, "-f", "testdata/edgehubpolicies_before_quota.yaml")
	t.Cleanup(func() { useCRD(NewWithT(t), "-k", "../../config/crd") })
	awaitQuota(t, false)

	client := dynamic.NewForConfigOrDie(controlPlane.RESTConfig()).Resource(v1alpha1.GroupVersion.WithResource("edgehubpolicies")).Namespace("default")
	var manifests, before []*unstructured.Unstructured
	for text := range strings.SplitSeq(olderPolicies, "\n---\n") {
		object := &unstructured.Unstructured{}
		g.Expect(yaml.Unmarshal([]byte("apiVersion: edgehub.io/v1alpha1\nkind: EdgeHubPolicy\n"+text), &object.Object)).To(Succeed())
		created, err := client.Create(t.Context(), object, metav1.CreateOptions{FieldValidation: "Strict"})
		g.Expect(err).NotTo(HaveOccurred())
		if status, found := object.Object["status"]; found {
			created.Object["status"] = status
			created, err = client.UpdateStatus(t.Context(), created, metav1.UpdateOptions{FieldValidation: "Strict"})
			g.Expect(err).NotTo(HaveOccurred())
		}
		t.Cleanup(func() {
			if output, err := controlPlane.Kubectl("delete", "ehp", created.GetName()).CombinedOutput(); err != nil {
				t.Error(string(output))
			}
		})
		manifests, before = append(manifests, object), append(before, created)
	}

	useCRD(g, "-k", "../../config/crd")
	awaitQuota(t, true)
	for i, old := range before {
		now, err := client.Get(t.Context(), old.GetName(), metav1.GetOptions{})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(now.GetGeneration()).To(Equal(old.GetGeneration()), "nothing has to be done anew")
		want := old.DeepCopy()
		g.Expect(unstructured.SetNestedField(want.Object, "Cache", "spec", "secrets")).To(Succeed())
		g.Expect(now.Object["spec"]).To(Equal(want.Object["spec"]))
		g.Expect(equality.Semantic.DeepEqual(now.Object["status"], want.Object["status"])).To(BeTrue())

		// As a client of before writes what it read of before.
		_, err = client.Update(t.Context(), old, metav1.UpdateOptions{FieldValidation: "Strict"})
		g.Expect(err).NotTo(HaveOccurred())
		_, err = client.Apply(t.Context(), old.GetName(), manifests[i], metav1.ApplyOptions{FieldManager: "test", Force: true})
		g.Expect(err).NotTo(HaveOccurred())
		now, err = client.Get(t.Context(), old.GetName(), metav1.GetOptions{})
		g.Expect(err).NotTo(HaveOccurred())
		_, err = client.UpdateStatus(t.Context(), now, metav1.UpdateOptions{FieldValidation: "Strict"})
		g.Expect(err).NotTo(HaveOccurred())
		manifests[i].SetName(old.GetName() + "-anew")
		_, err = client.Create(t.Context(), manifests[i], metav1.CreateOptions{FieldValidation: "Strict", DryRun: []string{metav1.DryRunAll}})
		g.Expect(err).NotTo(HaveOccurred())
	}
}

func useCRD(g *WithT, from ...string) {
	output, err := controlPlane.Kubectl(append([]string{"apply"}, from...)...).CombinedOutput()
	g.Expect(err).NotTo(HaveOccurred(), string(output))
}

// awaitQuota waits until kube-apiserver serves the CRD that was applied.
func awaitQuota(t *testing.T, known bool) {
	t.Helper()
	NewWithT(t).Eventually(func() bool {
		_, err := create(t, "spec: {cacheAgents: [a], quota: 1Mi}")
		return err == nil
	}).WithTimeout(30 * time.Second).Should(Equal(known))
}
