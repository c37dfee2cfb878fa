// Package config follows the ConfigMap kube-system/edge-hub-cfg and keeps its
// last good content on disk, for a start without the cloud.
package config

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/edgehub/journal"
)

const (
	// lastGoodFile is below the state directory.
	lastGoodFile = "edge-hub-cfg.json"
	// keepRetry is how long after a failure it is tried again to write it.
	keepRetry = 30 * time.Second
)

// lastGood is the content of lastGoodFile.
type lastGood struct {
	Data            map[string]string `json:"data"`
	ResourceVersion string            `json:"resourceVersion"`
	// Applied is when this hub took it, and Admissions since when what it says to
	// cache is cached. A hub that did not keep them left neither.
	Applied    time.Time   `json:"applied,omitzero"`
	Admissions *admissions `json:"admissions,omitempty"`
}

// Source is the hub's configuration as it changes.
type Source struct {
	state *os.Root

	mu      sync.Mutex
	current hubconfig.Config
	version string // the ConfigMap's resourceVersion
	known   bool   // current came from the cloud or the disk
	problem error  // why the ConfigMap's present content is not current

	keeping sync.Mutex // one write of lastGoodFile at a time
	unkept  *lastGood  // what it does not have yet, nil if it has current

	started    time.Time
	appliedAt  time.Time // when current was taken, zero if none was
	admissions admissions

	invalid prometheus.Gauge
}

// Open returns the configuration that an earlier run kept in the state
// directory. If it can't be read there is none until the cloud gives one.
func Open(state *os.Root, registry prometheus.Registerer) *Source {
	s := &Source{
		state:   state,
		started: time.Now(),
		invalid: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "edgehub_config_invalid",
			Help: "1 while the content of ConfigMap kube-system/edge-hub-cfg is refused and the last good one is in use.",
		}),
	}
	registry.MustRegister(s.invalid, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "edgehub_config_applied_timestamp_seconds",
		Help: "When this node took the configuration in use from the cloud, 0 if there is none.",
	}, func() float64 {
		if at, _ := s.Applied(); !at.IsZero() {
			return float64(at.UnixMilli()) / 1000
		}
		return 0
	}))
	b, err := state.ReadFile(lastGoodFile)
	if errors.Is(err, fs.ErrNotExist) {
		return s
	}
	var kept lastGood
	if err == nil {
		err = json.Unmarshal(b, &kept)
	}
	if err == nil {
		s.current, err = hubconfig.Parse(kept.Data)
	}
	if err != nil {
		klog.ErrorS(err, "Ignoring the kept configuration", "file", lastGoodFile)
		return s
	}
	s.version, s.known = kept.ResourceVersion, true
	s.appliedAt = kept.Applied
	if kept.Admissions != nil {
		s.admissions = *kept.Admissions
		return s
	}
	// It was written when the configuration last changed, so what it says to
	// cache is cached since then at the latest.
	s.appliedAt = s.started
	if info, err := state.Stat(lastGoodFile); err == nil {
		s.appliedAt = info.ModTime()
	}
	s.admissions = s.admissions.after(hubconfig.Config{}, s.current, s.appliedAt)
	return s
}

// Applied returns when this node took the configuration in use, and when a hub first
// took one on it; zero if there was none.
func (s *Source) Applied() (current, first time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.appliedAt, s.admissions.Hub
}

// Since returns since when what a caller reads as agent is cached on this node
// without a break, across restarts of the hub. namespace is that of the caller's
// ServiceAccount, "" if it is none.
func (s *Source) Since(agent, namespace string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if since := s.admissions.since(agent, namespace); !since.IsZero() {
		return since
	}
	return s.started // what is always cached is so without a configuration
}

// Current returns the configuration in use.
func (s *Source) Current() hubconfig.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// Caches reports whether an agent is to be cached, for some callers at least.
func (s *Source) Caches(agent string) bool { return s.Current().Caches(agent) }

// Status describes where the configuration stands, and what is wrong with the
// ConfigMap, if anything.
func (s *Source) Status() (hash string, known bool, problem error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return hubconfig.Hash(s.current), s.known, s.problem
}

