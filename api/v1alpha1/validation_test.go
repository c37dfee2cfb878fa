package v1alpha1_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/test/cluster"
)

var controlPlane *cluster.Cluster

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if controlPlane, err = cluster.Start(ctx, cluster.Options{}); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, controlPlane.Stop()) }()
	for _, args := range [][]string{
		{"apply", "-k", "../../config/crd"},
		{"wait", "--for=condition=Established", "crd", "--all"},
	} {
		if output, err := controlPlane.Kubectl(args...).CombinedOutput(); err != nil {
			return 1, fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, output)
		}
	}
	return m.Run(), nil
}

// create asks kube-apiserver whether it would take a policy with this spec, a
// line of YAML, and returns the policy with its defaults.
func create(t *testing.T, spec string) (*v1alpha1.EdgeHubPolicy, error) {
	t.Helper()
	object := &unstructured.Unstructured{}
	manifest := "apiVersion: edgehub.io/v1alpha1\nkind: EdgeHubPolicy\nmetadata: {name: test}\n" + spec
	if err := yaml.Unmarshal([]byte(manifest), &object.Object); err != nil {
		t.Fatal(err)
	}
	created, err := policies().Create(t.Context(), object, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: "Strict"})
	if err != nil {
		return nil, err
	}
	var policy v1alpha1.EdgeHubPolicy
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(created.Object, &policy); err != nil {
		t.Fatal(err)
	}
	return &policy, nil
}

func policies() dynamic.ResourceInterface {
	return dynamic.NewForConfigOrDie(controlPlane.RESTConfig()).Resource(v1alpha1.GroupVersion.WithResource("edgehubpolicies")).Namespace("default")
}

