package cache

import (
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

// matchesFields evaluates a field selector on one object.
func (s *selection) matchesFields(key string, raw []byte, enc capture.Encoding) (bool, error) {
	namespace, name, _ := strings.Cut(key, "/")
	for _, req := range s.fields.Requirements() {
		var value string
		switch req.Field {
		case "metadata.name":
			value = name
		case "metadata.namespace":
			value = namespace
		default:
			text, err := convert(raw, enc, capture.JSON, s.head.APIVersion, s.head.Kind)
			if err != nil {
				return false, err
			}
			if value, err = fieldValue(s.snapshot.key, text, req.Field); err != nil {
				return false, err
			}
		}
		if equal := value == req.Value; equal == (req.Operator == "!=") {
			return false, nil
		}
	}
	return true, nil
}

// selectable names, for the resources whose field labels are known, each label
// that kube-apiserver can select by, metadata.name aside. The labels are JSON
// paths, with a default for where the path is absent.
var selectable = map[string]map[string]string{
	"pods": {
		"metadata.namespace": "", "spec.nodeName": "", "spec.host": "", "spec.restartPolicy": "", "spec.schedulerName": "",
		"spec.serviceAccountName": "", "spec.hostNetwork": "false", "status.phase": "", "status.podIP": "", "status.podIPs": "",
		"status.nominatedNodeName": "",
	},
	"nodes":                  {"spec.unschedulable": "false"},
	"namespaces":             {"status.phase": ""},
	"secrets":                {"metadata.namespace": "", "type": ""},
	"services":               {"metadata.namespace": "", "spec.clusterIP": "", "spec.type": ""},
	"replicationcontrollers": {"metadata.namespace": "", "status.replicas": "0"},
	"jobs.batch":             {"metadata.namespace": "", "status.successful": "0"},
	"certificatesigningrequests.certificates.k8s.io": {"spec.signerName": ""},
	"clustertrustbundles.certificates.k8s.io":        {"spec.signerName": ""},
	"podcertificaterequests.certificates.k8s.io":     {"spec.signerName": "", "spec.podName": "", "spec.nodeName": ""},
	"resourceslices.resource.k8s.io":                 {"spec.nodeName": "", "spec.driver": "", "spec.pool.name": ""},
}

// renamed are the labels that are not the path of their value.
var renamed = map[string]string{"status.successful": "status.succeeded", "spec.host": "spec.nodeName"}

// checkFields refuses a field label that kube-apiserver can't select by. Which
// labels a custom resource has is up to its definition. Without it a label is
// taken for one: no object has a value there if it is none.
func (s *Store) checkFields(q Query) error {
	if q.fields == nil || q.fields.Empty() {
		return nil
	}
	resource := groupResource(q.Key).String()
	known, listed := selectable[resource]
	supports := func(label string) bool { _, ok := known[label]; return ok || label == "metadata.name" }
	switch {
	case IsCustom(q.Key.Group):
		labels, ok := s.selectableFields(q.Key)
		if !ok {
			return nil
		}
		supports = func(label string) bool { return slices.Contains(labels, label) }
	case !listed:
		supports = func(label string) bool { return label == "metadata.name" || label == "metadata.namespace" }
	}
	for _, req := range q.fields.Requirements() {
		if supports(req.Field) {
			continue
		}
		message := "field label not supported: " + req.Field
		switch {
		case resource == "jobs.batch":
			message = fmt.Sprintf("field label %q not supported for Job", req.Field)
		case resource == "resourceslices.resource.k8s.io":
			message = fmt.Sprintf("field label not supported for %s/%s, Kind=ResourceSlice: %s", q.Key.Group, q.Key.Version, req.Field)
		case !listed && !IsCustom(q.Key.Group):
			message = fmt.Sprintf(`%q is not a known field selector: only "metadata.name", "metadata.namespace"`, req.Field)
		}
		return apierrors.NewBadRequest(message)
	}
	return nil
}

// selectableFields are the labels of a custom resource, if its definition is
// cached.
func (s *Store) selectableFields(k Key) ([]string, bool) {
	d := s.definition(k)
	if d == nil {
		return nil, false
	}
	labels := []string{"metadata.name"}
	if d.Spec.Scope == "Namespaced" {
		labels = append(labels, "metadata.namespace")
	}
	if v := d.Version(k.Version); v != nil {
		for _, f := range v.SelectableFields {
			labels = append(labels, strings.TrimPrefix(f.JSONPath, "."))
		}
	}
	return labels, true
}

func fieldValue(k Key, text []byte, label string) (string, error) {
	path := label
	if other, ok := renamed[label]; ok {
		path = other
	}
	value, ok, err := capture.Field(text, strings.Split(path, ".")...)
	if err != nil {
		return "", err
	}
	if !ok {
		value = selectable[groupResource(k).String()][label]
	}
	return value, nil
}
