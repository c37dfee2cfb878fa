package cache

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

const (
	apiServices    = "/apis/apiregistration.k8s.io/v1/apiservices"
	apiServiceHead = `{"kind":"APIService","apiVersion":"apiregistration.k8s.io/v1",`
)

// samples are APIServices in JSON, without kind, and in protobuf, as k8s.io/kube-aggregator
// writes them.
var samples = map[string][2]string{
	"v1.": {
		`"metadata":{"name":"v1.","resourceVersion":"4"},"spec":{"version":"v1","groupPriorityMinimum":18000,"versionPriority":1},"status":{}}`,
		`ChQKA3YxLhIAGgAiACoAMgE0OABCABIOEgAaAnYxIAA40IwBQAEaAA==`,
	},
	"v1beta1.metrics.k8s.io": {
		`"metadata":{"name":"v1beta1.metrics.k8s.io","uid":"u","resourceVersion":"3","creationTimestamp":"2026-01-02T03:04:05Z","labels":{"l":"v"}},"spec":{"service":{"namespace":"kube-system","name":"metrics-server","port":443},"group":"metrics.k8s.io","version":"v1beta1","insecureSkipTLSVerify":true,"caBundle":"eA==","groupPriorityMinimum":100,"versionPriority":30},"status":{"conditions":[{"type":"Available","status":"True","lastTransitionTime":"2026-01-02T03:04:06Z","reason":"Passed","message":"all checks passed"}]}}`,
		`CjgKFnYxYmV0YTEubWV0cmljcy5rOHMuaW8SABoAIgAqAXUyATM4AEIICKXr3MoGEABaBgoBbBIBdhJECiAKC2t1YmUtc3lzdGVtEg5tZXRyaWNzLXNlcnZlchi7AxIObWV0cmljcy5rOHMuaW8aB3YxYmV0YTEgASoBeDhkQB4aOAo2CglBdmFpbGFibGUSBFRydWUaCAim69zKBhAAIgZQYXNzZWQqEWFsbCBjaGVja3MgcGFzc2Vk`,
	},
}

func TestAPIServicesAreAnsweredInEitherEncoding(t *testing.T) {
	meta := capture.ListMeta{Kind: "APIServiceList", APIVersion: "apiregistration.k8s.io/v1", ResourceVersion: "10"}
	var inJSON []string // the items of a list
	var raws [][]byte
	for _, name := range []string{"v1.", "v1beta1.metrics.k8s.io"} {
		raw, err := base64.StdEncoding.DecodeString(samples[name][1])
		if err != nil {
			t.Fatal(err)
		}
		raws = append(raws, raw)
		inJSON = append(inJSON, "{"+samples[name][0])
	}
	listJSON := `{"kind":"APIServiceList","apiVersion":"apiregistration.k8s.io/v1","metadata":{"resourceVersion":"10"},"items":[` + strings.Join(inJSON, ",") + "]}\n"
	listProtobuf, err := capture.AppendListHead(nil, capture.Protobuf, meta, capture.ListItemSize(len(raws[0]))+capture.ListItemSize(len(raws[1])))
	for i, raw := range raws {
		if err == nil {
			listProtobuf, err = capture.AppendListItem(listProtobuf, capture.Protobuf, raw, i == 0)
		}
	}
	if err == nil {
		listProtobuf, err = capture.AppendListTail(listProtobuf, capture.Protobuf, meta)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, recorded := range []string{typeJSON, typeProtobuf} {
		f := newFixture(t)
		body := []byte(listJSON)
		if recorded == typeProtobuf {
			body = listProtobuf
		}
		q := f.queryAs("app", "me", apiServices, recorded)
		resp := answerOf(http.StatusOK, bytes.NewReader(body))
		resp.Header.Set("Content-Type", recorded)
		rc := f.Record(q, resp)
		_, _ = io.Copy(io.Discard, rc)
		rc.Close()
		f.settle(q)
		want := map[string]string{typeJSON: listJSON, typeProtobuf: string(listProtobuf)}
		for accept, want := range want {
			if code, got := f.ask(f.queryAs("app", "me", apiServices, accept)); code != http.StatusOK || got != want {
				t.Errorf("recorded as %s, asked for as %s: %d\n%q\nwant:\n%q", recorded, accept, code, got, want)
			}
		}
		for i, name := range []string{"v1.", "v1beta1.metrics.k8s.io"} {
			want := map[string]string{
				typeJSON:     apiServiceHead + samples[name][0] + "\n",
				typeProtobuf: string(capture.AppendEnvelope(nil, raws[i], meta.APIVersion, "APIService")),
			}
			for accept, want := range want {
				if code, got := f.ask(f.queryAs("app", "me", apiServices+"/"+name, accept)); code != http.StatusOK || got != want {
					t.Errorf("%s recorded as %s, asked for as %s: %d\n%q\nwant:\n%q", name, recorded, accept, code, got, want)
				}
			}
		}
		if code, _ := f.ask(f.queryAs("app", "me", apiServices+"?watch=1&resourceVersion=0", typeProtobuf)); code != http.StatusOK {
			t.Errorf("recorded as %s, watched in protobuf: %d", recorded, code)
		}
	}
}

// TestAPIServicesOfAWatchListMakeAList as kube-apiserver writes it: it has a type of them.
func TestAPIServicesOfAWatchListMakeAList(t *testing.T) {
	f := newFixture(t)
	s := f.stream(f.query(apiServices + watchList))
	s.send(`{"type":"ADDED","object":`+apiServiceHead+samples["v1."][0]+`}`,
		`{"type":"BOOKMARK","object":`+apiServiceHead+`"metadata":{"resourceVersion":"10","annotations":{"k8s.io/initial-events-end":"true"}},"spec":{"groupPriorityMinimum":0,"versionPriority":0},"status":{}}}`)
	s.end()
	want := `{"kind":"APIServiceList","apiVersion":"apiregistration.k8s.io/v1","metadata":{"resourceVersion":"10"},"items":[{` + samples["v1."][0] + "]}\n"
	if code, got := f.ask(f.query(apiServices)); code != http.StatusOK || got != want {
		t.Errorf("%d\n%s\nwant:\n%s", code, got, want)
	}
	_, events := f.ask(f.query(apiServices + watchList))
	if end := `"spec":{"groupPriorityMinimum":0,"versionPriority":0},"status":{}}}`; !strings.HasSuffix(events, end+"\n") {
		t.Errorf("the bookmark is %s", events)
	}
}
