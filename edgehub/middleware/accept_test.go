package middleware

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/endpoints/request"
)

func TestCachedAgentsAreAnsweredInWhatCanBeRecorded(t *testing.T) {
	const pods, metrics, table = "/api/v1/pods", "/apis/metrics.k8s.io/v1beta1/pods", "application/json;as=Table;v=v1;g=meta.k8s.io"
	const partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	for name, tc := range map[string]struct{ path, accept, want string }{
		"nothing":             {pods, "", ""},
		"JSON":                {pods, "application/json", "application/json"},
		"a Table":             {pods, table + ",application/json", table + ",application/json"},
		"CBOR preferred":      {pods, "application/cbor;q=1, application/json;q=0.9", "application/json;q=0.9"},
		"CBOR of a watch":     {pods + "?watch=1", "application/cbor-seq, application/vnd.kubernetes.protobuf;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"},
		"YAML preferred":      {pods, "Application/YAML, Application/JSON;q=0.5", "Application/JSON;q=0.5"},
		"YAML or anything":    {pods, "application/yaml, */*", "application/yaml, */*"},
		"YAML alone":          {pods, "application/yaml", "application/yaml"},
		"CBOR alone":          {pods, "application/cbor", "application/cbor"},
		"protobuf preferred":  {pods, "application/vnd.kubernetes.protobuf,application/json", "application/vnd.kubernetes.protobuf,application/json"},
		"of another server":   {metrics, "application/vnd.kubernetes.protobuf, application/json", "application/json"},
		"that or nothing":     {metrics, "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"},
		"metadata alone":      {metrics, partial + ",application/json", partial + ",application/json"},
		"OpenAPI as protobuf": {"/openapi/v2", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf, application/json", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf, application/json"},
	} {
		r := httptest.NewRequest(http.MethodGet, tc.path, nil)
		for line := range strings.SplitSeq(tc.accept, ", ") { // a header may come in lines
			r.Header.Add("Accept", line)
		}
		group := ""
		if tc.path == metrics {
			group = "metrics.k8s.io"
		}
		askReadably(r, &request.RequestInfo{IsResourceRequest: !strings.HasPrefix(tc.path, "/openapi"), APIGroup: group})
		if got := strings.Join(r.Header.Values("Accept"), ", "); got != tc.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	r := httptest.NewRequest(http.MethodPost, pods, nil)
	r.Header.Set("Accept", "application/cbor, application/json")
	if askReadably(r, &request.RequestInfo{IsResourceRequest: true}); r.Header.Get("Accept") != "application/cbor, application/json" {
		t.Errorf("a write: %q", r.Header.Get("Accept"))
	}
	r = httptest.NewRequest(http.MethodGet, pods+"/x/proxy/", nil)
	r.Header.Set("Accept", "text/html, application/json")
	if askReadably(r, &request.RequestInfo{IsResourceRequest: true, Subresource: "proxy"}); r.Header.Get("Accept") != "text/html, application/json" {
		t.Errorf("of a Pod: %q", r.Header.Get("Accept"))
	}
}
