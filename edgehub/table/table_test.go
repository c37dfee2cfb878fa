package table

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

var now = time.Date(2024, 1, 2, 0, 0, 0, 0, time.UTC)

// cells prints an object in YAML.
func cells(t *testing.T, p *Printer, text string) string {
	t.Helper()
	b, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	row, err := p.Print(b, now)
	if err != nil {
		t.Fatal(err)
	}
	if len(row.Cells) != len(p.Columns) {
		t.Errorf("%d cells in %d columns", len(row.Cells), len(p.Columns))
	}
	return fmt.Sprint(row.Cells)
}

// That the cells are kube-apiserver's is shown by test/oracle.
func TestPrint(t *testing.T) {
	for _, c := range []struct{ kind, object, want string }{
		{"ConfigMap", `{metadata: {name: x, creationTimestamp: "2024-01-01T00:00:00Z"}, data: {a: b}, binaryData: {c: AA==}}`, "[x 2 24h]"},
		{"Unheard.of", `{metadata: {name: x, creationTimestamp: "2024-01-01T00:00:00Z"}}`, "[x 2024-01-01T00:00:00Z]"},
		{"Role.rbac.authorization.k8s.io", `{metadata: {name: x, creationTimestamp: null}}`, "[x 0001-01-01T00:00:00Z]"},
		{"Pod", `{metadata: {name: x}, spec: {containers: [{name: a}, {name: b}]}, status: {phase: Running, containerStatuses: [
			{name: a, ready: true, restartCount: 2, state: {running: {}}, lastState: {terminated: {finishedAt: "2024-01-01T23:00:00Z"}}},
			{name: b, state: {waiting: {reason: CrashLoopBackOff}}}]}}`, "[x 1/2 CrashLoopBackOff 2 (60m ago) <unknown> <none> <none> <none> <none>]"},
		{"Node", `{metadata: {name: x, labels: {node-role.kubernetes.io/edge: ""}}, spec: {unschedulable: true}, status: {conditions: [{type: Ready, status: "True"}]}}`,
			"[x Ready,SchedulingDisabled edge <unknown>  <none> <none> <unknown> <unknown> <unknown>]"},
		{"ResourceClaim.resource.k8s.io", `{metadata: {name: x, deletionTimestamp: "2024-01-01T00:00:00Z"}, status: {allocation: {}, reservedFor: [{name: pod}]}}`, "[x deleted,allocated,reserved <unknown>]"},
		{"HorizontalPodAutoscaler.autoscaling", `{apiVersion: autoscaling/v1, metadata: {name: x}, spec: {maxReplicas: 3, scaleTargetRef: {kind: Deployment, name: yy}, targetCPUUtilizationPercentage: 50}, status: {currentCPUUtilizationPercentage: 20}}`,
			"[x Deployment/yy cpu: 20%/50% <unset> 3 0 <unknown>]"},
		{"APIService.apiregistration.k8s.io", `{metadata: {name: v1., creationTimestamp: "2024-01-01T00:00:00Z"}, spec: {version: v1}, status: {conditions: [{type: Available, status: "True", reason: Local}]}}`,
			"[v1. Local True 24h]"},
		{"APIService.apiregistration.k8s.io", `{metadata: {name: x}, spec: {service: {namespace: a, name: b}}, status: {conditions: [{type: Other, status: "True"}, {type: Available, status: "False", reason: MissingEndpoints}]}}`,
			"[x a/b False (MissingEndpoints) <unknown>]"},
		{"APIService.apiregistration.k8s.io", `{metadata: {name: x}, spec: {service: {namespace: a, name: b}}}`, "[x a/b Unknown <unknown>]"},
		{"CustomResourceDefinition.apiextensions.k8s.io", `{metadata: {name: x}, spec: {group: g, scope: Namespaced, names: {kind: K, shortNames: [s, t]}, versions: [{name: v2, served: true, storage: true}, {name: v1, served: true}, {name: v0}]}, status: {conditions: [{type: Established, status: "True"}]}}`,
			"[x Namespaced v1,v2(storage) 0001-01-01T00:00:00Z g K s,t true]"},
	} {
		if got := cells(t, BuiltIn(schema.ParseGroupKind(c.kind)), c.object); got != c.want {
			t.Errorf("%s: %s, want %s", c.kind, got, c.want)
		}
	}
}

