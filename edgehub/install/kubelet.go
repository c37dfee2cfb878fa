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
	"sigs.k8s.io/yaml"
)

// kubelet is what the kubelet's kubeconfig says.
type kubelet struct {
	config   *api.Config
	cluster  *api.Cluster
	user     *api.AuthInfo
	origin   way    // to kube-apiserver, also when the kubelet has been led to the hub
	node     string // its Node's name
	certFile string
	keyFile  string
	pair     tls.Certificate
}

// way is how a server is reached, as a kubeconfig says it.
type way struct{ server, tlsServerName, proxyURL string }

func wayOf(c *api.Cluster) way { return way{c.Server, c.TLSServerName, c.ProxyURL} }

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
	k := &kubelet{config: config, cluster: config.Clusters[current.Cluster], user: config.AuthInfos[current.AuthInfo]}
	if k.cluster == nil || k.user == nil {
		return nil, fmt.Errorf("the kubelet's kubeconfig %s lacks its cluster or user", o.KubeletKubeconfig)
	}
	k.origin, err = o.originOf(k.cluster)
	return k, err
}

// originOf is the way to kube-apiserver. Once the kubelet has been led to the hub,
// the hub's kubeconfig has it.
func (o *Options) originOf(cluster *api.Cluster) (way, error) {
	if cluster.Server != hubURL {
		return wayOf(cluster), nil
	}
	config, err := clientcmd.LoadFromFile(o.path(hubKubeconfig))
	if err != nil {
		return way{}, fmt.Errorf("the kubelet is led to the hub, and where kube-apiserver is can't be read: %w", err)
	}
	for _, cluster := range config.Clusters {
		return wayOf(cluster), nil // it has one
	}
	return way{}, fmt.Errorf("%s names no server", hubKubeconfig)
}

// identify reads the kubelet's client certificate.
func (k *kubelet) identify(o *Options) error {
	if k.user.ClientCertificate == "" || k.user.ClientKey == "" {
		return errors.New("the kubelet's client certificate is not in a file: let it rotate its certificates (rotateCertificates)")
	}
	k.certFile, k.keyFile = absolute(o, k.user.ClientCertificate), absolute(o, k.user.ClientKey)
	pair, err := tls.LoadX509KeyPair(o.path(k.certFile), o.path(k.keyFile))
	if err != nil {
		return fmt.Errorf("the kubelet's client certificate: %w", err)
	}
	k.pair = pair
	var ok bool
	if k.node, ok = strings.CutPrefix(pair.Leaf.Subject.CommonName, "system:node:"); !ok {
		return fmt.Errorf("the kubelet's client certificate is of %q, not of a node", pair.Leaf.Subject.CommonName)
	}
	return nil
}

// verify has the kubelet's client certificate verified as the hub does, which is given
// the authority that the kubelet knows its server by.
func (k *kubelet) verify(authority []byte) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	for _, der := range k.pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			intermediates.AddCert(c)
		}
	}
	_, err := k.pair.Leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return fmt.Errorf("the hub would not recognise the kubelet by its client certificate, which the authority in its kubeconfig has to verify: %w", err)
	}
	return nil
}

// kubeletConfig is what the kubelet's configuration says, each empty if it does not.
type kubeletConfig struct {
	StaticPodPath string `json:"staticPodPath"`
	ClusterDomain string `json:"clusterDomain"`
}

// kubeletConfig reads the kubelet's configuration. The kubelet takes a path that is not
// absolute from where that is.
func (o *Options) kubeletConfig() (config kubeletConfig, err error) {
	content, err := os.ReadFile(o.path(o.KubeletConfig))
	if err != nil {
		return kubeletConfig{}, fmt.Errorf("the kubelet's configuration: %w", err)
	}
	if err := yaml.Unmarshal(content, &config); err != nil {
		return kubeletConfig{}, fmt.Errorf("the kubelet's configuration %s: %w", o.KubeletConfig, err)
	}
	switch {
	case config.StaticPodPath == "":
	case filepath.IsAbs(config.StaticPodPath):
		config.StaticPodPath = filepath.Clean(config.StaticPodPath)
	default:
		config.StaticPodPath = filepath.Join(filepath.Dir(o.KubeletConfig), config.StaticPodPath)
	}
	return config, nil
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

// hubConfig is the hub's kubeconfig. It has the kubelet's credential only if that is
// two files, which --bootstrap-credential can't name, and is for the same then. The
// hub makes nothing of proxy-url, which is kept for the kubelet.
func (k *kubelet) hubConfig() ([]byte, error) {
	const name = "edge-hub"
	user := &api.AuthInfo{}
	if k.certFile != k.keyFile {
		user.ClientCertificate, user.ClientKey = k.certFile, k.keyFile
	}
	return clientcmd.Write(api.Config{
		Clusters: map[string]*api.Cluster{name: {
			Server: k.origin.server, CertificateAuthority: authorityFile, TLSServerName: k.origin.tlsServerName, ProxyURL: k.origin.proxyURL,
		}},
		AuthInfos:      map[string]*api.AuthInfo{name: user},
		Contexts:       map[string]*api.Context{name: {Cluster: name, AuthInfo: name}},
		CurrentContext: name,
	})
}

// leadTo makes the kubelet speak to a server once it is restarted.
func (k *kubelet) leadTo(o *Options, w way) error {
	k.cluster.Server, k.cluster.TLSServerName, k.cluster.ProxyURL = w.server, w.tlsServerName, w.proxyURL
	content, err := clientcmd.Write(*k.config)
	if err != nil {
		return fmt.Errorf("the kubelet's kubeconfig: %w", err)
	}
	name, err := o.resolve(o.KubeletKubeconfig)
	if err != nil {
		return fmt.Errorf("the kubelet's kubeconfig: %w", err)
	}
	return o.write(name, content)
}

// resolve is the file that a link leads to, which is to be there.
func (o *Options) resolve(name string) (string, error) {
	target, err := filepath.EvalSymlinks(o.path(name))
	if err != nil {
		return "", err
	}
	inside, err := filepath.Rel(o.root, target)
	return filepath.Join("/", inside), err
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
