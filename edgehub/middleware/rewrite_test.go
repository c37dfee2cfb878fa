package middleware

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/edgehub-io/edge-hub/edgehub/rewrite"
)

const service = `{"kind":"Service","apiVersion":"v1","metadata":{"name":"kubernetes","namespace":"default"},"spec":{"clusterIP":"10.96.0.1","ports":[{"port":443}]}}`

// TestWhatIsNotAnObjectIsPassedOn as it came, and what is one is rewritten.
func TestWhatIsRewrittenAndWhatIsPassedOn(t *testing.T) {
	zipped := func(s string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(s))
		_ = z.Close()
		return b.String()
	}
	for name, tc := range map[string]struct {
		accept, contentType, encoding, body string
		code                                int
		want                                bool
	}{
		"an object":  {"application/json", "application/json", "", service, 200, true},
		"compressed": {"application/json", "application/json", "gzip", zipped(service), 200, true},
		"a Table":    {"application/json;as=Table;v=v1;g=meta.k8s.io", "application/json", "", `{"kind":"Table"}`, 200, false},
		"an error":   {"application/json", "application/json", "", `{"kind":"Status","code":404}`, 404, false},
	} {
		next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h.Set("Content-Type", tc.contentType)
			h.Set("Content-Length", "999")
			if tc.encoding != "" {
				h.Set("Content-Encoding", tc.encoding)
			}
			w.WriteHeader(tc.code)
			for b := range strings.SplitSeq(tc.body, "") {
				_, _ = w.Write([]byte(b))
				_ = http.NewResponseController(w).Flush()
			}
		})
		endpoint := rewrite.Endpoint{AddrPort: netip.MustParseAddrPort("169.254.2.1:10268")}
		r := httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/default/services/kubernetes", nil)
		r.Header.Set("User-Agent", "kubelet/v1.37.2")
		r.Header.Set("Accept", tc.accept)
		w := httptest.NewRecorder()
		WithRequestInfo(WithRewrite(endpoint, func(*http.Request) bool { return true }, next)).ServeHTTP(w, r)
		if w.Code != tc.code {
			t.Errorf("%s: %d", name, w.Code)
		}
		if tc.want {
			if !strings.Contains(w.Body.String(), `"clusterIP":"169.254.2.1"`) || w.Header().Get("Content-Length") != "" || w.Header().Get("Content-Encoding") != "" {
				t.Errorf("%s: %v %s", name, w.Header(), w.Body)
			}
		} else if w.Body.String() != tc.body || w.Header().Get("Content-Length") != "999" {
			t.Errorf("%s: %v %s", name, w.Header(), w.Body)
		}
	}
}

// TestNothingIsPassedOnThatCannotBeRewritten: it would show kube-apiserver itself.
func TestNothingIsPassedOnThatCannotBeRewritten(t *testing.T) {
	const protobuf = "application/vnd.kubernetes.protobuf"
	for name, tc := range map[string]struct {
		agent, path, accept   string
		contentType, encoding string // of the answer
		asked                 string // what is accepted of kube-apiserver, "" if it is not asked
		code                  int
	}{
		"CBOR if possible":       {"kubelet", "/api/v1/services", "application/cbor;q=0.9, " + protobuf + ",application/json", "application/json", "", protobuf + ",application/json", 200},
		"CBOR last":              {"kubelet", "/api/v1/services?watch=1", protobuf + ";stream=watch,application/cbor-seq", "application/json", "", protobuf + ";stream=watch", 200},
		"CBOR only":              {"kube-proxy", "/apis/discovery.k8s.io/v1/endpointslices", "application/cbor", "", "", "", 406},
		"YAML only":              {"kubelet", "/api/v1/services", "application/yaml", "", "", "", 406},
		"anything":               {"kubelet", "/api/v1/services", "*/*", "application/json", "", "*/*", 200},
		"CBOR all the same":      {"kubelet", "/api/v1/services", "application/json", "application/cbor", "", "application/json", 500},
		"an odd encoding":        {"kubelet", "/api/v1/services", "application/json", "application/json", "br", "application/json", 500},
		"CBOR of another object": {"kubelet", "/api/v1/nodes", "application/cbor", "application/cbor", "", "application/cbor", 200},
		"CBOR for another":       {"edge-app", "/api/v1/services", "application/cbor", "application/cbor", "", "application/cbor", 200},
	} {
		asked := ""
		next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = strings.Join(r.Header.Values("Accept"), ",")
			w.Header().Set("Content-Type", tc.contentType)
			if tc.encoding != "" {
				w.Header().Set("Content-Encoding", tc.encoding)
			}
			if tc.code != http.StatusOK {
				if _, err := w.Write([]byte("10.96.0.1")); err == nil {
					t.Errorf("%s: more is taken", name)
				}
				return
			}
			_, _ = w.Write([]byte(`{"kind":"ServiceList","apiVersion":"v1","metadata":{},"items":[]}`))
		})
		endpoint := rewrite.Endpoint{AddrPort: netip.MustParseAddrPort("169.254.2.1:10268")}
		r := httptest.NewRequest(http.MethodGet, tc.path, nil)
		r.Header.Set("User-Agent", tc.agent+"/v1.37.2")
		for accept := range strings.SplitSeq(tc.accept, ", ") { // a header may come in lines
			r.Header.Add("Accept", accept)
		}
		w := httptest.NewRecorder()
		WithRequestInfo(WithRewrite(endpoint, func(*http.Request) bool { return true }, next)).ServeHTTP(w, r)
		if asked != tc.asked || w.Code != tc.code {
			t.Errorf("%s: %d, %q is asked for", name, w.Code, asked)
		}
		if tc.code != http.StatusOK && (!strings.Contains(w.Body.String(), `"kind":"Status"`) || strings.Contains(w.Body.String(), "10.96.0.1") || w.Header().Get("Content-Encoding") != "") {
			t.Errorf("%s: %v %s", name, w.Header(), w.Body)
		}
	}
}

// TestAnAnswerThatCannotBeRewrittenIsBroken off, so that its client does not take
// it for whole.
func TestAnAnswerThatCannotBeRewrittenIsBroken(t *testing.T) {
	for name, next := range map[string]http.HandlerFunc{
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(service[:50]))
		},
		"broken off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(service[:50]))
			panic(http.ErrAbortHandler)
		},
	} {
		r := httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/default/services/kubernetes", nil)
		r.Header.Set("User-Agent", "kubelet")
		endpoint := rewrite.Endpoint{AddrPort: netip.MustParseAddrPort("169.254.2.1:10268")}
		func() {
			defer func() {
				if got := recover(); got != http.ErrAbortHandler {
					t.Errorf("%s: panics with %v", name, got)
				}
			}()
			WithRequestInfo(WithRewrite(endpoint, func(*http.Request) bool { return true }, next)).ServeHTTP(httptest.NewRecorder(), r)
		}()
	}
}
