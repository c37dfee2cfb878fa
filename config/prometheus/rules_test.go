// Package prometheus_test holds the rules to what the programs export.
package prometheus_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var (
	metric = regexp.MustCompile(`\bedgehub_[a-z_]+`)
	// The operator's collector writes names without their common beginning.
	described = regexp.MustCompile(`describe\("([a-z_]+)"`)
	// Reasons of RestartsComplete that nobody has to be told of: nothing is left, it is
	// a matter of time, a person wants it so, or other alerts tell, such as that on
	// stalled policies.
	untold = []string{
		"Restarted", "NotRequested", "WaitingForConfig", "Paused", "Deferred", "Probation", "Debouncing", "OutsideWindow",
		"Relisting", "Relisted", "PodsNeedAttention", "NodesBroke", "WindowInvalid",
	}
)

// exported are the names of metrics in the source of both programs.
func exported(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, root := range []string{"../../controllers", "../../edgehub"} {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, name := range regexp.MustCompile(`"(edgehub_[a-z_]+)"`).FindAllStringSubmatch(string(source), -1) {
				names[name[1]] = true
			}
			for _, name := range described.FindAllStringSubmatch(string(source), -1) {
				names["edgehub_operator_"+name[1]] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return names
}

func TestRulesAskForMetricsThatThereAre(t *testing.T) {
	text, err := os.ReadFile("rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var object struct {
		Spec struct {
			Groups []struct {
				Name  string
				Rules []struct {
					Alert, Expr, For string
					Labels           map[string]string
					Annotations      map[string]string
				}
			}
		}
	}
	if err := yaml.UnmarshalStrict(text, &struct {
		APIVersion, Kind string
		Metadata         map[string]any
		Spec             any
	}{Spec: &object.Spec}); err != nil {
		t.Fatal(err)
	}
	names, alerts := exported(t), map[string]bool{}
	for _, group := range object.Spec.Groups {
		for _, rule := range group.Rules {
			asked := metric.FindAllString(rule.Expr, -1)
			if len(asked) == 0 {
				t.Errorf("%s: %q asks for no metric", rule.Alert, rule.Expr)
			}
			for _, name := range asked {
				if !names[name] {
					t.Errorf("%s: no program exports %s", rule.Alert, name)
				}
			}
			if alerts[rule.Alert] || rule.Alert == "" || rule.For == "" || rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" {
				t.Errorf("%s is there twice or lacks something: %+v", rule.Alert, rule)
			}
			alerts[rule.Alert] = true
		}
	}
	if len(alerts) < 10 {
		t.Errorf("%d alerts were read", len(alerts))
	}
}

// TestWhatStandsStillIsTold: a policy whose agents can't be written, or whose restarts
// wait for something, is not stalled.
func TestWhatStandsStillIsTold(t *testing.T) {
	rules, err := os.ReadFile("rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("../../api/v1alpha1/conditions.go")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(rules), `edgehub_operator_config_writes_total{result="failed"}`) {
		t.Error("nobody is told that the ConfigMap can't be written")
	}
	_, reasons, _ := strings.Cut(string(source), "// Reasons of RestartsComplete;")
	reasons, _, _ = strings.Cut(reasons, "\n)")
	var want []string
	for _, reason := range regexp.MustCompile(`= "([A-Za-z]+)"`).FindAllStringSubmatch(reasons, -1) {
		if !slices.Contains(untold, reason[1]) {
			want = append(want, reason[1])
		}
	}
	asked := regexp.MustCompile(`edgehub_operator_rollouts\{reason=~"([A-Za-z|]+)"`).FindStringSubmatch(string(rules))
	if asked == nil {
		t.Fatal("nobody is told of restarts that take long")
	}
	got := strings.Split(asked[1], "|")
	slices.Sort(got)
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("asked for are %v, want %v", got, want)
	}
}
