package rollout

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
)

// claimTime is how long a claim lasts that is not renewed. A rollout in progress
// renews it each time it is looked at, at least every half minute.
const claimTime = 2 * time.Minute

// claims say which rollout restarts a workload, so that no other one does. To
// forget them in a restart of the operator does no harm: availability is counted
// by workload, whoever restarts it.
type claims map[types.UID]claim

type claim struct {
	policy string // namespace/name
	until  time.Time
}

// holder returns which other policy restarts a workload, empty if none does.
func (c claims) holder(workload types.UID, policy string, now time.Time) string {
	if held, found := c[workload]; found && held.policy != policy && now.Before(held.until) {
		return held.policy
	}
	return ""
}

// follow makes those workloads the ones that policy restarts from which it evicts Pods
// now, and keeps those of its own where the Pods it evicted are not made up for yet. It
// gives up all others: a rollout that waits for something else may do so for long, and
// must not keep others from what they can do.
func (c claims) follow(policy string, plan Plan, now time.Time) {
	workloads := plan.Workloads.Clone()
	for workload := range plan.Recovering {
		if c[workload].policy == policy {
			workloads.Insert(workload)
		}
	}
	c.set(policy, workloads, now)
}

// set makes workloads the ones that policy restarts. It gives up all others.
func (c claims) set(policy string, workloads sets.Set[types.UID], now time.Time) {
	for workload, held := range c {
		if held.policy == policy && !workloads.Has(workload) || !now.Before(held.until) {
			delete(c, workload)
		}
	}
	for workload := range workloads {
		if c.holder(workload, policy, now) == "" {
			c[workload] = claim{policy: policy, until: now.Add(claimTime)}
		}
	}
}
