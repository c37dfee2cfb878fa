package overview

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
	"github.com/edgehub-io/edge-hub/controllers/rollout"
)

// Scene is what there is to explain a Pod with.
type Scene struct {
	Pod *corev1.Pod
	// Node is the Pod's, nil if there is none.
	Node *corev1.Node
	// Hub is what the hub of that node reports, nil if it has none.
	Hub *v1alpha1.EdgeHubNode
	// Configuration is the hash of the current one.
	Configuration string
	// Policies are those of the Pod's namespace, each with what the operator would
	// observe.
	Policies []Observed
	// Budgets are the PodDisruptionBudgets of the namespace.
	Budgets []policyv1.PodDisruptionBudget
	// Now is the time.
	Now time.Time
}

// Observed is a policy with what the operator would observe of the Pod.
type Observed struct {
	Policy *v1alpha1.EdgeHubPolicy
	// Pod is nil if the operator leaves the Pod out: it has finished, or is
	// static.
	Pod *rollout.Pod
}

// Explanation says why a Pod was or was not restarted, and what its agents have
// cached.
type Explanation struct {
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	Node      string     `json:"node,omitempty"`
	Created   time.Time  `json:"created"`
	Started   *time.Time `json:"started,omitempty"`
	// Controller keeps the Pod, such as ReplicaSet/app-5d8; empty if nothing does.
	Controller string `json:"controller,omitempty"`
	// Hub is a sentence about the hub of the node.
	Hub string `json:"hub"`
	// Policies are verdicts of those of the namespace, those that are about the
	// Pod first.
	Policies []Verdict `json:"policies"`
	// Budgets are sentences about the PodDisruptionBudgets that select the Pod.
	Budgets []string `json:"budgets,omitempty"`
	// Agents are what the Pod's agents have cached on its node.
	Agents []CachedAgent `json:"agents"`
	// OfflineReady is true if there are agents and all of them are.
	OfflineReady bool `json:"offlineReady"`
}

// Verdict is what a policy makes of a Pod.
type Verdict struct {
	Policy string `json:"policy"`
	// State is the operator's word.
	State rollout.State `json:"state"`
	// Message says why.
	Message string `json:"message"`
}

// CachedAgent is what the agent of a Pod has cached on its node.
type CachedAgent struct {
	Name string `json:"name"`
	// Policy names it, empty if none does.
	Policy string `json:"policy,omitempty"`
	// Seen is true if the hub has seen the Pod send it.
	Seen bool `json:"seen"`
	// InUse is true if the hub has the agent in use for the namespace; what
	// follows is then the hub's word.
	InUse        bool       `json:"inUse"`
	Since        *time.Time `json:"since,omitempty"`
	OfflineReady bool       `json:"offlineReady"`
	Reason       string     `json:"reason,omitempty"`
	Message      string     `json:"message,omitempty"`
	Views        int32      `json:"views"`
	Incomplete   int32      `json:"incomplete"`
	Objects      int64      `json:"objects"`
	Bytes        int64      `json:"bytes"`
}

// Explain explains.
func Explain(s Scene) Explanation {
	e := Explanation{
		Namespace: s.Pod.Namespace, Name: s.Pod.Name, Node: s.Pod.Spec.NodeName, Created: s.Pod.CreationTimestamp.UTC(),
		Hub: s.hub(), Policies: []Verdict{}, Agents: s.agents(),
	}
	if started := oldestStart(s.Pod); !started.IsZero() {
		e.Started = &started
	}
	if owner := metav1.GetControllerOf(s.Pod); owner != nil {
		e.Controller = owner.Kind + "/" + owner.Name
	}
	for _, o := range s.Policies {
		e.Policies = append(e.Policies, s.verdict(o))
	}
	slices.SortStableFunc(e.Policies, func(a, b Verdict) int {
		aside := func(v Verdict) int {
			if v.State == rollout.NotSelected {
				return 1
			}
			return 0
		}
		return aside(a) - aside(b)
	})
	e.Budgets = s.budgets()
	e.OfflineReady = len(e.Agents) > 0 && !slices.ContainsFunc(e.Agents, func(a CachedAgent) bool { return !a.OfflineReady })
	return e
}

