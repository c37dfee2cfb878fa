package cache

import (
	"strings"
)

// Discovery is what a Selection calls documents, which are not resources.
const Discovery = "discovery"

// Selection says which views a person means. A field that is empty selects all.
type Selection struct {
	// Agent is the User-Agent up to the first "/".
	Agent string `json:"agent,omitempty"`
	// Identity is what IdentityForPeople makes of it, or its key.
	Identity string `json:"identity,omitempty"`
	// Resource is RESOURCE, RESOURCE.GROUP or RESOURCE.VERSION.GROUP, where the
	// group "" is "core", or Discovery.
	Resource string `json:"resource,omitempty"`
	// Namespace is that of the view; one of all namespaces is not selected.
	Namespace string `json:"namespace,omitempty"`
}

// Matches reports whether a view with a key is meant.
func (s Selection) Matches(k Key) bool {
	return (s.Agent == "" || s.Agent == k.Agent) &&
		(s.Identity == "" || s.Identity == k.Identity || s.Identity == IdentityForPeople(k.Identity)) &&
		(s.Namespace == "" || s.Namespace == k.Namespace) &&
		s.matchesResource(k)
}

func (s Selection) matchesResource(k Key) bool {
	if s.Resource == "" || s.Resource == ResourceForPeople(k) {
		return true
	}
	if k.Resource == "" {
		return false
	}
	group := k.Group
	if group == "" {
		group = "core"
	}
	switch s.Resource {
	case k.Resource, k.Resource + "." + group, k.Resource + "." + k.Version + "." + group:
		return true
	}
	return false
}

// IdentityForPeople is an identity as a person reads it: NAMESPACE/NAME of a
// ServiceAccount, node/NAME, or token/ and the first digits of a token's hash. It
// is not unique.
func IdentityForPeople(key string) string {
	const serviceAccount, node, token, shown = "system:serviceaccount:", "system:node:", "token:", 8
	if account, ok := strings.CutPrefix(key, serviceAccount); ok {
		if parts := strings.SplitN(account, ":", 3); len(parts) == 3 {
			return parts[0] + "/" + parts[1]
		}
	}
	if name, ok := strings.CutPrefix(key, node); ok {
		return "node/" + name
	}
	if hash, ok := strings.CutPrefix(key, token); ok {
		return "token/" + hash[:min(shown, len(hash))]
	}
	return key
}

// ResourceForPeople is RESOURCE or RESOURCE.GROUP, or Discovery.
func ResourceForPeople(k Key) string {
	switch {
	case k.Resource == "":
		return Discovery
	case k.Group == "":
		return k.Resource
	}
	return k.Resource + "." + k.Group
}

// ScopeForPeople says which part of a resource a view is of: "all" if it is all of
// a namespace, or of all.
func ScopeForPeople(k Key) string {
	if k.Resource == "" {
		path, _, _ := strings.Cut(k.Document, " ")
		return path
	}
	var parts []string
	for _, part := range []struct{ name, value string }{
		{"name=", k.Name}, {"labels: ", k.LabelSelector}, {"fields: ", k.FieldSelector}, {"as ", k.Representation}, {"?", k.Document},
	} {
		if part.value != "" {
			parts = append(parts, part.name+part.value)
		}
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, ", ")
}
