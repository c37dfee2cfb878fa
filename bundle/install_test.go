// Package bundle_test installs the bundle on a real control plane the way OLM
// does it, and runs the operator there.
package bundle_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/process"
)

// namespace is where the operator is installed. It is not the suggested one: it
// must work anywhere.
const namespace = "operators"

// csv is what matters of a ClusterServiceVersion when it is installed.
type csv struct {
	Metadata struct {
		Name        string            `json:"name"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		Install struct {
			Spec struct {
				ClusterPermissions []permission `json:"clusterPermissions"`
				Permissions        []permission `json:"permissions"`
				Deployments        []struct {
					Name  string            `json:"name"`
					Label map[string]string `json:"label"`
					Spec  map[string]any    `json:"spec"`
				} `json:"deployments"`
			} `json:"spec"`
		} `json:"install"`
	} `json:"spec"`
}

type permission struct {
	ServiceAccountName string              `json:"serviceAccountName"`
	Rules              []rbacv1.PolicyRule `json:"rules"`
}

// suite is a control plane on which the bundle is installed.
type suite struct {
	*WithT
	t       *testing.T
	cluster *cluster.Cluster
	csv     csv
}

func newSuite(t *testing.T) *suite {
	t.Helper()
	s := &suite{WithT: NewWithT(t), t: t}
	s.SetDefaultEventuallyTimeout(time.Minute)
	s.SetDefaultEventuallyPollingInterval(100 * time.Millisecond)
	s.cluster = cluster.StartT(t, cluster.Options{ControllerManager: true})
	s.install()
	return s
}

// install does what OLM does in mode AllNamespaces, versions 0 (StepEnsurer,
// ensureSingletonRBAC) and 1 (render/registryv1/generators): objects of the bundle
// as they are, namespaced ones in the namespace of the installation, and from the
// ClusterServiceVersion a ServiceAccount, ClusterRoles and Deployments.
func (s *suite) install() {
	s.t.Helper()
	objects := []any{}
	files, err := filepath.Glob("manifests/*.yaml")
	s.Expect(err).NotTo(HaveOccurred())
	s.Expect(files).NotTo(BeEmpty())
	for _, file := range files {
		text, err := os.ReadFile(file)
		s.Expect(err).NotTo(HaveOccurred())
		var object map[string]any
		s.Expect(yaml.Unmarshal(text, &object)).To(Succeed())
		metadata := object["metadata"].(map[string]any)
		switch object["kind"] {
		case "ClusterServiceVersion":
			s.Expect(yaml.Unmarshal(text, &s.csv)).To(Succeed())
			continue
		case "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding":
			s.Expect(metadata).NotTo(HaveKey("namespace"))
		default:
			s.Expect(metadata).NotTo(HaveKey("namespace"), "%s: OLM would put it elsewhere", file)
			metadata["namespace"] = namespace
		}
		objects = append(objects, object)
	}
	// The suggested namespace, under another name.
	var suggested map[string]any
	s.Expect(json.Unmarshal([]byte(s.csv.Metadata.Annotations["operatorframework.io/suggested-namespace-template"]), &suggested)).To(Succeed())
	suggested["metadata"].(map[string]any)["name"] = namespace
	s.apply(suggested)
	for _, object := range append(s.fromCSV(), objects...) {
		s.apply(object)
	}
	s.kubectl("wait", "--for=condition=Established", "crd", "--all")
}

func (s *suite) fromCSV() []any {
	install := s.csv.Spec.Install.Spec
	// They would be granted in all namespaces, and reading all Namespaces with them.
	s.Expect(install.Permissions).To(BeEmpty())
	var objects []any
	for _, p := range install.ClusterPermissions {
		meta := map[string]any{"name": s.csv.Metadata.Name}
		objects = append(objects,
			map[string]any{"apiVersion": "v1", "kind": "ServiceAccount",
				"metadata": map[string]any{"name": p.ServiceAccountName, "namespace": namespace}},
			map[string]any{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": meta, "rules": p.Rules},
			map[string]any{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": meta,
				"roleRef":  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: s.csv.Metadata.Name},
				"subjects": []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: p.ServiceAccountName}}})
	}
	for _, d := range install.Deployments {
		objects = append(objects, map[string]any{"apiVersion": "apps/v1", "kind": "Deployment",
			"metadata": map[string]any{"name": d.Name, "namespace": namespace, "labels": d.Label}, "spec": d.Spec})
	}
	return objects
}

// apply applies an object after a dry run by kube-apiserver, which refuses fields
// that it does not know.
func (s *suite) apply(object any) {
	s.t.Helper()
	text, err := json.Marshal(object)
	s.Expect(err).NotTo(HaveOccurred())
	for _, dryRun := range []string{"server", "none"} {
		command := s.cluster.Kubectl("apply", "-f", "-", "--server-side", "--validate=strict", "--dry-run="+dryRun)
		command.Stdin = strings.NewReader(string(text))
		output, err := command.CombinedOutput()
		s.Expect(err).NotTo(HaveOccurred(), "%s: %s", text, output)
	}
}

func (s *suite) kubectl(args ...string) string {
	s.t.Helper()
	output, err := s.cluster.Kubectl(args...).CombinedOutput()
	s.Expect(err).NotTo(HaveOccurred(), "kubectl %s: %s", strings.Join(args, " "), output)
	return strings.TrimSpace(string(output))
}

// startOperator runs the operator with what OLM lets it do.
func (s *suite) startOperator() *process.Output {
	s.t.Helper()
	binary := filepath.Join(s.t.TempDir(), "edge-hub-operator")
	output, err := exec.Command("go", "build", "-o", binary, "../controllers/cmd/edge-hub-operator").CombinedOutput()
	s.Expect(err).NotTo(HaveOccurred(), string(output))
	token, err := s.cluster.Token(s.t.Context(), namespace, "edge-hub-operator")
	s.Expect(err).NotTo(HaveOccurred())
	kubeconfig := filepath.Join(s.t.TempDir(), "kubeconfig")
	s.Expect(clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: s.cluster.URL(), CertificateAuthority: s.cluster.CAFile()}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {Token: token}},
		Contexts:       map[string]*clientcmdapi.Context{"c": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "c",
	}, kubeconfig)).To(Succeed())

	// In a Pod the namespace of the Lease is the Pod's.
	log := &process.Output{}
	command := exec.Command(binary, "--kubeconfig", kubeconfig, "--leader-election-namespace="+namespace,
		"--metrics-bind-address=0", "--health-probe-bind-address=0")
	command.Stdout, command.Stderr = log, log
	operator, err := process.Start(command)
	s.Expect(err).NotTo(HaveOccurred())
	s.t.Cleanup(func() {
		if err := operator.Stop(30 * time.Second); err != nil {
			s.t.Errorf("stop the operator: %v", err)
		}
		if s.t.Failed() {
			s.t.Logf("log of the operator:\n%s", log)
		}
	})
	return log
}

func TestInstalledBundle(t *testing.T) {
	s := newSuite(t)
	t.Run("Pods are admitted", s.testPods)
	t.Run("permissions", s.testPermissions)
	t.Run("operator works", s.testOperator)
}

// testPods checks that the Pods satisfy the Pod Security Standard that the
// suggested namespace enforces, and run the images of the release.
func (s *suite) testPods(t *testing.T) {
	NewWithT(t).Eventually(func() string {
		output, _ := s.cluster.Kubectl("get", "pods", "-n", namespace, "-o", "jsonpath={.items[*].spec.containers[*].image}").Output()
		return string(output)
	}, time.Minute, 100*time.Millisecond).Should(MatchRegexp(`^ghcr\.io/edgehub-io/edge-hub-operator:v\S+ ghcr\.io/edgehub-io/edge-hub-operator:v\S+$`))
}

func (s *suite) testPermissions(t *testing.T) {
	operator := []string{"--as=system:serviceaccount:" + namespace + ":edge-hub-operator"}
	hub := []string{"--as=edgehub:node:node-1", "--as-group=edgehub:nodes", "--as-group=system:authenticated"}
	for _, test := range []struct {
		as   []string
		can  string
		want string
	}{
		{operator, "patch configmaps/edge-hub-cfg -n kube-system", "yes"},
		{operator, "patch configmaps/other -n kube-system", "no"},
		{operator, "list configmaps -n kube-system", "no"},
		{operator, "get configmaps/other -n " + namespace, "no"},
		{operator, "list namespaces", "no"},
		{operator, "get secrets -n " + namespace, "no"},
		{operator, "create pods --subresource=eviction", "yes"},
		{operator, "patch edgehubpolicies --subresource=status", "yes"},
		{operator, "create leases -n " + namespace, "yes"},
		{operator, "update leases/edge-hub-operator -n " + namespace, "yes"},
		{operator, "update leases/other -n " + namespace, "no"},
		{operator, "create leases -n kube-system", "no"},
		{operator, "update leases/edge-hub-operator -n kube-system", "no"},
		{operator, "update certificatesigningrequests --subresource=approval", "yes"},
		{operator, "list services -n default", "no"},
		{hub, "create certificatesigningrequests", "yes"},
		{hub, "watch configmaps/edge-hub-cfg -n kube-system", "yes"},
		{hub, "patch configmaps/edge-hub-cfg -n kube-system", "no"},
		{hub, "get configmaps/other -n kube-system", "no"},
		{hub, "get /openid/v1/jwks", "yes"},
	} {
		output, _ := s.cluster.Kubectl(append(append([]string{"auth", "can-i"}, test.as...), strings.Fields(test.can)...)...).Output()
		if got := strings.TrimSpace(string(output)); got != test.want {
			t.Errorf("%s: can %s: %s, want %s", test.as[0], test.can, got, test.want)
		}
	}
}

// testOperator applies the examples that a console offers.
func (s *suite) testOperator(t *testing.T) {
	g := NewWithT(t)
	log := s.startOperator()
	var examples []any
	g.Expect(json.Unmarshal([]byte(s.csv.Metadata.Annotations["alm-examples"]), &examples)).To(Succeed())
	g.Expect(examples).NotTo(BeEmpty())
	for _, example := range examples {
		s.apply(example)
	}
	s.kubectl("wait", "--for=condition=Ready", "edgehubpolicies", "--all", "-A", "--timeout=60s")
	g.Expect(s.kubectl("get", "configmap", "-n", "kube-system", "edge-hub-cfg", "-o", "jsonpath={.data.cache_agents}")).
		To(ContainSubstring("edge-app"))
	g.Expect(s.kubectl("get", "lease", "-n", namespace, "-o", "name")).To(Equal("lease.coordination.k8s.io/edge-hub-operator"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := log.WaitFor(ctx, 0, "Starting workers")
	g.Expect(err).NotTo(HaveOccurred())
	g.Eventually(func() string { return s.kubectl("get", "events", "-A") }, time.Minute, 100*time.Millisecond).
		Should(And(ContainSubstring("Applied"), ContainSubstring("became leader")))
	g.Expect(log.String()).NotTo(ContainSubstring("forbidden"))
}
