package hubconfig

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Where the configuration is.
const (
	// Namespace is the namespace of the ConfigMap.
	Namespace = "kube-system"
	// Name is the name of the ConfigMap.
	Name = "edge-hub-cfg"
	// KeyCacheAgents is the key of the ConfigMap's data that lists the agents.
	KeyCacheAgents = "cache_agents"
	// KeyPolicies is the key that restricts agents to namespaces.
	KeyPolicies = "policies"
	// KeyRelist is the key that names agents whose watches begin with a list
	// through the cache.
	KeyRelist = "relist"
)

const (
	// whitespace is what is ignored around an entry of cache_agents.
	whitespace = " \t\r\n"

	// hashVersion leads every hash. Change it together with the text that is
	// hashed: then a hub of another version never agrees by accident.
	hashVersion = "v1"

	// maxQuoted bounds how much of an offending entry an error repeats, in
	// bytes, so that it fits in a condition or an event.
	maxQuoted = 64

	// maxErrors bounds how many mistakes an error lists.
	maxErrors = 32
)

// Config says which agents edge-hub caches, and for whom. The zero value lists
// none, so that only [AlwaysCached] are cached. It must not be changed while
// others read it.
type Config struct {
	// Agents are the listed agents without "*", sorted and unique.
	Agents []string
	// All is true if "*" is listed.
	All bool
	// Rules restrict cached agents; one without a rule is cached for every
	// caller. There are none of agents that are not cached or always cached.
	Rules map[string]Rule
	// Relist are the namespaces of ServiceAccounts, sorted and unique, by agent,
	// whose watches a hub ends if it has not seen the list before them. There are
	// none of agents that are not cached.
	Relist map[string][]string
}

// Parse reads the data of the ConfigMap. When something is malformed, the error
// joins one error for each mistake, up to a few dozen, naming the key, where it
// is, what it says and how to mend it; the Config is then the zero value, and a
// hub keeps the last one that was good. Rules of agents that cache_agents does
// not list are no mistake: they are left out.
func Parse(data map[string]string) (Config, error) {
	var (
		config Config
		errs   []error
	)
	for i, entry := range strings.Split(data[KeyCacheAgents], ",") {
		agent := strings.Trim(entry, whitespace)
		switch agent {
		case "":
			continue
		case AllAgents:
			config.All = true
			continue
		}
		if err := ValidateAgent(agent); err != nil {
			errs = append(errs, fmt.Errorf("%s: entry %d %s %w", KeyCacheAgents, i+1, quote(agent), err))
			continue
		}
		config.Agents = append(config.Agents, agent)
	}
	rules, ruleErrs := parseRules(data[KeyPolicies])
	relist, relistErrs := parseRelist(data[KeyRelist])
	errs = slices.Concat(errs, ruleErrs, relistErrs)
	if len(errs) > 0 {
		if more := len(errs) - maxErrors; more > 0 {
			errs = append(errs[:maxErrors], fmt.Errorf("and %d more", more))
		}
		return Config{}, errors.Join(errs...)
	}
	config.Rules, config.Relist = rules, relist
	return config.canonical(), nil
}

// Format writes config as the data of the ConfigMap: its agents sorted and
// separated by a bare comma, "*" first, and, if there are rules, those too.
// Parse reads it back unchanged.
func Format(config Config) map[string]string {
	agents, rules, relist := config.text()
	data := map[string]string{KeyCacheAgents: agents}
	if rules != "" {
		data[KeyPolicies] = rules
	}
	if relist != "" {
		data[KeyRelist] = relist
	}
	return data
}

// Hash returns a short text that is the same for two configurations exactly if
// they list the same agents with the same rules and relists, in whatever order,
// spacing or repetition they were written: "v1-" and 16 hexadecimal digits. It is
// legal as a label value. Without rules it is what it was before there were any.
func Hash(config Config) string {
	text, rules, relist := config.text()
	if rules != "" {
		text += "\n" + rules // no agent has a line end
	}
	if relist != "" {
		text += "\nrelist\n" + relist
	}
	sum := sha256.Sum256([]byte(text))
	return hashVersion + "-" + hex.EncodeToString(sum[:8])
}

