package attack

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/edgehub-io/edge-hub/test/cluster"
	"github.com/edgehub-io/edge-hub/test/hub"
)

// TestExpiredTokensPassOfflineAloneWithinTheGrace that --expired-token-grace gives,
// and nothing else about them is forgiven.
func TestExpiredTokensPassOfflineAloneWithinTheGrace(t *testing.T) {
	w := newWorld(t)
	w.namespace("grace")
	good, subject := w.account("grace", "app")
	w.grant("grace", "reader", "", subject)
	gone := w.podToken("grace", "gone", "app")
	elsewhere, err := w.cluster.Token(t.Context(), "grace", "app", cluster.WithAudiences("vault"))
	w.Expect(err).NotTo(HaveOccurred())
	w.startHub("edge-app", "--expired-token-grace=1h")
	client, kubelet := w.dial(), w.dial(w.certificate("system:node:"+hub.NodeName, "system:nodes"))
	ask := func(token string) int {
		return w.send(client, hub.Request{Path: "/api/v1/namespaces/grace/secrets", Token: token, UserAgent: "edge-app/1"}).Code
	}
	pods := func() string {
		return string(w.send(kubelet, hub.Request{Path: "/api/v1/pods?fieldSelector=spec.nodeName%3D" + hub.NodeName, UserAgent: "kubelet/v1.37.2"}).Body)
	}
	// What follows "expired" is when, and what else is wrong.
	expired := func(like string, ago time.Duration) string {
		return w.mint(like, map[string]any{"exp": time.Now().Add(-ago).Unix(), "jti": like[len(like)-8:] + ago.String()})
	}
	w.Eventually(func() int { return ask(good) }).Should(Equal(http.StatusOK))
	w.Eventually(pods).Should(ContainSubstring(`"name":"gone"`))
	w.deletePod("grace", "gone")
	w.Eventually(pods).ShouldNot(ContainSubstring(`"name":"gone"`))
	presented := expired(good, 10*time.Minute)
	w.Expect(ask(presented)).To(Equal(http.StatusUnauthorized), "online kube-apiserver decides")

	w.loseCloud()
	w.Expect(ask(good)).To(Equal(http.StatusOK))
	graced := expired(good, 30*time.Minute)
	w.Expect(ask(graced)).To(Equal(http.StatusOK), "expired within the grace")
	w.Expect(ask(graced)).To(Equal(http.StatusOK), "and once more")
	w.expectAudit(graced)
	for name, token := range map[string]string{
		"expired before the grace":                      expired(good, 70*time.Minute),
		"expired, and forged":                           w.forge(good, map[string]any{"exp": time.Now().Add(-30 * time.Minute).Unix()}),
		"expired, for another audience":                 expired(elsewhere, 30*time.Minute),
		"expired, of a Pod that was deleted":            expired(gone, 30*time.Minute),
		"expired, and refused by kube-apiserver before": presented,
		"opaque": "an-opaque-token-nobody-has-seen",
	} {
		t.Run(name, func(t *testing.T) {
			if code := ask(token); code != http.StatusUnauthorized {
				t.Errorf("it is answered with %d", code)
			}
		})
	}
	w.Expect(w.admin("/metrics")).To(MatchRegexp(`edgehub_authentication_expired_tokens_total\{result="refused"\} [1-9]`))

	// Three hours later the clock is set back by as much.
	w.Expect(w.hub.Stop()).To(Succeed())
	file := filepath.Join(w.hub.Dir, "state", "identity", "clock.json")
	var state map[string]any
	data, err := os.ReadFile(file)
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(json.Unmarshal(data, &state)).To(Succeed())
	w.Expect(state).To(HaveKey("time"))
	state["time"] = time.Now().Add(3 * time.Hour).UTC()
	data, err = json.Marshal(state)
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(os.WriteFile(file, data, 0o600)).To(Succeed())
	w.Expect(w.hub.Start(t.Context())).To(Succeed())
	w.Eventually(w.ready).Should(ContainSubstring("[!]upstream/"))
	w.Expect(ask(graced)).To(Equal(http.StatusUnauthorized), "the grace has passed")

	// The cloud knows the time, and decides again.
	w.Expect(w.link.Mend()).To(Succeed())
	w.Eventually(w.ready).Should(ContainSubstring("[+]upstream/"))
	w.Eventually(func() int { return ask(good) }).Should(Equal(http.StatusOK))
	w.Expect(ask(graced)).To(Equal(http.StatusUnauthorized), "the cloud is back")
	w.loseCloud()
	w.Expect(ask(good)).To(Equal(http.StatusOK))
	w.Expect(ask(graced)).To(Equal(http.StatusUnauthorized), "the cloud has refused it since")
}

// expectAudit checks that the log and the metrics tell of a token that was accepted
// though it had expired.
func (w *world) expectAudit(token string) {
	w.Helper()
	log := w.hub.SettledLogT(w.T)
	w.Expect(strings.Count(log, "Accepted an expired token")).To(Equal(1), "once a minute for an identity")
	w.Expect(log).To(ContainSubstring(`user="system:serviceaccount:grace:app"`))
	w.Expect(w.admin("/metrics")).To(ContainSubstring(`edgehub_authentication_expired_tokens_total{result="grace"} 2`))
	w.expectNoToken("the log", log, token)
}

// TestAGraceOfMoreThanADayIsRefused at the start, and says why.
func TestAGraceOfMoreThanADayIsRefused(t *testing.T) {
	w := newWorld(t)
	for _, grace := range []string{"24h1s", "-1s"} {
		h, err := hub.New(w.cluster, t.TempDir(), "--expired-token-grace="+grace)
		w.Expect(err).NotTo(HaveOccurred())
		err = h.Start(t.Context())
		w.Expect(err).To(MatchError(ContainSubstring("--expired-token-grace")), grace)
		w.Expect(err).To(MatchError(ContainSubstring("between 0, which refuses expired tokens, and 24h0m0s")), grace)
	}
}
