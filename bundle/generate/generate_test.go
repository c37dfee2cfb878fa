package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

// manifests is a config/default that has one of everything.
const manifests = `
apiVersion: v1
kind: Namespace
metadata: {name: home, labels: {a: b}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: operator, namespace: home}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: operator, namespace: home, labels: {app: operator}}
spec:
  template:
    spec:
      serviceAccountName: operator
      containers:
      - {name: main, image: "registry:5000/team/operator:latest"}
      - {name: side, image: "registry/side:v7"}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  names: {kind: Thing}
  versions:
  - name: v1
    served: true
    schema:
      openAPIV3Schema:
        description: |-
          Thing is
          a thing.
        properties:
          spec:
            properties:
              minReady: {type: integer, description: how long}
              podSelector: {properties: {matchLabels: {}, matchExpressions: {}}}
              restart: {properties: {strategy: {type: string, enum: [A, B]}}}
          status:
            properties:
              conditions: {type: array, x-kubernetes-list-map-keys: [type]}
  - {name: v0, served: false}
---
apiVersion: v1
kind: Service
metadata: {name: metrics, namespace: home}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: operator}
rules:
- {apiGroups: [""], resources: [nodes], verbs: [list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: viewer}
rules:
- {apiGroups: [example.com], resources: [things], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: operator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: operator}
subjects: [{kind: ServiceAccount, name: operator, namespace: home}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: operator, namespace: home}
rules:
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: operator, namespace: home}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: operator}
subjects: [{kind: ServiceAccount, name: operator, namespace: home}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: operator, namespace: kube-system}
rules:
- {apiGroups: [""], resources: [configmaps], resourceNames: [cfg], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: operator, namespace: kube-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: operator}
subjects: [{kind: ServiceAccount, name: operator, namespace: home}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: node, namespace: kube-system, labels: {l: m}}
rules:
- {apiGroups: [""], resources: [configmaps], resourceNames: [cfg], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: node, namespace: kube-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: node}
subjects: [{kind: Group, apiGroup: rbac.authorization.k8s.io, name: nodes}]
`

// base and annotations are what a person wrote to go with manifests.
const (
	base = `
metadata: {name: operator, annotations: {capabilities: Basic Install}}
spec:
  version: 1.2.3
  relatedImages: [{name: node, image: registry/node}]
  customresourcedefinitions:
    owned:
    - name: things.example.com
      displayName: Thing
      specDescriptors: [{path: podSelector, x-descriptors: [selector]}]
`
	annotations = "annotations: {package: operator, channels: candidate}\n"
	sample      = "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: sample}\n"
)

// input is the folders generate works in.
type input struct{ bundle, samples string }

func newInput(g *WithT, t *testing.T, files map[string]string) input {
	t.Helper()
	in := input{bundle: t.TempDir(), samples: t.TempDir()}
	all := map[string]string{
		"base.yaml": base, "icon.svg": "<svg/>", "metadata/annotations.yaml": annotations,
		"manifests/gone_v1_service.yaml": "kind: Service",
	}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		path := filepath.Join(in.bundle, name)
		g.Expect(os.MkdirAll(filepath.Dir(path), 0o755)).To(Succeed())
		g.Expect(os.WriteFile(path, []byte(text), 0o644)).To(Succeed())
	}
	g.Expect(os.WriteFile(filepath.Join(in.samples, "thing.yaml"), []byte(sample), 0o644)).To(Succeed())
	g.Expect(os.WriteFile(filepath.Join(in.samples, "kustomization.yaml"), []byte("resources: [thing.yaml]\n"), 0o644)).To(Succeed())
	return in
}

// files reads what is in the bundle, by path.
func (in input) files(g *WithT) map[string]string {
	files := map[string]string{}
	for _, pattern := range []string{"Dockerfile", "manifests/*"} {
		paths, err := filepath.Glob(filepath.Join(in.bundle, pattern))
		g.Expect(err).NotTo(HaveOccurred())
		for _, path := range paths {
			text, err := os.ReadFile(path)
			g.Expect(err).NotTo(HaveOccurred())
			files[strings.TrimPrefix(path, in.bundle+"/")] = string(text)
		}
	}
	return files
}

func TestGenerate(t *testing.T) {
	g := NewWithT(t)
	in := newInput(g, t, nil)
	g.Expect(generate(strings.NewReader(manifests), in.samples, in.bundle)).To(Succeed())
	files := in.files(g)
	const csv = "manifests/operator.clusterserviceversion.yaml"
	for file, want := range map[string][]string{
		"Dockerfile":                           {"LABEL channels=candidate\nLABEL package=operator\n"},
		"manifests/example.com_things.yaml":    {"name: things.example.com"},
		"manifests/metrics_v1_service.yaml":    {"metadata:\n  name: metrics\n"},
		"manifests/viewer_" + clusterRole:      {"resources:\n  - things"},
		"manifests/operator_" + role:           {"metadata:\n  name: operator\n", "- leases"},
		"manifests/node_" + clusterRole:        {"labels:\n    l: m", "resourceNames:\n  - cfg"},
		"manifests/node_" + clusterRoleBinding: {"kind: ClusterRole\n  name: node", "name: nodes"},
		"manifests/operator_" + roleBinding: {
			"metadata:\n  name: operator\n", "subjects:\n- kind: ServiceAccount\n  name: operator\n"},
		csv: {
			"name: operator.v1.2.3\n", `"name": "sample"`, "suggested-namespace: home\n",
			"containerImage: registry:5000/team/operator:v1.2.3\n",
			"image: registry/node:v1.2.3\n    name: node\n  - image: registry:5000/team/operator:v1.2.3\n    name: operator\n  - image: registry/side:v7\n    name: side\n",
			"description: Thing is a thing.\n",
			"displayName: Min Ready\n        path: minReady\n        x-descriptors:\n        - " + uiPrefix + "number\n",
			"path: podSelector\n        x-descriptors:\n        - selector\n",
			"path: restart.strategy\n        x-descriptors:\n        - " + uiPrefix + "select:A\n",
			"path: conditions\n        x-descriptors:\n        - " + conditions + "\n",
			"clusterPermissions:\n      - rules:\n        - apiGroups:\n          - \"\"\n          resources:\n          - nodes\n",
			"resourceNames:\n          - cfg\n",
		},
	} {
		g.Expect(files).To(HaveKey(file))
		for _, text := range want {
			g.Expect(files[file]).To(ContainSubstring(text), file)
		}
		delete(files, file)
	}
	g.Expect(files).To(BeEmpty(), "what was not expected, gone_v1_service.yaml included")
}

