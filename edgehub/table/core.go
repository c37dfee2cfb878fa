package table

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

func core() map[string]*Printer {
	return map[string]*Printer{
		"ConfigMap": of(columns(text("Data", corev1.ConfigMap{}.SwaggerDoc(), "data"), ageColumn), func(o *corev1.ConfigMap, now time.Time) []any {
			return []any{int64(len(o.Data) + len(o.BinaryData)), age(o.CreationTimestamp, now)}
		}),
		"Secret": of(columns(text("Type", corev1.Secret{}.SwaggerDoc(), "type"), text("Data", corev1.Secret{}.SwaggerDoc(), "data"), ageColumn), func(o *corev1.Secret, now time.Time) []any {
			return []any{string(o.Type), int64(len(o.Data)), age(o.CreationTimestamp, now)}
		}),
		"ServiceAccount": of(columns(ageColumn), func(o *corev1.ServiceAccount, now time.Time) []any {
			return []any{age(o.CreationTimestamp, now)}
		}),
		"Namespace": of(columns(described("Status", "The phase that the namespace is in."), ageColumn), func(o *corev1.Namespace, now time.Time) []any {
			return []any{string(o.Status.Phase), age(o.CreationTimestamp, now)}
		}),
		"Node": of(nodeColumns(), printNode),
		"PodTemplate": of(columns(containersColumn, imagesColumn, described("Pod Labels", "The labels that pods are given.")), func(o *corev1.PodTemplate, _ time.Time) []any {
			names, images := containers(o.Template.Spec.Containers)
			return []any{names, images, labels.FormatLabels(o.Template.Labels)}
		}),
		"ReplicationController": of(columns(
			number("Desired", corev1.ReplicationControllerSpec{}.SwaggerDoc(), "replicas"),
			number("Current", corev1.ReplicationControllerStatus{}.SwaggerDoc(), "replicas"),
			number("Ready", corev1.ReplicationControllerStatus{}.SwaggerDoc(), "readyReplicas"),
			ageColumn, wide(containersColumn), wide(imagesColumn),
			wide(text("Selector", corev1.ReplicationControllerSpec{}.SwaggerDoc(), "selector")),
		), func(o *corev1.ReplicationController, now time.Time) []any {
			names, images := containers(deref(o.Spec.Template, corev1.PodTemplateSpec{}).Spec.Containers)
			return []any{
				int64(deref(o.Spec.Replicas, 0)), int64(o.Status.Replicas), int64(o.Status.ReadyReplicas), age(o.CreationTimestamp, now),
				names, images, labels.FormatLabels(o.Spec.Selector),
			}
		}),
		"ResourceQuota": of(columns(
			described("Request", "What is used, of what may be, except of limits."),
			described("Limit", "What is used, of what may be, of limits."),
			ageColumn,
		), printResourceQuota),
		"ComponentStatus": of(columns(
			described("Status", "Whether the component is healthy."),
			described("Message", "What the component says about its health."),
			described("Error", "Why the component's health is not known."),
		), printComponentStatus),
	}
}

func nodeColumns() []metav1.TableColumnDefinition {
	info := corev1.NodeSystemInfo{}.SwaggerDoc()
	return columns(
		described("Status", "Whether the node is ready, and whether pods may be scheduled to it."),
		described("Roles", "The roles that the node's labels name."),
		ageColumn,
		text("Version", info, "kubeletVersion"),
		wide(text("Internal-IP", corev1.NodeStatus{}.SwaggerDoc(), "addresses")),
		wide(text("External-IP", corev1.NodeStatus{}.SwaggerDoc(), "addresses")),
		wide(text("OS-Image", info, "osImage")),
		wide(text("Kernel-Version", info, "kernelVersion")),
		wide(text("Container-Runtime", info, "containerRuntimeVersion")),
	)
}

func printNode(o *corev1.Node, now time.Time) []any {
	status := "Unknown"
	for _, c := range o.Status.Conditions {
		switch {
		case c.Type != corev1.NodeReady:
		case c.Status == corev1.ConditionTrue:
			status = "Ready"
		default:
			status = "NotReady"
		}
	}
	if o.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	info := o.Status.NodeInfo
	kernel := or(info.KernelVersion, "<unknown>")
	if info.Architecture != "" {
		kernel += " (" + info.Architecture + ")"
	}
	return []any{
		status, or(strings.Join(nodeRoles(o), ","), "<none>"), age(o.CreationTimestamp, now), info.KubeletVersion,
		address(o, corev1.NodeInternalIP), address(o, corev1.NodeExternalIP),
		or(info.OSImage, "<unknown>"), kernel, or(info.ContainerRuntimeVersion, "<unknown>"),
	}
}

func nodeRoles(o *corev1.Node) []string {
	var roles []string
	for label, value := range o.Labels {
		if role, ok := strings.CutPrefix(label, "node-role.kubernetes.io/"); ok && role != "" {
			roles = append(roles, role)
		} else if label == "kubernetes.io/role" && value != "" {
			roles = append(roles, value)
		}
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

func address(o *corev1.Node, typ corev1.NodeAddressType) string {
	for _, a := range o.Status.Addresses {
		if a.Type == typ {
			return a.Address
		}
	}
	return "<none>"
}

func printResourceQuota(o *corev1.ResourceQuota, now time.Time) []any {
	var names []string
	for name := range o.Status.Hard {
		names = append(names, string(name))
	}
	slices.Sort(names)
	var requests, limits []string
	for _, name := range names {
		used, hard := o.Status.Used[corev1.ResourceName(name)], o.Status.Hard[corev1.ResourceName(name)]
		entry := name + ": " + used.String() + "/" + hard.String()
		if strings.HasPrefix(name, "limits.") {
			limits = append(limits, entry)
		} else {
			requests = append(requests, entry)
		}
	}
	return []any{strings.Join(requests, ", "), strings.Join(limits, ", "), age(o.CreationTimestamp, now)}
}

func printComponentStatus(o *corev1.ComponentStatus, _ time.Time) []any {
	for _, c := range o.Conditions {
		if c.Type != corev1.ComponentHealthy {
			continue
		}
		status := "Unhealthy"
		if c.Status == corev1.ConditionTrue {
			status = "Healthy"
		}
		return []any{status, c.Message, c.Error}
	}
	return []any{"Unknown", "", ""}
}
