// Package report writes this node's EdgeHubNode: what of the cache is ready for a
// restart without the cloud, for people and for the operator. Nothing waits for it.
package report

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// DefaultPeriod is the shortest time between two reports.
const DefaultPeriod = 30 * time.Second

// Everything else is as long as so many periods, or such a part of one.
const (
	// looks is how often it is looked for something to report.
	looks = 6
	// spread is within which part of it the hubs of a fleet report what has changed
	// for all of them in one moment, such as the configuration, or that the cloud
	// is back.
	spread = 3
	// driftPeriods is the shortest time between two reports if numbers alone have
	// changed a little, and the longest after which a failure is tried again.
	driftPeriods = 20
	// noNodePeriods is the same if the Node does not exist.
	noNodePeriods = 2
)

const (
	// checkPeriod is how often it is looked whether the EdgeHubNode still is what
	// was reported, and the longest time that one watch of it lasts.
	checkPeriod = 6 * time.Hour
	// outage is for how long the cloud must be out of reach for its return to be
	// a transition: about as long as a Node stays ready without its kubelet.
	outage     = 40 * time.Second
	timeout    = 20 * time.Second
	quietAfter = time.Minute // between two errors in the log
)

// Source is what is reported.
type Source interface {
	// State returns what the hub knows of itself. It is called every few seconds.
	State() State
}

// Options are a Reporter's settings.
type Options struct {
	Node   string // its name
	Source Source
	// Client sends requests as the hub, to kube-apiserver wherever it is.
	Client *http.Client
	// Online reports whether kube-apiserver can be reached.
	Online func() bool
	// Period is the shortest time between two reports, DefaultPeriod if zero.
	Period   time.Duration
	Registry prometheus.Registerer // nil for none
}

// Reporter reports.
type Reporter struct {
	options Options
	client  client

	last      *v1alpha1.EdgeHubNodeStatus // that was reported; nil if it is not known
	version   string                      // resourceVersion of the EdgeHubNode, "" if it is not known to be there
	watch     watching
	sent      time.Time     // when that was
	checked   time.Time     // when it was last known to be there
	due       time.Time     // when to report what has changed, zero if nothing has
	lost      time.Time     // when the cloud was lost, zero while it is there
	connected time.Time     // when it came back from an outage
	retry     time.Duration // after the next failure
	after     time.Time     // before that nothing is sent
	logged    time.Time

	reports, errors prometheus.Counter
	reported        prometheus.Gauge
}

// New returns a Reporter that has not reported yet.
func New(options Options) *Reporter {
	if options.Period == 0 {
		options.Period = DefaultPeriod
	}
	r := &Reporter{
		options: options, client: client{options.Client, options.Node},
		reports: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "edgehub_reports_total", Help: "Reports that were written to this node's EdgeHubNode.",
		}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "edgehub_report_errors_total", Help: "Reports that could not be written.",
		}),
		reported: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "edgehub_report_timestamp_seconds", Help: "When this process last wrote its node's EdgeHubNode, 0 if it has not.",
		}),
	}
	if options.Registry != nil {
		options.Registry.MustRegister(r.reports, r.errors, r.reported)
	}
	return r
}

// Run reports until ctx ends.
func (r *Reporter) Run(ctx context.Context) {
	ticker := time.NewTicker(r.options.Period / looks)
	defer ticker.Stop()
	defer r.watch.close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			r.look(ctx)
		}
	}
}

// look reports if it is time.
func (r *Reporter) look(ctx context.Context) {
	now := time.Now()
	if !r.options.Online() {
		if r.lost.IsZero() {
			r.lost = now
		}
		r.watch.close()
		return
	}
	if !r.lost.IsZero() {
		if now.Sub(r.lost) >= outage {
			r.connected = now
		}
		r.lost, r.due = time.Time{}, time.Time{}
		r.after, r.retry = now.Add(rand.N(r.options.Period/spread)), 0
		r.watch.after = now.Add(rand.N(2 * r.options.Period))
	}
	r.follow(ctx, now)
	if now.Before(r.after) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := r.check(ctx, now)
	if err == nil {
		err = r.report(ctx, now)
	}
	if err != nil && ctx.Err() != context.Canceled {
		r.failed(now, err)
	}
}

// check learns what was reported last, also by an earlier run.
func (r *Reporter) check(ctx context.Context, now time.Time) error {
	if r.last != nil && now.Sub(r.checked) < checkPeriod {
		return nil
	}
	node, err := r.client.get(ctx)
	if err != nil {
		return err
	}
	r.last, r.version, r.checked = &node.Status, node.ResourceVersion, now.Add(-rand.N(checkPeriod/4)) // not all hubs in one moment
	return nil
}

// report reports what has changed once it is due.
func (r *Reporter) report(ctx context.Context, now time.Time) error {
	state := r.options.Source.State()
	next := state.Status()
	earliest := r.sent.Add(r.options.Period)
	switch compare(r.last, &next) {
	case same:
		r.due = time.Time{}
		return nil
	case drift:
		if earliest = r.sent.Add(driftPeriods * r.options.Period); r.sent.IsZero() {
			earliest = r.checked.Add(driftPeriods * r.options.Period)
		}
	}
	if r.due.IsZero() {
		r.due = now.Add(rand.N(r.options.Period / spread))
	}
	if now.Before(r.due) || now.Before(earliest) {
		return nil
	}
	status := dated(r.last, &next, now, r.connected)
	version, err := r.client.apply(ctx, status)
	if err != nil {
		return err
	}
	if r.version == "" {
		r.version = version
	}
	r.last, r.sent, r.due, r.retry = status, now, time.Time{}, 0
	r.reports.Inc()
	r.reported.Set(float64(now.Unix()))
	return nil
}

func (r *Reporter) failed(now time.Time, err error) {
	r.errors.Inc()
	r.retry = min(max(2*r.retry, r.options.Period), driftPeriods*r.options.Period)
	if errors.Is(err, errNoNode) { // it is being made anew as a rule
		r.retry = min(r.retry, noNodePeriods*r.options.Period)
	}
	r.after = now.Add(r.retry/2 + rand.N(r.retry/2))
	if now.Sub(r.logged) < quietAfter {
		return
	}
	r.logged = now
	switch {
	case errors.Is(err, errNoNode):
		klog.InfoS("Nothing is reported yet", "reason", err, "node", r.options.Node)
	case apierrors.IsNotFound(err):
		klog.InfoS("Nothing is reported: the cluster has no EdgeHubNodes, which come with edge-hub-operator", "node", r.options.Node)
	default:
		klog.ErrorS(err, "Could not report", "node", r.options.Node)
	}
}
