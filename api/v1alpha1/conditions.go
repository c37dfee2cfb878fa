package v1alpha1

// Types of the conditions of an EdgeHubPolicy. Each is always present once the
// operator has seen the policy. Ready, Reconciling and Stalled follow kstatus
// (https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus).
const (
	// ConditionReady is True when there is nothing left to do: the agents are in
	// kube-system/edge-hub-cfg and no Pod has to be restarted any more. Its
	// reason and message are those of whatever it waits for.
	ConditionReady = "Ready"
	// ConditionReconciling is True while the operator is working, waiting or
	// retrying towards Ready.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is True when a person has to act before the operator can
	// go on. The message says what to do.
	ConditionStalled = "Stalled"
	// ConditionConfigApplied is True when every agent of the policy is in
	// kube-system/edge-hub-cfg.
	ConditionConfigApplied = "ConfigApplied"
	// ConditionAsWritten is True when quota and secrets are in force as the policy
	// says and no other policy of its namespace says otherwise. When it is False
	// the message says what is in force; the policy can be Ready all the same.
	ConditionAsWritten = "AsWritten"
	// ConditionRestartsComplete is True when every matched Pod has started after
	// the hub of its node began to cache the agents, or says that it must not be
	// restarted, or is on a node that is not ready, or no restarts are wanted.
	ConditionRestartsComplete = "RestartsComplete"
	// ConditionCacheReady is True when the agents' Pods would start without the
	// cloud on every reachable node where the agents are in use, as the hubs
	// report. It is no part of Ready: the operator can't bring it about.
	ConditionCacheReady = "CacheReady"
	// ConditionCacheTooLarge is True while a hub reports that an agent lists and
	// watches more than fits its share of the node's disk.
	ConditionCacheTooLarge = "CacheTooLarge"
)

// Reasons of CacheReady.
const (
	// ReasonOfflineReady: everything the agents asked for is on disk wherever they
	// are in use. (True)
	ReasonOfflineReady = "OfflineReady"
	// ReasonNotInUse: no hub has seen the agents yet. (Unknown)
	ReasonNotInUse = "NotInUse"
	// ReasonCacheIncomplete: on some nodes something is missing; the message names
	// one. (False)
	ReasonCacheIncomplete = "CacheIncomplete"
)

// Reasons of CacheTooLarge.
const (
	// ReasonQuotaExceeded: an agent asks for more than its quota; raise the quota,
	// or narrow what the program lists and watches. (True)
	ReasonQuotaExceeded = "QuotaExceeded"
	// ReasonFits: what the agents ask for fits. (False)
	ReasonFits = "Fits"
)

// Reasons of ConfigApplied; when it is False, also of Ready.
const (
	// ReasonApplied: every agent is in kube-system/edge-hub-cfg. (True)
	ReasonApplied = "Applied"
	// ReasonApplying: agents are not in kube-system/edge-hub-cfg yet. (False)
	ReasonApplying = "Applying"
	// ReasonApplyFailed: kube-apiserver refused the change or could not be
	// reached; the operator retries. (False)
	ReasonApplyFailed = "ApplyFailed"
	// ReasonConfigMapMalformed: a person wrote something into cache_agents that
	// is no agent. The operator leaves the ConfigMap alone until the entry is
	// mended, and so does every edge-hub. (False, and Stalled)
	ReasonConfigMapMalformed = "ConfigMapMalformed"
	// ReasonConfigMapContested: somebody else removes agents of the policy from
	// kube-system/edge-hub-cfg again and again; the message names who. They are left
	// out for an hour, and no Pod is restarted because of them. (False, and Stalled)
	ReasonConfigMapContested = "ConfigMapContested"
	// ReasonAgentNotAllowed: the policy names an agent that only the platform may
	// choose, or that is none, which a validation older than this one let pass.
	// The policy's other agents are applied. (False, and Stalled)
	ReasonAgentNotAllowed = "AgentNotAllowed"
	// ReasonTooManyAgents: the policies of the namespace, or all policies together,
	// name more agents than the ConfigMap has room for; those of the newest
	// policies are left out. (False, and Stalled)
	ReasonTooManyAgents = "TooManyAgents"
)

