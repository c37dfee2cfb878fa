package config

import (
	"context"
	"os"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
)

// start opens the configuration as a hub does that starts with this state.
func start(t *testing.T, state *os.Root) *Source {
	t.Helper()
	return Open(state, prometheus.NewRegistry())
}

func stateDirectory(t *testing.T) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func configMap(version string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: hubconfig.Namespace, Name: hubconfig.Name, ResourceVersion: version},
		Data:       data,
	}
}

const rules = `{"app": {"namespaces": {"shop": {"quota": 5, "secrets": "Deny"}}}}`

// TestRulesSurviveARebootWithoutCloud shows that an agent of a namespaced policy
// does not become everybody's when the hub starts from its last good copy.
func TestRulesSurviveARebootWithoutCloud(t *testing.T) {
	g := NewWithT(t)
	state := stateDirectory(t)
	before := start(t, state)
	before.take(configMap("7", map[string]string{"cache_agents": "app,hand", "policies": rules, "other": "not kept"}), func(hubconfig.Config) {})

	after := start(t, state)
	g.Expect(after.Current()).To(Equal(before.Current()))
	config := after.Current()
	g.Expect(config.Admits("app", "shop")).To(BeTrue())
	g.Expect(config.Admits("app", "till")).To(BeFalse())
	g.Expect(config.Admits("hand", "till")).To(BeTrue())
	g.Expect(config.Secrets("app", "shop")).To(Equal(hubconfig.DenySecrets))
	hash, known, problem := after.Status()
	g.Expect(hash).To(Equal(hubconfig.Hash(config)))
	g.Expect(known).To(BeTrue())
	g.Expect(problem).NotTo(HaveOccurred())
	kept, err := state.ReadFile(lastGoodFile)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(kept)).NotTo(ContainSubstring("not kept"))
}

// TestMalformedPoliciesKeepTheLastGoodConfiguration shows it for each key, while
// the hub runs and after it starts anew.
func TestMalformedPoliciesKeepTheLastGoodConfiguration(t *testing.T) {
	for name, data := range map[string]map[string]string{
		"policies":     {"cache_agents": "app,other", "policies": `{"app": {}}`},
		"cache_agents": {"cache_agents": "app,a/b", "policies": rules},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			state := stateDirectory(t)
			source := start(t, state)
			changes := 0
			changed := func(hubconfig.Config) { changes++ }
			source.take(configMap("1", map[string]string{"cache_agents": "app", "policies": rules}), changed)
			good := source.Current()

			source.take(configMap("2", data), changed)
			g.Expect(source.Current()).To(Equal(good))
			_, _, problem := source.Status()
			g.Expect(problem).To(MatchError(ContainSubstring("the last good configuration stays in use: " + name + ": ")))
			g.Expect(testutil.ToFloat64(source.invalid)).To(Equal(1.0))
			g.Expect(start(t, state).Current()).To(Equal(good))

			source.take(configMap("3", map[string]string{"cache_agents": "app", "policies": rules}), changed)
			_, _, problem = source.Status()
			g.Expect(problem).NotTo(HaveOccurred())
			g.Expect(testutil.ToFloat64(source.invalid)).To(BeZero())
			g.Expect(changes).To(Equal(1), "nothing new")
		})
	}
}

// TestAChangeOfRulesAlone shows that it is told and kept.
func TestAChangeOfRulesAlone(t *testing.T) {
	g := NewWithT(t)
	state := stateDirectory(t)
	source := start(t, state)
	var told []hubconfig.Config
	changed := func(config hubconfig.Config) { told = append(told, config) }
	source.take(configMap("1", map[string]string{"cache_agents": "app"}), changed)
	source.take(configMap("2", map[string]string{"cache_agents": "app", "policies": rules}), changed)
	g.Expect(told).To(HaveLen(2))
	g.Expect(told[0].Admits("app", "till")).To(BeTrue())
	g.Expect(told[1].Admits("app", "till")).To(BeFalse())
	g.Expect(start(t, state).Current()).To(Equal(told[1]))
}

// TestACopyOfAnOlderHub shows that a copy without rules is read.
func TestACopyOfAnOlderHub(t *testing.T) {
	g := NewWithT(t)
	state := stateDirectory(t)
	g.Expect(state.WriteFile(lastGoodFile, []byte(`{"data":{"cache_agents":"app"},"resourceVersion":"1"}`), 0o600)).To(Succeed())
	g.Expect(start(t, state).Current()).To(Equal(hubconfig.Config{Agents: []string{"app"}}))
}

// TestAConfigurationThatTheDiskDidNotTakeIsKeptLater shows it for a disk that was full
// in the moment of the change: a start without the cloud must not go back to the one
// before.
func TestAConfigurationThatTheDiskDidNotTakeIsKeptLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		state := stateDirectory(t)
		g.Expect(state.Mkdir(lastGoodFile, 0o700)).To(Succeed()) // no file can take its place
		source := start(t, state)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go source.Keep(ctx)
		source.take(configMap("1", map[string]string{"cache_agents": "app"}), func(hubconfig.Config) {})
		time.Sleep(keepRetry)
		synctest.Wait()
		g.Expect(start(t, state).Current().Agents).To(BeEmpty())

		g.Expect(state.Remove(lastGoodFile)).To(Succeed())
		time.Sleep(keepRetry)
		synctest.Wait()
		kept := start(t, state)
		g.Expect(kept.Current().Agents).To(Equal([]string{"app"}))
		g.Expect(kept.Since("app", "")).To(BeTemporally("==", source.Since("app", "")))

		g.Expect(state.Remove(lastGoodFile)).To(Succeed())
		time.Sleep(keepRetry)
		synctest.Wait()
		g.Expect(start(t, state).Current().Agents).To(BeEmpty(), "what is kept is not written again")
	})
}
