// Package server runs a hub: it puts the parts together, listens, and ends in an
// order that loses nothing.
package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/edgehub/cache"
	"github.com/edgehub-io/edge-hub/edgehub/certificates"
	"github.com/edgehub-io/edge-hub/edgehub/config"
	"github.com/edgehub-io/edge-hub/edgehub/http2"
	"github.com/edgehub-io/edge-hub/edgehub/identity"
	"github.com/edgehub-io/edge-hub/edgehub/journal"
	"github.com/edgehub-io/edge-hub/edgehub/limits"
	"github.com/edgehub-io/edge-hub/edgehub/report"
	"github.com/edgehub-io/edge-hub/edgehub/seal"
	"github.com/edgehub-io/edge-hub/edgehub/tokens"
	"github.com/edgehub-io/edge-hub/edgehub/upstream"
)

const (
	// keysPatience is how long a first start waits for the issuer's keys.
	// What is recorded before they are known can't be told to belong to a
	// ServiceAccount.
	keysPatience = 3 * time.Second
	// drain is how long requests other than watches may take to end.
	drain = 2 * time.Second

	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
)

// hub is the parts of a running hub.
type hub struct {
	options   Options
	cloud     *cloud
	upstream  *upstream.Upstream
	callers   *upstream.Transport
	node      *nodeTransport // with the node's credential, for its kubelet; nil without one
	own       *upstream.Transport
	client    *http.Client // with the hub's own identity
	config    *config.Source
	identity  *identity.Authenticator
	store     *cache.Store
	tokens    *tokens.Tokens // that the kubelet was given
	state     *os.Root
	seen      *report.Seen
	sealKey   *seal.Key      // that Secrets are sealed with; nil if they can't be cached
	clientCAs *x509.CertPool // that client certificates are verified by, nil for none
	serving   func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	certificates *certificates.Manager // nil if they come from files
	bootstrap    *rest.Config          // the kubeconfig's credential, to ask for the first one with
	limiter      *limits.Limiter
	registry     *prometheus.Registry
	pace         pace
}

// Run runs a hub until ctx ends.
func Run(ctx context.Context, options Options) error {
	if err := options.Validate(); err != nil {
		return err
	}
	state, err := openDir(options.StateDir)
	if err != nil {
		return err
	}
	defer state.Close()
	if err := journal.RemoveTemporary(state); err != nil { // it is in nobody's way
		klog.ErrorS(err, "Could not tidy up the state directory")
	}
	cacheDir, err := openDir(options.CacheDir)
	if err != nil {
		return err
	}
	defer cacheDir.Close()
	h, err := newHub(options, state, journal.OS(cacheDir))
	if err != nil {
		return err
	}
	defer useCache(options, cacheDir, h.store)()

	base, cancelRequests := context.WithCancel(context.Background())
	defer cancelRequests()
	proxy := &http.Server{
		Handler:           h.handler(),
		TLSConfig:         tlsConfig(h.serving, h.clientCAs),
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          log.New(logWriter{}, "", 0),
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnState:         limits.ConnState,
	}
	if err := http2.Configure(proxy, http2Options(options.Limits, h.limiter)); err != nil {
		return err
	}
	administration := &admin{config: h.config, identity: h.identity, upstream: h.upstream, store: h.store, sealKey: h.sealKey, registry: h.registry, certificates: h.certificates, profile: options.Profiling}
	health := &http.Server{Handler: administration.handler(), ReadHeaderTimeout: readHeaderTimeout, ErrorLog: proxy.ErrorLog}

	if err := h.ensureAddresses(); err != nil {
		klog.ErrorS(err, "Could not give the node the hub's address")
	}
	listeners, err := listen(options)
	if err != nil {
		return err
	}

	background, stopBackground := context.WithCancel(context.Background())
	defer stopBackground()
	var wg sync.WaitGroup
	h.start(background, &wg)

	failed := make(chan error, len(listeners.proxy)+1)
	for _, l := range listeners.proxy {
		go func() { failed <- proxy.ServeTLS(h.limiter.Listener(l), "", "") }()
		klog.InfoS("Serving kube-apiserver's API", "address", l.Addr().String(), "node", options.NodeName)
	}
	go func() { failed <- health.Serve(listeners.admin) }()
	klog.InfoS("Serving health and metrics", "address", listeners.admin.Addr().String())

	select {
	case <-ctx.Done():
		klog.InfoS("Stopping")
	case err = <-failed:
		err = fmt.Errorf("serve: %w", err)
	}
	shutdown(proxy, cancelRequests)
	_ = health.Close()
	stopBackground()
	wg.Wait()
	return errors.Join(err, h.store.Close(), h.tokens.Close())
}

