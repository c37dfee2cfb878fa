package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// EdgeHubNode is what the edge-hub of the Node of the same name has cached, as it
// reports itself: whether the Pods there would start again without the cloud now.
// The hub writes it, on change and at most every 30 seconds; an admission policy
// lets it write no other. The operator marks those whose Node is out of reach.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=edgehubnodes,singular=edgehubnode,shortName=ehn,scope=Cluster,categories=edgehub
// +kubebuilder:printcolumn:name="Connected",type=string,JSONPath=`.status.conditions[?(@.type=="Connected")].status`,description="False when the node is out of reach: the rest is what it last reported"
// +kubebuilder:printcolumn:name="Offline-Ready",type=string,JSONPath=`.status.conditions[?(@.type=="OfflineReady")].status`,description="True when every agent's Pods would start without the cloud now"
// +kubebuilder:printcolumn:name="Agents",type=string,JSONPath=`.status.agentsReady`,description="Agents whose Pods would start without the cloud, of all agents in use"
// +kubebuilder:printcolumn:name="Objects",type=integer,JSONPath=`.status.objects`,description="Objects in the cache"
// +kubebuilder:printcolumn:name="Bytes",type=string,JSONPath=`.status.size`,description="Size of the cache on disk"
// +kubebuilder:printcolumn:name="Configuration",type=string,JSONPath=`.status.configuration.hash`,description="Hash of the configuration in use"
// +kubebuilder:printcolumn:name="Reported",type=date,JSONPath=`.status.reportTime`,description="When the hub last reported a change"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Version",type=string,priority=1,JSONPath=`.status.version`,description="Version of edge-hub"
// +kubebuilder:printcolumn:name="Status",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="OfflineReady")].message`,description="What is missing"
// +kubebuilder:printcolumn:name="Connection",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Connected")].message`,description="Since when the node is out of reach"
type EdgeHubNode struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata. The Node of the same name owns
	// the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// status is what the hub reports. Read-only.
	// +optional
	Status EdgeHubNodeStatus `json:"status,omitempty"`
}

// EdgeHubNodeList is a list of EdgeHubNodes.
// +kubebuilder:object:root=true
type EdgeHubNodeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	// items are the nodes.
	Items []EdgeHubNode `json:"items"`
}

// Bounds of what a hub reports, so that an EdgeHubNode never grows with the
// cluster.
const (
	// MaxNodeAgents is how many agents are reported; those that are not ready go
	// first.
	MaxNodeAgents = 256
	// MaxNodeUncached is how many agents that are not cached are.
	MaxNodeUncached = 64
	// MaxAgentPods is how many Pods of an agent are, and MaxNodePods of all agents
	// together: etcd takes no object of more than 1.5 MiB.
	MaxAgentPods = 128
	MaxNodePods  = 1024
)

// EdgeHubNodeStatus is what a hub reports.
type EdgeHubNodeStatus struct {
	// version is that of edge-hub.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	Version string `json:"version,omitempty"`

	// reportTime is when the hub last found something to report.
	// +optional
	ReportTime *metav1.Time `json:"reportTime,omitempty"`

	// cachingSince is when a hub first took a configuration on this node. A Pod
	// that started before may have read past the cache.
	// +optional
	CachingSince *metav1.Time `json:"cachingSince,omitempty"`

	// configuration is the kube-system/edge-hub-cfg that the hub works with.
	// +optional
	Configuration *NodeConfiguration `json:"configuration,omitempty"`

	// conditions are Connected, OfflineReady, ConfigValid and CacheWritable, and
	// ConfigCurrent where it is or was False.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// agentsReady sums up agents: "3/4" when three of four would start without
	// the cloud.
	// +optional
	AgentsReady string `json:"agentsReady,omitempty"`

	// objects are the objects in the cache.
	// +optional
	Objects int64 `json:"objects,omitempty"`

	// bytes is the size of the cache on disk, in bytes.
	// +optional
	Bytes int64 `json:"bytes,omitempty"`

	// size is bytes as a person reads them, such as 12Mi.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Size string `json:"size,omitempty"`

	// agents are the cached agents in use on this node, each with the namespace of
	// the ServiceAccounts that use it. There are at most 256 of them.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +listMapKey=namespace
	// +kubebuilder:validation:MaxItems=256
	Agents []NodeAgent `json:"agents,omitempty"`

	// agentsOmitted is how many agents there was no room for in agents.
	// +optional
	AgentsOmitted int32 `json:"agentsOmitted,omitempty"`

	// uncached are agents seen on this node that are not cached, at most 64.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +listMapKey=namespace
	// +kubebuilder:validation:MaxItems=64
	Uncached []UncachedAgent `json:"uncached,omitempty"`
}

// NodeConfiguration is the configuration a hub works with.
type NodeConfiguration struct {
	// hash is that of the configuration in use: "v1-" and 16 hexadecimal digits.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Hash string `json:"hash,omitempty"`
	// appliedTime is when this hub took it.
	// +optional
	AppliedTime *metav1.Time `json:"appliedTime,omitempty"`
}

