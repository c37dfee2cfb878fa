package main

import (
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// ownedCRDs is spec.customresourcedefinitions.owned: an item for each version of
// each CRD. Each CRD needs an item in base.yaml and a sample.
func ownedCRDs(base *object, c *config) ([]any, error) {
	written, _, err := unstructured.NestedSlice(base.Object, "spec", "customresourcedefinitions", "owned")
	if err != nil {
		return nil, err
	}
	if len(written) != len(c.crds) {
		return nil, fmt.Errorf("base.yaml describes %d CRDs of %d", len(written), len(c.crds))
	}
	var owned []any
	for _, crd := range c.crds {
		i := slices.IndexFunc(written, func(w any) bool { return w.(map[string]any)["name"] == crd.GetName() })
		if i < 0 {
			return nil, fmt.Errorf("base.yaml does not describe CRD %s", crd.GetName())
		}
		items, err := ownedVersions(written[i].(map[string]any), crd, c.samples)
		if err != nil {
			return nil, fmt.Errorf("CRD %s: %w", crd.GetName(), err)
		}
		owned = append(owned, items...)
	}
	return owned, nil
}

func ownedVersions(base map[string]any, crd object, samples []object) ([]any, error) {
	kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
	if err != nil {
		return nil, err
	}
	var items []any
	for _, v := range versions {
		version := v.(map[string]any)
		if version["served"] != true {
			continue
		}
		name := version["name"].(string)
		if !slices.ContainsFunc(samples, func(s object) bool {
			return s.GetKind() == kind && s.GetAPIVersion() == group+"/"+name
		}) {
			return nil, fmt.Errorf("no sample of version %s", name)
		}
		properties, _, err := unstructured.NestedMap(version, "schema", "openAPIV3Schema", "properties")
		if err != nil {
			return nil, err
		}
		item := map[string]any{
			"name": crd.GetName(), "version": name, "kind": kind,
			"displayName": base["displayName"], "resources": base["resources"],
		}
		schema, _, _ := unstructured.NestedMap(version, "schema", "openAPIV3Schema")
		if item["description"] = describe(schema); item["description"] == "" {
			return nil, errors.New("its kind has no description")
		}
		for part, x := range map[string]func(map[string]any) []any{"spec": inForm, "status": inStatus} {
			schema, _ := properties[part].(map[string]any)
			overrides, _ := base[part+"Descriptors"].([]any)
			list, err := merge(descriptors(schema, "", x), overrides)
			if err != nil {
				return nil, err
			}
			if len(list) > 0 {
				item[part+"Descriptors"] = list
			}
		}
		items = append(items, item)
	}
	return items, nil
}
