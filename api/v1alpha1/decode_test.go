package v1alpha1_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// TestWhatIsAdmittedCanBeListed: one object that Go can't read keeps every client
// from listing all objects of its kind, the operator first.
func TestWhatIsAdmittedCanBeListed(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	reader, err := client.New(controlPlane.RESTConfig(), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	condition := func(transition string) string {
		return `status: {conditions: [{type: A, status: "True", reason: R, message: "", lastTransitionTime: "` + transition + `"}]}`
	}
	const policy = "spec: {cacheAgents: [a]}\n"
	for _, test := range []struct {
		resource, kind, body string
		admitted             bool
	}{
		{"edgehubpolicies", "EdgeHubPolicy", `spec: {cacheAgents: [a], restart: {maxUnavailable: 3000000000}}`, false},
		{"edgehubpolicies", "EdgeHubPolicy", `spec: {cacheAgents: [a], restart: {maxUnavailable: 2147483648}}`, false},
		{"edgehubpolicies", "EdgeHubPolicy", `spec: {cacheAgents: [a], restart: {maxUnavailable: 2147483647}}`, true},
		{"edgehubpolicies", "EdgeHubPolicy", `spec: {cacheAgents: [a], restart: {minReadySeconds: 3000000000}}`, false},
		{"edgehubpolicies", "EdgeHubPolicy", `spec: {cacheAgents: [a], quota: 1.5e9}`, true},
		{"edgehubpolicies", "EdgeHubPolicy", `spec: {cacheAgents: [a], quota: "99999999999999999999999999999"}`, true},
		{"edgehubpolicies", "EdgeHubPolicy", policy + condition("2026-01-01T10:00:00Z"), true},
		{"edgehubpolicies", "EdgeHubPolicy", policy + condition("2026-01-01T10:00:00z"), false},
		{"edgehubnodes", "EdgeHubNode", condition("2026-01-01T10:00:00.123456789+05:30"), true},
		{"edgehubnodes", "EdgeHubNode", condition("2026-01-01t10:00:00Z"), false},
		{"edgehubnodes", "EdgeHubNode", `status: {reportTime: "2024-02-29T23:59:59-23:59"}`, true},
		{"edgehubnodes", "EdgeHubNode", `status: {reportTime: "0000-01-01T00:00:00Z"}`, true},
		{"edgehubnodes", "EdgeHubNode", `status: {reportTime: "2026-01-01t10:00:00Z"}`, false},
		{"edgehubnodes", "EdgeHubNode", `status: {reportTime: "2026-01-01T10:00:00z"}`, false},
		{"edgehubnodes", "EdgeHubNode", `status: {reportTime: "2026-02-29T10:00:00Z"}`, false},
		{"edgehubnodes", "EdgeHubNode", `status: {reportTime: "2026-01-01T24:00:00Z"}`, false},
		{"edgehubnodes", "EdgeHubNode", `status: {reportTime: "2026-01-01T10:00:60Z"}`, false},
		{"edgehubnodes", "EdgeHubNode", `status: {reportTime: "2026-01-01T10:00:00x5Z"}`, false},
		{"edgehubnodes", "EdgeHubNode", `status: {reportTime: "2026-01-01T10:00:00+24:00"}`, false},
		{"edgehubnodes", "EdgeHubNode", `status: {reportTime: "2026-01-01T10:00:00+10:60"}`, false},
		{"edgehubnodes", "EdgeHubNode", `status: {cachingSince: "2026-01-01T10:00:00z"}`, false},
		{"edgehubnodes", "EdgeHubNode", `status: {configuration: {hash: a, appliedTime: "2026-01-01T10:00:00z"}}`, false},
		{"edgehubnodes", "EdgeHubNode", `status: {agents: [{name: a, namespace: b, since: "2026-01-01T10:00:00z"}]}`, false},
		{"edgehubnodes", "EdgeHubNode", `status: {agentsOmitted: 3000000000}`, false},
		{"edgehubnodes", "EdgeHubNode", `status: {bytes: 9223372036854775808}`, false},
	} {
		t.Run(test.kind+" "+test.body, func(t *testing.T) {
			object := &unstructured.Unstructured{}
			head := "apiVersion: edgehub.io/v1alpha1\nkind: " + test.kind + "\nmetadata: {name: odd}\n"
			if err := yaml.Unmarshal([]byte(head+test.body), &object.Object); err != nil {
				t.Fatal(err)
			}
			var objects dynamic.ResourceInterface = dynamic.NewForConfigOrDie(controlPlane.RESTConfig()).Resource(v1alpha1.GroupVersion.WithResource(test.resource))
			var list client.ObjectList = &v1alpha1.EdgeHubNodeList{}
			if test.kind == "EdgeHubPolicy" {
				objects = objects.(dynamic.NamespaceableResourceInterface).Namespace("default")
				list = &v1alpha1.EdgeHubPolicyList{}
			}
			created, err := objects.Create(t.Context(), object, metav1.CreateOptions{})
			if err == nil {
				defer func() {
					if err := objects.Delete(t.Context(), "odd", metav1.DeleteOptions{}); err != nil {
						t.Error(err)
					}
				}()
				if _, ok := object.Object["status"]; ok {
					object.SetResourceVersion(created.GetResourceVersion())
					_, err = objects.UpdateStatus(t.Context(), object, metav1.UpdateOptions{})
				}
			}
			if admitted := err == nil; admitted != test.admitted {
				t.Errorf("admitted: %t, want %t (%v)", admitted, test.admitted, err)
			}
			if err := reader.List(t.Context(), list); err != nil {
				t.Errorf("no object of this kind can be listed: %v", err)
			}
		})
	}
}
