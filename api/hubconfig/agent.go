package hubconfig

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	// AllAgents is the entry of cache_agents that lists every agent.
	AllAgents = "*"

	// MaxAgentLength is the longest agent, in bytes. An agent names a directory
	// below the cache directory; 128 leaves room for a suffix within the 255
	// bytes a file name may have on Linux.
	MaxAgentLength = 128
)

// alwaysCached are the programs a node cannot do without when the cloud is away.
var alwaysCached = []string{"coredns", "edge-hub", "flanneld", "kube-proxy", "kubelet"}

// AlwaysCached returns the agents edge-hub caches whether or not cache_agents
// lists them, sorted. The slice belongs to the caller.
func AlwaysCached() []string { return slices.Clone(alwaysCached) }

// IsAlwaysCached reports whether agent is one of [AlwaysCached].
func IsAlwaysCached(agent string) bool { return slices.Contains(alwaysCached, agent) }

// AgentOf returns the agent of a User-Agent header: everything before its first
// "/", or all of it when there is none. Nothing is trimmed or folded; the agent
// is compared exactly as sent. The result need not be a legal agent: check it
// with [ValidateAgent], or [Config.Caches], which does, before using it as the
// name of a directory.
func AgentOf(userAgent string) string {
	agent, _, _ := strings.Cut(userAgent, "/")
	return agent
}

// ValidateAgent returns nil if agent can be listed in cache_agents and name a
// directory: 1 to [MaxAgentLength] bytes of printable ASCII without comma, "/"
// or "*", neither "." nor "..", and no space at either end. Spaces inside are
// legal because programs send them: the official Java client's agent is
// "Kubernetes Java Client". The error says what is wrong and how to mend it,
// and does not repeat the agent.
func ValidateAgent(agent string) error {
	switch {
	case agent == "":
		return errors.New("is empty: write the program's User-Agent up to the first \"/\"")
	case agent == "." || agent == "..":
		return errors.New("would name a directory outside the cache: write the program's User-Agent up to the first \"/\"")
	case len(agent) > MaxAgentLength:
		return fmt.Errorf("has %d bytes, the limit is %d: write only the part of the User-Agent before the first \"/\"", len(agent), MaxAgentLength)
	case agent[0] == ' ' || agent[len(agent)-1] == ' ':
		return errors.New("begins or ends with a space: remove it")
	}
	for i := range len(agent) {
		switch c := agent[i]; {
		case c == '/':
			return errors.New("contains \"/\": write only the part of the User-Agent before the first \"/\"")
		case c == ',':
			return errors.New("contains a comma: list each agent separately")
		case c == '*':
			return errors.New("contains \"*\", and patterns are not supported: write each agent in full, or \"*\" alone for every agent")
		case c == '\n' || c == '\r' || c == '\t':
			return errors.New("contains a line end or tab: separate agents with commas")
		case c < ' ' || c > '~':
			return fmt.Errorf("contains the byte 0x%02x: use printable ASCII only", c)
		}
	}
	return nil
}
