package cluster

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func (c *Cluster) pki(name string) string { return filepath.Join(c.dir, "pki", name) }

// CAFile is the certificate (PEM) that kube-apiserver's serving certificate and
// those of [Cluster.IssueServingCert] are verified with.
func (c *Cluster) CAFile() string { return c.pki("ca.crt") }

// ClientCAFile is the certificate (PEM) that client certificates are verified
// with. It is the same authority as CAFile's.
func (c *Cluster) ClientCAFile() string { return c.pki("ca.crt") }

// Kubeconfig is the path of a kubeconfig for [AdminUser], who may do everything.
func (c *Cluster) Kubeconfig() string { return c.kubeconfig }

// RESTConfig is the configuration of a client for [AdminUser], the caller's own
// copy, without client-side rate limiting.
func (c *Cluster) RESTConfig() *rest.Config { return rest.CopyConfig(c.restConfig) }

// writeCredentials makes the authority, kube-apiserver's certificate, the
// ServiceAccount keys and the admin's kubeconfig.
func (c *Cluster) writeCredentials(servingNames []string) error {
	var err error
	if c.authority, err = newAuthority(); err != nil {
		return err
	}
	caKey, err := encodeKey(c.authority.key)
	if err != nil {
		return err
	}
	if _, _, err := writePair(c.pki(""), "ca", encodeCertificate(c.authority.certificate.Raw), caKey); err != nil {
		return err
	}
	names := append([]string{"127.0.0.1", "10.96.0.1", "localhost",
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}, servingNames...)
	certPEM, keyPEM, err := c.authority.issueServing(names...)
	if err != nil {
		return err
	}
	if _, _, err := writePair(c.pki(""), "apiserver", certPEM, keyPEM); err != nil {
		return err
	}
	if err := writeServiceAccountKeys(c.pki("")); err != nil {
		return err
	}
	return c.writeAdmin()
}

func (c *Cluster) writeAdmin() error {
	var err error
	if c.kubeconfig, err = c.KubeconfigFor(AdminUser, "system:masters"); err != nil {
		return err
	}
	if c.restConfig, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig); err != nil {
		return err
	}
	c.restConfig.QPS = -1
	if c.clientset, err = kubernetes.NewForConfig(c.restConfig); err != nil {
		return err
	}
	tlsConfig, err := rest.TLSConfigFor(c.restConfig)
	if err != nil {
		return err
	}
	c.readyHTTP = newReadyHTTP(tlsConfig)
	return nil
}

// KubeconfigFor signs a client certificate for a user in groups and returns the
// path of a kubeconfig with it. A node is user system:node:NAME in group
// system:nodes.
func (c *Cluster) KubeconfigFor(user string, groups ...string) (string, error) {
	certPEM, keyPEM, err := c.authority.issueClient(user, groups...)
	if err != nil {
		return "", err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["cluster"] = &clientcmdapi.Cluster{
		Server:                   c.url,
		CertificateAuthorityData: encodeCertificate(c.authority.certificate.Raw),
	}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: certPEM, ClientKeyData: keyPEM}
	config.Contexts["context"] = &clientcmdapi.Context{Cluster: "cluster", AuthInfo: user}
	config.CurrentContext = "context"
	path := filepath.Join(c.dir, url.PathEscape(user)+".kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return "", fmt.Errorf("write a kubeconfig for %s: %w", user, err)
	}
	return path, nil
}

// RESTConfigFor is like [Cluster.KubeconfigFor] for a client in this process.
// Set its Host to reach kube-apiserver through something else.
func (c *Cluster) RESTConfigFor(user string, groups ...string) (*rest.Config, error) {
	path, err := c.KubeconfigFor(user, groups...)
	if err != nil {
		return nil, err
	}
	return clientcmd.BuildConfigFromFlags("", path)
}

// IssueServingCert writes tls.crt and tls.key to dir: a serving certificate
// from the cluster's authority for names that are DNS names or IP addresses.
func (c *Cluster) IssueServingCert(dir string, names ...string) (certFile, keyFile string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", "", err
	}
	certPEM, keyPEM, err := c.authority.issueServing(names...)
	if err != nil {
		return "", "", err
	}
	return writePair(dir, "tls", certPEM, keyPEM)
}

// A TokenOption changes the token that [Cluster.Token] asks for.
type TokenOption func(*authenticationv1.TokenRequest)

// WithAudiences asks for a token for these audiences instead of kube-apiserver's.
func WithAudiences(audiences ...string) TokenOption {
	return func(r *authenticationv1.TokenRequest) { r.Spec.Audiences = audiences }
}

// WithExpiration asks for a lifetime, instead of one hour. kube-apiserver
// refuses less than ten minutes.
func WithExpiration(d time.Duration) TokenOption {
	seconds := int64(d.Seconds())
	return func(r *authenticationv1.TokenRequest) { r.Spec.ExpirationSeconds = &seconds }
}

// WithBoundPod binds the token to a Pod that must exist, as the kubelet does.
func WithBoundPod(name string, uid types.UID) TokenOption {
	return func(r *authenticationv1.TokenRequest) {
		r.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: name, UID: uid,
		}
	}
}

// Token gets a token for a ServiceAccount that must exist, through a real
// TokenRequest.
func (c *Cluster) Token(ctx context.Context, namespace, serviceAccount string, opts ...TokenOption) (string, error) {
	request := &authenticationv1.TokenRequest{}
	for _, opt := range opts {
		opt(request)
	}
	answer, err := c.clientset.CoreV1().ServiceAccounts(namespace).
		CreateToken(ctx, serviceAccount, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("request a token for ServiceAccount %s/%s: %w", namespace, serviceAccount, err)
	}
	return answer.Status.Token, nil
}

// Kubectl prepares kubectl as [AdminUser], with a home and cache of its own. If
// the program is missing, running the command says so.
func (c *Cluster) Kubectl(args ...string) *exec.Cmd {
	binary, err := Binary("kubectl")
	if err != nil {
		return &exec.Cmd{Err: err}
	}
	home := filepath.Join(c.dir, "kubectl")
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(),
		"HOME="+home,
		"KUBECONFIG="+c.kubeconfig,
		"KUBECACHEDIR="+filepath.Join(home, "cache"),
	)
	return cmd
}
