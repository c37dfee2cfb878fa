package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// EdgeHubPolicy makes edge-hub cache what programs of this namespace read from
// kube-apiserver, so that they keep running and restart while the cloud is out
// of reach. It also restarts the Pods of those programs, a few at a time, because
// a program that was running before only fills the cache when it reads again.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=edgehubpolicies,singular=edgehubpolicy,shortName=ehp,categories=edgehub
// +kubebuilder:printcolumn:name="Agents",type=string,JSONPath=`.status.agentSummary`,description="User-Agents edge-hub caches, up to the first slash"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="True when there is nothing left to do"
// +kubebuilder:printcolumn:name="Restarted",type=string,JSONPath=`.status.restarted`,description="Pods that run with the cache, of all matched Pods"
// +kubebuilder:printcolumn:name="Nodes",type=string,JSONPath=`.status.offlineReady`,description="Nodes where the agents' Pods would start without the cloud, of those where the agents are in use"
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,description="What is going on"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="Reason of the Ready condition"
// +kubebuilder:printcolumn:name="Strategy",type=string,priority=1,JSONPath=`.spec.restart.strategy`,description="How Pods are restarted"
// +kubebuilder:printcolumn:name="Unavailable",type=integer,priority=1,JSONPath=`.status.pods.unavailable`,description="Pods that are wanted and not ready"
// +kubebuilder:printcolumn:name="Max Unavailable",type=string,priority=1,JSONPath=`.spec.restart.maxUnavailable`,description="Pods that may be unavailable during restarts"
// +kubebuilder:printcolumn:name="Quota",type=string,priority=1,JSONPath=`.spec.quota`,description="Bytes each agent may keep on each node"
// +kubebuilder:printcolumn:name="Secrets",type=string,priority=1,JSONPath=`.spec.secrets`,description="Whether Secrets are kept on nodes"
// +kubebuilder:printcolumn:name="As Written",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="AsWritten")].status`,description="False when quota or secrets in force are not those of this policy"
// +kubebuilder:printcolumn:name="Stalled",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Stalled")].status`,description="True when a person has to act"
type EdgeHubPolicy struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says what to cache and how to restart.
	// +required
	Spec EdgeHubPolicySpec `json:"spec"`

	// status is what the operator found and did. Read-only. Until the operator has
	// seen the policy its observedGeneration is -1, so that nobody takes it for done.
	// +optional
	// +kubebuilder:default={"observedGeneration":-1}
	Status EdgeHubPolicyStatus `json:"status,omitempty"`
}

// EdgeHubPolicyList is a list of EdgeHubPolicies.
// +kubebuilder:object:root=true
type EdgeHubPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	// items are the policies.
	Items []EdgeHubPolicy `json:"items"`
}

