package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/edgehub-io/edge-hub/controllers/nodetest"
	"github.com/edgehub-io/edge-hub/test/cluster"
)

// runAsOperator, in the environment, makes this test binary be the operator.
const runAsOperator = "EDGE_HUB_TEST_RUN_AS_OPERATOR"

func TestMain(m *testing.M) {
	if os.Getenv(runAsOperator) != "" {
		main()
		return
	}
	ctrl.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

// system is a control plane on which config/default is installed, with operators
// that run outside of it as the ServiceAccount config/default gives them.
type system struct {
	*WithT
	t          *testing.T
	cluster    *cluster.Cluster
	kubeconfig string
}

func newSystem(t *testing.T) *system {
	t.Helper()
	s := &system{WithT: NewWithT(t), t: t}
	s.SetDefaultEventuallyTimeout(time.Minute)
	s.SetDefaultEventuallyPollingInterval(100 * time.Millisecond)
	s.cluster = cluster.StartT(t, cluster.Options{
		ControllerManager: true,
		// The nodes send no heartbeats.
		ExtraControllerManagerArgs: []string{"--controllers=*,-node-lifecycle-controller"},
	})
	s.kubectl("apply", "-k", "../../../config/default")
	// The operator runs here, not in the cluster.
	s.kubectl("scale", "-n", "edge-hub-system", "deployment/edge-hub-operator", "--replicas=0")
	s.kubectl("wait", "--for=condition=Established", "crd", "--all")
	token, err := s.cluster.Token(t.Context(), "edge-hub-system", "edge-hub-operator")
	s.Expect(err).NotTo(HaveOccurred())
	s.kubeconfig = s.writeKubeconfig(token)
	return s
}

func (s *system) writeKubeconfig(token string) string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), "kubeconfig")
	s.Expect(clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: s.cluster.URL(), CertificateAuthority: s.cluster.CAFile()}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {Token: token}},
		Contexts:       map[string]*clientcmdapi.Context{"c": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "c",
	}, path)).To(Succeed())
	return path
}

func (s *system) kubectl(args ...string) string {
	s.t.Helper()
	output, err := s.cluster.Kubectl(args...).CombinedOutput()
	s.Expect(err).NotTo(HaveOccurred(), "kubectl %s: %s", strings.Join(args, " "), output)
	return strings.TrimSpace(string(output))
}

func (s *system) apply(manifest string) {
	s.t.Helper()
	command := s.cluster.Kubectl("apply", "-f", "-")
	command.Stdin = strings.NewReader(manifest)
	output, err := command.CombinedOutput()
	s.Expect(err).NotTo(HaveOccurred(), string(output))
}

// agents returns cache_agents, empty if there is no ConfigMap.
func (s *system) agents() string {
	output, _ := s.cluster.Kubectl("get", "configmap", "-n", "kube-system", "edge-hub-cfg", "-o", "jsonpath={.data.cache_agents}", "--ignore-not-found").Output()
	return string(output)
}

// operator is a running operator.
type operator struct {
	*exec.Cmd
	t       *testing.T
	log     string
	probe   string
	metrics string
}

func (s *system) start() *operator {
	s.t.Helper()
	free := func() string {
		port, err := cluster.FreePort()
		s.Expect(err).NotTo(HaveOccurred())
		return fmt.Sprintf("127.0.0.1:%d", port)
	}
	o := &operator{t: s.t, probe: free(), metrics: free(), log: filepath.Join(s.t.TempDir(), "operator.log")}
	o.Cmd = exec.Command(os.Args[0], "--kubeconfig", s.kubeconfig, "--leader-election-namespace=edge-hub-system",
		"--metrics-bind-address="+o.metrics, "--health-probe-bind-address="+o.probe)
	o.Env = append(os.Environ(), runAsOperator+"=1")
	log, err := os.Create(o.log)
	s.Expect(err).NotTo(HaveOccurred())
	defer log.Close()
	o.Stdout, o.Stderr = log, log
	s.Expect(o.Start()).To(Succeed())
	s.t.Cleanup(func() {
		if o.ProcessState == nil {
			o.kill()
		}
		if s.t.Failed() {
			s.t.Logf("log of the operator:\n%s", o.output())
		}
	})
	return o
}

// kill ends the operator with SIGKILL.
func (o *operator) kill() {
	if err := o.Process.Kill(); err != nil {
		o.t.Error(err)
	}
	if err := o.Wait(); err == nil {
		o.t.Error("the operator ended before it was killed")
	}
}

func (o *operator) output() string {
	output, err := os.ReadFile(o.log)
	if err != nil {
		o.t.Error(err)
	}
	return string(output)
}

func (o *operator) get(path string) int {
	response, err := http.Get("http://" + o.probe + path)
	if err != nil {
		return 0
	}
	response.Body.Close()
	return response.StatusCode
}

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: edge-app}
spec:
  replicas: 3
  selector: {matchLabels: {app: edge-app}}
  template:
    metadata: {labels: {app: edge-app}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: app, image: app}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: edge-app}
