package table

import (
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
)

var (
	containersColumn = described("Containers", "The names of the template's containers.")
	imagesColumn     = described("Images", "The images of the template's containers.")
)

func workloads() map[string]*Printer {
	readyColumn := described("Ready", "How many pods are ready, of how many there shall be.")
	return map[string]*Printer{
		"Deployment.apps": of(columns(
			readyColumn,
			text("Up-to-date", appsv1.DeploymentStatus{}.SwaggerDoc(), "updatedReplicas"),
			text("Available", appsv1.DeploymentStatus{}.SwaggerDoc(), "availableReplicas"),
			ageColumn, wide(containersColumn), wide(imagesColumn),
			wide(text("Selector", appsv1.DeploymentSpec{}.SwaggerDoc(), "selector")),
		), printDeployment),
		"ReplicaSet.apps": of(columns(
			number("Desired", appsv1.ReplicaSetSpec{}.SwaggerDoc(), "replicas"),
			number("Current", appsv1.ReplicaSetStatus{}.SwaggerDoc(), "replicas"),
			number("Ready", appsv1.ReplicaSetStatus{}.SwaggerDoc(), "readyReplicas"),
			ageColumn, wide(containersColumn), wide(imagesColumn),
			wide(text("Selector", appsv1.ReplicaSetSpec{}.SwaggerDoc(), "selector")),
		), func(o *appsv1.ReplicaSet, now time.Time) []any {
			names, images := containers(o.Spec.Template.Spec.Containers)
			return []any{
				int64(deref(o.Spec.Replicas, 0)), int64(o.Status.Replicas), int64(o.Status.ReadyReplicas), age(o.CreationTimestamp, now),
				names, images, metav1.FormatLabelSelector(o.Spec.Selector),
			}
		}),
		"StatefulSet.apps": of(columns(readyColumn, ageColumn, wide(containersColumn), wide(imagesColumn)), func(o *appsv1.StatefulSet, now time.Time) []any {
			names, images := containers(o.Spec.Template.Spec.Containers)
			return []any{fmt.Sprintf("%d/%d", o.Status.ReadyReplicas, deref(o.Spec.Replicas, 0)), age(o.CreationTimestamp, now), names, images}
		}),
		"DaemonSet.apps":                      of(daemonSetColumns(), printDaemonSet),
		"ControllerRevision.apps":             of(columns(described("Controller", "What the revision is one of."), text("Revision", appsv1.ControllerRevision{}.SwaggerDoc(), "revision"), ageColumn), printControllerRevision),
		"Job.batch":                           of(jobColumns(), printJob),
		"CronJob.batch":                       of(cronJobColumns(), printCronJob),
		"HorizontalPodAutoscaler.autoscaling": of(autoscalerColumns(), printAutoscaler),
		"PodDisruptionBudget.policy": of(columns(
			described("Min Available", "How many pods must stay available."),
			described("Max Unavailable", "How many pods may be unavailable."),
			metav1.TableColumnDefinition{Name: "Allowed Disruptions", Type: "integer", Description: "How many pods may be disrupted now."},
			ageColumn,
		), func(o *policyv1.PodDisruptionBudget, now time.Time) []any {
			least, most := "N/A", "N/A"
			if o.Spec.MinAvailable != nil {
				least = o.Spec.MinAvailable.String()
			}
			if o.Spec.MaxUnavailable != nil {
				most = o.Spec.MaxUnavailable.String()
			}
			return []any{least, most, int64(o.Status.DisruptionsAllowed), age(o.CreationTimestamp, now)}
		}),
	}
}