func http2Options(l limits.Options, limiter *limits.Limiter) http2.Options {
	rate := func(perSecond int) http2.Rate { return http2.Rate{Burst: 10 * perSecond, PerSecond: perSecond} }
	return http2.Options{
		MaxHandlers: maxHandlers(l), MaxConcurrentStreams: l.HTTP2Streams, AwaitAdmission: true, StallTimeout: l.ClientTimeout,
		Frames: rate(l.HTTP2Frames), Resets: rate(l.HTTP2Resets), Refused: limiter.Refused, Header: limiter.Header,
	}
}

// maxHandlers is how many handlers HTTP/2 may run: those of all requests that
// the totals let in, and a quarter more for answers to those that they don't, and for
// what the kubelet has beyond them.
func maxHandlers(l limits.Options) int {
	if l.Requests == 0 || l.Watches == 0 {
		return math.MaxInt // no limit is wanted
	}
	return (l.Requests + l.Watches) * 5 / 4
}

// newHub builds the parts. Nothing runs yet.
func newHub(options Options, state *os.Root, files journal.FS) (*hub, error) {
	h := &hub{options: options, registry: prometheus.NewRegistry(), state: state}
	var err error
	if h.cloud, err = options.cloud(); err != nil {
		return nil, err
	}
	if options.ClientCAFile != "" {
		if h.clientCAs, err = loadPool(options.ClientCAFile); err != nil {
			return nil, err
		}
	}
	node := identity.Node{Name: options.NodeName, Roots: func() *x509.CertPool { return h.clientCAs }}
	if options.NodeClientCertFile == "" {
		node.Roots = nil // nobody can be forwarded as the node
	}
	if h.identity, err = identity.Open(identity.Options{
		StateDir: state, Node: node, Pods: h.pod, Registry: h.registry,
		OpaqueMaxAge: options.OpaqueTokenMaxAge, ExpiredGrace: options.ExpiredTokenGrace, Offline: func() bool { return !h.upstream.Up() },
	}); err != nil {
		return nil, err
	}
	h.seen = h.seeing()
	h.upstream = upstream.New(upstream.Options{Servers: h.cloud.servers, Date: h.identity.ObserveTime})
	h.callers = h.upstream.Transport(h.cloud.callers)
	if options.TLSCertFile != "" {
		cert, err := loadCertificate(options.TLSCertFile, options.TLSPrivateKeyFile)
		if err != nil {
			return nil, fmt.Errorf("the serving certificate: %w", err)
		}
		h.serving = cert.get
		h.registry.MustRegister(expirations{"serving": cert})
	} else {
		if err := h.manageCertificates(state); err != nil {
			return nil, err
		}
		h.serving = h.certificates.GetCertificate
	}
	if options.NodeClientCertFile != "" {
		cert, err := loadCertificate(options.NodeClientCertFile, options.NodeClientKeyFile)
		if err != nil {
			return nil, fmt.Errorf("the node's credential: %w", err)
		}
		h.node = newNodeTransport(h.upstream, h.cloud.callers, cert)
	}
	h.own = h.upstream.Transport(h.cloud.ownTLS)
	rt, err := rest.HTTPWrappersForConfig(h.cloud.own, untraced{h.own})
	if err != nil {
		return nil, fmt.Errorf("read --kubeconfig: %w", err)
	}
	if h.certificates != nil {
		rt = h.certificates.Watch(rt)
	}
	h.client = &http.Client{Transport: rt, CheckRedirect: noRedirect}
	h.limiter = limits.New(options.Limits, func(r *http.Request) (limits.Caller, bool) {
		id, ok := h.identity.Proven(r)
		return limits.Caller{Name: id.Key, Tenant: identity.NamespaceOf(id.Key), Node: id == identity.NodeIdentity(options.NodeName)}, ok
	}, h.registry)
	h.config = config.Open(state, h.registry)
	if h.sealKey, err = seal.OpenKey(options.CredentialsDir, state); err != nil {
		klog.ErrorS(err, "Secrets are not cached, for there is no key to seal them with")
	}
	h.store = cache.Open(cache.Options{
		FS: files, Registry: h.registry, Listed: h.listed, Key: h.sealKey,
		Quota: cache.Quota{Total: options.CacheQuota.Value(), PerAgent: options.CacheQuotaPerAgent.Value(), Of: func(agent, namespace string) (int64, bool) {
			quota := h.config.Current().Quota(agent, namespace)
			return quota, quota > 0
		}},
		Admits: func(agent, key string) bool {
			return h.config.Current().Admits(agent, identity.NamespaceOf(key))
		},
		AlwaysCached: hubconfig.IsAlwaysCached,
		Relists:      func(agent, namespace string) bool { return h.config.Current().Relists(agent, namespace) },
		RelistSpread: options.RelistSpread,
		Online:       h.upstream.Up,
		State:        state,
		DenySecrets: func(agent, key string) bool {
			return h.config.Current().DeniesSecrets(agent, identity.NamespaceOf(key))
		},
	})
	h.tokens = tokens.Open(tokens.Options{FS: journal.OS(state), Key: h.sealKey, Now: h.identity.Now, Pods: h.pod, Registry: h.registry})
	if _, known, _ := h.config.Status(); known {
		h.setAgents(h.config.Current())
	} else {
		// Without a configuration nothing says that what is on disk is
		// not wanted.
		h.store.KeepAgents(h.config.Caches)
	}
	h.observe()
	return h, nil
}

