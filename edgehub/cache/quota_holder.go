package cache

import (
	"cmp"
	"container/heap"
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

// rank is what a holder has, or a tenant and below it its holders, or all and below
// them the tenants. The first of those below loses something next of what all share:
// of the tenant that has the most, the holder that has the most, so that who has many
// agents gains nothing by it. The node loses only if nobody else has any: without its
// Pods nothing else starts. If several have as much, it is rather the one that asks
// for more.
//
// Those below are a heap, for a plan asks again with each file that leaves: to look
// through all holders each time takes minutes, and the ledger is locked meanwhile.
type rank struct {
	holder    holder // of a tenant the namespace, and of all who asks for more
	amount    int64
	node, own bool
	below     ranks
}

type ranks []*rank

func rankingOf(amounts map[holder]int64, own holder) *rank {
	tenants := map[tenant]*rank{}
	for h, n := range amounts {
		if n <= 0 {
			continue
		}
		of := h.tenant()
		t := tenants[of]
		if t == nil {
			t = &rank{holder: holder{namespace: of.namespace}, node: of.node, own: of == own.tenant()}
			tenants[of] = t
		}
		t.amount += n
		heap.Push(&t.below, &rank{holder: h, amount: n, own: h == own})
	}
	all := &rank{holder: own}
	for _, t := range tenants {
		all.amount += t.amount
		heap.Push(&all.below, t)
	}
	return all
}

// most is the holder that loses something next, or who asks for more if none has any.
func (r *rank) most() *rank {
	for len(r.below) > 0 {
		r = r.below[0]
	}
	return r
}

// take takes an amount from the holder that is most.
func (r *rank) take(amount int64) {
	r.amount -= amount
	if len(r.below) == 0 {
		return
	}
	top := r.below[0]
	if top.take(amount); top.amount > 0 {
		heap.Fix(&r.below, 0)
	} else {
		heap.Pop(&r.below)
	}
}

func (r ranks) Len() int      { return len(r) }
func (r ranks) Swap(i, j int) { r[i], r[j] = r[j], r[i] }
func (r *ranks) Push(x any)   { *r = append(*r, x.(*rank)) }

func (r ranks) Less(i, j int) bool {
	a, b := r[i], r[j]
	return cmp.Or(
		first(!a.node, !b.node),
		cmp.Compare(a.amount, b.amount),
		first(a.own, b.own),
		b.holder.compare(a.holder),
	) > 0
}

func (r *ranks) Pop() any {
	last := len(*r) - 1
	x := (*r)[last]
	*r = (*r)[:last]
	return x
}

// mostOf is who loses something next, see rank.
func mostOf(amounts map[holder]int64, own holder) holder {
	return rankingOf(amounts, own).most().holder
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
