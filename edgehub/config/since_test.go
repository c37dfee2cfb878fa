package config

import (
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
)

// TestSinceWhenAnAgentIsCached follows configurations, one a second.
func TestSinceWhenAnAgentIsCached(t *testing.T) {
	const inShop = `{"app": {"namespaces": {"shop": {}}}}`
	type ask struct {
		agent, namespace string
		want             int // the second, -1 for never
	}
	for _, test := range []struct {
		name    string
		configs []map[string]string
		asks    []ask
	}{
		{"listed for good", []map[string]string{{"cache_agents": "app"}, {"cache_agents": "app,b"}},
			[]ask{{"app", "shop", 0}, {"app", "", 0}, {"b", "", 1}, {"c", "", -1}, {"kubelet", "", 0}}},
		{"a break begins anew", []map[string]string{{"cache_agents": "app"}, {}, {"cache_agents": "app"}}, []ask{{"app", "shop", 2}}},
		{"a namespace, then everybody", []map[string]string{{"cache_agents": "app", "policies": inShop}, {"cache_agents": "app"}},
			[]ask{{"app", "shop", 0}, {"app", "till", 1}, {"app", "", 1}}},
		{"everybody, then a namespace", []map[string]string{{"cache_agents": "app"}, {"cache_agents": "app", "policies": inShop}},
			[]ask{{"app", "shop", 0}, {"app", "till", -1}}},
		{"every agent, then one", []map[string]string{{"cache_agents": "*"}, {"cache_agents": "app"}}, []ask{{"app", "shop", 0}, {"b", "", -1}}},
		{"one, then every agent", []map[string]string{{"cache_agents": "app"}, {"cache_agents": "*"}}, []ask{{"app", "shop", 0}, {"b", "", 1}}},
		{"one, every agent, none, every agent", []map[string]string{{"cache_agents": "app"}, {"cache_agents": "*"}, {}, {"cache_agents": "*"}},
			[]ask{{"app", "shop", 3}, {"b", "", 3}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			start := time.Unix(1000, 0)
			var a admissions
			var before hubconfig.Config
			for i, data := range test.configs {
				config, err := hubconfig.Parse(data)
				if err != nil {
					t.Fatal(err)
				}
				a = a.after(before, config, start.Add(time.Duration(i)*time.Second))
				before = config
			}
			for _, ask := range test.asks {
				want := start.Add(time.Duration(ask.want) * time.Second)
				if ask.want < 0 {
					want = time.Time{}
				}
				if got := a.since(ask.agent, ask.namespace); !got.Equal(want) {
					t.Errorf("%s of %q is cached since %v, want %v", ask.agent, ask.namespace, got, want)
				}
			}
		})
	}
}

func openState(t *testing.T, dir string) *Source {
	t.Helper()
	state, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { state.Close() })
	return Open(state, prometheus.NewRegistry())
}

// TestSinceOutlastsARestart, and so does the key relist.
func TestSinceOutlastsARestart(t *testing.T) {
	dir := t.TempDir()
	s := openState(t, dir)
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{ResourceVersion: "1"},
		Data:       map[string]string{"cache_agents": "app", "policies": `{"app": {"namespaces": {"shop": {}}}}`, "relist": `{"app": ["shop"]}`},
	}
	s.take(cm, func(hubconfig.Config) {})
	applied, first := s.Applied()
	if applied.IsZero() || !first.Equal(applied) || !s.Since("app", "shop").Equal(applied) {
		t.Fatalf("taken at %v, first at %v, app cached since %v", applied, first, s.Since("app", "shop"))
	}
	again := openState(t, dir)
	if now, first2 := again.Applied(); !now.Equal(applied) || !first2.Equal(first) || !again.Since("app", "shop").Equal(applied) {
		t.Errorf("after a restart: taken at %v, first at %v, app cached since %v; want %v", now, first2, again.Since("app", "shop"), applied)
	}
	if !again.Current().Relists("app", "shop") {
		t.Error("a restart forgets relist")
	}
	// The same content again, as each start reads it, changes nothing.
	again.take(cm, func(hubconfig.Config) { t.Error("nothing has changed") })
	if now, _ := again.Applied(); !now.Equal(applied) {
		t.Errorf("taken at %v by reading the same again", now)
	}
}

// TestStateOfAnOlderHub has no times: the file's own is as good.
func TestStateOfAnOlderHub(t *testing.T) {
	dir := t.TempDir()
	at := time.Now().Add(-time.Hour).Truncate(time.Second)
	if err := os.WriteFile(dir+"/"+lastGoodFile, []byte(`{"data":{"cache_agents":"app"},"resourceVersion":"7"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(dir+"/"+lastGoodFile, at, at); err != nil {
		t.Fatal(err)
	}
	s := openState(t, dir)
	if applied, first := s.Applied(); !applied.Equal(at) || !first.Equal(at) || !s.Since("app", "x").Equal(at) {
		t.Errorf("taken at %v, first at %v, app cached since %v; want %v", applied, first, s.Since("app", "x"), at)
	}
}
