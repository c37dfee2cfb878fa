package cache

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// holder is on whose account a file is: an agent, used by the ServiceAccounts of a
// namespace, or by one other caller.
type holder struct {
	agent     string
	namespace string // "" for callers that are no ServiceAccounts
	identity  string // the directory of such a caller
}

// tenant is who shares the total with others. All callers that are neither
// ServiceAccounts nor the node are one: a namespace can have any number of tokens
// that tell nothing of it, say by Secrets, and must not have a share for each.
type tenant struct {
	namespace string
	node      bool
}

// nodePrefix begins the identity of this node's kubelet, and no other.
const nodePrefix = "system:node:"

func (h holder) tenant() tenant {
	return tenant{h.namespace, strings.HasPrefix(h.identity, nodePrefix)}
}

func (h holder) compare(other holder) int {
	return cmp.Or(strings.Compare(h.agent, other.agent), strings.Compare(h.namespace, other.namespace), strings.Compare(h.identity, other.identity))
}

func holderOfFile(file string) holder {
	h := holder{agent: agentOfFile(file)}
	_, rest, _ := strings.Cut(file, "/")
	// Names are shortened at their end.
	if account, ok := strings.CutPrefix(rest, serviceaccount.ServiceAccountUsernamePrefix); ok {
		if namespace, _, ok := strings.Cut(account, ":"); ok {
			h.namespace = namespace
			return h
		}
	}
	h.identity, _, _ = strings.Cut(rest, "/")
	return h
}

// mostOf is who loses something next of what all share: of the tenant that has the
// most, the holder that has the most, so that who has many agents gains nothing by
// it. The node loses only if nobody else has any: without its Pods nothing else
// starts. If several have as much, it is rather the one that asks for more.
func mostOf(amounts map[holder]int64, own holder) holder {
	tenants := map[tenant]int64{}
	var having []holder
	for h, n := range amounts {
		if n > 0 {
			tenants[h.tenant()] += n
			having = append(having, h)
		}
	}
	if len(having) == 0 {
		return own
	}
	return slices.MaxFunc(having, func(a, b holder) int {
		of, other := a.tenant(), b.tenant()
		return cmp.Or(
			first(!of.node, !other.node),
			cmp.Compare(tenants[of], tenants[other]),
			first(of == own.tenant(), other == own.tenant()),
			strings.Compare(other.namespace, of.namespace),
			cmp.Compare(amounts[a], amounts[b]),
			first(a == own, b == own),
			b.compare(a),
		)
	})
}

// first orders what is so before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// pairSeparator is in no agent.
const pairSeparator = "\x00"

// pairOfFile is the agent of a file, followed by the namespace if it holds what a
// ServiceAccount has read: what is reported together.
func pairOfFile(file string) string { return holderOfFile(file).pair() }

func (h holder) pair() string {
	if h.namespace == "" {
		return h.agent
	}
	return h.agent + pairSeparator + h.namespace
}

// splitPair is the agent and the namespace of a pair.
func splitPair(pair string) (agent, namespace string) {
	agent, namespace, _ = strings.Cut(pair, pairSeparator)
	return agent, namespace
}

// agentOf is the agent of a pair.
func agentOf(pair string) string {
	agent, _ := splitPair(pair)
	return agent
}
