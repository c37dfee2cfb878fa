package server

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/edgehub-io/edge-hub/edgehub/cache"
	"github.com/edgehub-io/edge-hub/edgehub/certificates"
	"github.com/edgehub-io/edge-hub/edgehub/config"
	"github.com/edgehub-io/edge-hub/edgehub/identity"
	"github.com/edgehub-io/edge-hub/edgehub/seal"
	"github.com/edgehub-io/edge-hub/edgehub/upstream"
)

// admin serves health, readiness and metrics, on an address that only the node
// itself reaches.
type admin struct {
	config   *config.Source
	identity *identity.Authenticator
	upstream *upstream.Upstream
	store    *cache.Store
	sealKey  *seal.Key
	registry *prometheus.Registry
	profile  bool

	certificates *certificates.Manager // nil if they come from files
}

func (a *admin) handler() http.Handler {
	a.register()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", a.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{}))
	if a.profile {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// readyz says whether the hub does its work, which it also does without a
// cloud. The lines that begin with [!] are what an operator should look at.
func (a *admin) readyz(w http.ResponseWriter, _ *http.Request) {
	var b strings.Builder
	line := func(good bool, name, detail string) {
		mark := "[+]"
		if !good {
			mark = "[!]"
		}
		fmt.Fprintf(&b, "%s%s %s\n", mark, name, detail)
	}
	for _, s := range a.upstream.Status() {
		detail := "ok"
		if !s.Up {
			detail = "unreachable: " + s.Error
		}
		line(s.Up, "upstream/"+s.Server, detail)
	}
	hash, known, problem := a.config.Status()
	switch {
	case problem != nil:
		line(false, "config", problem.Error())
	case !known:
		line(false, "config", "none yet, neither from the cloud nor from an earlier run")
	default:
		line(true, "config", hash)
	}
	issuer, keys := a.identity.Issuer()
	if keys == 0 {
		line(false, "identity", "issuer keys are not known yet: offline, only tokens seen online are recognised")
	} else {
		line(true, "identity", fmt.Sprintf("%d keys of %s", keys, issuer))
	}
	cacheLine(a.store.Status(), line)
	if a.sealKey == nil {
		line(false, "secrets", "not cached: there is no key to seal them with, see the log")
	} else {
		line(true, "secrets", "sealed with "+a.sealKey.Origin())
	}
	if a.certificates != nil {
		for _, s := range a.certificates.Status() {
			switch {
			case s.Problem != nil:
				line(false, "certificate/"+s.Name, s.Problem.Error())
			case s.NotAfter.IsZero():
				line(false, "certificate/"+s.Name, "none yet")
			default:
				line(true, "certificate/"+s.Name, "until "+s.NotAfter.UTC().Format(time.RFC3339))
			}
		}
	}
	b.WriteString("ready\n")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(b.String()))
}

// cacheLine tells whether what is delivered is also kept.
func cacheLine(status cache.Status, line func(good bool, name, detail string)) {
	notKept, reasons := 0, []string{}
	for _, reason := range slices.Sorted(maps.Keys(status.NotKept)) {
		notKept += status.NotKept[reason]
		reasons = append(reasons, fmt.Sprintf("%s: %d", reason, status.NotKept[reason]))
	}
	switch {
	case status.Disk != nil:
		line(false, "cache", fmt.Sprintf("%v since %s; %d views not kept", status.Disk.Err, status.Disk.Since.UTC().Format(time.RFC3339), notKept))
	case notKept > 0:
		line(false, "cache", fmt.Sprintf("%d views not kept as they should be (%s)", notKept, strings.Join(reasons, ", ")))
	default:
		quota := "no quota"
		if status.Quota > 0 {
			quota = "a quota of " + resource.NewQuantity(status.Quota, resource.BinarySI).String()
		}
		line(true, "cache", fmt.Sprintf("%d views, %d bytes, %s", status.Views, status.Bytes, quota))
	}
}

func (a *admin) register() {
	gauge := func(name, help string, value func() float64) {
		a.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("edgehub_upstream_up", "1 while a kube-apiserver endpoint answers.", func() float64 {
		if a.upstream.Up() {
			return 1
		}
		return 0
	})
	gauge("edgehub_offline_seconds", "For how long no kube-apiserver endpoint has answered, 0 while one does.", func() float64 {
		return a.upstream.DownFor().Truncate(time.Millisecond).Seconds()
	})
	a.registry.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "edgehub_upstream_losses_total",
			Help: "How often the last kube-apiserver endpoint that answered was lost.",
		}, func() float64 { return float64(a.upstream.Failovers()) }),
		// By its process_start_time_seconds edge-hub install tells a new hub from the old one.
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
}