// EdgeHubPolicySpec says what to cache and how to restart.
type EdgeHubPolicySpec struct {
	// cacheAgents are the programs to cache, each written as the program's
	// User-Agent header up to its first "/", case included: edge-app for
	// "edge-app/v1.18.8 (linux/amd64)". Unless a program chose another one, its
	// User-Agent begins with the name of its binary; the log of edge-hub shows it
	// at the beginning of each line about a request. An agent is cached on every
	// edge node, for ServiceAccounts of this namespace only. kubelet, kube-proxy,
	// coredns, flanneld and edge-hub are always cached and need no policy.
	// +required
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="size(self) > 0",message="must list at least one agent: write the program's User-Agent up to the first '/', such as edge-app"
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, a == b))",message="must not list an agent twice: remove the repetition"
	// +kubebuilder:validation:items:XValidation:rule="self != ''",message="must not be empty: write the program's User-Agent up to the first '/', such as edge-app"
	// +kubebuilder:validation:items:XValidation:rule="size(self) <= 128",message="must have at most 128 characters: write only the part of the User-Agent before the first '/'"
	// +kubebuilder:validation:items:XValidation:rule="!self.contains('/')",message="must not contain '/': write only the part of the User-Agent before the first '/'"
	// +kubebuilder:validation:items:XValidation:rule="!self.contains(',')",message="must not contain a comma: make each agent an item of its own"
	// +kubebuilder:validation:items:XValidation:rule="self != '.' && self != '..'",message="must not be '.' or '..', which name directories: write the program's User-Agent up to the first '/'"
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[ -~]*$')",message="must be printable ASCII on one line: write the User-Agent exactly as the program sends it"
	// +kubebuilder:validation:items:XValidation:rule="!self.startsWith(' ') && !self.endsWith(' ')",message="must not begin or end with a space: remove it"
	// +kubebuilder:validation:items:XValidation:rule="!self.contains('*')",message="must not contain '*': write each agent in full. To cache every agent is a choice for the whole platform: write '*' into cache_agents of ConfigMap kube-system/edge-hub-cfg by hand"
	// +kubebuilder:validation:items:XValidation:rule="!(self in ['kubelet', 'kube-proxy', 'coredns', 'flanneld', 'edge-hub'])",message="is always cached on every edge node: remove it from the list. What the platform's own programs need is a choice for the whole platform: an administrator writes it into cache_agents of ConfigMap kube-system/edge-hub-cfg by hand"
	CacheAgents []string `json:"cacheAgents"`

	// quota is how many bytes of each node's disk each agent's cache may take for
	// the ServiceAccounts of this namespace, at least 1Mi. When it is more than the
	// platform allows, what the platform allows holds. When it is absent it is
	// left to edge-hub on each node.
	// +optional
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? int(self) >= 1048576 : (size(string(self)) <= 64 && !string(self).matches('[eE][+-]?[0-9]{3}') && isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('1Mi')) >= 0)",message="must be a number of bytes of at least 1Mi: write for example 100Mi"
	Quota *resource.Quantity `json:"quota,omitempty"`

	// secrets is Cache, which keeps the Secrets these programs read like all else,
	// or Deny, which keeps Secrets that ServiceAccounts of this namespace read off
	// every node's disk; then they can't be read while the cloud is out of reach.
	// +optional
	// +kubebuilder:default=Cache
	Secrets SecretCaching `json:"secrets,omitempty"`

	// podSelector selects the Pods of this namespace that run the programs. Those
	// on edge nodes are restarted once, if they started before their node's hub
	// began to cache the agents. When it is absent the Pods are those that hubs
	// report as sending the agents. An empty selector, {}, selects every Pod of
	// the namespace. A Pod with the annotation edgehub.io/restart: Never is never
	// restarted.
	// +optional
	PodSelector *LabelSelector `json:"podSelector,omitempty"`

	// nodeSelector restricts restarts, and what status counts, to edge nodes with
	// these labels. When it is absent every node with a hub is meant. It does not
	// restrict caching.
	// +optional
	NodeSelector *LabelSelector `json:"nodeSelector,omitempty"`

	// restart says how the selected Pods are restarted.
	// +optional
	// +kubebuilder:default={}
	Restart RestartSpec `json:"restart,omitempty"`
}

// SecretCaching says whether Secrets may be kept on a node's disk.
// +kubebuilder:validation:Enum=Cache;Deny
type SecretCaching string

// What may become of Secrets.
const (
	// CacheSecrets keeps Secrets like every other resource.
	CacheSecrets SecretCaching = "Cache"
	// DenySecrets keeps Secrets off the disk.
	DenySecrets SecretCaching = "Deny"
)

// RestartStrategy is a way to restart Pods.
// +kubebuilder:validation:Enum=RollingRestart;Relist;Never
type RestartStrategy string

// Ways to restart Pods.
const (
	// RollingRestart evicts Pods a few at a time through the Eviction API.
	RollingRestart RestartStrategy = "RollingRestart"
	// Relist restarts no Pod: edge-hub ends watches whose list it has not seen, and
	// answers the next one 410 Expired once, so that the program lists again.
	Relist RestartStrategy = "Relist"
	// NeverRestart leaves restarts to the user.
	NeverRestart RestartStrategy = "Never"
)

