package middleware

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestWithSafeHeaders(t *testing.T) {
	var seen http.Header
	h := WithSafeHeaders(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header.Clone() }))
	for name, c := range map[string]struct {
		change func(*http.Request)
		code   int
	}{
		"plain":                        {func(*http.Request) {}, 200},
		"upgrade":                      {func(r *http.Request) { r.Header.Set("Connection", "Upgrade") }, 200},
		"keep-alive":                   {func(r *http.Request) { r.Header.Set("Connection", "keep-alive, TE") }, 200},
		"Connection: Authorization":    {func(r *http.Request) { r.Header.Set("Connection", "Authorization") }, 400},
		"hidden in a list":             {func(r *http.Request) { r.Header["Connection"] = []string{"close", "keep-alive ,\taUTHORIZATION"} }, 400},
		"Connection: Impersonate-User": {func(r *http.Request) { r.Header.Set("Connection", "Impersonate-User") }, 400},
		"Connection: User-Agent":       {func(r *http.Request) { r.Header.Set("Connection", "User-Agent") }, 400},
		"two Authorization headers":    {func(r *http.Request) { r.Header["Authorization"] = []string{"Bearer a", "Bearer b"} }, 400},
		"two User-Agent headers":       {func(r *http.Request) { r.Header["User-Agent"] = []string{"a", "b"} }, 400},
		"absolute form":                {func(r *http.Request) { r.URL.Host = "evil.com" }, 400},
		"CONNECT":                      {func(r *http.Request) { r.Method = http.MethodConnect }, 400},
		"OPTIONS *":                    {func(r *http.Request) { r.Method, r.URL.Path = http.MethodOptions, "*" }, 400},
	} {
		t.Run(name, func(t *testing.T) {
			seen = nil
			r := httptest.NewRequest(http.MethodGet, "/api", nil)
			r.Header["X-Remote-User"] = []string{"admin"}
			r.Header["x-remote-group"] = []string{"system:masters"}
			r.Header["X-Remote-Extra-Scopes"] = []string{"all"}
			r.Header["X-Remotely"] = []string{"stays"}
			c.change(r)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != c.code || (seen != nil) != (c.code == 200) {
				t.Fatalf("code %d, passed on %v; want %d: %s", w.Code, seen != nil, c.code, w.Body)
			}
			for header := range seen {
				if strings.HasPrefix(strings.ToLower(header), "x-remote-") {
					t.Errorf("%s is passed on", header)
				}
			}
			if seen != nil && seen.Get("X-Remotely") != "stays" {
				t.Error("a header of another name is removed")
			}
		})
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"edge-app": "edge-app", "a\nI0101 forged": "a?I0101 forged", "\x1b[31mred": "?[31mred", "ü": "?",
		strings.Repeat("x", 2000): strings.Repeat("x", maxLogged) + "...",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q is logged as %q", in, got)
		}
	}
}

func TestOnlyKubernetesOwnOptionsAreLogged(t *testing.T) {
	for in, want := range map[string]string{
		"/api/v1/services/xxx": "/api/v1/services/xxx",
		"/api/v1/pods?watch=true&labelSelector=a%3Db&resourceVersion=5&limit=1": "/api/v1/pods?watch=true&labelSelector=a%3Db&resourceVersion=5&limit=1",
		"/api/v1/namespaces/a/services/b/proxy/?token=secret&watch=1":           "/api/v1/namespaces/a/services/b/proxy/?token=...&watch=1",
		"/x?access_token=secret;b=c":                                            "/x?access_token=...",
		"/x?limit=1;access_token=secret&watch=1":                                "/x?limit=...&watch=1",
		"/x?%74oken=secret":                                                     "/x?%74oken=...",
		"/x?a&b=":                                                               "/x?a&b=",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := uriOf(u); got != want {
			t.Errorf("%s is logged as %s", in, got)
		}
	}
}

func TestMetricLabelsAreBounded(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := NewMetrics(registry, func(agent string) bool { return agent == "edge-app" })
	for _, agent := range []string{"a", "b", "c", "edge-app"} {
		for _, resource := range []string{"x", "y", "z"} {
			m.Observe(&Exchange{Agent: agent, Verb: "get", Resource: resource, Code: 404, Source: sourceCloud})
			m.Observe(&Exchange{Agent: agent, Verb: agent + resource, Resource: "pods", Code: 200, Source: sourceCloud})
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if n := len(f.GetMetric()); n > 4 {
			t.Errorf("%s has %d series", f.GetName(), n)
		}
	}
}

func TestPanicBreaksOffTheResponse(t *testing.T) {
	for _, p := range []any{"bug", http.ErrAbortHandler} {
		s := httptest.NewServer(WithRecovery(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			panic(p)
		})))
		s.Config.ErrorLog = nil
		resp, err := http.Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := resp.Body.Read(make([]byte, 1)); err == nil || err.Error() == "EOF" {
			t.Errorf("panic(%v) ends the response with %v", p, err)
		}
		resp.Body.Close()
		s.Close()
	}
}
