package attack

import (
	"strings"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
)

func (w *world) setAgents(agents string) {
	w.Helper()
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: hubconfig.Namespace, Name: hubconfig.Name},
		Data:       map[string]string{hubconfig.KeyCacheAgents: agents},
	}
	configMaps := w.client.CoreV1().ConfigMaps(hubconfig.Namespace)
	_, err := configMaps.Update(w.Context(), cm, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = configMaps.Create(w.Context(), cm, metav1.CreateOptions{})
	}
	w.Expect(err).NotTo(HaveOccurred())
}

// grantAll grants a rule in every namespace.
func (w *world) grantAll(name string, rule rbacv1.PolicyRule, subject rbacv1.Subject) {
	w.Helper()
	roles := w.client.RbacV1()
	_, err := roles.ClusterRoles().Create(w.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	_, err = roles.ClusterRoleBindings().Create(w.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{subject},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
}

// grant grants reading in one namespace, of objects with a name or of all.
func (w *world) grant(namespace, role, object string, subject rbacv1.Subject) {
	w.Helper()
	rule := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets", "configmaps"}, Verbs: []string{"get", "list", "watch"}}
	if object != "" {
		rule.ResourceNames = []string{object}
	}
	roles := w.client.RbacV1()
	_, err := roles.Roles(namespace).Create(w.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: role}, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	_, err = roles.RoleBindings(namespace).Create(w.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
		Subjects:   []rbacv1.Subject{subject},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
}

func (w *world) namespace(name string) {
	w.Helper()
	_, err := w.client.CoreV1().Namespaces().Create(w.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
}

// account makes a ServiceAccount and a token of it.
func (w *world) account(namespace, name string) (token string, subject rbacv1.Subject) {
	w.Helper()
	_, err := w.client.CoreV1().ServiceAccounts(namespace).Create(w.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	token, err = w.cluster.Token(w.Context(), namespace, name)
	w.Expect(err).NotTo(HaveOccurred())
	return token, rbacv1.Subject{Kind: "ServiceAccount", Namespace: namespace, Name: name}
}

// plant makes a Secret and a ConfigMap that have a text in their data, an
// annotation and a label.
func (w *world) plant(namespace, name string, canaries map[string]string) {
	w.Helper()
	meta := func(resource string) metav1.ObjectMeta {
		text := canaries[resource]
		return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"canary": text}, Annotations: map[string]string{"canary": "xx" + text}}
	}
	_, err := w.client.CoreV1().Secrets(namespace).Create(w.Context(), &corev1.Secret{
		ObjectMeta: meta("secrets"), Data: map[string][]byte{"key": []byte(canaries["secrets"])},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	_, err = w.client.CoreV1().ConfigMaps(namespace).Create(w.Context(), &corev1.ConfigMap{
		ObjectMeta: meta("configmaps"), Data: map[string]string{"key": strings.Repeat(canaries["configmaps"]+" ", 2)},
	}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
}
