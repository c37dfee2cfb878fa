package table

import (
	"slices"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	nodev1 "k8s.io/api/node/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

func cluster() map[string]*Printer {
	class, slice := schedulingv1.PriorityClass{}.SwaggerDoc(), resourcev1.ResourceSliceSpec{}.SwaggerDoc()
	webhooks := columns(metav1.TableColumnDefinition{Name: "Webhooks", Type: "integer", Description: "How many webhooks are registered."}, ageColumn)
	return map[string]*Printer{
		"PriorityClass.scheduling.k8s.io": of(columns(
			number("Value", class, "value"), boolean("Global-Default", class, "globalDefault"), ageColumn, text("PreemptionPolicy", class, "preemptionPolicy"),
		), func(o *schedulingv1.PriorityClass, now time.Time) []any {
			return []any{int64(o.Value), o.GlobalDefault, age(o.CreationTimestamp, now), string(deref(o.PreemptionPolicy, ""))}
		}),
		"RuntimeClass.node.k8s.io": of(columns(text("Handler", nodev1.RuntimeClass{}.SwaggerDoc(), "handler"), ageColumn), func(o *nodev1.RuntimeClass, now time.Time) []any {
			return []any{o.Handler, age(o.CreationTimestamp, now)}
		}),
		"MutatingWebhookConfiguration.admissionregistration.k8s.io": of(webhooks, func(o *admissionv1.MutatingWebhookConfiguration, now time.Time) []any {
			return []any{int64(len(o.Webhooks)), age(o.CreationTimestamp, now)}
		}),
		"ValidatingWebhookConfiguration.admissionregistration.k8s.io": of(webhooks, func(o *admissionv1.ValidatingWebhookConfiguration, now time.Time) []any {
			return []any{int64(len(o.Webhooks)), age(o.CreationTimestamp, now)}
		}),
		"APIService.apiregistration.k8s.io": of(columns(
			described("Service", "The Service that serves the group, or Local."),
			described("Available", "Whether it does."),
			ageColumn,
		), printAPIService),
		"DeviceClass.resource.k8s.io": of(columns(ageColumn), func(o *resourcev1.DeviceClass, now time.Time) []any {
			return []any{age(o.CreationTimestamp, now)}
		}),
		"ResourceClaimTemplate.resource.k8s.io": of(columns(ageColumn), func(o *resourcev1.ResourceClaimTemplate, now time.Time) []any {
			return []any{age(o.CreationTimestamp, now)}
		}),
		"ResourceClaim.resource.k8s.io": of(columns(described("State", "How far the claim is: pending, allocated, reserved, deleted."), ageColumn), printResourceClaim),
		"ResourceSlice.resource.k8s.io": of(columns(
			text("Node", slice, "nodeName"), text("Driver", slice, "driver"), text("Pool", resourcev1.ResourcePool{}.SwaggerDoc(), "name"), ageColumn,
		), func(o *resourcev1.ResourceSlice, now time.Time) []any {
			return []any{deref(o.Spec.NodeName, ""), o.Spec.Driver, o.Spec.Pool.Name, age(o.CreationTimestamp, now)}
		}),
	}
}

func printAPIService(o *apiregistrationv1.APIService, now time.Time) []any {
	service, available := "Local", string(apiregistrationv1.ConditionUnknown)
	if s := o.Spec.Service; s != nil {
		service = s.Namespace + "/" + s.Name
	}
	if i := slices.IndexFunc(o.Status.Conditions, func(c apiregistrationv1.APIServiceCondition) bool { return c.Type == apiregistrationv1.Available }); i >= 0 {
		c := o.Status.Conditions[i]
		available = string(c.Status)
		if c.Status != apiregistrationv1.ConditionTrue && c.Reason != "" {
			available += " (" + c.Reason + ")"
		}
	}
	return []any{service, available, age(o.CreationTimestamp, now)}
}

func printResourceClaim(o *resourcev1.ResourceClaim, now time.Time) []any {
	state := "allocated"
	switch {
	case o.Status.Allocation == nil && o.DeletionTimestamp != nil:
		state = "deleted"
	case o.Status.Allocation == nil:
		state = "pending"
	default:
		if o.DeletionTimestamp != nil {
			state = "deleted," + state
		}
		if len(o.Status.ReservedFor) > 0 {
			state += ",reserved"
		}
	}
	return []any{state, age(o.CreationTimestamp, now)}
}