// RestartSpec says how Pods are restarted.
type RestartSpec struct {
	// strategy is RollingRestart, which evicts the selected Pods a few at a time
	// and respects PodDisruptionBudgets; Relist, which restarts nothing but has
	// programs that watch list again, through the cache, as informers do when a
	// watch expires, on every node and whatever the selectors say; or Never, which
	// leaves restarts to you.
	// +optional
	// +kubebuilder:default=RollingRestart
	Strategy RestartStrategy `json:"strategy,omitempty"`

	// maxUnavailable is how many of the selected Pods may be unavailable at once:
	// a number above 0, or a percentage from "1%" to "100%" of the selected Pods,
	// rounded down but at least 1. Pods that are unavailable for other reasons
	// count too; those on nodes that are not ready count for their own ReplicaSet or
	// StatefulSet only.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? int(self) > 0 && int(self) <= 2147483647 : string(self).matches('^([1-9][0-9]?|100)%$')",message="must be a number from 1 to 2147483647, or a percentage from '1%' to '100%': write for example 1 or '10%'"
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`

	// minReadySeconds is how long, in seconds, a Pod must have been ready before
	// it counts as available and the next one is restarted.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	MinReadySeconds int32 `json:"minReadySeconds,omitempty"`

	// paused stops restarts until it is false again. Agents are still cached.
	// +optional
	Paused bool `json:"paused,omitempty"`

	// window is when restarts may begin, and when programs are made to list again.
	// When it is absent that is at any time.
	// +optional
	Window *RestartWindow `json:"window,omitempty"`

	// debounceSeconds is how long, in seconds, the policy must have been left
	// alone before the first Pod is restarted, so that a series of edits causes
	// one rollout.
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	DebounceSeconds *int32 `json:"debounceSeconds,omitempty"`
}

// RestartWindow is a part of each day, or of some days of each week.
type RestartWindow struct {
	// start is when the window opens, on a clock of 24 hours: 22:00.
	// +required
	// +kubebuilder:validation:XValidation:rule="self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$')",message="must be a time of day from 00:00 to 23:59: write for example 22:00"
	// +kubebuilder:validation:MaxLength=5
	Start string `json:"start"`
	// end is when it closes; one that is not after start is on the next day.
	// No restart begins at or after it.
	// +required
	// +kubebuilder:validation:XValidation:rule="self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$')",message="must be a time of day from 00:00 to 23:59: write for example 05:30"
	// +kubebuilder:validation:MaxLength=5
	End string `json:"end"`
	// days are those on which it opens. When there are none it opens every day.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=7
	Days []Weekday `json:"days,omitempty"`
	// timeZone is the zone of start, end and days, by its name in the IANA time
	// zone database, such as Europe/Berlin.
	// +optional
	// +kubebuilder:default=UTC
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self != 'Local' && self.matches('^[A-Za-z0-9+_-]+(/[A-Za-z0-9+_-]+)*$')",message="must be the name of a time zone: write for example UTC or Europe/Berlin"
	TimeZone string `json:"timeZone,omitempty"`
}

// Weekday is a day of the week.
// +kubebuilder:validation:Enum=Monday;Tuesday;Wednesday;Thursday;Friday;Saturday;Sunday
type Weekday string

// EdgeHubPolicyStatus is what the operator found and did.
type EdgeHubPolicyStatus struct {
	// observedGeneration is the last generation of the policy that was carried
	// out, or found impossible without help. The conditions carry the generation
	// they are about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Ready, Reconciling, Stalled, ConfigApplied, AsWritten,
	// RestartsComplete, CacheReady and CacheTooLarge.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// agents are the agents of this policy that kube-system/edge-hub-cfg lists for
	// this namespace.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Agents []AgentStatus `json:"agents,omitempty"`

	// agentSummary names the first agents of the policy, and how many more there
	// are.
	// +optional
	AgentSummary string `json:"agentSummary,omitempty"`

	// removals are the agents of this policy that somebody else removed from
	// kube-system/edge-hub-cfg.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Removals []AgentRemoval `json:"removals,omitempty"`

	// restarted sums up pods: "2/3" when two of three Pods run with the cache.
	// +optional
	Restarted string `json:"restarted,omitempty"`

	// pods counts the Pods selected by podSelector and nodeSelector. Without a
	// podSelector those are the Pods that hubs report as sending the agents.
	// +optional
	Pods *PodCounts `json:"pods,omitempty"`

	// nodes counts the nodes with a hub.
	// +optional
	Nodes *NodeCounts `json:"nodes,omitempty"`

	// offlineReady sums up nodes: "2/3" when the agents' Pods would start without
	// the cloud on two of the three nodes where the agents are in use.
	// +optional
	OfflineReady string `json:"offlineReady,omitempty"`
}

// NodeCounts counts nodes with an EdgeHubNode.
type NodeCounts struct {
	// hubs are the nodes with a hub that match nodeSelector.
	Hubs int32 `json:"hubs"`
	// configured are those whose hub works with what the current configuration says
	// of this namespace.
	Configured int32 `json:"configured"`
	// unreachable are those that are out of reach now.
	Unreachable int32 `json:"unreachable"`
	// inUse are those where the agents of this policy are in use for this
	// namespace.
	InUse int32 `json:"inUse"`
	// offlineReady are the nodes of inUse where all of them are offline-ready.
	OfflineReady int32 `json:"offlineReady"`
	// tooLarge are the nodes of inUse where one of them asks for more than fits.
	TooLarge int32 `json:"tooLarge"`
}

// RestartAnnotation on a Pod with the value Never keeps every policy from restarting
// it.
const RestartAnnotation = "edgehub.io/restart"

// AgentStatus is an agent in kube-system/edge-hub-cfg.
type AgentStatus struct {
	// name is the agent.
	// +required
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name"`

	// appliedTime is when the configuration last changed before the agent was
	// first seen in it. Where no hub reports since when it caches the agent, Pods
	// created before, or within the seconds edge-hub takes to read the change, have
	// to be restarted.
	// +required
	AppliedTime metav1.Time `json:"appliedTime"`
}

