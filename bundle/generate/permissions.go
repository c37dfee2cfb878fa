package main

import (
	"errors"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// permissions is the RBAC of config/default in the terms of OLM.
//
// OLM has three ways to grant something, and with the install mode AllNamespaces
// they are, in version 0 as in version 1:
//
//   - clusterPermissions of the ClusterServiceVersion become a ClusterRole and
//     its binding.
//   - permissions become the same, and get the right to read all Namespaces on
//     top. So they are of no use here.
//   - Role and RoleBinding as objects of the bundle are put into the namespace the
//     operator is installed in. There is no way to name another namespace. A
//     ServiceAccount without a namespace in a RoleBinding is one of the binding's
//     namespace, so the object fits whichever namespace that is.
//
// Of these the narrowest is taken. What config/default grants
//
//   - in all namespaces is one of clusterPermissions,
//   - in the operator's namespace (the Lease) is a Role and a RoleBinding in the
//     bundle,
//   - in another namespace (kube-system) has to be granted in all namespaces.
//     That is only done for rules that name the objects they are for: the right
//     to a ConfigMap edge-hub-cfg of another namespace is worth nothing. Any other
//     rule is an error.
type permissions struct {
	cluster []rbacv1.PolicyRule
	objects []object
}

// permissions translates.
func (c *config) permissions() (permissions, error) {
	t := translation{config: c, inCSV: map[string]bool{}, bound: map[string]bool{}}
	for _, binding := range c.clusterRoleBindings {
		if err := t.clusterRoleBinding(binding); err != nil {
			return permissions{}, fmt.Errorf("ClusterRoleBinding %s: %w", binding.Name, err)
		}
	}
	for _, binding := range c.roleBindings {
		if err := t.roleBinding(binding); err != nil {
			return permissions{}, fmt.Errorf("RoleBinding %s/%s: %w", binding.Namespace, binding.Name, err)
		}
	}
	for _, role := range c.clusterRoles {
		if !t.inCSV[role.Name] || t.bound[role.Name] {
			if err := t.keep(&role); err != nil {
				return permissions{}, err
			}
		}
	}
	return t.permissions, nil
}

// translation is how far permissions has come.
type translation struct {
	*config
	permissions
	inCSV map[string]bool // ClusterRoles whose rules are in clusterPermissions
	bound map[string]bool // ClusterRoles bound by an object of the bundle
}

func (t *translation) clusterRoleBinding(binding rbacv1.ClusterRoleBinding) error {
	own, err := t.operator(binding.Subjects)
	if err != nil {
		return err
	}
	if !own {
		t.bound[binding.RoleRef.Name] = true
		return t.keep(&binding)
	}
	role, err := t.clusterRole(binding.RoleRef.Name)
	if err != nil {
		return err
	}
	t.inCSV[role.Name] = true
	t.cluster = append(t.cluster, role.Rules...)
	return nil
}

func (t *translation) roleBinding(binding rbacv1.RoleBinding) error {
	own, err := t.operator(binding.Subjects)
	if err != nil {
		return err
	}
	role, err := t.role(binding.Namespace, binding.RoleRef)
	if err != nil {
		return err
	}
	if binding.Namespace == t.namespace.GetName() {
		return t.keepInNamespace(*role, binding)
	}
	for _, rule := range role.Rules {
		if len(rule.ResourceNames) == 0 {
			return fmt.Errorf("OLM would grant %v of %v in all namespaces instead of %s: use resourceNames",
				rule.Verbs, rule.Resources, binding.Namespace)
		}
	}
	if own {
		t.cluster = append(t.cluster, role.Rules...)
		return nil
	}
	if _, err := t.clusterRole(role.Name); err == nil {
		return fmt.Errorf("it has to become a ClusterRole, and there is another ClusterRole %s", role.Name)
	}
	clusterRole := rbacv1.ClusterRole{Rules: role.Rules}
	clusterRole.APIVersion, clusterRole.Kind, clusterRole.Name, clusterRole.Labels = role.APIVersion, "ClusterRole", role.Name, role.Labels
	clusterBinding := rbacv1.ClusterRoleBinding{Subjects: binding.Subjects, RoleRef: binding.RoleRef}
	clusterBinding.APIVersion, clusterBinding.Kind, clusterBinding.Name, clusterBinding.Labels = binding.APIVersion, "ClusterRoleBinding", binding.Name, binding.Labels
	clusterBinding.RoleRef.Kind = "ClusterRole"
	return t.keep(&clusterRole, &clusterBinding)
}

// keepInNamespace keeps a Role of the operator's namespace and its binding.
func (t *translation) keepInNamespace(role rbacv1.Role, binding rbacv1.RoleBinding) error {
	binding.Subjects = slices.Clone(binding.Subjects)
	for i := range binding.Subjects {
		if binding.Subjects[i].Namespace == role.Namespace {
			binding.Subjects[i].Namespace = ""
		}
	}
	role.Namespace, binding.Namespace = "", ""
	return t.keep(&role, &binding)
}

// keep adds objects to the bundle.
func (t *translation) keep(objects ...any) error {
	for _, o := range objects {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
		if err != nil {
			return err
		}
		t.objects = append(t.objects, object{Object: content})
	}
	return nil
}

// operator reports whether subjects is the operator alone. No other subject may
// be in the operator's namespace, whose name nobody knows.
func (t *translation) operator(subjects []rbacv1.Subject) (bool, error) {
	own := 0
	for _, s := range subjects {
		if s.Namespace != t.namespace.GetName() {
			continue
		}
		if s.Kind != rbacv1.ServiceAccountKind || s.Name != t.serviceAccount {
			return false, fmt.Errorf("%s %s is in the operator's namespace and not the operator", s.Kind, s.Name)
		}
		own++
	}
	if own > 0 && own < len(subjects) {
		return false, errors.New("bind the operator and others apart from each other")
	}
	return own > 0, nil
}

func (t *translation) clusterRole(name string) (*rbacv1.ClusterRole, error) {
	i := slices.IndexFunc(t.clusterRoles, func(r rbacv1.ClusterRole) bool { return r.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("ClusterRole %s is not in config/default", name)
	}
	return &t.clusterRoles[i], nil
}

func (t *translation) role(namespace string, ref rbacv1.RoleRef) (*rbacv1.Role, error) {
	i := slices.IndexFunc(t.roles, func(r rbacv1.Role) bool { return r.Namespace == namespace && r.Name == ref.Name })
	if ref.Kind != "Role" || i < 0 {
		return nil, fmt.Errorf("%s %s is not in config/default or no Role", ref.Kind, ref.Name)
	}
	return &t.roles[i], nil
}
