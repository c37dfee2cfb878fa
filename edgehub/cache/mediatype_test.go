package cache

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const metaV1 = ";v=v1;g=meta.k8s.io"

func TestNegotiate(t *testing.T) {
	for _, c := range []struct {
		accept   string
		protobuf bool
		want     string // media type, and what it is shown as; empty is 406
	}{
		{"", true, typeJSON},
		{"*/*", true, typeJSON},
		{"application/*", true, typeJSON},
		{"text/html", true, ""},
		{"text/html,*/*;q=0.8", true, typeJSON},
		{typeYAML, true, typeYAML},
		{typeCBOR, true, typeCBOR},
		{typeProtobuf, true, typeProtobuf},
		{typeProtobuf, false, ""},
		{typeProtobuf + "," + typeJSON, false, typeJSON},
		{"application/json;q=0.5,application/yaml;q=0.9", true, typeYAML},
		{"application/json;as=Table" + metaV1, true, typeJSON + " Table"},
		{"application/vnd.kubernetes.protobuf;as=Table" + metaV1 + "," + typeJSON, true, typeJSON},
		{"application/yaml;as=Table;v=v1beta1;g=meta.k8s.io", true, typeYAML + " Table"},
		{"application/json;as=Table;v=v2;g=meta.k8s.io", true, ""},
		{"application/json;as=Table;v=v1", true, ""},
		{"application/json;as=Bogus" + metaV1, true, ""},
		{"application/json;g=meta.k8s.io", true, ""},
		{"application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList" + metaV1, false, typeProtobuf + " PartialObjectMetadataList"},
		{"application/json;stream=watch", true, typeJSON},
		{"application/json;stream=other", true, ""},
		{"application/yaml;stream=watch," + typeJSON, true, typeJSON},
		{"application/json;sv=v1", true, typeJSON},
		{"application/json;sv=v2", true, ""},
	} {
		f, ok := negotiate(c.accept, c.protobuf)
		got := ""
		if ok {
			got = strings.TrimSpace(f.mediaType + " " + f.as)
		}
		if got != c.want {
			t.Errorf("negotiate(%q, %v) = %q, want %q", c.accept, c.protobuf, got, c.want)
		}
	}
}

func TestErrorType(t *testing.T) {
	for accept, want := range map[string]string{
		"": typeJSON, "text/html": typeJSON, typeYAML: typeYAML, typeCBOR + "," + typeJSON: typeCBOR,
		"application/yaml;as=Table" + metaV1:                       typeJSON,
		"application/yaml;as=Table" + metaV1 + ",application/cbor": typeCBOR,
	} {
		if got := errorType(accept); got != want {
			t.Errorf("errorType(%q) = %q, want %q", accept, got, want)
		}
	}
}

// What kube-apiserver's own resources are refused before negotiation, custom
// ones are not.
func TestWhatIsRoutedIsNegotiated(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct {
		path, accept, want string
	}{
		{inA, "application/*", "406: Not Acceptable\n\nAvailable representations: application/json, "},
		{inA + "/x", "text/html", "406: Not Acceptable\n\nAvailable representations: application/json, "},
		{inA, "application/json;as=Bogus" + metaV1, "only the following media types are accepted: application/json, application/yaml, "},
		{"/apis/farm.example.com/v1/oxen", "text/html", "only the following media types are accepted: application/json, application/yaml, "},
	} {
		code, message := f.ask(f.queryAs("app", "me", c.path, c.accept))
		if code != http.StatusNotAcceptable || !strings.HasPrefix(message, c.want) {
			t.Errorf("%s for %s is %d %q", c.path, c.accept, code, message)
		}
	}
}