// hub is a sentence about the node's hub.
func (s Scene) hub() string {
	switch {
	case s.Pod.Spec.NodeName == "":
		return "the Pod is not bound to a node yet"
	case s.Hub == nil:
		return "there is no EdgeHubNode for the node: no hub reports from it, so no policy is about its Pods"
	}
	status := &s.Hub.Status
	parts := []string{"it is connected"}
	if c := meta.FindStatusCondition(status.Conditions, v1alpha1.NodeConnected); c == nil || c.Status != metav1.ConditionTrue {
		parts = []string{"it is out of reach"}
		if c != nil && c.Message != "" {
			parts[0] += " (" + c.Message + ")"
		}
	}
	switch {
	case status.Configuration == nil:
		parts = append(parts, "it has no configuration yet")
	case s.Configuration == "":
		parts = append(parts, "its configuration is "+status.Configuration.Hash+", and whether that is the current one is not known")
	case status.Configuration.Hash == s.Configuration:
		parts = append(parts, "it has the current configuration")
	default:
		parts = append(parts, "it does not have the current configuration yet")
	}
	if status.CachingSince != nil {
		parts = append(parts, "it has been caching since "+moment(status.CachingSince.Time))
	}
	return strings.Join(parts, ", ")
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// verdict is what a policy makes of the Pod.
func (s Scene) verdict(o Observed) Verdict {
	v := Verdict{Policy: o.Policy.Name, State: rollout.NotSelected}
	if o.Pod == nil {
		v.Message = "the Pod has finished, or is static and only its kubelet can restart it"
		return v
	}
	v.State = o.Pod.State()
	switch v.State {
	case rollout.NotSelected:
		v.Message = s.notSelected(o)
	case rollout.Restarted:
		v.Message = s.restarted(o)
	case rollout.OptedOut:
		v.Message = fmt.Sprintf("it has to be restarted, and its annotation %s=%s forbids that: restart it by hand", v1alpha1.RestartAnnotation, v1alpha1.NeverRestart)
	case rollout.Unmanaged:
		v.Message = "it has to be restarted, and no ReplicaSet, StatefulSet or DaemonSet would replace it: restart it by hand"
	case rollout.Deferred:
		v.Message = "it has to be restarted, and its node is not ready"
		if o.Pod.NodeReady {
			v.Message = "it has to be restarted, and " + o.Pod.Hindrance
		} else if !o.Pod.NodeLostAt.IsZero() {
			v.Message += " since " + moment(o.Pod.NodeLostAt)
		}
		v.Message += ": " + whoRestarts(o.Policy, "it is restarted when that is over")
	case rollout.Waiting:
		// An older one that says the same of the namespace will do, which only the
		// operator remembers.
		v.Message = "it has to be restarted, and the hub of its node may not have taken yet what the current configuration says of its namespace: " + whoRestarts(o.Policy, "it is restarted after that")
	case rollout.Pending:
		v.Message = s.pending(o)
	}
	return v
}

// whoRestarts is promise if policy restarts Pods, or else who does.
func whoRestarts(policy *v1alpha1.EdgeHubPolicy, promise string) string {
	switch policy.Spec.Restart.Strategy {
	case v1alpha1.NeverRestart:
		return "restart.strategy is Never, restart it by hand after that"
	case v1alpha1.Relist:
		return "restart.strategy is Relist, which has it list again instead"
	}
	return promise
}

// notSelected says why a policy is not about the Pod.
func (s Scene) notSelected(o Observed) string {
	pods, nodes, err := rollout.Selectors(o.Policy)
	switch {
	case err != nil:
		return err.Error()
	case pods != nil && !pods.Matches(labels.Set(s.Pod.Labels)):
		return "podSelector does not match its labels"
	case !o.Pod.Scheduled:
		return "the Pod is not bound to a node yet"
	case !o.Pod.Edge:
		return "no hub reports from its node"
	case s.Node == nil:
		return "its node does not exist"
	case !nodes.Matches(labels.Set(s.Node.Labels)):
		return "nodeSelector does not match the labels of its node"
	case len(o.Policy.Status.Agents) == 0:
		return "its agents are not in the configuration yet"
	case pods == nil:
		return "there is no podSelector, and the hub has not seen the Pod send one of its agents"
	}
	return "the operator has not seen it yet"
}

// restarted says why the Pod need not be restarted.
func (s Scene) restarted(o Observed) string {
	if len(o.Policy.Status.Agents) == 0 {
		return "the policy's agents are not in the configuration yet"
	}
	for _, agent := range o.Policy.Status.Agents {
		// As for the operator, a time that is still to come counts for nothing.
		if row := s.row(agent.Name); row != nil && s.concerns(o.Policy, row) && !row.Since.After(s.Now) {
			return fmt.Sprintf("it need not be restarted: it started after its node began to cache %s, at %s", agent.Name, moment(row.Since.Time))
		}
	}
	return "it need not be restarted: it was created after its agents came into the configuration, at " + moment(o.Policy.Status.Agents[0].AppliedTime.Time)
}

// pending says what a Pod that has to be restarted waits for.
func (s Scene) pending(o Observed) string {
	const has = "it has to be restarted, for it may have started before its node cached its agents: "
	restart := o.Policy.Spec.Restart
	open, opens, err := rollout.Window(restart.Window, s.Now)
	switch {
	case restart.Strategy == v1alpha1.NeverRestart:
		return has + "restart.strategy is Never, restart it by hand"
	case restart.Strategy == v1alpha1.Relist:
		return has + "restart.strategy is Relist, which has it list again instead"
	case restart.Paused:
		return has + "restart.paused is true"
	case err != nil:
		return has + err.Error()
	case !open:
		return has + "restart.window opens at " + moment(opens)
	case !o.Pod.NotBefore.IsZero() && s.Now.Before(o.Pod.NotBefore):
		return has + "its turn comes at " + moment(o.Pod.NotBefore) + " at the earliest"
	case o.Pod.Terminating:
		return has + "it is being deleted"
	}
	if ready := meta.FindStatusCondition(o.Policy.Status.Conditions, v1alpha1.ConditionRestartsComplete); ready != nil && ready.Message != "" {
		return has + "the operator says: " + ready.Message
	}
	return has + "the operator has not come to it yet"
}

// row is what the hub says of an agent for the Pod's namespace, nil if nothing.
func (s Scene) row(agent string) *v1alpha1.NodeAgent {
	if s.Hub == nil {
		return nil
	}
	for i := range s.Hub.Status.Agents {
		if row := &s.Hub.Status.Agents[i]; row.Name == agent && row.Namespace == s.Pod.Namespace {
			return row
		}
	}
	return nil
}

// agents are those of policies that are about the Pod, and those that the hub has
// seen it send.
func (s Scene) agents() []CachedAgent {
	agents := []CachedAgent{}
	add := func(name, policy string) {
		if slices.ContainsFunc(agents, func(a CachedAgent) bool { return a.Name == name }) {
			return
		}
		agent := CachedAgent{Name: name, Policy: policy}
		if row := s.row(name); row != nil {
			since := row.Since.UTC()
			agent.InUse, agent.Since, agent.OfflineReady, agent.Reason, agent.Message = true, &since, row.OfflineReady, row.Reason, row.Message
			agent.Views, agent.Incomplete, agent.Objects, agent.Bytes = row.Views, row.Incomplete, row.Objects, row.Bytes
			agent.Seen = s.sends(row)
		}
		agents = append(agents, agent)
	}
	for _, o := range s.Policies {
		if o.Pod == nil || o.Pod.State() == rollout.NotSelected {
			continue
		}
		for _, name := range o.Policy.Spec.CacheAgents {
			if s.concerns(o.Policy, s.row(name)) {
				add(name, o.Policy.Name)
			}
		}
	}
	if s.Hub != nil {
		for i := range s.Hub.Status.Agents {
			if row := &s.Hub.Status.Agents[i]; row.Namespace == s.Pod.Namespace && s.sends(row) {
				add(row.Name, "")
			}
		}
	}
	return agents
}

// concerns reports whether an agent of policy matters to the Pod, by its row, which may be
// nil. Without a podSelector only those do that the Pod was seen to send.
func (s Scene) concerns(policy *v1alpha1.EdgeHubPolicy, row *v1alpha1.NodeAgent) bool {
	return policy.Spec.PodSelector != nil || row != nil && s.sends(row)
}

func (s Scene) sends(row *v1alpha1.NodeAgent) bool {
	return slices.ContainsFunc(row.Pods, func(p v1alpha1.NodePod) bool { return p.UID == s.Pod.UID })
}

// budgets are sentences about the PodDisruptionBudgets that select the Pod.
func (s Scene) budgets() (sentences []string) {
	for i := range s.Budgets {
		budget := &s.Budgets[i]
		selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
		if err != nil || budget.Spec.Selector == nil || !selector.Matches(labels.Set(s.Pod.Labels)) {
			continue
		}
		allowed := budget.Status.DisruptionsAllowed
		sentence := fmt.Sprintf("%s allows %d disruptions now", budget.Name, allowed)
		if allowed == 0 {
			sentence = fmt.Sprintf("%s allows no disruption now: %d of at least %d Pods are healthy", budget.Name, budget.Status.CurrentHealthy, budget.Status.DesiredHealthy)
		}
		sentences = append(sentences, sentence)
	}
	return sentences
}

// oldestStart is when the oldest container that runs now was started.
func oldestStart(pod *corev1.Pod) (oldest time.Time) {
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			if running := statuses[i].State.Running; running != nil && (oldest.IsZero() || running.StartedAt.Time.Before(oldest)) {
				oldest = running.StartedAt.UTC()
			}
		}
	}
	return oldest
}