// Reasons of AsWritten.
const (
	// ReasonAsWritten: quota and secrets are in force as written. (True)
	ReasonAsWritten = "AsWritten"
	// ReasonQuotaCapped: the quota is above what the platform allows, which is in
	// force. (False)
	ReasonQuotaCapped = "QuotaCapped"
	// ReasonPoliciesDiffer: another policy of the namespace names the same agent
	// with another quota or secrets, or one of them has the strategy Relist and the
	// other has not. The larger quota is in force, Deny if any of them says so, and
	// Relist too. (False)
	ReasonPoliciesDiffer = "PoliciesDiffer"
)

// Reasons of RestartsComplete; when it is False, also of Ready.
const (
	// ReasonRestarted: no matched Pod has to be restarted any more. (True)
	ReasonRestarted = "Restarted"
	// ReasonNotRequested: the strategy is Never. (True)
	ReasonNotRequested = "NotRequested"
	// ReasonWaitingForConfig: Pods are restarted only after the agents are in
	// kube-system/edge-hub-cfg and the hubs had time to read it. (False)
	ReasonWaitingForConfig = "WaitingForConfig"
	// ReasonRestarting: Pods are being restarted. (False)
	ReasonRestarting = "Restarting"
	// ReasonWaitingForPods: as many Pods as maxUnavailable allows are
	// unavailable; the next restart waits until they are ready. (False)
	ReasonWaitingForPods = "WaitingForPods"
	// ReasonDisruptionBudget: a PodDisruptionBudget allows no eviction now; the
	// message names it. The operator retries with back-off. (False)
	ReasonDisruptionBudget = "BlockedByPodDisruptionBudget"
	// ReasonPaused: restart.paused is true and Pods are left to restart. (False)
	ReasonPaused = "Paused"
	// ReasonDeferred: the only Pods left are on nodes that are not ready,
	// cordoned, or can't cache. They are restarted when that is over. (True)
	ReasonDeferred = "Deferred"
	// ReasonPodsNeedAttention: the only Pods left are ones the operator never
	// evicts because nothing it knows would replace them one for one. Restart
	// them by hand. (False, and Stalled)
	ReasonPodsNeedAttention = "PodsNeedAttention"
	// ReasonWaitingForHubs: the only Pods left are on nodes whose hub has not taken
	// the current configuration yet, or it takes what hubs say to know which Pods
	// there are. (False)
	ReasonWaitingForHubs = "WaitingForHubs"
	// ReasonProbation: an agent that was removed from kube-system/edge-hub-cfg again
	// and again has returned; Pods are restarted when it has stayed for an hour.
	// (False)
	ReasonProbation = "Probation"
	// ReasonDebouncing: the policy was changed a moment ago. (False)
	ReasonDebouncing = "Debouncing"
	// ReasonOutsideWindow: restart.window is closed; the message says when it
	// opens. (False)
	ReasonOutsideWindow = "OutsideWindow"
	// ReasonNodesBroke: nodes became unreachable after Pods were restarted on
	// them. No further Pod is restarted until they return. (False, and Stalled)
	ReasonNodesBroke = "NodesBroke"
	// ReasonOtherRollout: another policy restarts the same Pods now. (False)
	ReasonOtherRollout = "OtherRollout"
	// ReasonRelisting: programs list again through the cache. (False)
	ReasonRelisting = "Relisting"
	// ReasonRelisted: every watch in use began with a list through the cache.
	// (True)
	ReasonRelisted = "Relisted"
	// ReasonWindowInvalid: the time zone of restart.window is not known to the
	// operator. (False, and Stalled)
	ReasonWindowInvalid = "WindowInvalid"
	// ReasonRestartFailed: reading or evicting Pods failed, or the eviction of the
	// only Pods left is denied by an admission webhook, say; the operator retries.
	// (False)
	ReasonRestartFailed = "RestartFailed"
)

// Reasons of Ready when it is True, and of Reconciling and Stalled when they are
// False.
const (
	// ReasonReady: there is nothing left to do.
	ReasonReady = "Ready"
	// ReasonNotReconciling: there is nothing in progress.
	ReasonNotReconciling = "NotReconciling"
	// ReasonNotStalled: no person has to act.
	ReasonNotStalled = "NotStalled"
	// ReasonEvicted is that of the event about a Pod that was evicted because of a
	// policy, which is the related object.
	ReasonEvicted = "EvictedByPolicy"
	// ReasonAgentRemoved is that of the event when somebody else removed an agent of
	// the policy from kube-system/edge-hub-cfg.
	ReasonAgentRemoved = "AgentRemoved"
	// ReasonDeleted is that of the event when a policy was deleted: the agents
	// that no other policy names have left kube-system/edge-hub-cfg.
	ReasonDeleted = "Deleted"
)