func TestInternalType(t *testing.T) {
	for _, c := range []struct {
		group, kind string
		several     bool
		want        string
	}{
		{"", "Pod", false, "*core.Pod"},
		{"apps", "Deployment", true, "*apps.DeploymentList"},
		{"rbac.authorization.k8s.io", "Role", true, "*rbac.RoleList"},
		{"events.k8s.io", "Event", false, "*core.Event"},
		{"farm.example.com", "Ox", true, "*unstructured.UnstructuredList"},
	} {
		if got := internalType(c.group, c.kind, c.several); got != c.want {
			t.Errorf("%s %s is %s, want %s", c.group, c.kind, got, c.want)
		}
	}
	if got := kindOf(Key{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"}); got != "NetworkPolicy" {
		t.Errorf("the kind of networkpolicies is %q", got)
	}
}

func TestFieldLabels(t *testing.T) {
	f := newFixture(t)
	for path, want := range map[string]string{
		"/api/v1/pods?fieldSelector=spec.host=x":                                          "",
		"/api/v1/pods?fieldSelector=spec.bogus=x":                                         "field label not supported: spec.bogus",
		"/api/v1/nodes?fieldSelector=metadata.namespace=x":                                "field label not supported: metadata.namespace",
		"/api/v1/namespaces/a/configmaps?fieldSelector=metadata.namespace!=x":             "",
		"/api/v1/namespaces/a/configmaps?fieldSelector=data=x":                            `"data" is not a known field selector: only "metadata.name", "metadata.namespace"`,
		"/apis/apps/v1/replicasets?fieldSelector=status.replicas=1":                       `"status.replicas" is not a known field selector: only "metadata.name", "metadata.namespace"`,
		"/apis/batch/v1/jobs?fieldSelector=spec.x=1":                                      `field label "spec.x" not supported for Job`,
		"/apis/resource.k8s.io/v1/resourceslices?fieldSelector=spec.x=1":                  "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: spec.x",
		"/apis/farm.example.com/v1/oxen?fieldSelector=spec.anything=x":                    "",
		"/apis/farm.example.com/v1/namespaces/a/oxen?fieldSelector=spec.colour=x&watch=1": "",
	} {
		err := f.checkFields(f.query(path))
		var s *apierrors.StatusError
		if got := ""; errors.As(err, &s) {
			if got = s.ErrStatus.Message; got != want || s.ErrStatus.Code != http.StatusBadRequest {
				t.Errorf("%s: %q, want %q", path, got, want)
			}
		} else if want != "" {
			t.Errorf("%s is not refused", path)
		}
	}
}

func TestADefinitionTellsWhatIsPrintedAndSelectedBy(t *testing.T) {
	f := newFixture(t)
	oxen := "/apis/farm.example.com/v1/namespaces/a/oxen"
	f.record(f.query(oxen), `{"apiVersion":"farm.example.com/v1","items":[{"apiVersion":"farm.example.com/v1","kind":"Ox","metadata":{"name":"x","namespace":"a","resourceVersion":"3"},"spec":{"colour":"red"}}],"kind":"OxList","metadata":{"continue":"","resourceVersion":"5"}}`)
	if code, body := f.ask(f.queryAs("app", "me", oxen, asTable)); code != 200 || !strings.Contains(body, `"cells":["x",null]`) {
		t.Errorf("without its definition: %d %s", code, body)
	}
	f.record(f.query("/apis/apiextensions.k8s.io/v1/customresourcedefinitions"),
		`{"kind":"CustomResourceDefinitionList","apiVersion":"apiextensions.k8s.io/v1","metadata":{"resourceVersion":"5"},"items":[{"metadata":{"name":"oxen.farm.example.com","resourceVersion":"4"},"spec":{"group":"farm.example.com","scope":"Namespaced","versions":[{"name":"v1","served":true,"storage":true,"selectableFields":[{"jsonPath":".spec.colour"}],"additionalPrinterColumns":[{"name":"Colour","type":"string","jsonPath":".spec.colour"}]}]}}]}`)
	if code, body := f.ask(f.queryAs("app", "me", oxen, asTable)); code != 200 || !strings.Contains(body, `"cells":["x","red"]`) {
		t.Errorf("%d %s", code, body)
	}
	if code, body := f.ask(f.query(oxen + "?fieldSelector=spec.colour=red")); code != 200 || !strings.Contains(body, `"name":"x"`) {
		t.Errorf("%d %s", code, body)
	}
	if code, message := f.ask(f.query(oxen + "?fieldSelector=spec.weight=1")); code != 400 || message != "field label not supported: spec.weight" {
		t.Errorf("%d %s", code, message)
	}
}
