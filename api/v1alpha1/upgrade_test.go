package v1alpha1_test

import (
	"context"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// before was landed before what is present: policies under a CRD of then.
var before = []struct {
	crd, policies string
	// defaults are what a policy of then has now and had not.
	defaults map[string]any
}{
	{"edgehubpolicies_before_quota.yaml", `
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
`, map[string]any{"secrets": "Cache", "restart.debounceSeconds": int64(10)}},
	{"edgehubpolicies_before_windows.yaml", `
metadata: {name: small}
spec: {cacheAgents: [edge-app]}
---
metadata: {name: large}
spec:
  cacheAgents: [line-controller, Kubernetes Java Client]
  quota: 1.5Gi
  secrets: Deny
  podSelector: {}
  nodeSelector: {matchExpressions: [{key: node-role.kubernetes.io/edge, operator: Exists}]}
  restart: {strategy: RollingRestart, maxUnavailable: 100%, minReadySeconds: 86400, paused: false}
status:
  observedGeneration: 1
  restarted: 2/2
  agents: [{name: line-controller, appliedTime: "2026-01-01T00:00:00Z"}]
  pods: {matched: 2, restarted: 2, pending: 0, unavailable: 0, deferred: 0, unmanaged: 0}
  conditions:
  - {type: Ready, status: "True", reason: Ready, message: m, lastTransitionTime: "2026-01-01T00:00:00Z", observedGeneration: 1}
  - {type: AsWritten, status: "False", reason: QuotaCapped, message: m, lastTransitionTime: "2026-01-01T00:00:00Z", observedGeneration: 1}
`, map[string]any{"restart.debounceSeconds": int64(10)}},
}

// TestPoliciesSurviveAnUpgrade makes policies under each CRD that there was, kept in
// testdata, and shows that under the present one they read the same with their
// defaults, and can be written whole, by kubectl apply, and in their status.
func TestPoliciesSurviveAnUpgrade(t *testing.T) {
	for _, test := range before {
		t.Run(test.crd, func(t *testing.T) {
			g := NewWithT(t)
			awaitDebounce(t, true)
			useCRD(g, "-f", "testdata/"+test.crd)
			defer func() {
				useCRD(NewWithT(t), "-k", "../../config/crd")
				awaitDebounce(t, true)
			}()
			awaitDebounce(t, false)
			policies := makePolicies(t, test.policies)
			useCRD(g, "-k", "../../config/crd")
			awaitDebounce(t, true)
			for _, policy := range policies {
				policy.survives(g, test.defaults)
			}
		})
	}
}

// TestAPolicyOfBeforeThatIsRefusedNowIsCarriedOut: it can be written as long as what is
// refused stays as it is.
func TestAPolicyOfBeforeThatIsRefusedNowIsCarriedOut(t *testing.T) {
	g := NewWithT(t)
	awaitDebounce(t, true)
	useCRD(g, "-f", "testdata/"+before[0].crd)
	awaitDebounce(t, false)
	policy := makePolicies(t, `
metadata: {name: wide}
spec: {cacheAgents: [edge-app], podSelector: {matchLabels: {}}}
status: {observedGeneration: 1}
`)[0]
	// Each label had owners of its own then.
	output, err := apply(`{cacheAgents: [a], podSelector: {matchLabels: {app: edge}}}`, "--server-side")
	g.Expect(err).NotTo(HaveOccurred(), output)
	defer func() {
		g.Expect(policies().Delete(context.Background(), "applied", metav1.DeleteOptions{})).To(Succeed())
	}()
	useCRD(g, "-k", "../../config/crd")
	awaitDebounce(t, true)
	for _, selector := range []string{`{matchLabels: {tier: edge}}`, `{}`} {
		output, err = apply(`{cacheAgents: [a], podSelector: `+selector+`}`, "--server-side")
		g.Expect(err).NotTo(HaveOccurred(), output)
	}
	for _, patch := range []string{`{"metadata":{"labels":{"a":"b"}}}`, `{"spec":{"cacheAgents":["other"]}}`} {
		_, err := policy.client.Patch(t.Context(), "wide", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		g.Expect(err).NotTo(HaveOccurred())
	}
	_, err = policy.client.Patch(t.Context(), "wide", types.MergePatchType, []byte(`{"status":{"observedGeneration":2}}`), metav1.PatchOptions{}, "status")
	g.Expect(err).NotTo(HaveOccurred())
}

// older is a policy as a person wrote it, and as it was stored.
type older struct {
	t                *testing.T
	client           dynamic.ResourceInterface
	manifest, stored *unstructured.Unstructured
}

func makePolicies(t *testing.T, manifests string) []older {
	g := NewWithT(t)
	client := dynamic.NewForConfigOrDie(controlPlane.RESTConfig()).Resource(v1alpha1.GroupVersion.WithResource("edgehubpolicies")).Namespace("default")
	var policies []older
	for text := range strings.SplitSeq(manifests, "\n---\n") {
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
		policies = append(policies, older{t, client, object, created})
	}
	return policies
}

func (p older) survives(g *WithT, defaults map[string]any) {
	ctx := p.t.Context()
	now, err := p.client.Get(ctx, p.stored.GetName(), metav1.GetOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(now.GetGeneration()).To(Equal(p.stored.GetGeneration()), "nothing has to be done anew")
	want := p.stored.DeepCopy()
	for path, value := range defaults {
		g.Expect(unstructured.SetNestedField(want.Object, value, append([]string{"spec"}, strings.Split(path, ".")...)...)).To(Succeed())
	}
	g.Expect(now.Object["spec"]).To(Equal(want.Object["spec"]))
	if _, seen := want.Object["status"]; !seen {
		// No operator has seen it.
		want.Object["status"] = map[string]any{"observedGeneration": int64(-1)}
	}
	g.Expect(equality.Semantic.DeepEqual(now.Object["status"], want.Object["status"])).To(BeTrue())

	// As a client of before writes what it read of before.
	_, err = p.client.Update(ctx, p.stored, metav1.UpdateOptions{FieldValidation: "Strict"})
	g.Expect(err).NotTo(HaveOccurred())
	_, err = p.client.Apply(ctx, p.stored.GetName(), p.manifest, metav1.ApplyOptions{FieldManager: "test", Force: true})
	g.Expect(err).NotTo(HaveOccurred())
	now, err = p.client.Get(ctx, p.stored.GetName(), metav1.GetOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	_, err = p.client.UpdateStatus(ctx, now, metav1.UpdateOptions{FieldValidation: "Strict"})
	g.Expect(err).NotTo(HaveOccurred())
	anew := p.manifest.DeepCopy()
	anew.SetName(p.stored.GetName() + "-anew")
	_, err = p.client.Create(ctx, anew, metav1.CreateOptions{FieldValidation: "Strict", DryRun: []string{metav1.DryRunAll}})
	g.Expect(err).NotTo(HaveOccurred())
}

func useCRD(g *WithT, from ...string) {
	output, err := controlPlane.Kubectl(append([]string{"apply"}, from...)...).CombinedOutput()
	g.Expect(err).NotTo(HaveOccurred(), string(output))
}

// awaitDebounce waits until kube-apiserver serves a CRD that knows the newest field,
// or one that does not.
func awaitDebounce(t *testing.T, known bool) {
	t.Helper()
	NewWithT(t).Eventually(func() bool {
		_, err := create(t, "spec: {cacheAgents: [a], restart: {debounceSeconds: 1}}")
		return err == nil
	}).WithTimeout(time.Minute).Should(Equal(known))
}
