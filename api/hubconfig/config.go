package hubconfig

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
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
)

// Config says which agents edge-hub caches. The zero value lists none, so that
// only [AlwaysCached] are cached.
type Config struct {
	// Agents are the listed agents without "*", sorted and unique.
	Agents []string
	// All is true if "*" is listed.
	All bool
}

// Parse reads the data of the ConfigMap. When entries are malformed, the error
// joins one error for each of them, naming its position (counted from 1), what
// it says and how to mend it; the Config is then the zero value, and a hub keeps
// the last one that was good.
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
	if len(errs) > 0 {
		return Config{}, errors.Join(errs...)
	}
	config.Agents = canonical(config.Agents)
	return config, nil
}

// Format writes config as the data of the ConfigMap: one key, its agents sorted
// and separated by a bare comma, "*" first. Parse reads it back unchanged.
func Format(config Config) map[string]string {
	return map[string]string{KeyCacheAgents: config.text()}
}

// Hash returns a short text that is the same for two configurations exactly if
// they list the same agents, in whatever order, spacing or repetition they were
// written: "v1-" and 16 hexadecimal digits. It is legal as a label value.
func Hash(config Config) string {
	sum := sha256.Sum256([]byte(config.text()))
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

// Equal reports whether both list the same agents.
func (c Config) Equal(other Config) bool { return c.text() == other.text() }

// text is the canonical value of cache_agents.
func (c Config) text() string {
	agents := canonical(c.Agents)
	if c.All {
		agents = slices.Insert(agents, 0, AllAgents)
	}
	return strings.Join(agents, ",")
}

// canonical returns agents sorted and unique in a slice of its own, nil if there
// are none.
func canonical(agents []string) []string {
	if len(agents) == 0 {
		return nil
	}
	sorted := slices.Clone(agents)
	slices.Sort(sorted)
	return slices.Compact(sorted)
}

// quote shows the beginning of an entry, with everything unprintable escaped.
func quote(entry string) string {
	if len(entry) > maxQuoted {
		return fmt.Sprintf("%q...", entry[:maxQuoted])
	}
	return fmt.Sprintf("%q", entry)
}