const (
	clusterRole        = "rbac.authorization.k8s.io_v1_clusterrole.yaml"
	clusterRoleBinding = "rbac.authorization.k8s.io_v1_clusterrolebinding.yaml"
	role               = "rbac.authorization.k8s.io_v1_role.yaml"
	roleBinding        = "rbac.authorization.k8s.io_v1_rolebinding.yaml"
)

func TestGenerateTwiceGivesTheSame(t *testing.T) {
	g := NewWithT(t)
	in := newInput(g, t, nil)
	g.Expect(generate(strings.NewReader(manifests), in.samples, in.bundle)).To(Succeed())
	first := in.files(g)
	for range 10 { // maps are walked in another order each time
		g.Expect(generate(strings.NewReader(manifests), in.samples, in.bundle)).To(Succeed())
		g.Expect(in.files(g)).To(Equal(first))
	}
}

// TestGenerateRefuses what would be lost, widened or wrong in a bundle.
func TestGenerateRefuses(t *testing.T) {
	const (
		inBase   = "base.yaml"
		ownLease = "resources: [leases], verbs: [create]"
	)
	for _, test := range []struct{ name, file, old, new, want string }{
		{"a kind OLM does not install", "", "kind: Service\n", "kind: Ingress\n", "Ingress metrics: OLM installs no object of this kind"},
		{"a kind that nobody was told to apply", "", "kind: Service\n", "kind: ValidatingAdmissionPolicy\n", "ValidatingAdmissionPolicy metrics: OLM installs no object of this kind, and the description in base.yaml does not say"},
		{"a second Deployment", "", "apiVersion: v1\nkind: Service\n", "apiVersion: apps/v1\nkind: Deployment\n", "there is another one"},
		{"another namespace", "", "name: metrics, namespace: home", "name: metrics, namespace: away", "OLM would put it into the operator's"},
		{"another ServiceAccount", "", "metadata: {name: operator, namespace: home}\n---\napiVersion: apps", "metadata: {name: else, namespace: home}\n---\napiVersion: apps", "OLM makes the one of the Deployment"},
		{"a wider grant", "", "resourceNames: [cfg], verbs: [patch]", "verbs: [patch]", "RoleBinding kube-system/operator: OLM would grant [patch] of [configmaps] in all namespaces"},
		{"a wider grant to others", "", "resourceNames: [cfg], verbs: [get]", "verbs: [get]", "RoleBinding kube-system/node: OLM would grant [get]"},
		{"a mixed binding", "", "name: nodes}]", "name: nodes}, {kind: ServiceAccount, name: operator, namespace: home}]", "apart from each other"},
		{"a stranger at home", "", "name: nodes}]", "name: nodes}, {kind: ServiceAccount, name: stranger, namespace: home}]", "stranger is in the operator's namespace"},
		{"a ClusterRole of the same name", "", "metadata: {name: viewer}", "metadata: {name: node}", "another ClusterRole node"},
		{"an unknown ClusterRole", "", "kind: ClusterRole, name: operator", "kind: ClusterRole, name: other", "ClusterRole other is not in config/default"},
		{"an unknown Role", "", "kind: Role, name: node", "kind: Role, name: other", "Role other is not in config/default"},
		{"a misspelt field", "", ownLease, "resource: [leases], verbs: [create]", "unknown field"},
		{"a CRD nobody described", inBase, "name: things.example.com", "name: others.example.com", "base.yaml does not describe CRD things.example.com"},
		{"a CRD without a sample", "", "- name: v1\n", "- name: v2\n", "no sample of version v2"},
		{"a field that is gone", inBase, "path: podSelector", "path: nodeSelector", "base.yaml describes nodeSelector, which is no field"},
		{"no version", inBase, "version: 1.2.3", "maturity: alpha", "spec.version"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			text := manifests
			files := map[string]string{}
			if test.file == "" {
				g.Expect(text).To(ContainSubstring(test.old))
				text = strings.Replace(text, test.old, test.new, 1)
			} else {
				g.Expect(base).To(ContainSubstring(test.old))
				files[test.file] = strings.Replace(base, test.old, test.new, 1)
			}
			in := newInput(g, t, files)
			before := in.files(g)
			g.Expect(generate(strings.NewReader(text), in.samples, in.bundle)).To(MatchError(ContainSubstring(test.want)))
			g.Expect(in.files(g)).To(Equal(before), "what a failure leaves behind")
		})
	}
}

func TestTagImage(t *testing.T) {
	for image, want := range map[string]string{
		"a/b":           "a/b:v1",
		"a/b:latest":    "a/b:v1",
		"a:5000/b":      "a:5000/b:v1",
		"a/b:v0":        "a/b:v0",
		"a/b@sha256:00": "a/b@sha256:00",
	} {
		if got := tagImage(image, "1"); got != want {
			t.Errorf("%s: got %s, want %s", image, got, want)
		}
	}
}
