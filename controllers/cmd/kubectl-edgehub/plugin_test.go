package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/overview"
	"github.com/edgehub-io/edge-hub/test/cluster"
)

// runAsPlugin makes the test program the plugin.
const runAsPlugin = "EDGEHUB_TEST_RUN_AS_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(runAsPlugin) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// stage is a control plane with a fleet as hubs and the operator would report it,
// and kubectl with the plugin in its PATH.
type stage struct {
	*WithT
	t       *testing.T
	cluster *cluster.Cluster
	client  client.Client
	path    string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{WithT: NewWithT(t), t: t, cluster: cluster.StartT(t, cluster.Options{}), path: t.TempDir()}
	program, err := os.Executable()
	s.Expect(err).NotTo(HaveOccurred())
	s.Expect(os.Symlink(program, filepath.Join(s.path, "kubectl-edgehub"))).To(Succeed())
	for _, args := range [][]string{
		{"apply", "-k", "../../../config/crd"},
		{"wait", "--for=condition=Established", "crd", "--all"},
	} {
		out, err := s.cluster.Kubectl(args...).CombinedOutput()
		s.Expect(err).NotTo(HaveOccurred(), string(out))
	}
	scheme := runtime.NewScheme()
	s.Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	s.Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	s.client, err = client.New(s.cluster.RESTConfig(), client.Options{Scheme: scheme})
	s.Expect(err).NotTo(HaveOccurred())
	return s
}

// kubectl runs kubectl with the plugin in its PATH.
func (s *stage) kubectl(args ...string) (string, error) {
	s.t.Helper()
	cmd := s.cluster.Kubectl(args...)
	cmd.Env = append(cmd.Env, runAsPlugin+"=1", "PATH="+s.path+string(os.PathListSeparator)+os.Getenv("PATH"))
	out, err := cmd.Output()
	if failed, ok := err.(*exec.ExitError); ok {
		return string(out) + string(failed.Stderr), err
	}
	return string(out), err
}

func (s *stage) ok(args ...string) string {
	s.t.Helper()
	out, err := s.kubectl(args...)
	s.Expect(err).NotTo(HaveOccurred(), out)
	return out
}

// create creates an object with its status.
func (s *stage) create(object client.Object) {
	s.t.Helper()
	wanted := object.DeepCopyObject().(client.Object)
	s.Expect(s.client.Create(s.t.Context(), object)).To(Succeed())
	wanted.SetResourceVersion(object.GetResourceVersion())
	wanted.SetUID(object.GetUID())
	wanted.SetCreationTimestamp(object.GetCreationTimestamp())
	s.Expect(s.client.Status().Update(s.t.Context(), wanted)).To(Succeed())
}

func condition(kind string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(time.Now().Add(-time.Hour)), ObservedGeneration: 1}
}

