package install

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// kubelet is what the kubelet's kubeconfig says.
type kubelet struct {
	config   *api.Config
	cluster  *api.Cluster
	node     string // its Node's name
	certFile string
	keyFile  string
	upstream string // kube-apiserver, also when the kubelet has been led to the hub
}

// kubelet reads the kubelet's kubeconfig.
func (o *Options) kubelet() (*kubelet, error) {
	config, err := clientcmd.LoadFromFile(o.path(o.KubeletKubeconfig))
	if err != nil {
		return nil, fmt.Errorf("the kubelet's kubeconfig: %w", err)
	}
	current, ok := config.Contexts[config.CurrentContext]
	if !ok {
		return nil, fmt.Errorf("the kubelet's kubeconfig %s has no current context", o.KubeletKubeconfig)
	}
	k := &kubelet{config: config, cluster: config.Clusters[current.Cluster]}
	user := config.AuthInfos[current.AuthInfo]
	if k.cluster == nil || user == nil {
		return nil, fmt.Errorf("the kubelet's kubeconfig %s lacks its cluster or user", o.KubeletKubeconfig)
	}
	if user.ClientCertificate == "" || user.ClientKey == "" {
		return nil, errors.New("the kubelet's client certificate is not in a file: let it rotate its certificates (rotateCertificates)")
	}
	k.certFile, k.keyFile = absolute(o, user.ClientCertificate), absolute(o, user.ClientKey)
	pair, err := tls.LoadX509KeyPair(o.path(k.certFile), o.path(k.keyFile))
	if err != nil {
		return nil, fmt.Errorf("the kubelet's client certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("the kubelet's client certificate: %w", err)
	}
	if k.node, ok = strings.CutPrefix(leaf.Subject.CommonName, "system:node:"); !ok {
		return nil, fmt.Errorf("the kubelet's client certificate is of %q, not of a node", leaf.Subject.CommonName)
	}
	k.upstream, err = o.upstream(k.cluster.Server)
	return k, err
}

// upstream is kube-apiserver's URL. Once the kubelet has been led to the hub, the
// hub's kubeconfig has it.
func (o *Options) upstream(server string) (string, error) {
	if server != hubURL {
		return server, nil
	}
	config, err := clientcmd.LoadFromFile(o.path(hubKubeconfig))
	if err != nil {
		return "", fmt.Errorf("the kubelet is led to the hub, and where kube-apiserver is can't be read: %w", err)
	}
	for _, cluster := range config.Clusters {
		return cluster.Server, nil // it has one
	}
	return "", fmt.Errorf("%s names no server", hubKubeconfig)
}

// absolute is a path that a kubeconfig names from where it is.
func absolute(o *Options, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(o.KubeletKubeconfig), name)
}

// authority is the cluster's, in PEM.
func (k *kubelet) authority(o *Options) ([]byte, error) {
	if len(k.cluster.CertificateAuthorityData) > 0 {
		return k.cluster.CertificateAuthorityData, nil
	}
	if k.cluster.CertificateAuthority == "" {
		return nil, errors.New("the kubelet's kubeconfig names no certificate authority")
	}
	return os.ReadFile(o.path(absolute(o, k.cluster.CertificateAuthority)))
}

// hubConfig is the hub's kubeconfig. It has no credential: the hub asks for one.
func (k *kubelet) hubConfig() ([]byte, error) {
	const name = "edge-hub"
	return clientcmd.Write(api.Config{
		Clusters:       map[string]*api.Cluster{name: {Server: k.upstream, CertificateAuthority: authorityFile, TLSServerName: k.cluster.TLSServerName}},
		AuthInfos:      map[string]*api.AuthInfo{name: {}},
		Contexts:       map[string]*api.Context{name: {Cluster: name, AuthInfo: name}},
		CurrentContext: name,
	})
}

// leadTo makes the kubelet speak to a server once it is restarted.
func (k *kubelet) leadTo(o *Options, server string) error {
	k.cluster.Server = server
	content, err := clientcmd.Write(*k.config)
	if err != nil {
		return fmt.Errorf("the kubelet's kubeconfig: %w", err)
	}
	return o.write(o.KubeletKubeconfig, content)
}

// hostOf is HOST:PORT of a server's URL.
func hostOf(server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", err
	}
	if u.Scheme != "https" || u.Host == "" {
		return "", fmt.Errorf("%q does not begin with https://HOST", server)
	}
	if u.Port() == "" {
		return u.Host + ":443", nil
	}
	return u.Host, nil
}
