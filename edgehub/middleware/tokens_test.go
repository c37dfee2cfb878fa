package middleware

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/seal"
	"github.com/edgehub-io/edge-hub/edgehub/status"
	"github.com/edgehub-io/edge-hub/edgehub/tokens"
)

// issued is kube-apiserver's answer: a token of shop/app until 2100.
const issued = `{"status":{"token":"e30.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6c2hvcDphcHAiLCJpYXQiOjEsImV4cCI6NDEwMjQ0NDgwMH0.sig"}}`

// TestATokenIsReplayedToTheNodeAlone, and only if kube-apiserver was not asked.
func TestATokenIsReplayedToTheNodeAlone(t *testing.T) {
	key, err := seal.NewKey([]byte(strings.Repeat("key", 20)))
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	kept := tokens.Open(tokens.Options{FS: journal.OS(root), Key: key, Now: time.Now})
	done := make(chan struct{})
	ctx := t.Context()
	go func() { defer close(done); kept.Run(ctx) }()
	defer func() { _ = kept.Close() }()

	const path = "/api/v1/namespaces/shop/serviceaccounts/app/token"
	ask := func(path, body string, node bool, answer http.HandlerFunc) *httptest.ResponseRecorder {
		var seen string
		next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			seen = string(b)
			answer(w, r)
		})
		isNode := func(*http.Request) bool { return node }
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
		WithRequestInfo(WithTokens(kept, isNode, WithFailingFast(isNode, next))).ServeHTTP(w, r)
		if seen != body {
			t.Errorf("%d bytes were passed on as %d", len(body), len(seen))
		}
		return w
	}
	created := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write([]byte(issued))
	}
	answer := func(code int, audit string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "5")
			if audit != "" {
				w.Header().Set("Audit-Id", audit)
			}
			w.WriteHeader(code)
			_, _ = w.Write([]byte("no"))
		}
	}
	down := func(w http.ResponseWriter, _ *http.Request) { status.Write(w, status.Unreachable("gone")) }

	if w := ask(path, "foreign", false, created); w.Code != 201 || w.Body.String() != issued {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := ask(path, "same", true, created); w.Code != 201 || w.Body.String() != issued {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for deadline := time.Now().Add(time.Minute); kept.Len() == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	for _, tc := range []struct {
		name, path, body string
		node             bool
		answer           http.HandlerFunc
		want             int
	}{
		{"the hub is offline", path, "same", true, down, 201},
		{"a gateway answers", path, "same", true, answer(502, ""), 201},
		{"nobody answers", path, "same", true, answer(504, ""), 201},
		{"kube-apiserver can't", path, "same", true, answer(503, "id"), 503},
		{"kube-apiserver refuses", path, "same", true, answer(403, "id"), 403},
		{"too many requests", path, "same", true, answer(429, ""), 429},
		{"not the node", path, "same", false, down, 503},
		{"what the node did not ask for", path, "foreign", true, down, 503},
		{"another request", path, "another", true, down, 503},
		{"another ServiceAccount", "/api/v1/namespaces/shop/serviceaccounts/other/token", "same", true, down, 503},
		{"not a TokenRequest", "/api/v1/namespaces/shop/pods", "same", true, down, 503},
		{"a body without end", path, strings.Repeat("x", 2*tokens.MaxBody), true, down, 503},
	} {
		w := ask(tc.path, tc.body, tc.node, tc.answer)
		if w.Code != tc.want || (w.Body.String() == issued) != (tc.want == 201) {
			t.Errorf("%s: %d %s", tc.name, w.Code, w.Body)
		}
		if tc.want == 201 && w.Header().Get("Retry-After") != "" {
			t.Errorf("%s: headers %v", tc.name, w.Header())
		}
	}
}

// TestTheNodesWritesFailFast: client-go would try them ten times.
func TestTheNodesWritesFailFast(t *testing.T) {
	down := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { status.Write(w, status.Unreachable("gone")) })
	full := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { status.Write(w, status.TooMany("max-requests")) })
	for _, tc := range []struct {
		method string
		node   bool
		next   http.Handler
		want   string
	}{
		{http.MethodPatch, true, down, ""},
		{http.MethodPut, true, down, ""},
		{http.MethodPost, true, full, "1"},
		{http.MethodGet, true, down, "5"},
		{http.MethodPatch, false, down, "5"},
	} {
		w := httptest.NewRecorder()
		WithFailingFast(func(*http.Request) bool { return tc.node }, tc.next).ServeHTTP(w, httptest.NewRequest(tc.method, "/", nil))
		if got := w.Header().Get("Retry-After"); got != tc.want {
			t.Errorf("%s, node %v: Retry-After %q, want %q", tc.method, tc.node, got, tc.want)
		}
	}
}