// fill makes two nodes, one of which is out of reach, and a policy with a Pod that
// has to be restarted and a budget that forbids it.
func (s *stage) fill() (pod *corev1.Pod) {
	hash := hubconfig.Hash(hubconfig.Config{Agents: []string{"edge-app"}})
	s.Expect(s.client.Create(s.t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: hubconfig.Namespace, Name: hubconfig.Name},
		Data:       map[string]string{hubconfig.KeyCacheAgents: "edge-app"},
	})).To(Succeed())
	now := time.Now().Truncate(time.Second)
	for _, name := range []string{"edge-1", "edge-2"} {
		s.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		}})
	}
	pod = &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "edge-app-1", Labels: map[string]string{"app": "edge-app"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "edge-app", UID: "1", Controller: ptr.To(true)}},
		},
		Spec: corev1.PodSpec{NodeName: "edge-1", Containers: []corev1.Container{{Name: "app", Image: "app"}}, AutomountServiceAccountToken: ptr.To(false)},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{
			Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.Add(-time.Hour))}},
		}}},
	}
	s.Expect(s.client.Create(s.t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}})).To(Succeed())
	s.create(pod)
	report := func(name string, connected metav1.ConditionStatus, hash string, agents []v1alpha1.NodeAgent, uncached ...v1alpha1.UncachedAgent) {
		s.create(&v1alpha1.EdgeHubNode{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.EdgeHubNodeStatus{
			Version: "v1.2.3", ReportTime: ptr.To(metav1.NewTime(now)), CachingSince: ptr.To(metav1.NewTime(now)),
			Configuration: &v1alpha1.NodeConfiguration{Hash: hash}, Objects: 7, Bytes: 3 << 20, Agents: agents, Uncached: uncached,
			Conditions: []metav1.Condition{
				condition(v1alpha1.NodeConnected, connected, "Test", "not ready since noon"),
				condition(v1alpha1.NodeOfflineReady, metav1.ConditionFalse, v1alpha1.NodeReasonAgentsNotReady, "edge-app has to list again"),
			},
		}})
	}
	report("edge-1", metav1.ConditionTrue, hash, []v1alpha1.NodeAgent{{
		Name: "edge-app", Namespace: "default", Since: metav1.NewTime(now), Views: 2, Incomplete: 1, Objects: 7, Bytes: 3 << 20,
		Reason: v1alpha1.NodeAgentNotWarm, Message: "services was listed before", Pods: []v1alpha1.NodePod{{Name: pod.Name, UID: pod.UID}},
	}}, v1alpha1.UncachedAgent{Name: "prober", Namespace: "shop"}, v1alpha1.UncachedAgent{Name: "curl"})
	report("edge-2", metav1.ConditionFalse, "v1-0000000000000000", nil, v1alpha1.UncachedAgent{Name: "prober", Namespace: "bank"})
	s.create(&v1alpha1.EdgeHubPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "edge-app"},
		Spec: v1alpha1.EdgeHubPolicySpec{
			CacheAgents: []string{"edge-app"}, PodSelector: &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": "edge-app"}},
		},
		Status: v1alpha1.EdgeHubPolicyStatus{
			Restarted: "0/1", OfflineReady: "0/1",
			Agents: []v1alpha1.AgentStatus{{Name: "edge-app", AppliedTime: metav1.NewTime(now)}},
			Conditions: []metav1.Condition{
				condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonDisruptionBudget, "PodDisruptionBudget strict allows no eviction"),
				condition(v1alpha1.ConditionRestartsComplete, metav1.ConditionFalse, v1alpha1.ReasonDisruptionBudget, "PodDisruptionBudget strict allows no eviction"),
			},
		},
	})
	s.create(&policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "strict"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "edge-app"}}},
		Status:     policyv1.PodDisruptionBudgetStatus{CurrentHealthy: 1, DesiredHealthy: 1, ExpectedPods: 1},
	})
	return pod
}

// TestAClusterWithoutEdgeHub: what is missing is said, and where it comes from.
func TestAClusterWithoutEdgeHub(t *testing.T) {
	g := NewWithT(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		groups := map[string]string{"/api": `{"kind":"APIVersions","versions":["v1"]}`, "/apis": `{"kind":"APIGroupList","apiVersion":"v1","groups":[]}`}
		w.Header().Set("Content-Type", "application/json")
		if _, found := groups[r.URL.Path]; !found {
			w.WriteHeader(http.StatusNotFound)
		}
		fmt.Fprint(w, groups[r.URL.Path])
	}))
	defer server.Close()
	for _, name := range []string{"status", "agents"} {
		root := command()
		root.SetArgs([]string{name, "--server", server.URL})
		g.Expect(root.ExecuteContext(t.Context())).To(MatchError(ContainSubstring("edge-hub is not installed in this cluster")))
	}
}

