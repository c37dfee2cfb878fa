package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/edgehub-io/edge-hub/edgehub/identity"
	"github.com/edgehub-io/edge-hub/edgehub/limits"
)

// DefaultListen is the address that Pods are led to.
const DefaultListen = "169.254.2.1:10268"

// Options are the settings of a hub, as its flags give them.
type Options struct {
	Kubeconfig           string
	Servers              []string
	CertificateAuthority string
	Listen               []string
	TLSCertFile          string
	TLSPrivateKeyFile    string
	// BootstrapCredential is a file to ask for the hub's first certificate
	// with. The hub asks for its certificates if TLSCertFile is empty.
	BootstrapCredential    string
	NodeIPs                []string
	ServeKubernetesService bool
	ClusterDomain          string
	ClientCAFile           string
	NodeClientCertFile     string // the kubelet's own, with which it is forwarded
	NodeClientKeyFile      string
	NodeName               string
	CacheDir               string
	CacheQuota             resource.Quantity // in total, 0 for none
	CacheQuotaPerAgent     resource.Quantity // of each agent, 0 for none
	RelistSpread           time.Duration     // see cache.Options
	StateDir               string
	// CredentialsDir is where systemd puts credentials, empty without any. The key
	// that Secrets are sealed with may be among them, see seal.OpenKey.
	CredentialsDir string
	AdminListen    string
	// ExpiredTokenGrace is for how long a ServiceAccount token counts offline once
	// it has expired, 0 for not at all. See identity.Options.ExpiredGrace.
	ExpiredTokenGrace time.Duration
	// OpaqueTokenMaxAge is for how long a token that is no ServiceAccount's counts
	// offline after it was last accepted. See identity.Options.OpaqueMaxAge.
	OpaqueTokenMaxAge time.Duration
	Profiling         bool
	Limits            limits.Options
	Pods              PodOptions
	// Report keeps this node's EdgeHubNode current, and Version is what it says
	// that the hub is.
	Report       bool
	ReportPeriod time.Duration // the shortest time between two reports
	Version      string
}

// Validate checks what can be checked without looking at files.
func (o *Options) Validate() error {
	var errs []error
	require := func(flag, value, what string) {
		if value == "" {
			errs = append(errs, fmt.Errorf("--%s is required: %s", flag, what))
		}
	}
	require("kubeconfig", o.Kubeconfig, "a file with the hub's own identity, with which it reads ConfigMap kube-system/edge-hub-cfg")
	if o.TLSCertFile != "" {
		require("tls-private-key-file", o.TLSPrivateKeyFile, "the key of --tls-cert-file")
	}
	if _, err := o.nodeIPs(); err != nil {
		errs = append(errs, err)
	}
	require("cache-dir", o.CacheDir, "the directory for cached data")
	require("state-dir", o.StateDir, "the directory for the hub's own state")
	require("node-name", o.NodeName, "the name of the Node that the hub runs on")
	if o.NodeClientCertFile != "" {
		require("client-ca-file", o.ClientCAFile, "the authorities by which the kubelet proves that it is the node before it is forwarded with --node-client-cert-file")
		require("node-client-key-file", o.NodeClientKeyFile, "the key of --node-client-cert-file, which may be the same file")
	}
	if len(o.Listen) == 0 {
		errs = append(errs, errors.New("--listen needs at least one address"))
	}
	for _, address := range append([]string{o.AdminListen}, o.Listen...) {
		if _, _, err := net.SplitHostPort(address); err != nil {
			errs = append(errs, fmt.Errorf("address %q is not HOST:PORT: %w", address, err))
		}
	}
	if _, err := o.podEndpoint(); err != nil {
		errs = append(errs, err)
	}
	if o.RelistSpread <= 0 {
		errs = append(errs, fmt.Errorf("--relist-spread %v must be more than 0", o.RelistSpread))
	}
	if o.Report && o.ReportPeriod < time.Second {
		errs = append(errs, fmt.Errorf("--report-period %v must be at least 1s", o.ReportPeriod))
	}
	if o.ExpiredTokenGrace < 0 || o.ExpiredTokenGrace > identity.MaxExpiredGrace {
		errs = append(errs, fmt.Errorf("--expired-token-grace %v must be between 0, which refuses expired tokens, and %v", o.ExpiredTokenGrace, identity.MaxExpiredGrace))
	}
	if o.OpaqueTokenMaxAge < 0 {
		errs = append(errs, fmt.Errorf("--opaque-token-max-age %v is negative: 0 stands for no limit", o.OpaqueTokenMaxAge))
	}
	for flag, quota := range map[string]resource.Quantity{"cache-quota": o.CacheQuota, "cache-quota-per-agent": o.CacheQuotaPerAgent} {
		if quota.Sign() < 0 {
			errs = append(errs, fmt.Errorf("--%s %s is negative: 0 stands for no quota", flag, &quota))
		}
	}
	for _, server := range o.Servers {
		if _, err := parseServer(server); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// nodeIPs are the addresses that the serving certificate is to be valid for.
func (o *Options) nodeIPs() (addresses []netip.Addr, err error) {
	for _, text := range o.NodeIPs {
		address, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("--node-ip %q: %w", text, err)
		}
		addresses = append(addresses, address)
	}
	return addresses, nil
}

func parseServer(server string) (*url.URL, error) {
	u, err := url.Parse(server)
	if err == nil && (u.Scheme != "https" || u.Host == "") {
		err = errors.New("must begin with https://HOST")
	}
	if err != nil {
		return nil, fmt.Errorf("--server %q: %w", server, err)
	}
	return u, nil
}

// cloud is where kube-apiserver is, and how to speak to it.
type cloud struct {
	servers []*url.URL
	callers *tls.Config  // for requests of callers: no credential
	own     *rest.Config // for the hub's own requests
	ownTLS  *tls.Config
}

// cloud reads the kubeconfig, less what flags say otherwise.
func (o *Options) cloud() (*cloud, error) {
	config, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read --kubeconfig: %w", err)
	}
	if o.CertificateAuthority != "" {
		config.CAFile, config.CAData, config.Insecure = o.CertificateAuthority, nil, false
	}
	c := &cloud{own: config}
	names := o.Servers
	if len(names) == 0 {
		names = []string{config.Host}
	}
	for _, name := range names {
		u, err := parseServer(name)
		if err != nil {
			return nil, err
		}
		c.servers = append(c.servers, u)
	}
	if c.ownTLS, err = rest.TLSConfigFor(config); err != nil {
		return nil, fmt.Errorf("read --kubeconfig: %w", err)
	}
	callers := rest.AnonymousClientConfig(config)
	if c.callers, err = rest.TLSConfigFor(callers); err != nil {
		return nil, fmt.Errorf("read --kubeconfig: %w", err)
	}
	for _, config := range []**tls.Config{&c.ownTLS, &c.callers} {
		if *config == nil {
			*config = &tls.Config{}
		}
		(*config).MinVersion = tls.VersionTLS12
	}
	return c, nil
}
