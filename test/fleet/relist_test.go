package fleet

import (
	"context"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/test/hub"
)

const (
	policies = `{"` + app + `": {"namespaces": {"` + namespace + `": {}}}}`
	relist   = `{"` + app + `": ["` + namespace + `"]}`

	relistSoon = "--relist-spread=5s"
)

// TestRelistWarmsTheCacheWithoutARestart: a program that listed before its agent was
// cached lists again through the cache when relist says so, and only then.
func TestRelistWarmsTheCacheWithoutARestart(t *testing.T) {
	w := newWorld(t, map[string]string{"cache_agents": ""}, relistSoon)
	running := w.program(w.hub.URL())

	// Cached, but nobody may end its watch.
	cached := map[string]string{"cache_agents": app, "policies": policies}
	w.configure(cached)
	w.awaitConfiguration(cached)
	w.Eventually(w.row).Should(Equal(v1alpha1.NodeAgentNotWarm))
	w.Consistently(w.row, 12*time.Second, time.Second).Should(Equal(v1alpha1.NodeAgentNotWarm), "longer than a relist waits")
	w.Expect(w.agent().Relists).To(BeZero())
	w.Expect(w.agent().Pods).To(HaveLen(1))

	cached["relist"] = relist
	w.configure(cached)
	w.Eventually(w.row).Should(Equal("true"))
	w.Expect(w.agent().Relists).To(Equal(int64(1)))
	w.Expect(w.agent().Objects).To(Equal(int64(3)))

	// The program goes on as if nothing had happened.
	w.configMap("later", "value")
	w.Eventually(running.has("later")).Should(BeTrue())
	w.Expect(running.store.ListKeys()).To(HaveLen(4))
	w.Eventually(func() int64 { return w.agent().Objects }, 90*time.Second).Should(Equal(int64(4)))
	w.Expect(w.agent().Relists).To(Equal(int64(1)))

	// And it would start without the cloud.
	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	running.end()
	w.Eventually(w.readyz).Should(ContainSubstring("[!]upstream/"))
	again := w.program(w.hub.URL())
	w.Expect(again.store.ListKeys()).To(ConsistOf("shop/cm-0", "shop/cm-1", "shop/cm-2", "shop/later"))
}

// TestRelistDoesNotKnowWhatWasReadOnce: a program that asked for discovery when it
// started would ask again, and an informer that lists again brings only its list.
func TestRelistDoesNotKnowWhatWasReadOnce(t *testing.T) {
	w := newWorld(t, map[string]string{"cache_agents": ""}, relistSoon)
	w.Expect(w.get("/apis")).To(Equal(200))
	w.program(w.hub.URL())
	w.configure(map[string]string{"cache_agents": app, "policies": policies, "relist": relist})
	w.Eventually(func() int64 {
		if agent := w.agent(); agent != nil {
			return agent.Objects
		}
		return 0
	}).Should(Equal(int64(3)))
	w.Expect(w.agent().Relists).To(Equal(int64(1)))
	w.Eventually(w.row).Should(Equal(v1alpha1.NodeAgentNotRestarted))
	w.Expect(w.agent().Message).To(ContainSubstring("discovery/%2Fapis"))
	w.Consistently(w.row, 3*time.Second, time.Second).Should(Equal(v1alpha1.NodeAgentNotRestarted))
}

// TestNobodyElseIsRelisted: not who has listed through the cache, not another agent,
// and nobody by a list that is too large to be kept more than once in a while.
func TestNobodyElseIsRelisted(t *testing.T) {
	w := newWorld(t, map[string]string{"cache_agents": "large-app,other-app", "policies": `{"large-app": {"namespaces": {"` + namespace + `": {"quota": 1024}}}}`}, relistSoon)
	// It began before its agent is cached.
	watch := func(agent string) <-chan string {
		list := w.send(hub.Request{Path: configMaps + "?limit=1", Token: w.token, UserAgent: agent})
		_, version, _ := strings.Cut(string(list.Body), `"resourceVersion":"`)
		version, _, _ = strings.Cut(version, `"`)
		return w.watchFrom(agent, version)
	}
	warm := w.program(w.hub.URL()) // not cached yet
	other := watch("other-app")
	data := map[string]string{
		"cache_agents": "large-app,other-app," + app,
		"policies":     `{"large-app": {"namespaces": {"` + namespace + `": {"quota": 1024}}}, "` + app + `": {"namespaces": {"` + namespace + `": {}}}}`,
		"relist":       `{"large-app": ["` + namespace + `"], "` + app + `": ["elsewhere"]}`,
	}
	w.configure(data)
	w.awaitConfiguration(data)
	w.Expect(w.send(hub.Request{Path: configMaps, Token: w.token, UserAgent: "large-app"}).Code).To(Equal(200))
	large := watch("large-app")
	w.Eventually(large).WithTimeout(30*time.Second).Should(Receive(BeEmpty()), "its watch ends, and breaks off nothing")
	second := watch("large-app")
	w.Eventually(second).WithTimeout(30*time.Second).Should(Receive(And(ContainSubstring(`"code":410`), ContainSubstring(`"reason":"Expired"`))), "once")
	third := watch("large-app")
	w.Consistently(third, 15*time.Second, time.Second).ShouldNot(Receive(), "not in a loop")
	w.Expect(other).NotTo(Receive())
	row := func(agent string) *v1alpha1.NodeAgent {
		for _, a := range w.node().Status.Agents {
			if a.Name == agent {
				return &a
			}
		}
		return &v1alpha1.NodeAgent{}
	}
	w.Eventually(func() string { return row("large-app").Reason }).Should(Equal(v1alpha1.NodeAgentTooLarge))
	w.Expect(row("large-app").Relists).To(Equal(int64(1)))
	w.Expect(row("other-app").Relists).To(BeZero())
	w.Expect(row(app).Reason).To(Equal(v1alpha1.NodeAgentNotWarm))
	w.Expect(row(app).Relists).To(BeZero())
	w.configMap("later", "value")
	w.Eventually(warm.has("later")).Should(BeTrue())
}

// watchFrom watches ConfigMaps, and tells what it was told once it ends.
func (w *world) watchFrom(agent, version string) <-chan string {
	w.Helper()
	ctx, cancel := context.WithCancel(w.Context())
	resp, err := hub.Open(ctx, w.http, w.hub.URL(), hub.Request{
		Path: configMaps + "?watch=true&resourceVersion=" + version, Token: w.token, UserAgent: agent,
	})
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(resp.StatusCode).To(Equal(200))
	told := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var b strings.Builder
		buf := make([]byte, 4096)
		for {
			n, err := resp.Body.Read(buf)
			b.Write(buf[:n])
			if err != nil {
				if err.Error() != "EOF" {
					b.WriteString(" broke off: " + err.Error())
				}
				told <- b.String()
				return
			}
		}
	}()
	w.Cleanup(func() { cancel(); <-done; resp.Body.Close() })
	return told
}