func TestRefused(t *testing.T) {
	long := strings.Repeat("x", 129)
	for _, test := range []struct{ spec, field, mend string }{
		{`# no spec`, "spec", "Required value"},
		{`spec: {}`, "spec.cacheAgents", "Required value"},
		{`spec: {cacheAgents: []}`, "spec.cacheAgents", "must list at least one agent: write the program's User-Agent"},
		{`spec: {cacheAgents: [""]}`, "spec.cacheAgents[0]", "must not be empty: write the program's User-Agent"},
		{`spec: {cacheAgents: [a, b/v1]}`, "spec.cacheAgents[1]", "write only the part of the User-Agent before the first '/'"},
		{`spec: {cacheAgents: ["a,b"]}`, "spec.cacheAgents[0]", "make each agent an item of its own"},
		{`spec: {cacheAgents: ["."]}`, "spec.cacheAgents[0]", "must not be '.' or '..', which name directories: write"},
		{`spec: {cacheAgents: [".."]}`, "spec.cacheAgents[0]", "must not be '.' or '..', which name directories: write"},
		{`spec: {cacheAgents: [" a"]}`, "spec.cacheAgents[0]", "must not begin or end with a space: remove it"},
		{`spec: {cacheAgents: ["a "]}`, "spec.cacheAgents[0]", "must not begin or end with a space: remove it"},
		{`spec: {cacheAgents: ["a\tb"]}`, "spec.cacheAgents[0]", "must be printable ASCII on one line: write"},
		{`spec: {cacheAgents: ["a\nb"]}`, "spec.cacheAgents[0]", "must be printable ASCII on one line: write"},
		{`spec: {cacheAgents: ["a\n"]}`, "spec.cacheAgents[0]", "must be printable ASCII on one line: write"},
		{`spec: {cacheAgents: ["é"]}`, "spec.cacheAgents[0]", "must be printable ASCII on one line: write"},
		{`spec: {cacheAgents: ["*"]}`, "spec.cacheAgents[0]", "write '*' into cache_agents of ConfigMap kube-system/edge-hub-cfg by hand"},
		{`spec: {cacheAgents: ["edge-*"]}`, "spec.cacheAgents[0]", "write each agent in full"},
		{`spec: {cacheAgents: [` + long + `]}`, "spec.cacheAgents[0]", "at most 128 characters: write only"},
		{`spec: {cacheAgents: [` + strings.Repeat(long, 4) + `]}`, "spec.cacheAgents[0]", "Too long: may not be more than 512 bytes"},
		{`spec: {cacheAgents: [a, b, a]}`, "spec.cacheAgents", "must not list an agent twice: remove the repetition"},
		{`spec: {cacheAgents: [` + many(33, "a%d") + `]}`, "spec.cacheAgents", "Too many: 33: must have at most 32 items"},
		{`spec: {cacheAgents: a}`, "spec.cacheAgents", "must be of type array"},
		{`spec: {cacheAgents: [a], cacheAgent: [b]}`, "spec.cacheAgent", "unknown field"},

		{`spec: {cacheAgents: [a], podSelector: {app: a}}`, "spec.podSelector.app", "unknown field"},
		{`spec: {cacheAgents: [a], podSelector: {matchLabels: {}}}`, "spec.podSelector.matchLabels", "must not be empty: write a label with its value, or {} for the whole selector to select everything"},
		{`spec: {cacheAgents: [a], podSelector: {matchLabels: {"a b": x}}}`, "spec.podSelector.matchLabels", "each key must be a label key, a name of at most 63"},
		{`spec: {cacheAgents: [a], podSelector: {matchLabels: {"A.com/a": x}}}`, "spec.podSelector.matchLabels", "each key must be a label key"},
		{`spec: {cacheAgents: [a], podSelector: {matchLabels: {"": x}}}`, "spec.podSelector.matchLabels", "each key must be a label key"},
		{`spec: {cacheAgents: [a], podSelector: {matchLabels: {` + long[:64] + `: x}}}`, "spec.podSelector.matchLabels", "each key must be a label key"},
		{`spec: {cacheAgents: [a], podSelector: {matchLabels: {` + strings.Repeat("a", 254) + `/a: x}}}`, "spec.podSelector.matchLabels", "each key must be a label key"},
		{`spec: {cacheAgents: [a], podSelector: {matchLabels: {a: "x y"}}}`, "spec.podSelector.matchLabels", "each value must be a label value, at most 63"},
		{`spec: {cacheAgents: [a], podSelector: {matchLabels: {a: ` + long[:64] + `}}}`, "spec.podSelector.matchLabels", "each value must be a label value"},
		{`spec: {cacheAgents: [a], podSelector: {matchLabels: {` + many(17, "a%d: b") + `}}}`, "spec.podSelector.matchLabels", "must have at most 16"},
		{`spec: {cacheAgents: [a], podSelector: {matchExpressions: [{operator: Exists}]}}`, "spec.podSelector.matchExpressions[0].key", "Required value"},
		{`spec: {cacheAgents: [a], podSelector: {matchExpressions: [{key: a}]}}`, "spec.podSelector.matchExpressions[0].operator", "Required value"},
		{`spec: {cacheAgents: [a], podSelector: {matchExpressions: [{key: a, operator: Gt, values: ["1"]}]}}`, "spec.podSelector.matchExpressions[0].operator", `supported values: "In", "NotIn", "Exists", "DoesNotExist"`},
		{`spec: {cacheAgents: [a], podSelector: {matchExpressions: [{key: a, operator: In}]}}`, "spec.podSelector.matchExpressions[0].values", "list at least one value, or use Exists or DoesNotExist"},
		{`spec: {cacheAgents: [a], podSelector: {matchExpressions: [{key: a, operator: NotIn, values: []}]}}`, "spec.podSelector.matchExpressions[0].values", "list at least one value"},
		{`spec: {cacheAgents: [a], podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}`, "spec.podSelector.matchExpressions[0].values", "remove values, or use In or NotIn"},
		{`spec: {cacheAgents: [a], podSelector: {matchExpressions: [{key: a, operator: DoesNotExist, values: [b]}]}}`, "spec.podSelector.matchExpressions[0].values", "remove values, or use In or NotIn"},
		{`spec: {cacheAgents: [a], podSelector: {matchExpressions: [{key: a/, operator: Exists}]}}`, "spec.podSelector.matchExpressions[0].key", "must be a label key"},
		{`spec: {cacheAgents: [a], podSelector: {matchExpressions: [{key: a, operator: In, values: [b, "-c"]}]}}`, "spec.podSelector.matchExpressions[0].values[1]", "must be a label value"},
		{`spec: {cacheAgents: [a], nodeSelector: {matchLabels: {a: "x y"}}}`, "spec.nodeSelector.matchLabels", "each value must be a label value"},

		{`spec: {cacheAgents: [a], quota: 0}`, "spec.quota", "must be a number of bytes of at least 1Mi: write for example 100Mi"},
		{`spec: {cacheAgents: [a], quota: 100}`, "spec.quota", "must be a number of bytes of at least 1Mi"},
		{`spec: {cacheAgents: [a], quota: -1}`, "spec.quota", "must be a number of bytes of at least 1Mi"},
		{`spec: {cacheAgents: [a], quota: 1048575}`, "spec.quota", "must be a number of bytes of at least 1Mi"},
		{`spec: {cacheAgents: [a], quota: "1048575"}`, "spec.quota", "must be a number of bytes of at least 1Mi"},
		{`spec: {cacheAgents: [a], quota: 100m}`, "spec.quota", "must be a number of bytes of at least 1Mi"},
		{`spec: {cacheAgents: [a], quota: -1Gi}`, "spec.quota", "must be a number of bytes of at least 1Mi"},
		{`spec: {cacheAgents: [a], quota: much}`, "spec.quota", "should match"},
		{`spec: {cacheAgents: [a], quota: 100MB}`, "spec.quota", "should match"},
		// Comparing these would take kube-apiserver minutes.
		{`spec: {cacheAgents: [a], quota: "1e999999999"}`, "spec.quota", "must be a number of bytes of at least 1Mi"},
		{`spec: {cacheAgents: [a], quota: "1E+0999999999"}`, "spec.quota", "must be a number of bytes of at least 1Mi"},
		{`spec: {cacheAgents: [a], quota: "1234567890123456789012e-999999999"}`, "spec.quota", "must be a number of bytes of at least 1Mi"},
		{`spec: {cacheAgents: [a], quota: ` + strings.Repeat("9", 65) + `Mi}`, "spec.quota", "must be a number of bytes of at least 1Mi"},
		{`spec: {cacheAgents: [a], quota: 1.5}`, "spec.quota", "must be of type integer,string"},
		{`spec: {cacheAgents: [a], secrets: deny}`, "spec.secrets", `supported values: "Cache", "Deny"`},
		{`spec: {cacheAgents: [a], secrets: ""}`, "spec.secrets", `supported values: "Cache", "Deny"`},

		{`spec: {cacheAgents: [a], restart: {strategy: Always}}`, "spec.restart.strategy", `supported values: "RollingRestart", "Relist", "Never"`},
		{`spec: {cacheAgents: [a], restart: {maxUnavailable: 0}}`, "spec.restart.maxUnavailable", "must be a number from 1 to 2147483647, or a percentage from '1%' to '100%': write"},
		{`spec: {cacheAgents: [a], restart: {maxUnavailable: -1}}`, "spec.restart.maxUnavailable", "must be a number from 1 to 2147483647"},
		{`spec: {cacheAgents: [a], restart: {maxUnavailable: "0%"}}`, "spec.restart.maxUnavailable", "must be a number from 1 to 2147483647"},
		{`spec: {cacheAgents: [a], restart: {maxUnavailable: "150%"}}`, "spec.restart.maxUnavailable", "must be a number from 1 to 2147483647"},
		{`spec: {cacheAgents: [a], restart: {maxUnavailable: abc}}`, "spec.restart.maxUnavailable", "must be a number from 1 to 2147483647"},
		{`spec: {cacheAgents: [a], restart: {maxUnavailable: "3"}}`, "spec.restart.maxUnavailable", "must be a number from 1 to 2147483647"},
		{`spec: {cacheAgents: [a], restart: {maxUnavailable: "01%"}}`, "spec.restart.maxUnavailable", "must be a number from 1 to 2147483647"},
		{`spec: {cacheAgents: [a], restart: {minReadySeconds: -1}}`, "spec.restart.minReadySeconds", "should be greater than or equal to 0"},
		{`spec: {cacheAgents: [a], restart: {minReadySeconds: 86401}}`, "spec.restart.minReadySeconds", "should be less than or equal to 86400"},
		{`spec: {cacheAgents: [a], restart: {paused: "yes"}}`, "spec.restart.paused", "must be of type boolean"},
		{`spec: {cacheAgents: [a], restart: {debounceSeconds: -1}}`, "spec.restart.debounceSeconds", "should be greater than or equal to 0"},
		{`spec: {cacheAgents: [a], restart: {debounceSeconds: 86401}}`, "spec.restart.debounceSeconds", "should be less than or equal to 86400"},
		{`spec: {cacheAgents: [a], restart: {window: {}}}`, "spec.restart.window.start", "Required value"},
		{`spec: {cacheAgents: [a], restart: {window: {start: "22:00"}}}`, "spec.restart.window.end", "Required value"},
		{`spec: {cacheAgents: [a], restart: {window: {start: "24:00", end: "05:00"}}}`, "spec.restart.window.start", "must be a time of day from 00:00 to 23:59: write for example 22:00"},
		{`spec: {cacheAgents: [a], restart: {window: {start: "22:00", end: "5:00"}}}`, "spec.restart.window.end", "must be a time of day from 00:00 to 23:59: write for example 05:30"},
		{`spec: {cacheAgents: [a], restart: {window: {start: "22:00:00", end: "05:00"}}}`, "spec.restart.window.start", "Too long"},
		{`spec: {cacheAgents: [a], restart: {window: {start: "22:00", end: "05:00", timeZone: Local}}}`, "spec.restart.window.timeZone", "must be the name of a time zone: write for example UTC or Europe/Berlin"},
		{`spec: {cacheAgents: [a], restart: {window: {start: "22:00", end: "05:00", timeZone: "../etc/passwd"}}}`, "spec.restart.window.timeZone", "must be the name of a time zone"},
		{`spec: {cacheAgents: [a], restart: {window: {start: "22:00", end: "05:00", timeZone: "+01:00"}}}`, "spec.restart.window.timeZone", "must be the name of a time zone"},
		{`spec: {cacheAgents: [a], restart: {window: {start: "22:00", end: "05:00", days: [Mon]}}}`, "spec.restart.window.days[0]", `supported values: "Monday"`},
		{`spec: {cacheAgents: [a], restart: {window: {start: "22:00", end: "05:00", days: [Monday, Monday]}}}`, "spec.restart.window.days[1]", "Duplicate value"},
	} {
		t.Run(test.spec[:min(len(test.spec), 90)], func(t *testing.T) {
			_, err := create(t, test.spec)
			if err == nil {
				t.Fatal("is accepted")
			}
			if !strings.Contains(err.Error(), test.field) || !strings.Contains(err.Error(), test.mend) {
				t.Errorf("message does not name %s and say %q:\n%v", test.field, test.mend, err)
			}
		})
	}
}

