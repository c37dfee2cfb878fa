// Package metrics counts what the operator sees at the moment it is asked: policies
// by what they wait for, Pods, nodes and agents. Nothing is labelled with the name
// of an object, so that the number of series does not grow with the cluster. What
// controllers do is counted where they do it, and by controller-runtime.
package metrics

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/fleet"
	"github.com/edgehub-io/edge-hub/controllers/policy"
)

// scrapeTimeout bounds how long a scrape waits for caches to fill.
const scrapeTimeout = 5 * time.Second

// Collector collects the metrics. It reads through a cache.
type Collector struct {
	reader client.Reader
	view   *fleet.View
	leads  <-chan struct{}

	policies, rollouts, pods, agents, nodes, configured, valid *prometheus.Desc
}

// NewCollector returns a Collector, which collects nothing before leads is closed:
// of several operators the leader alone tells, or sums would count everything twice.
func NewCollector(cached client.Reader, view *fleet.View, leads <-chan struct{}) *Collector {
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("edgehub_operator_"+name, help, labels, nil)
	}
	return &Collector{
		reader: cached, view: view, leads: leads,
		policies:   describe("policies", "EdgeHubPolicies by the status of each of their conditions.", "condition", "status"),
		rollouts:   describe("rollouts", "EdgeHubPolicies by the reason of their condition RestartsComplete: how far restarts are, or what they wait for.", "reason"),
		pods:       describe("pods", "Pods that EdgeHubPolicies are about, by state; one of several policies is counted for each, and one may be in several states.", "state"),
		agents:     describe("agents", "Agents in kube-system/edge-hub-cfg, by whether policies or people listed them.", "origin"),
		nodes:      describe("nodes", "Nodes with a hub, by whether they can be reached and whether their Pods would start without the cloud.", "reachable", "offline_ready"),
		configured: describe("nodes_configured", "Nodes whose hub works with the configuration in force."),
		valid:      describe("config_valid", "1 if kube-system/edge-hub-cfg can be read, 0 if a person has to correct it."),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{c.policies, c.rollouts, c.pods, c.agents, c.nodes, c.configured, c.valid} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector. What cannot be read is logged and left
// out.
func (c *Collector) Collect(metrics chan<- prometheus.Metric) {
	select {
	case <-c.leads:
	default:
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	if err := c.collectPolicies(ctx, metrics); err != nil {
		ctrl.Log.Error(err, "Collect metrics of EdgeHubPolicies")
	}
	if err := c.collectFleet(ctx, metrics); err != nil {
		ctrl.Log.Error(err, "Collect metrics of nodes")
	}
}

func gauge[N int | int32](metrics chan<- prometheus.Metric, desc *prometheus.Desc, value N, labels ...string) {
	metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), labels...)
}

func (c *Collector) collectPolicies(ctx context.Context, metrics chan<- prometheus.Metric) error {
	var policies v1alpha1.EdgeHubPolicyList
	if err := c.reader.List(ctx, &policies, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	type state struct{ condition, status string }
	conditions, reasons := map[state]int{}, map[string]int{}
	var total v1alpha1.PodCounts
	for i := range policies.Items {
		status := &policies.Items[i].Status
		for _, condition := range status.Conditions {
			conditions[state{condition.Type, string(condition.Status)}]++
			if condition.Type == v1alpha1.ConditionRestartsComplete {
				reasons[condition.Reason]++
			}
		}
		if pods := status.Pods; pods != nil {
			total.Matched += pods.Matched
			total.Restarted += pods.Restarted
			total.Pending += pods.Pending
			total.Unavailable += pods.Unavailable
			total.Deferred += pods.Deferred
			total.Waiting += pods.Waiting
			total.Unmanaged += pods.Unmanaged
			total.OptedOut += pods.OptedOut
		}
	}
	for state, count := range conditions {
		gauge(metrics, c.policies, count, state.condition, state.status)
	}
	for reason, count := range reasons {
		gauge(metrics, c.rollouts, count, reason)
	}
	for state, count := range map[string]int32{
		"matched": total.Matched, "restarted": total.Restarted, "pending": total.Pending, "unavailable": total.Unavailable,
		"deferred": total.Deferred, "waiting": total.Waiting, "unmanaged": total.Unmanaged, "opted_out": total.OptedOut,
	} {
		gauge(metrics, c.pods, count, state)
	}
	return nil
}

func (c *Collector) collectFleet(ctx context.Context, metrics chan<- prometheus.Metric) error {
	var object corev1.ConfigMap
	if err := c.reader.Get(ctx, client.ObjectKey{Namespace: hubconfig.Namespace, Name: hubconfig.Name}, &object); client.IgnoreNotFound(err) != nil {
		return err
	}
	snapshot, err := c.view.Snapshot(ctx)
	if err != nil {
		return err
	}
	counts := snapshot.Count(labels.Everything())
	for state, count := range counts.ByState {
		gauge(metrics, c.nodes, count, strconv.FormatBool(state.Ready), strconv.FormatBool(state.OfflineReady))
	}
	config, err := hubconfig.Parse(object.Data)
	if err != nil {
		gauge(metrics, c.valid, 0)
		return nil
	}
	fromPolicies := 0
	for agent := range strings.SplitSeq(object.Annotations[policy.AnnotationPolicyAgents], ",") {
		if agent != "" {
			fromPolicies++
		}
	}
	gauge(metrics, c.valid, 1)
	gauge(metrics, c.agents, fromPolicies, "policy")
	gauge(metrics, c.agents, max(len(config.Agents)-fromPolicies, 0), "hand")
	gauge(metrics, c.configured, counts.ByHash[hubconfig.Hash(config)])
	return nil
}
