package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// object is a Kubernetes object of any kind.
type object = unstructured.Unstructured

// namespaced are the kinds OLM installs from a bundle as they are, apart from
// CRDs and RBAC, and whether they are namespaced. It puts all namespaced objects
// into the namespace it installs the operator in, whatever the bundle says
// (operator-registry, pkg/lib/bundle/supported_resources.go).
var namespaced = map[string]bool{
	"ConfigMap":           true,
	"PodDisruptionBudget": true,
	"PriorityClass":       false,
	"PrometheusRule":      true,
	"Secret":              true,
	"Service":             true,
	"ServiceMonitor":      true,
}

// byHand are kinds OLM does not install at all, and which a user applies. The
// description of the operator has to name each of them.
var byHand = map[string]bool{
	"ValidatingAdmissionPolicy":        true,
	"ValidatingAdmissionPolicyBinding": true,
}

// config is config/default, sorted by what becomes of it in a bundle, and
// config/samples.
type config struct {
	// namespace is where config/default puts the operator. In a cluster with OLM
	// its user chooses one; this is the suggestion.
	namespace  *object
	deployment *object
	crds       []object
	others     []object // of a kind in namespaced, without their namespace
	samples    []object
	byHand     []object // of a kind in byHand

	// serviceAccount is the operator's. OLM makes it.
	serviceAccount      string
	clusterRoles        []rbacv1.ClusterRole
	clusterRoleBindings []rbacv1.ClusterRoleBinding
	roles               []rbacv1.Role
	roleBindings        []rbacv1.RoleBinding
}

// readConfig reads the objects of a YAML stream.
func readConfig(manifests io.Reader) (*config, error) {
	objects, err := readObjects(manifests)
	if err != nil {
		return nil, fmt.Errorf("read config/default: %w", err)
	}
	c := &config{}
	var serviceAccounts []string
	for _, o := range objects {
		if o.GetKind() == "ServiceAccount" {
			serviceAccounts = append(serviceAccounts, o.GetNamespace()+"/"+o.GetName())
			continue
		}
		if err := c.add(o); err != nil {
			return nil, fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	if c.namespace == nil || c.deployment == nil {
		return nil, errors.New("config/default needs a Namespace and a Deployment")
	}
	c.serviceAccount, _, _ = unstructured.NestedString(c.deployment.Object, "spec", "template", "spec", "serviceAccountName")
	own := c.namespace.GetName() + "/" + c.serviceAccount
	if !slices.Equal(serviceAccounts, []string{own}) {
		return nil, fmt.Errorf("ServiceAccounts are %q: OLM makes the one of the Deployment, %q, and no other", serviceAccounts, own)
	}
	for _, o := range append([]object{*c.deployment}, c.others...) {
		if ns := o.GetNamespace(); ns != "" && ns != c.namespace.GetName() {
			return nil, fmt.Errorf("%s %s is in namespace %s: OLM would put it into the operator's", o.GetKind(), o.GetName(), ns)
		}
	}
	for i := range c.others {
		c.others[i].SetNamespace("")
	}
	return c, nil
}

// add sorts an object in.
func (c *config) add(o object) error {
	switch kind := o.GetKind(); kind {
	case "Namespace":
		return set(&c.namespace, o)
	case "Deployment":
		return set(&c.deployment, o)
	case "CustomResourceDefinition":
		c.crds = append(c.crds, o)
	case "ClusterRole":
		return decode(o, &c.clusterRoles)
	case "ClusterRoleBinding":
		return decode(o, &c.clusterRoleBindings)
	case "Role":
		return decode(o, &c.roles)
	case "RoleBinding":
		return decode(o, &c.roleBindings)
	default:
		if byHand[kind] {
			c.byHand = append(c.byHand, o)
			return nil
		}
		if _, ok := namespaced[kind]; !ok {
			return errors.New("OLM installs no object of this kind")
		}
		c.others = append(c.others, o)
	}
	return nil
}

func set(to **object, o object) error {
	if *to != nil {
		return errors.New("there is another one")
	}
	*to = &o
	return nil
}

// decode appends o as a T. A field that T does not have is an error.
func decode[T any](o object, to *[]T) error {
	var typed T
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &typed, true); err != nil {
		return err
	}
	*to = append(*to, typed)
	return nil
}

// readSamples reads the files of a folder in the order of their names.
func readSamples(folder string) ([]object, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return nil, err
	}
	var samples []object
	for _, file := range files {
		if filepath.Base(file) == "kustomization.yaml" {
			continue
		}
		objects, err := readFile(file)
		if err != nil {
			return nil, err
		}
		samples = append(samples, objects...)
	}
	return samples, nil
}

func readFile(path string) ([]object, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	objects, err := readObjects(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return objects, nil
}

func readObjects(r io.Reader) ([]object, error) {
	var objects []object
	decoder := yaml.NewYAMLOrJSONDecoder(r, 4096)
	for {
		var o object
		// An Unstructured would insist on a kind, which base.yaml does not have.
		if err := decoder.Decode(&o.Object); err == io.EOF {
			return objects, nil
		} else if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}
