package table

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func pods() map[string]*Printer {
	return map[string]*Printer{"Pod": {
		Columns: columns(
			described("Ready", "How many of the pod's containers are ready, of how many that are meant to run."),
			described("Status", "What the pod does, or what keeps it from running."),
			described("Restarts", "How often the pod's containers were restarted, and how long ago one last was."),
			ageColumn,
			wide(text("IP", corev1.PodStatus{}.SwaggerDoc(), "podIP")),
			wide(text("Node", corev1.PodSpec{}.SwaggerDoc(), "nodeName")),
			wide(text("Nominated Node", corev1.PodStatus{}.SwaggerDoc(), "nominatedNodeName")),
			wide(text("Readiness Gates", corev1.PodSpec{}.SwaggerDoc(), "readinessGates")),
		),
		print: printPod,
	}}
}

func printPod(text []byte, now time.Time) (Row, error) {
	var pod corev1.Pod
	if err := json.Unmarshal(text, &pod); err != nil {
		return Row{}, err
	}
	s := summarize(&pod)
	ip := ""
	if len(pod.Status.PodIPs) > 0 {
		ip = pod.Status.PodIPs[0].IP
	}
	row := Row{Cells: []any{
		pod.Name, fmt.Sprintf("%d/%d", s.ready, s.total), s.reason, s.restarts.show(now), age(pod.CreationTimestamp, now),
		or(ip, "<none>"), or(pod.Spec.NodeName, "<none>"), or(pod.Status.NominatedNodeName, "<none>"), readinessGates(&pod),
	}}
	switch pod.Status.Phase {
	case corev1.PodSucceeded:
		row.Conditions = completed(corev1.PodSucceeded, "The pod has completed successfully.")
	case corev1.PodFailed:
		row.Conditions = completed(corev1.PodFailed, "The pod failed.")
	}
	return row, nil
}

func completed(phase corev1.PodPhase, message string) []metav1.TableRowCondition {
	return []metav1.TableRowCondition{{Type: metav1.RowCompleted, Status: metav1.ConditionTrue, Reason: string(phase), Message: message}}
}

// podSummary is a Pod in a few words.
type podSummary struct {
	ready, total int
	reason       string
	restarts     restarts
}

// restarts are how often containers were restarted, and when last.
type restarts struct {
	count int
	last  metav1.Time
}

func (r *restarts) add(c *corev1.ContainerStatus) {
	r.count += int(c.RestartCount)
	if t := c.LastTerminationState.Terminated; t != nil && r.last.Before(&t.FinishedAt) {
		r.last = t.FinishedAt
	}
}

func (r *restarts) show(now time.Time) string {
	if r.count == 0 || r.last.IsZero() {
		return strconv.Itoa(r.count)
	}
	return fmt.Sprintf("%d (%s ago)", r.count, age(r.last, now))
}

func summarize(pod *corev1.Pod) *podSummary {
	s := &podSummary{total: len(pod.Spec.Containers), reason: or(pod.Status.Reason, string(pod.Status.Phase))}
	if c := podCondition(pod, corev1.PodScheduled); c != nil && c.Reason == corev1.PodReasonSchedulingGated {
		s.reason = corev1.PodReasonSchedulingGated
	}
	initialized := podCondition(pod, corev1.PodInitialized)
	if s.initialize(pod) || initialized != nil && initialized.Status == corev1.ConditionTrue {
		s.run(pod)
	}
	switch {
	case pod.DeletionTimestamp == nil:
	case pod.Status.Reason == "NodeLost": // of a node that can't be reached
		s.reason = "Unknown"
	case pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded:
		s.reason = "Terminating"
	}
	return s
}

// initialize looks at the init containers up to the first that has to finish,
// and reports whether all have. Those that are restartable are sidecars
// (KEP-753): they count as containers of the pod.
func (s *podSummary) initialize(pod *corev1.Pod) bool {
	sidecars := map[string]bool{}
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sidecars[c.Name] = true
			s.total++
		}
	}
	var all, ofSidecars restarts
	for i := range pod.Status.InitContainerStatuses {
		c := &pod.Status.InitContainerStatuses[i]
		all.add(c)
		if sidecars[c.Name] {
			ofSidecars.add(c)
		}
		end := c.State.Terminated
		switch {
		case end != nil && end.ExitCode == 0:
			continue
		case sidecars[c.Name] && deref(c.Started, false):
			if c.Ready {
				s.ready++
			}
			continue
		case end != nil:
			s.reason = "Init:" + endedBy(end)
		case c.State.Waiting != nil && c.State.Waiting.Reason != "" && c.State.Waiting.Reason != "PodInitializing":
			s.reason = "Init:" + c.State.Waiting.Reason
		default:
			s.reason = fmt.Sprintf("Init:%d/%d", i, len(pod.Spec.InitContainers))
		}
		s.restarts = all
		// What runs regardless counts the sidecars' restarts alone.
		if c := podCondition(pod, corev1.PodInitialized); c != nil && c.Status == corev1.ConditionTrue {
			s.restarts = ofSidecars
		}
		return false
	}
	s.restarts = ofSidecars
	return true
}

// run looks at the containers, the last first, so that the first has the last
// word.
func (s *podSummary) run(pod *corev1.Pod) {
	running, failure := false, ""
	for i := len(pod.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &pod.Status.ContainerStatuses[i]
		s.restarts.add(c)
		switch end := c.State.Terminated; {
		case c.State.Waiting != nil && c.State.Waiting.Reason != "":
			s.reason = c.State.Waiting.Reason
		case end != nil:
			s.reason = endedBy(end)
			if end.ExitCode != 0 {
				failure = s.reason
			}
		case c.Ready && c.State.Running != nil:
			running = true
			s.ready++
		}
	}
	if s.reason != "Completed" {
		return
	}
	ready := podCondition(pod, corev1.PodReady)
	switch {
	case running && ready != nil && ready.Status == corev1.ConditionTrue:
		s.reason = "Running"
	case failure != "":
		s.reason = failure
	case running:
		s.reason = "NotReady"
	}
}

func endedBy(end *corev1.ContainerStateTerminated) string {
	switch {
	case end.Reason != "":
		return end.Reason
	case end.Signal != 0:
		return fmt.Sprintf("Signal:%d", end.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", end.ExitCode)
}

func podCondition(pod *corev1.Pod, typ corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == typ {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

func readinessGates(pod *corev1.Pod) string {
	if len(pod.Spec.ReadinessGates) == 0 {
		return "<none>"
	}
	met := 0
	for _, gate := range pod.Spec.ReadinessGates {
		if c := podCondition(pod, gate.ConditionType); c != nil && c.Status == corev1.ConditionTrue {
			met++
		}
	}
	return fmt.Sprintf("%d/%d", met, len(pod.Spec.ReadinessGates))
}