// start starts what goes on in the background.
func (h *hub) start(ctx context.Context, wg *sync.WaitGroup) {
	wg.Go(func() {
		h.upstream.Run(ctx, h.own, func(rt http.RoundTripper) http.RoundTripper {
			wrapped, err := rest.HTTPWrappersForConfig(h.cloud.own, untraced{rt})
			if err != nil { // newHub has tried the same
				return rt
			}
			return wrapped
		})
	})
	wg.Go(func() { h.store.Run(ctx) })
	wg.Go(func() { h.keepSeen(ctx) })
	wg.Go(func() { h.config.Keep(ctx) })
	wg.Go(func() { h.limiter.Run(ctx) })
	wg.Go(func() { h.keepAddresses(ctx) })
	wg.Go(func() { h.tokens.Run(ctx) })
	beFrugal(ctx, &h.pace)
	wg.Go(func() { trim(ctx) })
	if h.certificates != nil {
		wg.Go(func() {
			if err := h.runCertificates(ctx); err != nil {
				klog.ErrorS(err, "Could not ask for certificates")
			}
		})
		// Nobody is served before there is a certificate, so nothing is
		// recorded before the keys can be asked for.
		wg.Go(func() {
			if h.certificates.AwaitClient(ctx) == nil {
				h.identity.Run(ctx, h.fetch)
			}
		})
		wg.Go(func() {
			if h.certificates.AwaitClient(ctx) == nil {
				h.followConfig(ctx)
			}
		})
		if h.options.Report {
			wg.Go(func() {
				if h.certificates.AwaitClient(ctx) == nil {
					h.report(ctx)
				}
			})
		}
		return
	}
	if !h.identity.KeysKnown() {
		first, cancel := context.WithTimeout(ctx, keysPatience)
		if err := h.identity.Refresh(first, h.fetch); err != nil {
			klog.ErrorS(err, "The issuer's keys are not known yet: until they are, what is cached belongs to single tokens, not to ServiceAccounts")
		}
		cancel()
	}
	wg.Go(func() { h.identity.Run(ctx, h.fetch) })
	wg.Go(func() { h.followConfig(ctx) })
	if h.options.Report {
		wg.Go(func() { h.report(ctx) })
	}
}