func containers(all []corev1.Container) (names, images string) {
	var n, i []string
	for _, c := range all {
		n, i = append(n, c.Name), append(i, c.Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

func printDeployment(o *appsv1.Deployment, now time.Time) []any {
	names, images := containers(o.Spec.Template.Spec.Containers)
	selector := "<invalid>"
	if s, err := metav1.LabelSelectorAsSelector(o.Spec.Selector); err == nil {
		selector = s.String()
	}
	return []any{
		fmt.Sprintf("%d/%d", o.Status.ReadyReplicas, deref(o.Spec.Replicas, 0)), int64(o.Status.UpdatedReplicas), int64(o.Status.AvailableReplicas),
		age(o.CreationTimestamp, now), names, images, selector,
	}
}

func daemonSetColumns() []metav1.TableColumnDefinition {
	status := appsv1.DaemonSetStatus{}.SwaggerDoc()
	return columns(
		number("Desired", status, "desiredNumberScheduled"),
		number("Current", status, "currentNumberScheduled"),
		number("Ready", status, "numberReady"),
		number("Up-to-date", status, "updatedNumberScheduled"),
		number("Available", status, "numberAvailable"),
		text("Node Selector", corev1.PodSpec{}.SwaggerDoc(), "nodeSelector"),
		ageColumn, wide(containersColumn), wide(imagesColumn),
		wide(text("Selector", appsv1.DaemonSetSpec{}.SwaggerDoc(), "selector")),
	)
}

func printDaemonSet(o *appsv1.DaemonSet, now time.Time) []any {
	names, images := containers(o.Spec.Template.Spec.Containers)
	s := o.Status
	return []any{
		int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady), int64(s.UpdatedNumberScheduled), int64(s.NumberAvailable),
		labels.FormatLabels(o.Spec.Template.Spec.NodeSelector), age(o.CreationTimestamp, now), names, images, metav1.FormatLabelSelector(o.Spec.Selector),
	}
}

func printControllerRevision(o *appsv1.ControllerRevision, now time.Time) []any {
	controller := "<none>"
	if ref := metav1.GetControllerOf(o); ref != nil {
		kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind()
		controller = strings.ToLower(kind.String()) + "/" + ref.Name
	}
	return []any{controller, o.Revision, age(o.CreationTimestamp, now)}
}

func jobColumns() []metav1.TableColumnDefinition {
	return columns(
		described("Status", "What has become of the job."),
		text("Completions", batchv1.JobStatus{}.SwaggerDoc(), "succeeded"),
		described("Duration", "How long the job took, or has taken."),
		ageColumn, wide(containersColumn), wide(imagesColumn),
		wide(text("Selector", batchv1.JobSpec{}.SwaggerDoc(), "selector")),
	)
}

func printJob(o *batchv1.Job, now time.Time) []any {
	completions := fmt.Sprintf("%d/1", o.Status.Succeeded)
	if o.Spec.Completions != nil {
		completions = fmt.Sprintf("%d/%d", o.Status.Succeeded, *o.Spec.Completions)
	} else if parallelism := deref(o.Spec.Parallelism, 0); parallelism > 1 {
		completions += fmt.Sprintf(" of %d", parallelism)
	}
	took := ""
	if start := o.Status.StartTime; start != nil {
		took = duration.HumanDuration(deref(o.Status.CompletionTime, metav1.NewTime(now)).Sub(start.Time))
	}
	names, images := containers(o.Spec.Template.Spec.Containers)
	return []any{jobStatus(o), completions, took, age(o.CreationTimestamp, now), names, images, metav1.FormatLabelSelector(o.Spec.Selector)}
}

func jobStatus(o *batchv1.Job) string {
	// The first condition of a type counts.
	is := map[batchv1.JobConditionType]bool{}
	for _, c := range o.Status.Conditions {
		if _, seen := is[c.Type]; !seen {
			is[c.Type] = c.Status == corev1.ConditionTrue
		}
	}
	switch {
	case is[batchv1.JobComplete]:
		return "Complete"
	case is[batchv1.JobFailed]:
		return "Failed"
	case o.DeletionTimestamp != nil:
		return "Terminating"
	case is[batchv1.JobSuspended]:
		return "Suspended"
	case is[batchv1.JobFailureTarget]:
		return "FailureTarget"
	case is[batchv1.JobSuccessCriteriaMet]:
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func cronJobColumns() []metav1.TableColumnDefinition {
	spec, status := batchv1.CronJobSpec{}.SwaggerDoc(), batchv1.CronJobStatus{}.SwaggerDoc()
	return columns(
		text("Schedule", spec, "schedule"),
		text("Timezone", spec, "timeZone"),
		boolean("Suspend", spec, "suspend"),
		number("Active", status, "active"),
		text("Last Schedule", status, "lastScheduleTime"),
		ageColumn, wide(containersColumn), wide(imagesColumn),
		wide(text("Selector", batchv1.JobSpec{}.SwaggerDoc(), "selector")),
	)
}

func printCronJob(o *batchv1.CronJob, now time.Time) []any {
	suspend, last := "<unset>", "<none>"
	if o.Spec.Suspend != nil {
		// The column's type is boolean, its cells are words.
		suspend = map[bool]string{true: "True", false: "False"}[*o.Spec.Suspend]
	}
	if t := o.Status.LastScheduleTime; t != nil {
		last = age(*t, now)
	}
	template := o.Spec.JobTemplate.Spec
	names, images := containers(template.Template.Spec.Containers)
	return []any{
		o.Spec.Schedule, deref(o.Spec.TimeZone, "<none>"), suspend, int64(len(o.Status.Active)), last, age(o.CreationTimestamp, now),
		names, images, metav1.FormatLabelSelector(template.Selector),
	}
}