// NodeAgent is a cached agent in use on a node.
type NodeAgent struct {
	// name is the agent.
	// +required
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name"`
	// namespace is that of the ServiceAccounts that use it, "" for callers that
	// are no ServiceAccounts.
	// +optional
	// +kubebuilder:default=""
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// since is when the hub of this node began to cache the agent for this
	// namespace. Pods that started before may have read past the cache.
	// +required
	Since metav1.Time `json:"since"`
	// offlineReady is true if everything that the agent has asked for is complete
	// on disk: its Pods would start without the cloud now.
	// +required
	OfflineReady bool `json:"offlineReady"`
	// reason says in one word why it is not offline-ready.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason,omitempty"`
	// message says what is missing, and what to do.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Message string `json:"message,omitempty"`
	// views are the lists, objects and documents in the cache.
	// +optional
	Views int32 `json:"views,omitempty"`
	// incomplete are those that were asked for and are missing or behind.
	// +optional
	Incomplete int32 `json:"incomplete,omitempty"`
	// objects are the objects in them.
	// +optional
	Objects int64 `json:"objects,omitempty"`
	// bytes is their size on disk, in bytes.
	// +optional
	Bytes int64 `json:"bytes,omitempty"`
	// relists are the watches that were ended so that their lists go through the
	// cache, since the hub began to cache the agent.
	// +optional
	Relists int64 `json:"relists,omitempty"`
	// pods are the Pods of this node that were seen to send this User-Agent and
	// still exist as far as the hub knows, at most 128. All agents of a node have
	// at most 1024 together, which namespaces share.
	// +optional
	// +listType=map
	// +listMapKey=uid
	// +kubebuilder:validation:MaxItems=128
	Pods []NodePod `json:"pods,omitempty"`
}

// NodePod is a Pod that sends a User-Agent.
type NodePod struct {
	// name is that of the Pod, in the agent's namespace.
	// +required
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// uid is that of the Pod.
	// +required
	UID types.UID `json:"uid"`
}

// UncachedAgent is an agent that is not cached.
type UncachedAgent struct {
	// name is the agent.
	// +required
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name"`
	// namespace is that of the ServiceAccounts that use it, "" for callers that
	// are no ServiceAccounts.
	// +optional
	// +kubebuilder:default=""
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
}

// Reasons in an agent of an EdgeHubNode that is not offline-ready.
const (
	// NodeAgentIncomplete: something that was asked for is not on disk yet, or
	// behind what was delivered.
	NodeAgentIncomplete = "Incomplete"
	// NodeAgentNotWarm: a Pod watches what it listed before the agent was
	// cached. It has to list again: restart it, or use the strategy Relist.
	NodeAgentNotWarm = "NotWarm"
	// NodeAgentNotRestarted: a Pod read something before the agent was cached that
	// is not on disk, and would read it again when it starts: restart it.
	NodeAgentNotRestarted = "NotRestarted"
	// NodeAgentTooLarge: what it lists and watches is more than the quota.
	NodeAgentTooLarge = "TooLarge"
	// NodeAgentDisk: the disk of the node fails, is full or read-only.
	NodeAgentDisk = "Disk"
	// NodeAgentSecretsDenied: a policy keeps Secrets off the disk that the agent
	// has asked for.
	NodeAgentSecretsDenied = "SecretsDenied"
)

// Types of the conditions of an EdgeHubNode.
const (
	// NodeConnected is True while the hub reaches kube-apiserver. The hub sets it
	// to True, the operator to False.
	NodeConnected = "Connected"
	// NodeOfflineReady is True if every agent of status.agents is offline-ready.
	NodeOfflineReady = "OfflineReady"
	// NodeConfigValid is False while kube-system/edge-hub-cfg is malformed, and the
	// hub works with the last one that was good.
	NodeConfigValid = "ConfigValid"
	// NodeCacheWritable is False while the cache directory can't be written.
	NodeCacheWritable = "CacheWritable"
	// NodeConfigCurrent is False when the hub has not taken the configuration in
	// force for ten minutes although its Node is ready. The operator sets it, and
	// only if that was ever so.
	NodeConfigCurrent = "ConfigCurrent"
)

// Reasons of the conditions of an EdgeHubNode.
const (
	// NodeReasonReporting: the hub has reported and its Node is ready. (Connected)
	NodeReasonReporting = "Reporting"
	// NodeReasonNodeNotReady: the Node is not ready; what is shown is what its hub
	// last reported. (Connected False)
	NodeReasonNodeNotReady = "NodeNotReady"
	// NodeReasonNotReporting: the Node is ready, and the hub neither takes the
	// configuration nor reports. (Connected False)
	NodeReasonNotReporting = "NotReporting"
	// NodeReasonTaken and NodeReasonBehind are those of ConfigCurrent.
	NodeReasonTaken  = "Taken"
	NodeReasonBehind = "Behind"
	// NodeReasonComplete: everything that was asked for is on disk. (OfflineReady)
	NodeReasonComplete = "Complete"
	// NodeReasonNothingAsked: no cached agent has asked for anything yet.
	// (OfflineReady True: nothing is missing)
	NodeReasonNothingAsked = "NothingAsked"
	// NodeReasonAgentsNotReady: some agents are not offline-ready; the message
	// names them. (OfflineReady False)
	NodeReasonAgentsNotReady = "AgentsNotReady"
	// NodeReasonValid and NodeReasonMalformed are those of ConfigValid.
	NodeReasonValid     = "Valid"
	NodeReasonMalformed = "Malformed"
	// NodeReasonWritable and NodeReasonNotWritable are those of CacheWritable.
	NodeReasonWritable    = "Writable"
	NodeReasonNotWritable = "NotWritable"
)
