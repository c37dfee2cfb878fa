package policy

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/rollout"
)

// maxMessage bounds the part of a message that repeats what others wrote, and an
// event's note, of which kube-apiserver takes 1 KiB, in bytes.
const maxMessage = 1000

// outcome is one of the two things a policy asks for, and how far it is.
type outcome struct {
	done    bool
	reason  string
	message string
	// stalled is true if a person has to act.
	stalled bool
}

// configOutcome says whether the agents of policy are in the ConfigMap.
func configOutcome(policy *v1alpha1.EdgeHubPolicy, state hubConfig, err error) outcome {
	agents := counted(len(policy.Spec.CacheAgents), "agent")
	refusal, refused := state.tenants.refused(policy)
	contest := contestOutcome(policy, state)
	switch {
	case err != nil:
		return outcome{reason: v1alpha1.ReasonApplyFailed, message: truncate(err.Error())}
	case state.malformed != nil:
		return outcome{reason: v1alpha1.ReasonConfigMapMalformed, stalled: true, message: fmt.Sprintf(
			"correct ConfigMap %s by hand, it is left alone until then: %s", configMapKey, oneLine(state.malformed))}
	case refusal != "":
		return outcome{reason: refusal, stalled: true, message: fmt.Sprintf(
			"%d of %s in %s: %s", len(policy.Status.Agents), agents, configMapKey, refused)}
	case contest.reason != "":
		return contest
	case len(policy.Status.Agents) < len(policy.Spec.CacheAgents):
		return outcome{reason: v1alpha1.ReasonApplying, message: fmt.Sprintf(
			"%d of %s in %s", len(policy.Status.Agents), agents, configMapKey)}
	}
	return outcome{done: true, reason: v1alpha1.ReasonApplied, message: fmt.Sprintf("%s in %s", agents, configMapKey)}
}

// observeAgents returns the agents of policy that state admits for its namespace,
// with the time of their first appearance. While the ConfigMap is malformed the
// hubs keep what they had, and so does the status.
func observeAgents(policy *v1alpha1.EdgeHubPolicy, state hubConfig) []v1alpha1.AgentStatus {
	applied := map[string]metav1.Time{}
	for _, status := range policy.Status.Agents {
		applied[status.Name] = status.AppliedTime
	}
	var agents []v1alpha1.AgentStatus
	for _, agent := range policy.Spec.CacheAgents {
		since, found := applied[agent]
		claimed := len(state.tenants.claims[place{agent, policy.Namespace}]) > 0
		switch admitted := state.config.Admits(agent, policy.Namespace); {
		case !claimed, state.malformed != nil && !found, state.malformed == nil && !admitted:
			continue
		case !found:
			since = state.changed
		}
		agents = append(agents, v1alpha1.AgentStatus{Name: agent, AppliedTime: since})
	}
	return agents
}

// restartOutcome says how far the restarts of policy are.
func restartOutcome(policy *v1alpha1.EdgeHubPolicy, result rollout.Result, gate gate, err error) outcome {
	counts := result.Counts
	left := int(counts.Pending - counts.Deferred) // what can be reached
	failed := func(reason, format string, args ...any) outcome {
		return outcome{reason: reason, message: progress(policy, counts) + ": " + fmt.Sprintf(format, args...)}
	}
	stalled := func(reason, format string, args ...any) outcome {
		o := failed(reason, format, args...)
		o.stalled = true
		return o
	}
	switch {
	case err != nil:
		return failed(v1alpha1.ReasonRestartFailed, "%s", truncate(err.Error()))
	case policy.Spec.Restart.Strategy == v1alpha1.NeverRestart:
		message := progress(policy, counts)
		if counts.Pending+counts.Unmanaged > 0 {
			message += ": restart the others yourself, the strategy is Never"
		}
		return outcome{done: true, reason: v1alpha1.ReasonNotRequested, message: message}
	case complete(policy, result) && counts.Deferred > 0:
		return outcome{done: true, reason: v1alpha1.ReasonDeferred, message: progress(policy, counts) + fmt.Sprintf(
			", %s left until their nodes are ready, not cordoned or tainted, and can cache, such as %s", counted(int(counts.Deferred), "Pod"), result.DeferredOn)}
	case complete(policy, result):
		return outcome{done: true, reason: v1alpha1.ReasonRestarted, message: progress(policy, counts)}
	case left > 0 && !gate.open():
		o := failed(gate.reason, "%s left, %s", counted(left, "Pod"), gate.message)
		o.stalled = gate.stalled
		return o
	case counts.Pending > 0 && len(result.Broken) > 0:
		return stalled(v1alpha1.ReasonNodesBroke, "%s became unreachable after Pods were restarted there, such as %s: restarts go on when they are ready again, or deleted",
			counted(len(result.Broken), "node"), result.Broken[0])
	case result.Restarting > 0:
		return failed(v1alpha1.ReasonRestarting, "%s not available yet%s", counted(result.Restarting, "restarted Pod"), suchAs(result.Unavailable))
	case result.Blocked != "":
		return failed(v1alpha1.ReasonDisruptionBudget, "%s", result.Blocked)
	case result.Holder != "":
		return failed(v1alpha1.ReasonOtherRollout, "EdgeHubPolicy %s restarts Pods of the same workload now", result.Holder)
	case result.Denied != "":
		return failed(v1alpha1.ReasonRestartFailed, "%s: it is asked for again; have it allowed, or give the Pod the annotation %s=%s to leave it as it is",
			truncate(result.Denied), v1alpha1.RestartAnnotation, v1alpha1.NeverRestart)
	case result.Busy:
		return failed(v1alpha1.ReasonRestarting, "%s left, kube-apiserver has no time for evictions now: they are asked for again", counted(left, "Pod"))
	case counts.Unavailable > 0:
		return failed(v1alpha1.ReasonWaitingForPods, "waiting for %s, unavailable for other reasons%s", counted(int(counts.Unavailable), "Pod"), suchAs(result.Unavailable))
	case left == 0:
		return stalled(v1alpha1.ReasonPodsNeedAttention,
			"restart %s by hand, which no Deployment, StatefulSet or DaemonSet would replace", counted(int(counts.Unmanaged), "Pod"))
	case result.Lacking != "":
		return failed(v1alpha1.ReasonWaitingForPods, "%s lacks as many Pods as may be unavailable, those on nodes that are not ready included: it keeps the others until then", result.Lacking)
	case int(counts.Waiting) == left:
		return failed(v1alpha1.ReasonWaitingForHubs, "%s left on nodes whose hub does not work with the current configuration yet, such as %s",
			counted(int(counts.Waiting), "Pod"), result.WaitingFor)
	}
	return failed(v1alpha1.ReasonRestarting, "%s left", counted(int(counts.Pending), "Pod"))
}

