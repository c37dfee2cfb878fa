package certificates

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

const (
	// A certificate is renewed after 75 to 85 % of its life, so that nodes that
	// were installed together do not ask together.
	renewFrom, renewTo = 0.75, 0.85

	firstRetry = time.Second
	// maxRetry is for an attempt that left nothing behind, such as one away from
	// the cloud.
	maxRetry = 30 * time.Second
	// maxWastedRetry is for one that left a CertificateSigningRequest behind, or
	// that a person has to mend the reason of.
	maxWastedRetry = 10 * time.Minute
)

// identity is one certificate with its key.
type identity struct {
	name   string // client or serving
	file   string
	wanted func() template

	current atomic.Pointer[tls.Certificate]
	unkept  func() error // writes current to disk, nil if it is there; of the one that renews it

	mu      sync.Mutex
	renewAt time.Time
	problem error
}

// open reads a certificate from disk.
func (m *Manager) open(i *identity) {
	pair, err := load(m.options.State, i.file)
	if err != nil {
		i.problem = err
		klog.ErrorS(err, "Certificate can't be used, a new one will be asked for", "certificate", i.name)
		return
	}
	if pair != nil {
		m.use(i, pair)
	}
}

// use makes a certificate the current one.
func (m *Manager) use(i *identity, pair *tls.Certificate) {
	life := pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore)
	fraction := renewFrom + (renewTo-renewFrom)*rand.Float64()
	i.mu.Lock()
	i.renewAt = pair.Leaf.NotBefore.Add(time.Duration(fraction * float64(life)))
	i.problem = nil
	i.mu.Unlock()
	i.current.Store(pair)
	m.metrics.expiration.WithLabelValues(i.name).Set(float64(pair.Leaf.NotAfter.Unix()))
	if i == m.client {
		m.rejected.Store(false)
		m.issueOnce.Do(func() { close(m.clientIssued) })
	}
}

func (i *identity) valid(now time.Time) bool {
	current := i.current.Load()
	return current != nil && now.Before(current.Leaf.NotAfter)
}

func (i *identity) status() Status {
	s := Status{Name: i.name}
	if current := i.current.Load(); current != nil {
		s.NotAfter = current.Leaf.NotAfter
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	s.Problem = i.problem
	return s
}

// dueIn returns in how long a certificate has to be renewed, zero or less for
// now, and why.
func (i *identity) dueIn(now time.Time) (time.Duration, string) {
	current := i.current.Load()
	if current == nil {
		return 0, "there is none"
	}
	if err := i.wanted().check(current.Leaf, now); err != nil {
		return 0, err.Error()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.renewAt.Sub(now), "most of its life has passed"
}

// renewNow makes a certificate due.
func (i *identity) renewNow() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.renewAt = time.Time{}
}

// keep renews a certificate whenever it is due, until ctx is done.
func (m *Manager) keep(ctx context.Context, i *identity, clients Clients) {
	retry := firstRetry
	for ctx.Err() == nil {
		pause, why := i.dueIn(m.options.Now())
		rejected := i == m.client && m.rejected.Load()
		if rejected {
			pause, why = 0, "kube-apiserver does not know it"
		}
		if pause > 0 {
			i.keepUnkept()
			_ = sleep(ctx, min(pause, m.options.CheckInterval))
			continue
		}
		klog.V(1).InfoS("Certificate has to be renewed", "certificate", i.name, "why", why)
		err := m.renew(ctx, i, clients)
		switch {
		case ctx.Err() != nil:
		case err == nil:
			m.metrics.renewals.WithLabelValues(i.name, resultIssued).Inc()
			// A new certificate may be as unknown as the former one.
			if rejected {
				m.serving.renewNow() // its authority may be that which was replaced
			} else {
				retry = firstRetry
			}
			_ = sleep(ctx, max(retry, m.options.CheckInterval))
			retry = min(2*retry, maxWastedRetry)
		default:
			limit := m.failed(i, err)
			_ = sleep(ctx, wait.Jitter(retry, 0.2))
			retry = min(2*retry, limit)
		}
	}
}

// failed makes it known that an attempt failed. It returns the longest time to
// wait before the next.
func (m *Manager) failed(i *identity, err error) time.Duration {
	if i.setProblem(err) { // away from the cloud it is the same all the time
		klog.ErrorS(err, "Could not renew a certificate", "certificate", i.name)
	}
	var refusal *refused
	result := resultError
	if errors.As(err, &refusal) {
		result = resultRefused
	}
	m.metrics.renewals.WithLabelValues(i.name, result).Inc()
	var useless *wasted
	if errors.As(err, &useless) || apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
		return maxWastedRetry
	}
	return maxRetry
}

// setProblem reports whether the problem is another than before.
func (i *identity) setProblem(err error) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	same := i.problem != nil && i.problem.Error() == err.Error()
	i.problem = err
	return !same
}

// keepUnkept tries again to write what the disk did not take: else the next start would
// find the former certificate, which may have expired by then.
func (i *identity) keepUnkept() {
	if i.unkept == nil || i.unkept() != nil {
		return
	}
	i.unkept = nil
	i.mu.Lock()
	defer i.mu.Unlock()
	i.problem = nil
}

// renew replaces a certificate.
func (m *Manager) renew(ctx context.Context, i *identity, clients Clients) error {
	client, err := m.asker(i, clients)
	if err != nil {
		return err
	}
	err = m.replace(ctx, i, client)
	if client == clients.Own && apierrors.IsUnauthorized(err) {
		m.rejected.Store(true)
	}
	return err
}

// replace gets a new certificate, writes it to disk and uses it.
func (m *Manager) replace(ctx context.Context, i *identity, client rest.Interface) error {
	if i == m.serving && m.options.KubernetesService {
		addresses, err := clusterIPs(ctx, client)
		if err != nil {
			return err
		}
		m.clusterIPs.Store(&addresses)
	}
	wanted := i.wanted()
	key, request, err := wanted.ask(ctx, client, "edge-hub-"+i.name+"-", m.options.Lifetime)
	if err != nil {
		return err
	}
	klog.InfoS("Asked for a certificate", "certificate", i.name, "certificateSigningRequest", request.Name)
	i.setProblem(fmt.Errorf("CertificateSigningRequest %s waits to be approved and signed", request.Name))
	stale := func() bool { return !wanted.covers(i.wanted()) }
	certificate, err := await(ctx, client, request, stale)
	if err != nil {
		return &wasted{request.Name, err}
	}
	pair, err := wanted.judge(key, certificate, m.options.Now())
	if err != nil {
		return &wasted{request.Name, err}
	}
	// A certificate that can't be kept on disk is still better than one that
	// expires. Until it can the next start finds the former one.
	i.unkept = func() error { return store(m.options.State, i.file, key, certificate) }
	keepErr := i.unkept()
	if keepErr == nil {
		i.unkept = nil
	}
	m.use(i, pair)
	klog.InfoS("Certificate issued", "certificate", i.name, "subject", pair.Leaf.Subject.String(), "notAfter", pair.Leaf.NotAfter)
	if i == m.client && m.options.ClientRenewed != nil {
		m.options.ClientRenewed()
	}
	if keepErr != nil {
		return &wasted{request.Name, fmt.Errorf("the certificate is in use but not on disk: %w", keepErr)}
	}
	return nil
}