// many writes n items, separated by commas.
func many(n int, format string) string {
	items := make([]string, n)
	for i := range items {
		items[i] = fmt.Sprintf(format, i)
	}
	return strings.Join(items, ", ")
}

func TestReservedAgentsAreRefused(t *testing.T) {
	for _, agent := range hubconfig.AlwaysCached() {
		_, err := create(t, "spec: {cacheAgents: ["+agent+"]}")
		if err == nil || !strings.Contains(err.Error(), "is always cached on every edge node: remove it from the list. What the platform's own programs need is a choice for the whole platform: an administrator writes it into cache_agents of ConfigMap kube-system/edge-hub-cfg by hand") {
			t.Errorf("%s: %v", agent, err)
		}
	}
}

func TestAccepted(t *testing.T) {
	for _, spec := range []string{
		`spec: {cacheAgents: [edge-app]}`,
		`spec: {cacheAgents: [Kubernetes Java Client, Go-http-client, kubectl.exe, "a@b", "...", Kubelet]}`,
		`spec: {cacheAgents: [` + strings.Repeat("x", 128) + `]}`,
		`spec: {cacheAgents: [` + many(32, "a%d") + `]}`,
		`spec: {cacheAgents: [a], podSelector: {}}`,
		`spec: {cacheAgents: [a], podSelector: {matchLabels: {example.com/app: "", b: c_d.e-f}}}`,
		`spec: {cacheAgents: [a], podSelector: {matchExpressions: [{key: a, operator: In, values: [b, ""]}, {key: c, operator: DoesNotExist}]}}`,
		`spec: {cacheAgents: [a], nodeSelector: {matchLabels: {node-role.kubernetes.io/edge: ""}}}`,
		`spec: {cacheAgents: [a], quota: 1Mi}`,
		`spec: {cacheAgents: [a], quota: 1048576}`,
		`spec: {cacheAgents: [a], quota: 1.5Gi}`,
		`spec: {cacheAgents: [a], quota: 100M, secrets: Cache}`,
		`spec: {cacheAgents: [a], quota: "1e30", secrets: Deny}`,
		`spec: {cacheAgents: [a], restart: {strategy: Never}}`,
		`spec: {cacheAgents: [a], restart: {maxUnavailable: 1}}`,
		`spec: {cacheAgents: [a], restart: {maxUnavailable: 1%}}`,
		`spec: {cacheAgents: [a], restart: {maxUnavailable: 100%, minReadySeconds: 86400, paused: true}}`,
		`spec: {cacheAgents: [a], restart: {strategy: Relist, debounceSeconds: 0}}`,
		`spec: {cacheAgents: [a], restart: {debounceSeconds: 86400, window: {start: "00:00", end: "23:59"}}}`,
		`spec: {cacheAgents: [a], restart: {window: {start: "22:00", end: "05:30", days: [Monday, Sunday], timeZone: America/Argentina/Buenos_Aires}}}`,
		`spec: {cacheAgents: [a], restart: {window: {start: "22:00", end: "22:00", timeZone: Etc/GMT+1}}}`,
	} {
		policy, err := create(t, spec)
		if err != nil {
			t.Errorf("%s: %v", spec, err)
			continue
		}
		for _, agent := range policy.Spec.CacheAgents {
			if err := hubconfig.ValidateAgent(agent); err != nil {
				t.Errorf("%s is accepted, but edge-hub refuses %q: %v", spec, agent, err)
			}
		}
		for _, selector := range []*v1alpha1.LabelSelector{policy.Spec.PodSelector, policy.Spec.NodeSelector} {
			if _, err := selector.AsSelector(); err != nil {
				t.Errorf("%s is accepted: %v", spec, err)
			}
		}
		if window := policy.Spec.Restart.Window; window != nil {
			if _, err := time.LoadLocation(window.TimeZone); err != nil {
				t.Errorf("%s is accepted: %v", spec, err)
			}
		}
	}
}

