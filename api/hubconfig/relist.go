package hubconfig

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	kjson "sigs.k8s.io/json"
)

// parseRelist reads the value of the key relist: a JSON object of agents, each
// with a list of namespaces.
func parseRelist(text string) (map[string][]string, []error) {
	switch {
	case strings.Trim(text, whitespace) == "":
		return nil, nil
	case len(text) > MaxPoliciesLength:
		return nil, []error{fmt.Errorf("%s: has %d bytes, the limit is %d", KeyRelist, len(text), MaxPoliciesLength)}
	}
	var relist map[string][]string
	errs, err := kjson.UnmarshalStrict([]byte(text), &relist)
	if err != nil {
		errs = []error{fmt.Errorf("must be a JSON object of agents, each with a list of namespaces: %w", err)}
	}
	for _, agent := range slices.Sorted(maps.Keys(relist)) {
		if err := ValidateAgent(agent); err != nil {
			errs = append(errs, fmt.Errorf("agent %s %w", quote(agent), err))
			continue
		}
		for _, namespace := range relist[agent] {
			if err := validateNamespace(namespace); err != nil {
				errs = append(errs, fmt.Errorf("agent %s: namespace %s %w", quote(agent), quote(namespace), err))
			}
		}
	}
	for i := range errs {
		errs[i] = fmt.Errorf("%s: %w", KeyRelist, errs[i])
	}
	return relist, errs
}

// canonicalRelist returns what of the relists has an effect on config, nil if
// nothing has.
func canonicalRelist(config Config) map[string][]string {
	var relist map[string][]string
	for agent, namespaces := range config.Relist {
		namespaces = sorted(slices.DeleteFunc(slices.Clone(namespaces), func(namespace string) bool {
			return !config.Admits(agent, namespace)
		}))
		if len(namespaces) == 0 {
			continue
		}
		if relist == nil {
			relist = map[string][]string{}
		}
		relist[agent] = namespaces
	}
	return relist
}