spec:
  minAvailable: 2
  selector: {matchLabels: {app: edge-app}}
`

// TestOperator tells the story of a policy to an operator that may do no more
// than config/rbac allows.
func TestOperator(t *testing.T) {
	s := newSystem(t)
	nodes := nodetest.Start(t, s.cluster.RESTConfig(), "edge-1", "edge-2")
	nodetest.RunHubs(t, s.cluster.RESTConfig(), "edge-1", "edge-2")
	s.apply(deployment)
	s.kubectl("rollout", "status", "deployment/edge-app", "--timeout=60s")
	old := strings.Fields(s.kubectl("get", "pods", "-l", "app=edge-app", "-o", "name"))
	fewest := nodetest.FewestReady(t, s.cluster.RESTConfig(), "default", "app=edge-app")

	s.Eventually(func() []string { return strings.Fields(s.kubectl("get", "ehn", "-o", "name")) }).Should(HaveLen(2))
	first := s.start()
	s.Eventually(func() int { return first.get("/readyz") }).Should(Equal(http.StatusOK))
	s.Expect(first.get("/healthz")).To(Equal(http.StatusOK))
	// The first Pod that takes another's place gets ready, and the next does not.
	replacement := ""
	nodes.Hold(func(pod *corev1.Pod) bool {
		if pod.Labels["app"] != "edge-app" || slices.Contains(old, "pod/"+pod.Name) {
			return false
		}
		if replacement == "" {
			replacement = pod.Name
		}
		return pod.Name != replacement
	})
	s.kubectl("apply", "-f", "../../../config/samples/edgehubpolicy.yaml")
	s.Eventually(s.agents).Should(Equal("edge-app"))

	// Killed in the middle of the rollout; the next one goes on.
	s.Eventually(func() string { return s.kubectl("get", "ehp", "edge-app", "-o", "jsonpath={.status.restarted}") }).
		Should(Equal("2/3"), "the second of them is not available")
	first.kill()
	// The Lease of the killed one would be waited for.
	s.kubectl("delete", "lease", "-n", "edge-hub-system", leaseName)
	second := s.start()
	nodes.Hold(nil)
	s.kubectl("wait", "--for=condition=Ready", "ehp/edge-app", "--timeout=60s")
	s.Expect(s.kubectl("get", "ehp")).To(And(ContainSubstring("3/3"), ContainSubstring("True"),
		ContainSubstring("1 agent in kube-system/edge-hub-cfg; 3 of 3 Pods restarted")))
	for _, name := range strings.Fields(s.kubectl("get", "pods", "-l", "app=edge-app", "-o", "name")) {
		s.Expect(old).NotTo(ContainElement(name))
	}
	s.Expect(fewest()).To(Equal(2), "ready Pods at the worst moment")
	s.Eventually(func() string { return s.kubectl("get", "events") }).Should(And(
		ContainSubstring("Applied"), ContainSubstring("Restarted")))

	// An edit by hand stays, what was written by hand outlives the policy, and
	// the last policy takes its agent along, even while no operator runs.
	s.kubectl("patch", "configmap", "-n", "kube-system", "edge-hub-cfg", "--type=merge", "-p", `{"data":{"cache_agents":"hand,edge-app"}}`)
	s.Expect(second.Process.Signal(syscall.SIGTERM)).To(Succeed())
	s.Expect(second.Wait()).To(Succeed(), "a graceful end is no failure")
	s.Expect(s.kubectl("get", "lease", "-n", "edge-hub-system", leaseName, "-o", "jsonpath={.spec.holderIdentity}")).To(BeEmpty(), "the Lease is released")
	s.kubectl("delete", "ehp", "edge-app")
	third := s.start()
	s.Eventually(s.agents).Should(Equal("hand"))

	for _, o := range []*operator{first, second, third} {
		s.Expect(o.output()).NotTo(ContainSubstring("forbidden"))
	}

	// One that may read nothing is alive, and never ready.
	token, err := s.cluster.Token(t.Context(), "edge-hub-system", "default")
	s.Expect(err).NotTo(HaveOccurred())
	s.kubeconfig = s.writeKubeconfig(token)
	blind := s.start()
	s.Eventually(blind.output).Should(ContainSubstring("forbidden"))
	s.Expect(blind.get("/healthz")).To(Equal(http.StatusOK))
	s.Consistently(func() int { return blind.get("/readyz") }).WithTimeout(2 * time.Second).Should(Equal(http.StatusInternalServerError))
}

// TestRBACIsNoWiderThanNeeded asks kube-apiserver what the identities of
// config/default may do.
func TestRBACIsNoWiderThanNeeded(t *testing.T) {
	s := newSystem(t)
	for _, test := range []struct {
		as, can string
		want    bool
	}{
		{"operator", "patch configmaps/edge-hub-cfg -n kube-system", true},
		{"operator", "patch configmaps/other -n kube-system", false},
		{"operator", "list configmaps -n kube-system", false},
		{"operator", "get configmaps/edge-hub-cfg -n default", false},
		{"operator", "get secrets -n kube-system", false},
		{"operator", "delete pods", false},
		{"operator", "create pods", false},
		{"operator", "create pods --subresource=eviction", true},
		{"operator", "update edgehubpolicies", false},
		{"operator", "patch edgehubpolicies --subresource=status", true},
		{"operator", "patch edgehubnodes --subresource=status", true},
		{"operator", "patch edgehubnodes", false},
		{"operator", "create edgehubnodes", false},
		{"operator", "delete edgehubnodes", false},
		{"operator", "patch nodes", false},
		{"operator", "patch deployments", false},
		{"operator", "update leases/edge-hub-operator -n edge-hub-system", true},
		{"operator", "update leases/edge-hub-operator -n kube-system", false},
		{"operator", "update leases/other -n edge-hub-system", false},
		{"operator", "update certificatesigningrequests --subresource=approval", true},
		{"operator", "create certificatesigningrequests", false},
		{"operator", "update certificatesigningrequests --subresource=status", false},
		{"operator", "get services/kubernetes -n default", true},
		{"operator", "get services/kubernetes -n kube-system", false},
		{"operator", "list services -n default", false},
		{"hub", "get configmaps/edge-hub-cfg -n kube-system", true},
		{"hub", "watch configmaps/edge-hub-cfg -n kube-system", true},
		{"hub", "patch configmaps/edge-hub-cfg -n kube-system", false},
		{"hub", "get configmaps/other -n kube-system", false},
		{"hub", "list pods", false},
		{"hub", "get nodes", true},
		{"hub", "list nodes", false},
		{"hub", "create edgehubnodes", true},
		{"hub", "patch edgehubnodes --subresource=status", true},
		{"hub", "delete edgehubnodes", true},
		{"hub", "list edgehubnodes", false},
		{"hub", "create certificatesigningrequests", true},
		{"hub", "get certificatesigningrequests/x", true},
		{"hub", "list certificatesigningrequests", false},
		{"hub", "update certificatesigningrequests --subresource=approval", false},
		{"hub", "get services/kubernetes -n default", true},
		{"hub", "get services/other -n default", false},
		{"hub", "get /openid/v1/jwks", true},
		{"hub", "get /.well-known/openid-configuration", true},
	} {
		who := []string{"--as=system:serviceaccount:edge-hub-system:edge-hub-operator"}
		if test.as == "hub" {
			who = []string{"--as=edgehub:node:node-1", "--as-group=edgehub:nodes", "--as-group=system:authenticated"}
		}
		output, _ := s.cluster.Kubectl(append(append([]string{"auth", "can-i"}, who...), strings.Fields(test.can)...)...).Output()
		if got := strings.TrimSpace(string(output)) == "yes"; got != test.want {
			t.Errorf("%s can %s: %v, want %v (%s)", test.as, test.can, got, test.want, output)
		}
	}
	// Signers are no resource that kubectl auth can-i finds.
	for _, test := range []struct {
		verb, signer string
		want         string
	}{
		{"approve", "kubernetes.io/kube-apiserver-client", "true"},
		{"approve", "kubernetes.io/kubelet-serving", "true"},
		{"approve", "kubernetes.io/kube-apiserver-client-kubelet", "false"},
		{"sign", "kubernetes.io/kube-apiserver-client", "false"},
	} {
		review := s.cluster.Kubectl("create", "-f", "-", "-o", "jsonpath={.status.allowed}")
		review.Stdin = strings.NewReader(fmt.Sprintf(`{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{
			"user":"system:serviceaccount:edge-hub-system:edge-hub-operator",
			"resourceAttributes":{"group":"certificates.k8s.io","resource":"signers","verb":%q,"name":%q}}}`, test.verb, test.signer))
		output, err := review.CombinedOutput()
		if err != nil || string(output) != test.want {
			t.Errorf("operator may %s for %s: %s, want %s (%v)", test.verb, test.signer, output, test.want, err)
		}
	}
}

// TestArgumentsAreRefused: the flags after one would be ignored.
func TestArgumentsAreRefused(t *testing.T) {
	g := NewWithT(t)
	operator := exec.CommandContext(t.Context(), os.Args[0], "--leader-elect", "false", "--max-policy-quota=2Mi")
	operator.Env = append(os.Environ(), runAsOperator+"=1", "KUBECONFIG="+filepath.Join(t.TempDir(), "missing"), "HOME="+t.TempDir())
	output, err := operator.CombinedOutput()
	g.Expect(err).To(HaveOccurred())
	g.Expect(string(output)).To(ContainSubstring(`"false" is no flag: write --flag=value`))
}

func TestRunNeedsKubeAPIServer(t *testing.T) {
	g := NewWithT(t)
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "missing"))
	t.Setenv("HOME", t.TempDir())
	g.Expect(run(context.Background(), options{})).To(MatchError(ContainSubstring("find kube-apiserver")))
}
