package integration

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/test/hub"
)

// TestATenantsPolicyCachesForItsNamespaceOnly: another namespace's Pod with the
// same User-Agent is served online and not cached, and secrets: Deny keeps Secrets
// off the disk.
func TestATenantsPolicyCachesForItsNamespaceOnly(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	_, err := w.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "till"}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	_, err = w.client.CoreV1().ServiceAccounts("till").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: app}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	w.grant("till-readers", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"*"}, Verbs: []string{"get", "list"}},
		rbacv1.Subject{Kind: "ServiceAccount", Namespace: "till", Name: app})
	stranger, err := w.cluster.Token(ctx, "till", app)
	w.Expect(err).NotTo(HaveOccurred())
	_, err = w.client.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "v"}}, metav1.CreateOptions{})
	w.Expect(err).NotTo(HaveOccurred())

	configMaps, secrets := "/api/v1/namespaces/"+namespace+"/configmaps", "/api/v1/namespaces/"+namespace+"/secrets"
	read := func(token, path string) int { return w.viaHub(hub.Request{Path: path, Token: token}).Code }
	resources := func() string {
		dirs, _ := filepath.Glob(filepath.Join(w.hub.CacheDir(), app, "*", "*"))
		for i := range dirs {
			dirs[i] = strings.TrimPrefix(dirs[i], filepath.Join(w.hub.CacheDir(), app)+"/")
		}
		return strings.Join(dirs, "\n")
	}
	for _, path := range []string{configMaps, secrets} {
		for _, token := range []string{w.token, stranger} {
			w.Expect(read(token, path)).To(Equal(http.StatusOK))
		}
	}
	const mine, theirs = "system:serviceaccount:" + namespace + ":", "system:serviceaccount:till:"
	w.Eventually(resources).Should(And(ContainSubstring(mine), ContainSubstring(theirs)), "a plain entry of cache_agents is for everybody")

	// What the operator makes of a policy in this namespace.
	_, err = w.client.CoreV1().ConfigMaps(hubconfig.Namespace).Update(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: hubconfig.Name},
		Data: map[string]string{
			hubconfig.KeyCacheAgents: app,
			hubconfig.KeyPolicies:    `{"` + app + `": {"namespaces": {"` + namespace + `": {"secrets": "Deny"}}}}`,
		},
	}, metav1.UpdateOptions{})
	w.Expect(err).NotTo(HaveOccurred())
	w.Eventually(resources).WithTimeout(20 * time.Second).ShouldNot(Or(ContainSubstring(theirs), ContainSubstring("secrets")))
	for _, path := range []string{configMaps, secrets} {
		for _, token := range []string{w.token, stranger} {
			w.Expect(read(token, path)).To(Equal(http.StatusOK), "online nothing changes")
		}
	}
	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	w.awaitCloud(false)
	w.Expect(read(w.token, configMaps)).To(Equal(http.StatusOK))
	w.Expect(read(w.token, secrets)).To(Equal(http.StatusServiceUnavailable))
	for _, path := range []string{configMaps, secrets} {
		w.Expect(read(stranger, path)).To(BeElementOf(http.StatusForbidden, http.StatusServiceUnavailable))
	}
	w.Expect(resources()).NotTo(Or(ContainSubstring(theirs), ContainSubstring("secrets")))
	_, err = os.Stat(filepath.Join(w.hub.CacheDir(), app))
	w.Expect(err).NotTo(HaveOccurred())
}
