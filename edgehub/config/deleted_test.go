package config

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
)

// cloud is a kube-apiserver that has the ConfigMap or has not.
type cloud struct {
	mu      sync.Mutex
	current *corev1.ConfigMap
	changes chan event // of the one watch
}

type event struct {
	Type   string            `json:"type"`
	Object *corev1.ConfigMap `json:"object"`
}

// set changes the ConfigMap, and tells whoever watches. nil deletes it.
func (c *cloud) set(data map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change := event{"DELETED", c.current}
	c.current = nil
	if data != nil {
		c.current = configMap("7", data)
		c.current.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
		if change.Type = "MODIFIED"; change.Object == nil {
			change.Type = "ADDED"
		}
		change.Object = c.current
	}
	if c.changes != nil {
		c.changes <- change
	}
}

// ServeHTTP answers a watch that begins with what is there.
func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.FormValue("sendInitialEvents") != "true" {
		http.Error(w, "only a watch that begins with what is there", http.StatusNotImplemented)
		return
	}
	c.mu.Lock()
	current, changes := c.current, make(chan event, 1)
	c.changes = changes
	c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	if current != nil {
		_ = out.Encode(event{"ADDED", current})
	}
	end := configMap("7", nil)
	end.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
	end.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	_ = out.Encode(event{"BOOKMARK", end})
	for {
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case change := <-changes:
			_ = out.Encode(change)
		}
	}
}

// TestADeletedConfigMapIsTold, whether the hub follows it then or not.
func TestADeletedConfigMapIsTold(t *testing.T) {
	good, malformed := map[string]string{"cache_agents": "app"}, map[string]string{"cache_agents": "a/b"}
	for name, tc := range map[string]struct {
		kept, before, after map[string]string // nil if there is none
		want                string
		invalid             float64
	}{
		"while the hub is away":           {kept: good, want: "was deleted"},
		"while the hub follows it":        {before: good, want: "was deleted"},
		"malformed before":                {kept: good, before: malformed, want: "was deleted"},
		"there never was one":             {},
		"there never was a good one":      {before: malformed},
		"it is there":                     {kept: good, before: good, after: good},
		"it is there anew":                {kept: good, after: good},
		"it is there anew, and malformed": {kept: good, after: malformed, want: "is malformed", invalid: 1},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			state := stateDirectory(t)
			if tc.kept != nil {
				start(t, state).take(configMap("1", tc.kept), func(hubconfig.Config) {})
			}
			kube := &cloud{}
			if tc.before != nil {
				kube.set(tc.before)
			}
			server := httptest.NewServer(kube)
			defer server.Close()
			client, err := Client(&rest.Config{Host: server.URL}, server.Client())
			g.Expect(err).NotTo(HaveOccurred())
			source := start(t, state)
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				source.Run(ctx, client, func(hubconfig.Config) {})
			}()
			defer func() {
				stop()
				<-ended
			}()
			problem := func() string {
				if _, _, err := source.Status(); err != nil {
					return err.Error()
				}
				return ""
			}
			switch {
			case tc.before == nil && tc.kept != nil:
				g.Eventually(problem, 10*time.Second).Should(ContainSubstring("was deleted"))
			case tc.before != nil && tc.before["cache_agents"] == malformed["cache_agents"]:
				g.Eventually(problem, 10*time.Second).Should(ContainSubstring("is malformed"))
				g.Expect(testutil.ToFloat64(source.invalid)).To(Equal(1.0))
			case tc.before != nil:
				g.Eventually(func() []string { return source.Current().Agents }, 10*time.Second).Should(Equal([]string{"app"}))
			}
			if tc.before != nil || tc.after != nil {
				kube.set(tc.after)
			}
			if tc.want == "" {
				g.Eventually(problem, 10*time.Second).Should(BeEmpty())
			} else {
				g.Eventually(problem, 10*time.Second).Should(ContainSubstring(tc.want))
			}
			g.Expect(testutil.ToFloat64(source.invalid)).To(Equal(tc.invalid))
		})
	}
}