// TestAgentsAgree shows that a policy takes exactly the agents that cache_agents
// can list.
func TestAgentsAgree(t *testing.T) {
	for c := rune(0); c < 0x90; c++ {
		for _, agent := range []string{string(c), "a" + string(c) + "b"} {
			_, refused := create(t, fmt.Sprintf("spec: {cacheAgents: [%q]}", agent))
			if illegal := hubconfig.ValidateAgent(agent); (illegal == nil) != (refused == nil) {
				t.Errorf("%q: policy says %v, cache_agents says %v", agent, refused, illegal)
			}
		}
	}
}

func TestDefaults(t *testing.T) {
	g := NewWithT(t)
	for _, spec := range []string{`spec: {cacheAgents: [a]}`, `spec: {cacheAgents: [a], restart: {}}`} {
		policy, err := create(t, spec)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(policy.Spec.Restart.Strategy).To(Equal(v1alpha1.RollingRestart))
		g.Expect(policy.Spec.Restart.MaxUnavailable.IntValue()).To(Equal(1))
		g.Expect(policy.Spec.Restart.MinReadySeconds).To(BeZero())
		g.Expect(policy.Spec.Restart.Paused).To(BeFalse())
		g.Expect(*policy.Spec.Restart.DebounceSeconds).To(Equal(int32(10)))
		g.Expect(policy.Spec.Restart.Window).To(BeNil())
		g.Expect(policy.Spec.Quota).To(BeNil())
		g.Expect(policy.Spec.Secrets).To(Equal(v1alpha1.CacheSecrets))
	}
}

