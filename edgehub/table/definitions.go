package table

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DefinitionVersion is a version of a custom resource.
type DefinitionVersion struct {
	Name                     string         `json:"name"`
	Served                   bool           `json:"served"`
	Storage                  bool           `json:"storage"`
	AdditionalPrinterColumns []CustomColumn `json:"additionalPrinterColumns"`
	SelectableFields         []struct {
		JSONPath string `json:"jsonPath"`
	} `json:"selectableFields"`
}

// Definition is what is needed to know of a CustomResourceDefinition
// (apiextensions.k8s.io/v1).
type Definition struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Group string `json:"group"`
		Scope string `json:"scope"`
		Names struct {
			Kind       string   `json:"kind"`
			ListKind   string   `json:"listKind"`
			ShortNames []string `json:"shortNames"`
		} `json:"names"`
		Versions []DefinitionVersion `json:"versions"`
	} `json:"spec"`
	Status struct {
		Conditions []metav1.Condition `json:"conditions"`
	} `json:"status"`
}

// Version returns a version of the resource, nil if it has none of that name.
func (d *Definition) Version(name string) *DefinitionVersion {
	for i := range d.Spec.Versions {
		if d.Spec.Versions[i].Name == name {
			return &d.Spec.Versions[i]
		}
	}
	return nil
}

func definitions() map[string]*Printer {
	return map[string]*Printer{"CustomResourceDefinition.apiextensions.k8s.io": of(columns(
		described("Scope", "Whether the resource is namespaced."),
		described("Versions", "The versions that are served."),
		created("Created At", "date"),
		wide(described("Group", "The API group.")),
		wide(described("Kind", "The kind of the objects.")),
		wide(described("ShortNames", "Other names for the resource.")),
		wide(metav1.TableColumnDefinition{Name: "Established", Type: "boolean", Description: "Whether the resource is served."}),
	), func(o *Definition, _ time.Time) []any {
		var served []string
		for _, v := range o.Spec.Versions {
			name := v.Name
			if v.Storage {
				name += "(storage)"
			}
			if v.Served {
				served = append(served, name)
			}
		}
		slices.Sort(served)
		established := slices.ContainsFunc(o.Status.Conditions, func(c metav1.Condition) bool {
			return c.Type == "Established" && c.Status == metav1.ConditionTrue
		})
		return []any{
			o.Spec.Scope, strings.Join(served, ","), o.CreationTimestamp.UTC().Format(time.RFC3339),
			o.Spec.Group, o.Spec.Names.Kind, strings.Join(o.Spec.Names.ShortNames, ","), established,
		}
	})}
}