// Caches reports whether edge-hub caches agent: it is listed, or always cached,
// or "*" is listed. What is no legal agent is never cached, not even with "*",
// so that every agent for which Caches is true is safe as a directory name.
func (c Config) Caches(agent string) bool {
	switch {
	case IsAlwaysCached(agent):
		return true
	case c.All:
		return ValidateAgent(agent) == nil
	}
	_, found := slices.BinarySearch(c.Agents, agent)
	return found
}

// Admits reports whether edge-hub caches what a caller reads as agent. namespace
// is that of the caller's ServiceAccount, or "" for a caller that is none: agents
// of namespaced policies are cached for ServiceAccounts of these namespaces only.
// An agent that is always cached, hand-written or covered by "*" is cached for
// every caller.
func (c Config) Admits(agent, namespace string) bool {
	if !c.Caches(agent) {
		return false
	}
	rule, restricted := c.Rules[agent]
	if !restricted || rule.ClusterWide || c.All || IsAlwaysCached(agent) {
		return true
	}
	_, named := rule.Namespaces[namespace]
	return named && namespace != ""
}

// Quota returns how many bytes may be kept on each node of what the
// ServiceAccounts of namespace read as agent, 0 if no policy says so.
func (c Config) Quota(agent, namespace string) int64 {
	return c.Rules[agent].Namespaces[namespace].Quota
}

// Secrets is what the rule of agent says of Secrets that ServiceAccounts of
// namespace read. namespace is that of the caller, not of the Secret.
func (c Config) Secrets(agent, namespace string) Secrets {
	if c.Rules[agent].Namespaces[namespace].Secrets == DenySecrets {
		return DenySecrets
	}
	return CacheSecrets
}

// DeniesSecrets reports whether Secrets that ServiceAccounts of namespace read as
// agent must not be kept on the disk: their rule says so or, if the agent has none
// for this namespace, that of any other agent does. A program can call itself by the
// name of one that is always cached, written by hand, or covered by "*".
func (c Config) DeniesSecrets(agent, namespace string) bool {
	if rule, named := c.Rules[agent].Namespaces[namespace]; named {
		return rule.Secrets == DenySecrets
	}
	for _, rule := range c.Rules {
		if rule.Namespaces[namespace].Secrets == DenySecrets {
			return true
		}
	}
	return false
}

// Relists reports whether a hub ends watches of ServiceAccounts of namespace, as
// agent, whose list it has not seen, so that the program lists again.
func (c Config) Relists(agent, namespace string) bool {
	return slices.Contains(c.Relist[agent], namespace) && c.Admits(agent, namespace)
}

// Equal reports whether both list the same agents with the same rules and relists.
func (c Config) Equal(other Config) bool {
	a, b := c.canonical(), other.canonical()
	return a.All == b.All && slices.Equal(a.Agents, b.Agents) && maps.EqualFunc(a.Rules, b.Rules, func(a, b Rule) bool {
		return a.ClusterWide == b.ClusterWide && maps.Equal(a.Namespaces, b.Namespaces)
	}) && maps.EqualFunc(a.Relist, b.Relist, slices.Equal)
}

// text is the canonical values of cache_agents, policies and relist.
func (c Config) text() (agents, rules, relist string) {
	c = c.canonical()
	if c.All {
		c.Agents = slices.Insert(c.Agents, 0, AllAgents)
	}
	return strings.Join(c.Agents, ","), formatObject(c.Rules), formatObject(c.Relist)
}

// canonical returns what Parse returns for the same configuration.
func (c Config) canonical() Config {
	c.Agents = sorted(c.Agents)
	c.Rules, c.Relist = canonicalRules(c), canonicalRelist(c)
	return c
}

// sorted returns agents sorted and unique in a slice of its own, nil if there
// are none.
func sorted(agents []string) []string {
	if len(agents) == 0 {
		return nil
	}
	list := slices.Clone(agents)
	slices.Sort(list)
	return slices.Compact(list)
}

// quote shows the beginning of an entry, with everything unprintable escaped.
func quote(entry string) string {
	if len(entry) > maxQuoted {
		return fmt.Sprintf("%q...", entry[:maxQuoted])
	}
	return fmt.Sprintf("%q", entry)
}
