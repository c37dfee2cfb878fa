package attack

import (
	"net/url"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/edgehub-io/edge-hub/test/hub"
)

// expectSilence checks that neither the hub's log nor its metrics hold a text of
// the vault or a token.
func (w *world) expectSilence(v *vault, people []*person) {
	w.Helper()
	for where, text := range map[string]string{"the log": w.hub.SettledLogT(w.T), "the metrics": w.admin("/metrics")} {
		w.Expect(len(text)).To(BeNumerically(">", 1000), where)
		for canary, forms := range v.canaries {
			w.Expect(leaked(text, forms)).To(BeZero(), "%s holds %s", where, canary)
		}
		for _, p := range people {
			w.expectNoToken(where, text, p.token)
		}
	}
}

// expectNoToken checks that a text holds neither a token nor its signature.
func (w *world) expectNoToken(where, text, token string) {
	w.Helper()
	parts := strings.Split(token, ".")
	for _, part := range parts[len(parts)/2:] { // the header is the same in all
		w.Expect(part != "" && strings.Contains(text, part)).To(BeFalse(), "%s holds a token, its payload or its signature", where)
	}
}

// TestLogsAndMetricsHoldNoTokenNoSecretAndNoUnboundedUserAgent, whatever goes
// wrong, and at the highest verbosity.
func TestLogsAndMetricsHoldNoTokenNoSecretAndNoUnboundedUserAgent(t *testing.T) {
	w := newWorld(t)
	v := &vault{canaries: map[string][]string{}, served: map[string]map[string]bool{}}
	w.namespace("silence")
	token, subject := w.account("silence", "app")
	w.plant("silence", "s", v.newCanaries())
	w.grant("silence", "s", "", subject)
	w.startHub("edge-app", "-v=10")
	p := &person{name: "app", token: token, client: w.dial(), home: "silence"}
	tokens := []*person{p, {token: w.forge(token, nil)}, {token: robotToken}, {token: "opaque-token-nobody-knows"}, {token: token + "~"}}
	long := strings.Repeat("Zz9", 10_000)
	ask := func() {
		for _, q := range tokens {
			for _, path := range []string{"/api/v1/namespaces/silence/secrets", "/api/v1/namespaces/silence/secrets/s", "/api/v1/secrets?watch=1&timeoutSeconds=1"} {
				for _, accept := range []string{"", protobuf, asTable, "application/yaml"} {
					w.send(p.client, hub.Request{Path: path, Token: q.token, Accept: accept, UserAgent: "edge-app/1"})
				}
			}
		}
		for _, q := range tokens { // some programs take tokens in a URL
			w.send(p.client, hub.Request{Path: "/api/v1/namespaces/silence/services/x/proxy/?access_token=" + url.QueryEscape(q.token) + "&watch=1", Token: token, UserAgent: "edge-app/1"})
		}
		for _, agent := range []string{long, "a\x80b/1", "made-up-agent-1/x", "made-up-agent-2 " + long[:2000]} {
			w.send(p.client, hub.Request{Path: "/api/v1/namespaces/silence/secrets", Token: token, UserAgent: agent})
		}
		// A write whose body is a Secret, and one that is a token.
		for _, body := range []string{`{"kind":"Secret","apiVersion":"v1","metadata":{"name":"new"},"stringData":{"a":"written-secret"}}`, `{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","spec":{"token":"written-secret"}}`} {
			w.send(p.client, hub.Request{Method: "POST", Path: "/api/v1/namespaces/silence/secrets", Token: token, Body: body, Header: map[string][]string{"Content-Type": {"application/json"}}, UserAgent: "edge-app/1"})
		}
	}
	w.Eventually(func() int { return w.send(p.client, p.request(online[3], "secrets", "edge-app/1", p)).Code }).WithTimeout(time.Minute).Should(Equal(200))
	ask()
	w.loseCloud()
	ask()
	w.expectSilence(v, tokens)
	log, metrics := w.hub.SettledLogT(w.T), w.admin("/metrics")
	w.Expect(log).To(ContainSubstring("/api/v1/namespaces/silence/secrets"))
	w.Expect(log).NotTo(ContainSubstring("written-secret"))
	w.Expect(log).NotTo(ContainSubstring(strings.Repeat("Zz9", 500)), "a User-Agent is cut")
	for line := range strings.Lines(log) {
		w.Expect(len(line)).To(BeNumerically("<", 8<<10), "a line of the log is bounded: %.200s", line)
	}
	for _, text := range []string{"made-up-agent", "Zz9", "written-secret"} {
		w.Expect(metrics).NotTo(ContainSubstring(text))
	}
}
