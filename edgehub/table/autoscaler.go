package table

import (
	"fmt"
	"strconv"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func autoscalerColumns() []metav1.TableColumnDefinition {
	spec := autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()
	return columns(
		text("Reference", spec, "scaleTargetRef"),
		text("Targets", spec, "metrics"),
		text("MinPods", spec, "minReplicas"),
		text("MaxPods", spec, "maxReplicas"),
		text("Replicas", autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc(), "currentReplicas"),
		ageColumn,
	)
}

// autoscaler is an autoscaler of either version: version 1 has one metric, in
// members of its own.
type autoscaler struct {
	autoscalingv2.HorizontalPodAutoscaler
	Spec struct {
		autoscalingv2.HorizontalPodAutoscalerSpec
		Target *int32 `json:"targetCPUUtilizationPercentage"`
	} `json:"spec"`
	Status struct {
		autoscalingv2.HorizontalPodAutoscalerStatus
		Current *int32 `json:"currentCPUUtilizationPercentage"`
	} `json:"status"`
}

func printAutoscaler(o *autoscaler, now time.Time) []any {
	least := "<unset>"
	if o.Spec.MinReplicas != nil {
		least = strconv.Itoa(int(*o.Spec.MinReplicas))
	}
	var targets []string
	if o.APIVersion == autoscalingv1.SchemeGroupVersion.String() && o.Spec.Target != nil {
		targets = append(targets, "cpu: "+percentage(o.Status.Current, "<unknown>")+"/"+percentage(o.Spec.Target, ""))
	}
	for i, spec := range o.Spec.Metrics {
		var status autoscalingv2.MetricStatus
		if i < len(o.Status.CurrentMetrics) {
			status = o.Status.CurrentMetrics[i]
		}
		targets = append(targets, metric(spec, status))
	}
	ref := o.Spec.ScaleTargetRef
	return []any{
		ref.Kind + "/" + ref.Name, or(first(2, targets, ", "), "<none>"), least, int64(o.Spec.MaxReplicas), int64(o.Status.CurrentReplicas), age(o.CreationTimestamp, now),
	}
}

// metric is a metric's value and its target.
func metric(spec autoscalingv2.MetricSpec, status autoscalingv2.MetricStatus) string {
	switch {
	case spec.External != nil:
		return valueOf(spec.External.Target, deref(status.External, autoscalingv2.ExternalMetricStatus{}).Current)
	case spec.Object != nil:
		return valueOf(spec.Object.Target, deref(status.Object, autoscalingv2.ObjectMetricStatus{}).Current)
	case spec.Pods != nil:
		return quantity(deref(status.Pods, autoscalingv2.PodsMetricStatus{}).Current.AverageValue) + "/" + quantity(spec.Pods.Target.AverageValue)
	case spec.Resource != nil:
		return usage(string(spec.Resource.Name), spec.Resource.Target, deref(status.Resource, autoscalingv2.ResourceMetricStatus{}).Current)
	case spec.ContainerResource != nil:
		return usage(string(spec.ContainerResource.Name), spec.ContainerResource.Target, deref(status.ContainerResource, autoscalingv2.ContainerResourceMetricStatus{}).Current)
	}
	return "<unknown type>"
}

func valueOf(target autoscalingv2.MetricTarget, current autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return quantity(current.AverageValue) + "/" + quantity(target.AverageValue) + " (avg)"
	}
	return quantity(current.Value) + "/" + quantity(target.Value)
}

func usage(of string, target autoscalingv2.MetricTarget, current autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return of + ": " + quantity(current.AverageValue) + "/" + quantity(target.AverageValue)
	}
	return of + ": " + percentage(current.AverageUtilization, "<unknown>") + "/" + percentage(target.AverageUtilization, "<auto>")
}

func quantity(q *resource.Quantity) string {
	if q == nil {
		return "<unknown>"
	}
	return q.String()
}

func percentage(n *int32, otherwise string) string {
	if n == nil {
		return otherwise
	}
	return fmt.Sprintf("%d%%", *n)
}
