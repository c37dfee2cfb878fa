package fleet

import (
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// rememberTime is how long a configuration that is no longer in force is
	// remembered.
	rememberTime = time.Hour
	// maxCompared is how many of the latest ones are, with what they say of each
	// namespace.
	maxCompared = 64
)

// SilentTime is how long a hub may take to report that it began an agent anew: a few of
// its report periods.
const SilentTime = 2 * time.Minute

// Configurations remembers which configurations have been in force, by their hash,
// so that what a hub works with can be told from what it says: whether it is as good
// as the current one for a namespace, when only other namespaces differ, and since
// when it is behind. To forget it in a restart of the operator has it wait for hubs
// a little longer. It is safe for concurrent use.
type Configurations struct {
	mu      sync.Mutex
	current string
	since   time.Time // when the operator knew of one first
	known   map[string]*configuration
	order   []string // of those known, by when they were last in force, the current one last
	uses    map[Use]bool
	left    map[Use]time.Time // when what was in force before ceased to be, for rememberTime
}

type configuration struct {
	parts map[string]uint64
	ended time.Time
}

// ConfigurationOf returns a Configurations that knows one, which is in force.
func ConfigurationOf(hash string) *Configurations {
	c := &Configurations{}
	c.Set(hash, nil, nil, time.Time{})
	return c
}

// Set says that a configuration is in force. parts are digests of what it says for
// each namespace, uses what policies have it cache, which must not be changed.
func (c *Configurations) Set(hash string, parts map[string]uint64, uses map[Use]bool, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave(uses, now)
	if c.known == nil {
		c.known, c.since = map[string]*configuration{}, now
	}
	if last := c.known[c.current]; last != nil && hash != c.current {
		last.ended = now
	}
	c.order = append(slices.DeleteFunc(c.order, func(h string) bool { return h == hash }), hash)
	c.current, c.known[hash] = hash, &configuration{parts: maps.Clone(parts)}
	if old := len(c.order) - maxCompared; old > 0 {
		c.known[c.order[old-1]].parts = nil
	}
	for len(c.order) > 1 && now.Sub(c.known[c.order[0]].ended) > rememberTime {
		delete(c.known, c.order[0])
		c.order = c.order[1:]
	}
}

// leave remembers what is in force no longer, now that uses are. The caller holds mu.
func (c *Configurations) leave(uses map[Use]bool, now time.Time) {
	maps.DeleteFunc(c.left, func(_ Use, ended time.Time) bool { return now.Sub(ended) > rememberTime })
	for use := range c.uses {
		if !uses[use] {
			if c.left == nil {
				c.left = map[Use]time.Time{}
			}
			c.left[use] = now
		}
	}
	c.uses = uses
}

// Forget forgets all but the current one: what was the same before is so no longer.
func (c *Configurations) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, known := range c.known {
		known.parts = nil
	}
}

// Current reports whether a hub with a configuration works with all that the one in
// force says of a namespace.
func (c *Configurations) Current(hash, namespace string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if hash == c.current {
		return true
	}
	had, has := c.known[hash], c.known[c.current]
	if had == nil || has == nil {
		return false
	}
	before, known := had.parts[namespace]
	after, wanted := has.parts[namespace]
	return known && wanted && before == after
}

// Heard reports whether what the hub of node said last counts for a use that was
// applied at a time, both by the clock of kube-apiserver. It may have been away before,
// as when a policy is deleted and made anew. A hub that noticed has dropped what it had
// and will say so, but until then its last report tells of what is gone, perhaps with the
// very configuration that is in force again. A hub that did not notice has nothing to
// report, so the silence of one with the configuration in force counts after SilentTime;
// one with another has to report that it takes this one. Nobody is waited for because of
// what has not been in force in the last hour, since no hub can have told of that.
func (c *Configurations) Heard(node *Node, use Use, applied, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left[use].IsZero() || node.Reported.IsZero() || !node.Reported.Before(applied) {
		return true
	}
	return node.Hash == c.current && now.Sub(applied) >= SilentTime
}

// BehindSince returns since when a configuration is not in force any more, zero if it
// is. One that the operator never knew ended before it started. known is false as long
// as it knows of none, as when it has just started or the ConfigMap is malformed:
// nothing can be said then.
func (c *Configurations) BehindSince(hash string) (since time.Time, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch configuration := c.known[hash]; {
	case c.known == nil:
		return time.Time{}, false
	case hash == c.current:
		return time.Time{}, true
	case configuration == nil:
		return c.since, true
	default:
		return configuration.ended, true
	}
}