// TestALabelWithoutAValue is what a selector says with "app:", as people write it. The
// requirement must not vanish, for then the selector would select everything.
func TestALabelWithoutAValue(t *testing.T) {
	g := NewWithT(t)
	policy, err := create(t, `spec: {cacheAgents: [a], podSelector: {matchLabels: {app: }}, nodeSelector: {matchExpressions: [{key: edge, operator: In, values: [null]}]}}`)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(policy.Spec.PodSelector.MatchLabels).To(Equal(map[string]v1alpha1.LabelValue{"app": ""}))
	g.Expect(policy.Spec.NodeSelector.MatchExpressions[0].Values).To(Equal([]v1alpha1.LabelValue{""}))
}

// TestALabelThatLosesItsValueSelectsNotEverything: to kubectl apply "app:" says that the
// label is to be taken out of a selector that has it.
func TestALabelThatLosesItsValueSelectsNotEverything(t *testing.T) {
	g := NewWithT(t)
	defer func() {
		g.Expect(policies().Delete(context.Background(), "applied", metav1.DeleteOptions{})).To(Succeed())
	}()
	output, err := apply(`{cacheAgents: [a], podSelector: {matchLabels: {app: edge}}}`)
	g.Expect(err).NotTo(HaveOccurred(), output)
	output, err = apply(`{cacheAgents: [a], podSelector: {matchLabels: {app: }}}`)
	g.Expect(err).To(HaveOccurred())
	g.Expect(output).To(ContainSubstring(`spec.podSelector.matchLabels: Invalid value: must not be empty: write a label with its value`))

	// Who means everything says so.
	output, err = apply(`{cacheAgents: [a], podSelector: {}}`)
	g.Expect(err).NotTo(HaveOccurred(), output)
}