func TestPlugin(t *testing.T) {
	s := newStage(t)
	out := s.ok("edgehub", "status")
	s.Expect(out).To(ContainSubstring("No hub has reported yet"))
	s.Expect(s.ok("edgehub", "agents")).To(ContainSubstring("Every User-Agent that was seen is cached"))
	s.fill()

	t.Run("status", func(*testing.T) {
		out := s.ok("edgehub", "status")
		s.Expect(out).To(MatchRegexp(`(?m)^2 +1/2 +0/2 +1/2 +14 +6\.0Mi +v1\.2\.3 \(2\)$`))
		s.Expect(out).To(MatchRegexp(`(?m)^edge-1 +OfflineReady +60m +edge-app has to list again$`))
		s.Expect(out).To(MatchRegexp(`(?m)^edge-2 +Connected +60m +not ready since noon$`))
		s.Expect(out).To(MatchRegexp(`(?m)^default +edge-app +edge-app +False +0/1 +0/1 +PodDisruptionBudget strict allows no eviction$`))
		s.Expect(out).NotTo(ContainSubstring("\x1b"), "it is not written to a terminal")
		s.Expect(s.ok("edgehub", "status", "--color=always")).To(ContainSubstring("\x1b[31mConnected\x1b[0m"))
		s.Expect(s.ok("edgehub", "status", "-n", "kube-system")).To(ContainSubstring("There are no EdgeHubPolicies."))
	})
	t.Run("status as JSON", func(*testing.T) {
		var status overview.Status
		s.Expect(json.Unmarshal([]byte(s.ok("edgehub", "status", "-o", "json")), &status)).To(Succeed())
		s.Expect(status.Nodes.Hubs).To(Equal(2))
		s.Expect(status.Nodes.Configured).To(Equal(1))
		s.Expect(status.Trouble).To(HaveLen(2))
		s.Expect(status.Policies).To(HaveLen(1))
	})
	t.Run("agents", func(*testing.T) {
		out := s.ok("edgehub", "agents")
		s.Expect(out).To(MatchRegexp(`(?m)^prober +2 +bank,shop +edge-1$`))
		s.Expect(out).To(MatchRegexp(`(?m)^curl +1 +\(no ServiceAccount\) +edge-1$`))
		s.Expect(s.ok("edgehub", "agents", "-n", "bank")).NotTo(ContainSubstring("curl"))
	})
	t.Run("explain-pod", func(*testing.T) {
		var out string
		s.Eventually(func() string { // its turn comes after some seconds
			out = s.ok("edgehub", "explain-pod", "edge-app-1")
			return out
		}).WithTimeout(30 * time.Second).ShouldNot(ContainSubstring("at the earliest"))
		s.Expect(out).To(ContainSubstring("Kept by   ReplicaSet/edge-app"))
		s.Expect(out).To(MatchRegexp(`(?m)^Hub +it is connected, it has the current configuration, it has been caching since `))
		s.Expect(out).To(MatchRegexp(`(?m)^edge-app +Pending +it has to be restarted, .*PodDisruptionBudget strict allows no eviction$`))
		s.Expect(out).To(ContainSubstring("PodDisruptionBudget strict allows no disruption now: 1 of at least 1 Pods are healthy"))
		s.Expect(out).To(MatchRegexp(`(?m)^edge-app +no +\d+s +2 +7 +3\.0Mi +NotWarm: services was listed before$`))
		s.Expect(out).To(ContainSubstring("It might not start without the cloud now."))
	})
	t.Run("a Pod that is gone", func(*testing.T) {
		for kind, message := range map[string]string{"Pod": "no time\x1b]0;owned\a", "Service": "of something else"} {
			s.Expect(s.client.Create(t.Context(), &corev1.Event{
				ObjectMeta:     metav1.ObjectMeta{Namespace: "default", GenerateName: "gone-"},
				InvolvedObject: corev1.ObjectReference{Kind: kind, Namespace: "default", Name: "gone"},
				Reason:         "Killing", Message: message, ReportingController: "kubelet",
			})).To(Succeed())
		}
		out, err := s.kubectl("edgehub", "explain-pod", "gone")
		s.Expect(err).To(HaveOccurred())
		s.Expect(out).To(ContainSubstring(`Killing: no time\x1b]0;owned\a`))
		s.Expect(out).NotTo(ContainSubstring("\x1b"))
		s.Expect(out).NotTo(ContainSubstring("of something else"))
	})
	t.Run("mistakes", func(*testing.T) {
		for _, test := range []struct{ args, says string }{
			{"edgehub explain-pod nobody", "there is no Pod nobody in namespace default"},
			{"edgehub status -o yaml", "must be json"},
			{"edgehub status --color=maybe", "must be auto, always or never"},
			{"edgehub status --context=none", "context \"none\" does not exist"},
			{"edgehub agents --as=nobody", "edgehubnodes.edgehub.io is forbidden"},
		} {
			out, err := s.kubectl(strings.Fields(test.args)...)
			s.Expect(err).To(HaveOccurred(), test.args)
			s.Expect(out).To(ContainSubstring(test.says))
		}
	})
}
