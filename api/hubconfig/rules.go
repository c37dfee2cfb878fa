package hubconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	kjson "sigs.k8s.io/json"
)

const (
	// MaxPoliciesLength is the longest value of the key policies, in bytes: what
	// kube-apiserver lets all values of a ConfigMap have together.
	MaxPoliciesLength = 1 << 20

	// maxNamespaceLength is the longest name of a namespace, in bytes (RFC 1123).
	maxNamespaceLength = 63
)

// Secrets says whether the Secrets a program reads may be kept on a node's disk.
type Secrets string

// What may become of Secrets.
const (
	// CacheSecrets keeps Secrets like every other resource.
	CacheSecrets Secrets = "Cache"
	// DenySecrets never writes them to the disk, so that they can't be read
	// offline either.
	DenySecrets Secrets = "Deny"
)

// Rule restricts the caching of one agent.
type Rule struct {
	// ClusterWide is true if the agent is cached for every caller all the same,
	// because a person wrote it into cache_agents.
	ClusterWide bool `json:"clusterWide,omitempty"`
	// Namespaces are those whose ServiceAccounts the agent is cached for, each
	// with what their policies say. Unless ClusterWide is true there is at least
	// one, and the agent is cached for no other caller.
	Namespaces map[string]NamespaceRule `json:"namespaces,omitempty"`
}

// NamespaceRule is how one agent is cached for the ServiceAccounts of one
// namespace. The zero value asks for nothing in particular.
type NamespaceRule struct {
	// Quota is how many bytes these callers' data may take on each node; 0 leaves
	// that to edge-hub.
	Quota int64 `json:"quota,omitempty"`
	// Secrets is DenySecrets or, what "" means too, CacheSecrets.
	Secrets Secrets `json:"secrets,omitempty"`
}

// parseRules reads the value of the key policies. Rules without effect remain.
func parseRules(text string) (map[string]Rule, []error) {
	switch {
	case strings.Trim(text, whitespace) == "":
		return nil, nil
	case len(text) > MaxPoliciesLength:
		return nil, []error{fmt.Errorf("%s: has %d bytes, the limit is %d", KeyPolicies, len(text), MaxPoliciesLength)}
	}
	var rules map[string]Rule
	// Unlike encoding/json this takes no repeated key and no other case.
	errs, err := kjson.UnmarshalStrict([]byte(text), &rules)
	if err != nil {
		errs = []error{fmt.Errorf("must be a JSON object of agents: %w", err)}
	}
	for _, agent := range slices.Sorted(maps.Keys(rules)) {
		if err := validateRule(agent, rules[agent]); err != nil {
			errs = append(errs, fmt.Errorf("agent %s %w", quote(agent), err))
		}
	}
	for i := range errs {
		errs[i] = fmt.Errorf("%s: %w", KeyPolicies, errs[i])
	}
	return rules, errs
}

// validateRule returns what is wrong with the first wrong thing of rule.
func validateRule(agent string, rule Rule) error {
	if IsAlwaysCached(agent) {
		return errors.New("is always cached for every caller: remove it")
	}
	if err := ValidateAgent(agent); err != nil {
		return err
	}
	if !rule.ClusterWide && len(rule.Namespaces) == 0 {
		return errors.New("names no namespace: list those it is cached for, or remove it")
	}
	for _, namespace := range slices.Sorted(maps.Keys(rule.Namespaces)) {
		if err := validateNamespace(namespace); err != nil {
			return fmt.Errorf("namespace %s %w", quote(namespace), err)
		}
		if err := rule.Namespaces[namespace].validate(); err != nil {
			return fmt.Errorf("namespace %s: %w", quote(namespace), err)
		}
	}
	return nil
}

func (r NamespaceRule) validate() error {
	if r.Quota < 0 {
		return fmt.Errorf("quota is %d: write a number of bytes above 0, or remove it", r.Quota)
	}
	switch r.Secrets {
	case "", CacheSecrets, DenySecrets:
		return nil
	}
	return fmt.Errorf("secrets is %s: write %q or %q", quote(string(r.Secrets)), CacheSecrets, DenySecrets)
}

// validateNamespace returns nil for what kube-apiserver takes as the name of a
// namespace: an RFC 1123 label.
func validateNamespace(name string) error {
	legal := name != "" && len(name) <= maxNamespaceLength && name[0] != '-' && name[len(name)-1] != '-'
	for i := 0; legal && i < len(name); i++ {
		c := name[i]
		legal = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-'
	}
	if !legal {
		return errors.New("is no name of a namespace: write it as kubectl get namespaces shows it")
	}
	return nil
}

// canonicalRules returns the rules for which has an effect on config, each
// thing written in one way only, nil if there are none.
func canonicalRules(config Config) map[string]Rule {
	var rules map[string]Rule
	for agent, rule := range config.Rules {
		if IsAlwaysCached(agent) || !config.Caches(agent) {
			continue
		}
		namespaces := make(map[string]NamespaceRule, len(rule.Namespaces))
		for namespace, r := range rule.Namespaces {
			if r.Secrets == CacheSecrets {
				r.Secrets = ""
			}
			if !rule.ClusterWide || r != (NamespaceRule{}) {
				namespaces[namespace] = r
			}
		}
		if len(namespaces) == 0 {
			if rule.ClusterWide {
				continue
			}
			namespaces = nil
		}
		if rules == nil {
			rules = map[string]Rule{}
		}
		rules[agent] = Rule{ClusterWide: rule.ClusterWide, Namespaces: namespaces}
	}
	return rules
}

// formatObject writes a JSON object with one line for each member, sorted; "" if
// there are none.
func formatObject[V any](members map[string]V) string {
	if len(members) == 0 {
		return ""
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	write := func(value any) {
		// Texts, numbers and maps of them can always be encoded.
		_ = encoder.Encode(value)
		text.Truncate(text.Len() - 1) // the line end
	}
	separator := "{\n  "
	for _, name := range slices.Sorted(maps.Keys(members)) {
		text.WriteString(separator)
		separator = ",\n  "
		write(name)
		text.WriteString(": ")
		write(members[name])
	}
	text.WriteString("\n}\n")
	return text.String()
}