// Run follows the ConfigMap through client until ctx ends. changed is called
// with each new configuration, one at a time.
func (s *Source) Run(ctx context.Context, client rest.Interface, changed func(hubconfig.Config)) {
	lw := cache.NewListWatchFromClient(client, "configmaps", hubconfig.Namespace,
		fields.OneTermEqualSelector("metadata.name", hubconfig.Name))
	take := func(obj any) {
		if cm, ok := obj.(*corev1.ConfigMap); ok {
			s.take(cm, changed)
		}
	}
	var store cache.Store
	store, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw,
		ObjectType:    &corev1.ConfigMap{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    take,
			UpdateFunc: func(_, obj any) { take(obj) },
			DeleteFunc: func(any) { s.missing(store) },
		},
	})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { // it may have been deleted while nobody followed it
		if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			s.missing(store)
		}
	})
	informer.RunWithContext(ctx)
}

// take judges the ConfigMap's content. What is malformed changes nothing.
func (s *Source) take(cm *corev1.ConfigMap, changed func(hubconfig.Config)) {
	config, err := hubconfig.Parse(cm.Data)
	s.mu.Lock()
	if err != nil {
		s.problem = fmt.Errorf("ConfigMap %s/%s is malformed, the last good configuration stays in use: %w", cm.Namespace, cm.Name, err)
		s.invalid.Set(1)
		s.mu.Unlock()
		klog.ErrorS(err, "ConfigMap is malformed, the last good configuration stays in use", "configMap", klog.KObj(cm), "resourceVersion", cm.ResourceVersion)
		return
	}
	same := s.known && config.Equal(s.current)
	if !same {
		s.appliedAt = time.Now()
		s.admissions = s.admissions.after(s.current, config, s.appliedAt)
	}
	s.current, s.version, s.known, s.problem = config, cm.ResourceVersion, true, nil
	s.invalid.Set(0)
	if same {
		s.mu.Unlock()
		return
	}
	admissions := s.admissions
	s.unkept = &lastGood{Data: dataOf(cm), ResourceVersion: cm.ResourceVersion, Applied: s.appliedAt, Admissions: &admissions}
	s.mu.Unlock()
	klog.InfoS("Configuration changed", "agents", config.Agents, "all", config.All, "rules", len(config.Rules),
		"hash", hubconfig.Hash(config), "resourceVersion", cm.ResourceVersion)
	s.keep()
	changed(config)
}

// missing keeps the configuration in use if the ConfigMap is not in store: one that is
// deleted and made anew must not cost every node its cache. To end caching, empty
// cache_agents.
func (s *Source) missing(store cache.Store) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(store.ListKeys()) > 0 {
		return // it was taken, or waits for mu to be
	}
	s.problem = nil
	s.invalid.Set(0)
	if !s.known {
		return // there was none yet
	}
	s.problem = fmt.Errorf("ConfigMap %s/%s was deleted, the last good configuration stays in use; to cache nothing set %s to \"\"",
		hubconfig.Namespace, hubconfig.Name, hubconfig.KeyCacheAgents)
	klog.ErrorS(s.problem, "Configuration is missing")
}

// dataOf is what of the ConfigMap is kept.
func dataOf(cm *corev1.ConfigMap) map[string]string {
	// All or none: agents without their rules would be cached for every caller.
	data := map[string]string{}
	for _, key := range []string{hubconfig.KeyCacheAgents, hubconfig.KeyPolicies, hubconfig.KeyRelist} {
		if value, found := cm.Data[key]; found {
			data[key] = value
		}
	}
	return data
}

// keep writes the configuration to disk, unless it is there.
func (s *Source) keep() {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	s.mu.Lock()
	kept := s.unkept
	s.mu.Unlock()
	if kept == nil {
		return
	}
	b, err := json.Marshal(kept)
	if err == nil {
		err = journal.WriteFile(s.state, lastGoodFile, b)
	}
	if err != nil {
		klog.ErrorS(err, "Could not keep the configuration for a start without the cloud")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unkept == kept {
		s.unkept = nil
	}
}

// Keep tries again, until ctx ends, to write what the disk did not take: else a start
// without the cloud would go back to the configuration before.
func (s *Source) Keep(ctx context.Context) {
	ticker := time.NewTicker(keepRetry)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.keep()
		}
	}
}

// Client returns a client for ConfigMaps over a connection that is made by
// transport. It knows no other kinds, which keeps the program small.
func Client(config *rest.Config, client *http.Client) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	gv := corev1.SchemeGroupVersion
	scheme.AddKnownTypes(gv, &corev1.ConfigMap{}, &corev1.ConfigMapList{})
	metav1.AddToGroupVersion(scheme, gv)
	c := rest.CopyConfig(config)
	c.APIPath, c.GroupVersion = "/api", &gv
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	return rest.RESTClientForConfigAndClient(c, client)
}