// TestServerSideApplyTakesOutWhatIsLeftOut does so with what a person wrote before.
func TestServerSideApplyTakesOutWhatIsLeftOut(t *testing.T) {
	for _, test := range []struct{ before, after string }{
		{`{cacheAgents: [a], podSelector: {matchLabels: {app: edge}}}`, `{cacheAgents: [a], podSelector: {}}`},
		{`{cacheAgents: [a], podSelector: {matchLabels: {app: edge}}}`, `{cacheAgents: [a], podSelector: {matchLabels: {tier: edge}}}`},
		{`{cacheAgents: [a], podSelector: {matchLabels: {app: edge}}}`, `{cacheAgents: [a]}`},
		{`{cacheAgents: [a], nodeSelector: {matchExpressions: [{key: edge, operator: Exists}]}}`, `{cacheAgents: [a], nodeSelector: {}}`},
		{`{cacheAgents: [a], restart: {window: {start: "22:00", end: "05:00", days: [Monday]}}}`, `{cacheAgents: [a], restart: {window: {start: "22:00", end: "05:00"}}}`},
		{`{cacheAgents: [a], restart: {window: {start: "22:00", end: "05:00"}}}`, `{cacheAgents: [a], restart: {}}`},
		{`{cacheAgents: [a, b], quota: 1Mi, secrets: Deny, restart: {paused: true}}`, `{cacheAgents: [b]}`},
	} {
		t.Run(test.before+" "+test.after, func(t *testing.T) {
			g := NewWithT(t)
			output, err := apply(test.before, "--server-side")
			g.Expect(err).NotTo(HaveOccurred(), output)
			defer func() {
				g.Expect(policies().Delete(context.Background(), "applied", metav1.DeleteOptions{})).To(Succeed())
			}()
			output, err = apply(test.after, "--server-side")
			if err != nil {
				t.Fatal(output)
			}
			got, err := policies().Get(t.Context(), "applied", metav1.GetOptions{})
			g.Expect(err).NotTo(HaveOccurred())
			want, err := create(t, "spec: "+test.after)
			g.Expect(err).NotTo(HaveOccurred())
			var policy v1alpha1.EdgeHubPolicy
			g.Expect(runtime.DefaultUnstructuredConverter.FromUnstructured(got.Object, &policy)).To(Succeed())
			g.Expect(equality.Semantic.DeepEqual(policy.Spec, want.Spec)).To(BeTrue(), "%+v", policy.Spec)
		})
	}
}

