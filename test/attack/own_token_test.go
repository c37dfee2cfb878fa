package attack

import (
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// TestTheHubsOwnTokenIsNotLogged by the libraries that send it, whatever the
// verbosity.
func TestTheHubsOwnTokenIsNotLogged(t *testing.T) {
	w := newWorld(t)
	w.namespace("own-token")
	token, subject := w.account("own-token", "hub")
	for _, role := range []string{"hubs", "system:service-account-issuer-discovery"} {
		_, err := w.client.RbacV1().ClusterRoleBindings().Create(w.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "own-token-" + strings.ReplaceAll(role, ":", "-")},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{subject},
		}, metav1.CreateOptions{})
		w.Expect(err).NotTo(HaveOccurred())
	}
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters["c"] = &clientcmdapi.Cluster{Server: w.cluster.URL(), CertificateAuthority: w.cluster.CAFile()}
	kubeconfig.AuthInfos["hub"] = &clientcmdapi.AuthInfo{Token: token}
	kubeconfig.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "hub"}
	kubeconfig.CurrentContext = "c"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	w.Expect(clientcmd.WriteToFile(*kubeconfig, file)).To(Succeed())

	for _, verbosity := range []string{"-v=9", "-v=10"} {
		w.startHub("edge-app-"+strings.TrimPrefix(verbosity, "-v="), verbosity, "--kubeconfig="+file) // waits for what is read with it
		w.loseCloud()
		log := w.hub.SettledLogT(t)
		w.Expect(len(log)).To(BeNumerically(">", 1000))
		w.expectNoToken("the log at "+verbosity, log, token)
		w.expectNoToken("the metrics", w.admin("/metrics"), token)
		w.Expect(w.hub.Stop()).To(Succeed())
	}
}
