package rollout

import (
	"time"
)

// reloadTime is how long a connected edge-hub may take to read a change of
// kube-system/edge-hub-cfg. Pods created before it has passed may have started to
// read past the cache.
const reloadTime = 3 * time.Second

// caching says since when an agent is cached where a Pod runs.
type caching struct {
	// applied is when the agent came into the configuration, by the clock of
	// kube-apiserver.
	applied time.Time
	// inUse is true if the hub of the node has the agent in use for the Pod's
	// namespace; since is when it began to cache it, by the clock of the node.
	inUse bool
	since time.Time
	// nodeSince is when a hub first took a configuration on the node, by the clock
	// of the node.
	nodeSince time.Time
}

// affects reports whether a Pod may have read past the cache, and until when one
// like it may have been created. created is by the clock of kube-apiserver,
// started, by the clock of the node, is when the oldest of the Pod's containers
// that run now was started, zero if none runs.
//
// The hub's word counts where it has one, and it goes by when programs started,
// not by when Pods were created: one that was started anew since then has listed
// through the cache. Clocks of nodes may be wrong, and a wrong one must not make
// a replacement look old, or it would be restarted for ever. So a time that is
// still to come counts for nothing, and no Pod that was created after both times
// has to be restarted, whatever its node says of its start.
func (c caching) affects(created, started, now time.Time) (affected bool, until time.Time) {
	cutoff := c.applied.Add(reloadTime)
	since := c.nodeSince
	if c.inUse {
		since = c.since
	}
	if since.After(now) {
		return !created.After(cutoff), cutoff
	}
	if since.After(cutoff) {
		cutoff = since
	}
	if c.inUse && (started.IsZero() || started.After(c.since)) {
		return false, cutoff
	}
	return !created.After(cutoff), cutoff
}