// apply has kubectl apply a policy with this spec, a line of YAML.
func apply(spec string, options ...string) (string, error) {
	command := controlPlane.Kubectl(append([]string{"apply", "-f", "-"}, options...)...)
	command.Stdin = strings.NewReader("apiVersion: edgehub.io/v1alpha1\nkind: EdgeHubPolicy\nmetadata: {name: applied}\nspec: " + spec)
	output, err := command.CombinedOutput()
	return string(output), err
}

func TestAsSelector(t *testing.T) {
	g := NewWithT(t)
	pod := labels.Set{"app": "edge", "tier": "a"}
	matches := func(s *v1alpha1.LabelSelector) bool {
		selector, err := s.AsSelector()
		g.Expect(err).NotTo(HaveOccurred())
		return selector.Matches(pod)
	}
	require := func(key string, operator metav1.LabelSelectorOperator, values ...v1alpha1.LabelValue) *v1alpha1.LabelSelector {
		return &v1alpha1.LabelSelector{
			MatchLabels:      map[string]v1alpha1.LabelValue{"app": "edge"},
			MatchExpressions: []v1alpha1.LabelSelectorRequirement{{Key: key, Operator: operator, Values: values}},
		}
	}
	g.Expect(matches(nil)).To(BeFalse())
	g.Expect(matches(&v1alpha1.LabelSelector{})).To(BeTrue())
	g.Expect(matches(require("tier", "In", "a", "b"))).To(BeTrue())
	g.Expect(matches(require("tier", "NotIn", "a"))).To(BeFalse())
	g.Expect(matches(require("tier", "Exists"))).To(BeTrue())
	g.Expect(matches(require("tier", "DoesNotExist"))).To(BeFalse())
	_, err := require("tier", "Near").AsSelector()
	g.Expect(err).To(HaveOccurred())
}

func TestWhatPeopleSee(t *testing.T) {
	g := NewWithT(t)
	kubectl := func(args ...string) string {
		output, err := controlPlane.Kubectl(args...).CombinedOutput()
		g.Expect(err).NotTo(HaveOccurred(), string(output))
		return string(output)
	}
	kubectl("apply", "-k", "../../config/samples")
	table := kubectl("get", "ehp", "-o", "wide")
	g.Expect(strings.Fields(table)).To(ContainElements("NAME", "AGENTS", "READY", "RESTARTED", "NODES", "STATUS", "AGE", "REASON", "STRATEGY", "QUOTA", "SECRETS", "WRITTEN", "STALLED"))
	g.Expect(table).To(MatchRegexp(`(?m)^factory .* 200Mi +Deny`))
	g.Expect(kubectl("get", "edgehub", "-o", "name")).To(ContainSubstring("edgehubpolicy.edgehub.io/factory"))
	spec := kubectl("explain", "ehp.spec")
	for _, field := range []string{"cacheAgents", "podSelector", "nodeSelector", "quota", "secrets", "restart"} {
		g.Expect(spec).To(MatchRegexp(`(?m)^  ` + field + `\t<.*\n(  enum: .*\n)?    ` + field + ` `))
	}
	g.Expect(kubectl("explain", "ehp.spec.cacheAgents")).To(ContainSubstring("User-Agent header up to its first"))
	for _, field := range []string{
		"ehp.spec.podSelector.matchLabels", "ehp.spec.restart.maxUnavailable", "ehp.spec.restart.window.timeZone", "ehp.status.pods.unavailable",
		"ehp.status.agents.appliedTime", "ehp.status.nodes.inUse", "ehn.status.agents.offlineReady", "ehn.status.configuration.hash", "ehn.status.uncached",
	} {
		g.Expect(kubectl("explain", field)).NotTo(ContainSubstring("<empty>"), field)
	}
}
