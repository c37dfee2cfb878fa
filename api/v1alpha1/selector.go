package v1alpha1

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// LabelSelector selects objects by their labels. It reads and matches exactly
// like the LabelSelector of a Deployment; it is a type of its own because only
// bounded lists can be validated when the policy is applied. An empty selector
// matches everything; all requirements have to be met.
// +structType=atomic
type LabelSelector struct {
	// matchLabels are labels an object must have, with exactly these values, at least
	// one: kubectl apply takes out a label that has lost its value.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	// +kubebuilder:validation:XValidation:rule="size(self) > 0",message="must not be empty: write a label with its value, or {} for the whole selector to select everything"
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.indexOf('/') <= 253 && k.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",message="each key must be a label key, a name of at most 63 letters, digits, '-', '_' or '.' with an optional DNS prefix before a '/', such as app or example.com/app: correct the key"
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(self[k]) <= 63 && self[k].matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$'))",message="each value must be a label value, at most 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit: correct the value"
	MatchLabels map[string]LabelValue `json:"matchLabels,omitempty"`

	// matchExpressions are requirements on an object's labels.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	MatchExpressions []LabelSelectorRequirement `json:"matchExpressions,omitempty"`
}

// LabelValue is the value of a label.
// +kubebuilder:validation:MaxLength=128
type LabelValue string

// LabelSelectorRequirement relates one label to a set of values.
// +kubebuilder:validation:XValidation:rule="!(self.operator in ['In', 'NotIn']) || (has(self.values) && size(self.values) > 0)",message="values must not be empty when operator is In or NotIn: list at least one value, or use Exists or DoesNotExist",fieldPath=".values"
// +kubebuilder:validation:XValidation:rule="!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || size(self.values) == 0",message="values must be empty when operator is Exists or DoesNotExist: remove values, or use In or NotIn",fieldPath=".values"
type LabelSelectorRequirement struct {
	// key is the label the requirement is about.
	// +required
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:XValidation:rule="self.indexOf('/') <= 253 && self.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$')",message="must be a label key, a name of at most 63 letters, digits, '-', '_' or '.' with an optional DNS prefix before a '/', such as app or example.com/app: correct the key"
	Key string `json:"key"`

	// operator is In, NotIn, Exists or DoesNotExist.
	// +required
	// +kubebuilder:validation:Enum=In;NotIn;Exists;DoesNotExist
	Operator metav1.LabelSelectorOperator `json:"operator"`

	// values are what the label's value is compared with. In and NotIn need at
	// least one; Exists and DoesNotExist allow none.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:XValidation:rule="size(self) <= 63 && self.matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$')",message="must be a label value, at most 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit: correct the value"
	Values []LabelValue `json:"values,omitempty"`
}

// AsSelector returns the selector in the form that matches labels. A nil
// LabelSelector matches nothing, an empty one everything. The error is non-nil
// only for what validation refuses.
func (s *LabelSelector) AsSelector() (labels.Selector, error) {
	if s == nil {
		return labels.Nothing(), nil
	}
	converted := &metav1.LabelSelector{}
	for key, value := range s.MatchLabels {
		metav1.AddLabelToSelector(converted, key, string(value))
	}
	for _, requirement := range s.MatchExpressions {
		values := make([]string, 0, len(requirement.Values))
		for _, value := range requirement.Values {
			values = append(values, string(value))
		}
		converted.MatchExpressions = append(converted.MatchExpressions, metav1.LabelSelectorRequirement{
			Key: requirement.Key, Operator: requirement.Operator, Values: values,
		})
	}
	selector, err := metav1.LabelSelectorAsSelector(converted)
	if err != nil {
		return nil, fmt.Errorf("parse label selector: %w", err)
	}
	return selector, nil
}
