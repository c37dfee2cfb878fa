package report

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

// State is what a hub knows of itself.
type State struct {
	Version string
	// Hash is that of the configuration in use, "" as long as there is none.
	Hash string
	// Applied is when this node took it, and CachingSince when a hub first took
	// any.
	Applied, CachingSince time.Time
	ConfigProblem         error // what is wrong with the ConfigMap, nil if nothing is
	DiskProblem           error // why the cache can't be written, nil if it can
	Agents                []Agent
	Uncached              []Pair
}

// Agent is a cached agent that is in use on the node.
type Agent struct {
	Pair
	Since   time.Time // it is cached
	Views   int
	Objects int64
	Bytes   int64 // on disk
	Relists int64
	// Missing are what was asked for and is not on disk as it was delivered, by
	// reason, v1alpha1.NodeAgentIncomplete and so on. Example names one of each.
	Missing map[string]int
	Example map[string]string
	// Unknown says that it is not known what its Pods have read before it was
	// cached, and Unasked that they have read nothing since.
	Unknown, Unasked bool

	Pods []v1alpha1.NodePod
}

// reasons are those of an agent that is not ready, the most telling first, each
// with what to say of it.
var reasons = []struct{ reason, message string }{
	{v1alpha1.NodeAgentNotWarm, "watches what was listed before the agent was cached: restart its Pods, or use the strategy Relist"},
	{v1alpha1.NodeAgentTooLarge, "more than the quota has room for: raise the quota, or narrow what the program lists and watches"},
	{v1alpha1.NodeAgentDisk, "not written, for the disk of the node fails, is full or read-only"},
	{v1alpha1.NodeAgentSecretsDenied, "a policy keeps the Secrets that it asks for off the disk"},
	{v1alpha1.NodeAgentNotRestarted, "read before the agent was cached, and not since: restart its Pods"},
	{v1alpha1.NodeAgentIncomplete, "not on disk yet, or behind what was delivered"},
}

const (
	maxMessage    = 512 // of an agent
	maxCondition  = 1024
	maxNamed      = 5 // agents that a condition names
	maxAgentName  = 128
	unaskedReason = "has read nothing since it is cached: restart its Pods"
	unknownReason = "what its Pods have read before it was cached is not known: restart them"
)

// Status returns what to report. Conditions have no transition times, and nothing
// says when it is reported.
func (s State) Status() v1alpha1.EdgeHubNodeStatus {
	status := v1alpha1.EdgeHubNodeStatus{Version: cut(s.Version, 128), CachingSince: timeOf(s.CachingSince)}
	if s.Hash != "" {
		status.Configuration = &v1alpha1.NodeConfiguration{Hash: s.Hash, AppliedTime: timeOf(s.Applied)}
	}
	ready := 0
	for _, a := range s.Agents {
		if len(a.Agent) > maxAgentName {
			continue
		}
		row := a.row()
		if row.OfflineReady {
			ready++
		}
		status.Agents = append(status.Agents, row)
		status.Objects += row.Objects
		status.Bytes += row.Bytes
	}
	status.Size = size(status.Bytes)
	status.AgentsReady = fmt.Sprintf("%d/%d", ready, len(status.Agents))
	status.Conditions = s.conditions(status.Agents, ready)
	status.Agents, status.AgentsOmitted = bounded(status.Agents)
	boundPods(status.Agents)
	for _, pair := range s.Uncached {
		if len(pair.Agent) <= maxAgentName && len(status.Uncached) < v1alpha1.MaxNodeUncached {
			status.Uncached = append(status.Uncached, v1alpha1.UncachedAgent{Name: pair.Agent, Namespace: pair.Namespace})
		}
	}
	return status
}

// OfflineReady reports whether the agent's Pods would start without the cloud now.
func (a Agent) OfflineReady() bool { return a.row().OfflineReady }