// followConfig follows the ConfigMap while the cloud is reachable. It begins
// anew each time the cloud returns, rather than when a client's back-off says.
func (h *hub) followConfig(ctx context.Context) {
	client, err := config.Client(h.configFor(h.cloud.own), h.client)
	if err != nil {
		klog.ErrorS(err, "Could not make a client for the configuration")
		return
	}
	for h.upstream.AwaitUp(ctx) == nil {
		h.upstream.WhileUp(ctx, func(ctx context.Context) {
			h.config.Run(ctx, client, h.setAgents)
		})
	}
}

func (h *hub) setAgents(config hubconfig.Config) {
	h.seen.Removed(config.Admits)
	if err := h.store.SetAgents(h.config.Caches); err != nil {
		klog.ErrorS(err, "Could not remove the cache of every agent that is no longer listed")
	}
}

// pod tells whether a Pod of this node exists, as far as its kubelet knows.
func (h *hub) pod(namespace, name, uid string) (identity.Existence, time.Duration) {
	has, age, known := h.store.NodePod(identity.NodeIdentity(h.options.NodeName).Key, h.options.NodeName, namespace, name)
	switch {
	case !known:
		return identity.Unknown, 0
	case has == uid:
		return identity.Exists, age
	}
	return identity.Gone, age
}

// listed reports whether an agent is cached by name, not by "*".
func (h *hub) listed(agent string) bool {
	current := h.config.Current()
	current.All = false
	return current.Caches(agent)
}

// fetch reads a document of kube-apiserver with the hub's own identity.
func (h *hub) fetch(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://kube-apiserver"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 1<<20))
}

// shutdown lets requests end, then watches.
func shutdown(s *http.Server, cancelRequests func()) {
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	timer := time.AfterFunc(drain/4, cancelRequests)
	defer timer.Stop()
	if err := s.Shutdown(ctx); err != nil {
		_ = s.Close()
	}
	cancelRequests()
}

type listeners struct {
	proxy []net.Listener
	admin net.Listener
}

func listen(options Options) (l listeners, err error) {
	defer func() {
		if err != nil {
			for _, open := range l.proxy {
				_ = open.Close()
			}
		}
	}()
	for _, address := range options.Listen {
		one, err := net.Listen("tcp", address)
		if errors.Is(err, syscall.EADDRNOTAVAIL) {
			host, _, _ := net.SplitHostPort(address)
			return l, fmt.Errorf("listen: %w: the node does not have this address; give it one with: ip address add %s/32 dev lo scope host", err, host)
		}
		if err != nil {
			return l, fmt.Errorf("listen: %w", err)
		}
		l.proxy = append(l.proxy, one)
	}
	if l.admin, err = net.Listen("tcp", options.AdminListen); err != nil {
		return l, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

func openDir(name string) (*os.Root, error) {
	if err := os.MkdirAll(name, 0o700); err != nil {
		return nil, fmt.Errorf("create directory: %w", err)
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	return root, nil
}

// logWriter passes on what package http has to say, mostly of clients that
// break off a handshake.
type logWriter struct{}

// Write implements io.Writer.
func (logWriter) Write(b []byte) (int, error) {
	klog.V(2).Info(string(b))
	return len(b), nil
}
