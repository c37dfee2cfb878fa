package certificates

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/edgehub-io/edge-hub/api/hubidentity"
)

// DefaultLifetime is what a hub asks for; kube-controller-manager grants no more
// than its --cluster-signing-duration, a year by default. A node may be away from
// the cloud for 15 % of it at any time.
const DefaultLifetime = 365 * 24 * time.Hour

// The files, below the state directory.
const (
	clientFile  = "pki/client.pem"
	servingFile = "pki/serving.pem"
)

// Options are what a Manager needs. NodeName and State are required.
type Options struct {
	// NodeName is the Node that the hub runs on.
	NodeName string

	// State is the directory that the certificates are kept in, below pki.
	State *os.Root

	// NodeIPs returns the addresses of the node that the serving certificate is
	// to be valid for, beside 169.254.2.1 and 127.0.0.1. The operator approves
	// those in the Node's status.addresses only. It is called often; a new
	// address leads to a new certificate. Nil means none.
	NodeIPs func() []netip.Addr

	// KubernetesService asks for a serving certificate that is also valid for the
	// names and addresses of the Service default/kubernetes. ClusterDomain ends
	// the longest name; it is cluster.local if empty.
	KubernetesService bool
	ClusterDomain     string

	// Lifetime to ask for, at least ten minutes, with seconds as its unit; zero
	// means DefaultLifetime.
	Lifetime time.Duration

	// ClientRenewed, if not nil, is called after the client certificate changed.
	// Connections that were made with the former one stay its own, and are refused
	// by kube-apiserver once it expires: have new requests go over new ones.
	ClientRenewed func()

	// Registry takes the metrics. Nil means that nobody asks for them.
	Registry prometheus.Registerer

	// Now returns the time; nil means time.Now.
	Now func() time.Time

	// CheckInterval is how often the clock and the wanted names are looked at, and
	// for how long at least a new certificate is left alone; zero means a minute.
	CheckInterval time.Duration
}

// Manager has the certificates of a hub. All its methods may be called at once.
type Manager struct {
	options Options
	metrics *metrics

	client, serving *identity

	clientIssued chan struct{} // closed when there is a client certificate
	issueOnce    sync.Once
	clusterIPs   atomic.Pointer[[]netip.Addr]
	rejected     atomic.Bool // kube-apiserver did not know the client certificate
}

// Clients are how a Manager reaches kube-apiserver. See [Client].
type Clients struct {
	// Own authenticates with the Manager's client certificate, see
	// [Manager.GetClientCertificate]. Everything is asked with it once there is
	// one.
	Own rest.Interface

	// Bootstrap returns a client with another credential, see [BootstrapConfig].
	// It is called each time there is no client certificate that kube-apiserver
	// takes, and asks for that one only. Nil means that there is no such
	// credential.
	Bootstrap func() (rest.Interface, error)
}

// Open reads what is on disk. A file that can't be read is no error, because a
// new certificate mends it: Status says what is wrong until then.
func Open(options Options) (*Manager, error) {
	if options.NodeName == "" || options.State == nil {
		return nil, errors.New("open certificates: the Node's name and the state directory are required")
	}
	if options.Lifetime == 0 {
		options.Lifetime = DefaultLifetime
	}
	if options.ClusterDomain == "" {
		options.ClusterDomain = hubidentity.DefaultClusterDomain
	}
	if options.CheckInterval == 0 {
		options.CheckInterval = time.Minute
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.NodeIPs == nil {
		options.NodeIPs = func() []netip.Addr { return nil }
	}
	m := &Manager{options: options, clientIssued: make(chan struct{}), metrics: newMetrics(options.Registry)}
	m.client = &identity{
		name: "client", file: clientFile,
		wanted: func() template { return clientTemplate(options.NodeName) },
	}
	m.serving = &identity{name: "serving", file: servingFile, wanted: m.wantedServing}
	for _, i := range []*identity{m.client, m.serving} {
		m.open(i)
	}
	return m, nil
}

// wantedServing is what the serving certificate must have, as far as that is
// known without asking kube-apiserver.
func (m *Manager) wantedServing() template {
	t := servingTemplate(m.options.NodeName)
	for _, address := range m.options.NodeIPs() {
		t.add(address)
	}
	if m.options.KubernetesService {
		t.dnsNames = hubidentity.ServiceNames(m.options.ClusterDomain)
		if known := m.clusterIPs.Load(); known != nil {
			for _, address := range *known {
				t.add(address)
			}
		}
	}
	return t
}

// GetCertificate is for the tls.Config of the hub's endpoint. A connection keeps
// the certificate that it began with.
func (m *Manager) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if current := m.serving.current.Load(); current != nil {
		return current, nil
	}
	return nil, errors.New("the hub has no serving certificate yet")
}

// GetClientCertificate is for the tls.Config of connections to kube-apiserver
// that carry the hub's own requests and nobody else's. As long as there is no
// client certificate they are anonymous.
func (m *Manager) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if current := m.client.current.Load(); current != nil {
		return current, nil
	}
	return &tls.Certificate{}, nil
}

// Watch returns rt, which sends the hub's own requests, watched for a kube-apiserver that
// does not know the client certificate, perhaps because its authority was replaced: then
// another one is asked for. A 401 without Audit-Id is not kube-apiserver's.
func (m *Manager) Watch(rt http.RoundTripper) http.RoundTripper { return watched{m, rt} }

type watched struct {
	*Manager
	http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (w watched) RoundTrip(req *http.Request) (*http.Response, error) {
	shown := w.client.current.Load()
	resp, err := w.RoundTripper.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusUnauthorized && resp.Header.Get("Audit-Id") != "" &&
		shown != nil && shown == w.client.current.Load() {
		w.rejected.Store(true)
	}
	return resp, err
}

// AwaitClient waits until there is a client certificate.
func (m *Manager) AwaitClient(ctx context.Context) error {
	select {
	case <-m.clientIssued:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Status is where a certificate stands.
type Status struct {
	// Name is client or serving.
	Name string
	// NotAfter is when the certificate expires; zero if there is none.
	NotAfter time.Time
	// Problem is why the last attempt to get a certificate failed, or what it is
	// waiting for; nil after one that succeeded.
	Problem error
}

// Status describes the client certificate and the serving certificate.
func (m *Manager) Status() []Status {
	return []Status{m.client.status(), m.serving.status()}
}

// Run keeps the certificates current until ctx is done. The serving certificate
// is asked for with the client certificate, so that comes first.
func (m *Manager) Run(ctx context.Context, clients Clients) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.keep(ctx, m.client, clients) })
	wg.Go(func() {
		if m.AwaitClient(ctx) == nil {
			m.keep(ctx, m.serving, clients)
		}
	})
}

// asker returns the client to ask for a certificate with. A client certificate
// that kube-apiserver did not know, perhaps because its authority was replaced, is
// tried again after the bootstrap credential.
func (m *Manager) asker(i *identity, clients Clients) (rest.Interface, error) {
	valid := m.client.valid(m.options.Now())
	switch {
	case i == m.serving && !valid:
		return nil, errors.New("there is no valid client certificate to ask with")
	case i == m.serving:
		return clients.Own, nil
	case valid && !m.rejected.Swap(false):
		return clients.Own, nil
	case clients.Bootstrap != nil:
		return clients.Bootstrap()
	case valid:
		return clients.Own, nil
	}
	return nil, errors.New("there is neither a valid client certificate nor a bootstrap credential to ask for one with")
}