func (a Agent) row() v1alpha1.NodeAgent {
	row := v1alpha1.NodeAgent{
		Name: a.Agent, Namespace: a.Namespace, Since: metav1.NewTime(a.Since).Rfc3339Copy(),
		Views: int32(a.Views), Objects: a.Objects, Bytes: a.Bytes, Relists: a.Relists,
		Pods: a.Pods[:min(len(a.Pods), v1alpha1.MaxAgentPods)],
	}
	var says []string
	for _, r := range reasons {
		n := a.Missing[r.reason]
		if n == 0 {
			continue
		}
		row.Incomplete += int32(n)
		if row.Reason == "" {
			row.Reason = r.reason
		}
		what := a.Example[r.reason]
		switch {
		case what == "":
			what = fmt.Sprintf("%d views", n)
		case n > 1:
			what += fmt.Sprintf(" and %d more", n-1)
		}
		says = append(says, what+": "+r.message)
	}
	switch {
	case a.Unknown:
		row.Reason = cmp.Or(row.Reason, v1alpha1.NodeAgentNotRestarted)
		says = append(says, unknownReason)
	case a.Unasked && row.Reason == "":
		row.Reason = v1alpha1.NodeAgentNotRestarted
		says = append(says, unaskedReason)
	}
	row.OfflineReady = row.Reason == ""
	row.Message = cut(strings.Join(says, "; "), maxMessage)
	return row
}

func (s State) conditions(agents []v1alpha1.NodeAgent, ready int) []metav1.Condition {
	condition := func(kind string, good bool, reasons [2]string, message string) metav1.Condition {
		c := metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: reasons[0], Message: cut(message, maxCondition)}
		if !good {
			c.Status, c.Reason = metav1.ConditionFalse, reasons[1]
		}
		return c
	}
	all := []metav1.Condition{condition(v1alpha1.NodeConnected, true, [2]string{v1alpha1.NodeReasonReporting}, "")}
	reason, message := v1alpha1.NodeReasonComplete, ""
	if len(agents) == 0 {
		reason = v1alpha1.NodeReasonNothingAsked
	}
	if ready < len(agents) {
		message = notReady(agents)
	}
	all = append(all, condition(v1alpha1.NodeOfflineReady, ready == len(agents), [2]string{reason, v1alpha1.NodeReasonAgentsNotReady}, message))
	if s.Hash != "" || s.ConfigProblem != nil {
		all = append(all, condition(v1alpha1.NodeConfigValid, s.ConfigProblem == nil, [2]string{v1alpha1.NodeReasonValid, v1alpha1.NodeReasonMalformed}, textOf(s.ConfigProblem)))
	}
	return append(all, condition(v1alpha1.NodeCacheWritable, s.DiskProblem == nil, [2]string{v1alpha1.NodeReasonWritable, v1alpha1.NodeReasonNotWritable}, textOf(s.DiskProblem)))
}

// notReady names agents that are not ready.
func notReady(agents []v1alpha1.NodeAgent) string {
	var names []string
	more := 0
	for _, a := range agents {
		switch {
		case a.OfflineReady:
		case len(names) == maxNamed:
			more++
		case a.Namespace == "":
			names = append(names, fmt.Sprintf("%s (%s)", a.Name, a.Reason))
		default:
			names = append(names, fmt.Sprintf("%s of %s (%s)", a.Name, a.Namespace, a.Reason))
		}
	}
	text := strings.Join(names, ", ")
	if more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func timeOf(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	at := metav1.NewTime(t).Rfc3339Copy()
	return &at
}

// cut keeps a text to so many bytes.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-3], "") + "..."
}

// size writes bytes for people: at most three digits and a unit.
func size(bytes int64) string {
	const units = "KMGTPE"
	if bytes < 1024 {
		return fmt.Sprint(bytes)
	}
	value := float64(bytes) / 1024
	unit := 0
	for value >= 999.5 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	if value < 9.95 {
		return fmt.Sprintf("%.1f%ci", value, units[unit])
	}
	return fmt.Sprintf("%.0f%ci", value, units[unit])
}