// suchAs names an example, if there is one.
func suchAs(example string) string {
	if example == "" {
		return ""
	}
	return ", such as " + example
}

// complete reports whether no Pod of policy is left to restart that can be reached. Once
// complete it stays so whatever becomes of the Pods later on, as long as none has to be
// restarted: what a step evicts has to be replaced first. Without a podSelector nobody
// knows which of the Pods that are missing now will send the agents, so those that may
// be replacements matter for some time after the last restart only.
func complete(policy *v1alpha1.EdgeHubPolicy, result rollout.Result) bool {
	return result.Complete() || result.NothingLeft() &&
		(policy.Spec.PodSelector == nil && (result.Restarting == 0 || !result.Recent) ||
			len(result.Evicted) == 0 && meta.IsStatusConditionTrue(policy.Status.Conditions, v1alpha1.ConditionRestartsComplete))
}

// waitingForConfig is the outcome of restarts while agents are missing.
func waitingForConfig() outcome {
	return outcome{reason: v1alpha1.ReasonWaitingForConfig, message: "Pods are restarted once every agent is in " + configMapKey.String()}
}

// setCondition sets one condition of policy.
func setCondition(policy *v1alpha1.EdgeHubPolicy, kind string, status bool, reason, message string) {
	condition := metav1.Condition{
		Type: kind, Status: metav1.ConditionFalse, ObservedGeneration: policy.Generation, Reason: reason, Message: message,
	}
	if status {
		condition.Status = metav1.ConditionTrue
	}
	meta.SetStatusCondition(&policy.Status.Conditions, condition)
}

// setConditions sets the conditions of policy that follow from both outcomes.
func setConditions(policy *v1alpha1.EdgeHubPolicy, config, restarts outcome) {
	set := func(kind string, status bool, reason, message string) {
		setCondition(policy, kind, status, reason, message)
	}
	set(v1alpha1.ConditionConfigApplied, config.done, config.reason, config.message)
	set(v1alpha1.ConditionRestartsComplete, restarts.done, restarts.reason, restarts.message)

	ready := outcome{done: true, reason: v1alpha1.ReasonReady, message: config.message + "; " + restarts.message}
	for _, part := range []outcome{restarts, config} {
		if !part.done {
			ready = part
		}
	}
	set(v1alpha1.ConditionReady, ready.done, ready.reason, ready.message)
	if ready.done || ready.stalled {
		policy.Status.ObservedGeneration = policy.Generation
	}
	if ready.stalled {
		set(v1alpha1.ConditionStalled, true, ready.reason, ready.message)
	} else {
		set(v1alpha1.ConditionStalled, false, v1alpha1.ReasonNotStalled, "")
	}
	if !ready.done && !ready.stalled {
		set(v1alpha1.ConditionReconciling, true, ready.reason, ready.message)
	} else {
		set(v1alpha1.ConditionReconciling, false, v1alpha1.ReasonNotReconciling, "")
	}
}

// progress says how many Pods run with the cache.
func progress(policy *v1alpha1.EdgeHubPolicy, counts v1alpha1.PodCounts) string {
	var text string
	switch {
	case counts.Matched > 0 || counts.Unmanaged > 0:
		text = fmt.Sprintf("%d of %s restarted", counts.Restarted, counted(int(counts.Matched), "Pod"))
	case policy.Status.Nodes != nil && policy.Status.Nodes.Hubs == 0:
		text = "no edge-hub has reported from the selected nodes yet, see kubectl get edgehubnodes"
	case policy.Spec.PodSelector == nil:
		text = "no hub has seen a Pod send the agents"
	default:
		text = "podSelector matches no Pod on the selected edge nodes"
	}
	if counts.OptedOut > 0 {
		text += fmt.Sprintf(", %d opted out", counts.OptedOut)
	}
	return text
}

// maxSummary is how many bytes of names are shown in a column.
const maxSummary = 32

// summary names the first of agents, and how many more there are, for a column.
func summary(agents []string) string {
	var text string
	for i, agent := range agents {
		if i > 0 {
			if len(text)+len(agent) >= maxSummary {
				return fmt.Sprintf("%s and %d more", text, len(agents)-i)
			}
			text += ","
		}
		text += agent
	}
	return text
}

// counted is a number and a noun.
func counted(number int, noun string) string {
	if number == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", number, noun)
}

func oneLine(err error) string {
	return truncate(strings.ReplaceAll(err.Error(), hubconfig.KeyCacheAgents+": ", ""))
}

// truncate puts text on one line of at most maxMessage bytes.
func truncate(text string) string {
	text = strings.ReplaceAll(text, "\n", "; ")
	if len(text) > maxMessage {
		return strings.ToValidUTF8(text[:maxMessage], "") + "..."
	}
	return text
}
