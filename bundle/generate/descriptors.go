package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// The names by which consoles know how to show a field
// (https://github.com/openshift/console, operator-lifecycle-manager descriptors).
const (
	uiPrefix   = "urn:alm:descriptor:com.tectonic.ui:"
	conditions = "urn:alm:descriptor:io.kubernetes.conditions"
)

// descriptors describes the fields of an object's schema, and of the objects in
// it, in the order of their names. x says how a field is shown.
func descriptors(schema map[string]any, prefix string, x func(schema map[string]any) []any) []any {
	properties, _ := schema["properties"].(map[string]any)
	var list []any
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		field := properties[name].(map[string]any)
		descriptor := map[string]any{
			"path":        prefix + name,
			"displayName": title(name),
		}
		if text := describe(field); text != "" {
			descriptor["description"] = text
		}
		if xs := x(field); len(xs) > 0 {
			descriptor["x-descriptors"] = xs
		}
		list = append(list, descriptor)
		if !isSelector(field) {
			list = append(list, descriptors(field, prefix+name+".", x)...)
		}
	}
	return list
}

// inForm says how a field of spec is edited. A form offers nothing for some.
func inForm(field map[string]any) []any {
	if values, ok := field["enum"].([]any); ok {
		xs := make([]any, len(values))
		for i, value := range values {
			xs[i] = uiPrefix + "select:" + fmt.Sprint(value)
		}
		return xs
	}
	if field["x-kubernetes-int-or-string"] == true {
		return []any{uiPrefix + "text"}
	}
	switch field["type"] {
	case "boolean":
		return []any{uiPrefix + "booleanSwitch"}
	case "integer":
		return []any{uiPrefix + "number"}
	case "string":
		return []any{uiPrefix + "text"}
	}
	return nil
}

// inStatus says how a field of status is shown.
func inStatus(field map[string]any) []any {
	if keys, _ := field["x-kubernetes-list-map-keys"].([]any); len(keys) == 1 && keys[0] == "type" {
		return []any{conditions}
	}
	switch field["type"] {
	case "integer", "string":
		return []any{uiPrefix + "text"}
	}
	return nil
}

// isSelector reports whether a field is a label selector, which is shown as one.
func isSelector(field map[string]any) bool {
	properties, _ := field["properties"].(map[string]any)
	return properties["matchLabels"] != nil && properties["matchExpressions"] != nil
}

// merge puts the fields of overrides over those of the descriptor with the same
// path.
func merge(list, overrides []any) ([]any, error) {
	for _, o := range overrides {
		override := o.(map[string]any)
		i := slices.IndexFunc(list, func(d any) bool { return d.(map[string]any)["path"] == override["path"] })
		if i < 0 {
			return nil, fmt.Errorf("base.yaml describes %v, which is no field", override["path"])
		}
		maps.Copy(list[i].(map[string]any), override)
	}
	return list, nil
}

// describe is the description of a schema on one line.
func describe(schema map[string]any) string {
	text, _ := schema["description"].(string)
	return strings.Join(strings.Fields(text), " ")
}

// title turns maxUnavailable into Max Unavailable.
func title(name string) string {
	var b strings.Builder
	for i, r := range name {
		switch {
		case i == 0:
			r = unicode.ToUpper(r)
		case unicode.IsUpper(r):
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}