// Every kind prints an object that has nothing, as a bookmark has.
func TestNothing(t *testing.T) {
	for kind, p := range builtIn() {
		t.Run(kind.String(), func(t *testing.T) {
			cells(t, p, `{metadata: {name: x, creationTimestamp: null}}`)
			for _, c := range p.Columns {
				if c.Name == "" || c.Type == "" || c.Description == "" {
					t.Errorf("column %+v", c)
				}
			}
		})
	}
}

func TestPrintRefusesWhatIsNoObject(t *testing.T) {
	for _, p := range []*Printer{BuiltIn(schema.GroupKind{Kind: "Pod"}), BuiltIn(schema.GroupKind{Kind: "Secret"}), Custom(nil)} {
		if _, err := p.Print([]byte(`{"metadata":`), now); err == nil {
			t.Error("no error")
		}
	}
}

func TestCustom(t *testing.T) {
	column := func(typ, path string) CustomColumn { return CustomColumn{Name: path, Type: typ, JSONPath: path} }
	p := Custom([]CustomColumn{
		column("string", ".spec.s"), column("string", ".spec.num"), column("integer", ".spec.num"), column("integer", ".spec.f"),
		column("number", ".spec.num"), column("boolean", ".spec.b"), column("boolean", ".spec.s"), column("date", ".spec.d"), column("date", ".spec.s"),
		column("string", ".spec.missing"), column("string", `.spec.list[?(@.k=="b")].v`), column("string", ".spec.object"),
	})
	got := cells(t, p, `{metadata: {name: x}, spec: {s: text, num: 5, f: 2.7, b: true, d: "2024-01-01T00:00:00Z", list: [{k: a, v: 1}, {k: b, v: 2}], object: {z: 1}}}`)
	if want := `[x text 5 5 2 5 true <nil> 24h <invalid> <nil> 2 {"z":1}]`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if d := p.Columns[1].Description; d != "Custom resource definition column (in JSONPath format): .spec.s" {
		t.Errorf("described as %q", d)
	}
	if got := cells(t, Custom(nil), `{metadata: {name: x, creationTimestamp: "2024-01-01T00:00:00Z"}}`); got != "[x 24h]" {
		t.Errorf("without columns: %s", got)
	}
	if n := len(Custom([]CustomColumn{column("string", ".a"), column("string", ".b[")}).Columns); n != 2 {
		t.Errorf("a path that is none leaves %d columns", n)
	}
}

func TestDefaultClass(t *testing.T) {
	class := func(name, created, annotation string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q,"creationTimestamp":%q,"annotations":{%q:"true"}}}`, name, created, annotation)
	}
	const ga, beta = "storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"
	for want, classes := range map[string][]string{
		"":  {class("a", "2024-01-01T00:00:00Z", "other")},
		"b": {class("a", "2024-01-01T00:00:00Z", ga), class("b", "2024-01-02T00:00:00Z", beta), class("c", "2024-01-01T00:00:00Z", ga)},
		"a": {class("b", "2024-01-01T00:00:00Z", ga), class("a", "2024-01-01T00:00:00Z", ga)},
	} {
		var d DefaultClass
		for _, text := range classes {
			if err := d.Look([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		row := Row{Cells: []any{want}}
		d.Mark(row)
		marked := strings.HasSuffix(row.Cells[0].(string), " (default)")
		if d.name != want || marked != (want != "") {
			t.Errorf("%q is the default, want %q; %v", d.name, want, row)
		}
	}
}

func TestFirst(t *testing.T) {
	for n, want := range []string{"", "a", "a,b", "a,b,c", "a,b,c + 1 more..."} {
		if got := first(3, []string{"a", "b", "c", "d"}[:n], ","); got != want {
			t.Errorf("first of %d is %q, want %q", n, got, want)
		}
	}
}

func TestParseDefinition(t *testing.T) {
	d, err := ParseDefinition([]byte(`{"metadata":{"name":"x"},"spec":{"scope":"Cluster","versions":[{"name":"v1","additionalPrinterColumns":[{"name":"A","type":"string","jsonPath":".a","priority":1}]}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []CustomColumn{{Name: "A", Type: "string", JSONPath: ".a", Priority: 1}}
	if got := d.Version("v1").AdditionalPrinterColumns; !reflect.DeepEqual(got, want) || d.Version("v2") != nil {
		t.Errorf("%+v", got)
	}
	if _, err := ParseDefinition([]byte("x")); err == nil {
		t.Error("no error")
	}
}