// AgentRemoval is about an agent that somebody else removed from
// kube-system/edge-hub-cfg although a policy names it.
type AgentRemoval struct {
	// name is the agent.
	// +required
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name"`
	// time is when the operator last found it removed.
	// +required
	Time metav1.Time `json:"time"`
	// times is how often that was, each time within an hour after its return. From
	// the second time on the agent returns only after an hour, and its Pods are not
	// restarted before it has stayed for an hour.
	// +required
	Times int32 `json:"times"`
	// manager is the field manager that last wrote the ConfigMap then, empty if it
	// is not known.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	Manager string `json:"manager,omitempty"`
}

// PodCounts counts Pods. Finished Pods and static Pods are never counted.
type PodCounts struct {
	// matched are the running or starting Pods on the selected edge nodes that a
	// Deployment, ReplicaSet, StatefulSet or DaemonSet keeps.
	Matched int32 `json:"matched"`
	// restarted are the matched Pods that started after the hub of their node began
	// to cache the agents.
	Restarted int32 `json:"restarted"`
	// pending are the matched Pods that are left to restart.
	Pending int32 `json:"pending"`
	// unavailable are the Pods that are wanted and missing or not ready. New
	// restarts wait while there are maxUnavailable of them.
	Unavailable int32 `json:"unavailable"`
	// deferred are pending Pods on nodes that are out of reach, cordoned, or can't
	// cache; they are restarted when that is over.
	Deferred int32 `json:"deferred"`
	// unmanaged are Pods that have to be restarted and which the operator never
	// evicts: no ReplicaSet, StatefulSet or DaemonSet would replace them.
	Unmanaged int32 `json:"unmanaged"`
	// optedOut are Pods that have to be restarted and say that they must not be,
	// with the annotation edgehub.io/restart: Never.
	// +optional
	OptedOut int32 `json:"optedOut,omitempty"`
	// waiting are pending Pods on nodes whose hub does not work with the current
	// configuration yet.
	// +optional
	Waiting int32 `json:"waiting,omitempty"`
}
