package certificates

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/netip"
	"os"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
)

func openDir(t *testing.T) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// start runs a Manager until the returned function is called.
func start(t *testing.T, o Options, clients Clients) (*Manager, func()) {
	t.Helper()
	if o.NodeName == "" {
		o.NodeName = "edge-1"
	}
	m, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { m.Run(ctx, clients); close(done) }()
	return m, func() { cancel(); <-done }
}

// serials returns the serial numbers of the client and serving certificates.
func serials(m *Manager) (client, serving int64) {
	for i, p := range map[*identity]*int64{m.client: &client, m.serving: &serving} {
		if c := i.current.Load(); c != nil {
			*p = c.Leaf.SerialNumber.Int64()
		}
	}
	return client, serving
}

// metric returns the value of a metric with these label values.
func metric(t *testing.T, registry *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var values []string
			for _, label := range m.GetLabel() {
				values = append(values, label.GetValue())
			}
			if family.GetName() == name && slices.Equal(values, labels) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("there is no metric %s %v", name, labels)
	return 0
}

func TestBootstrapCredentialIsForTheFirstClientCertificateOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		c := newCloud(t)
		root := openDir(t)
		registry := prometheus.NewPedanticRegistry()
		var renewed atomic.Int32
		m, stop := start(t, Options{State: root, Registry: registry, ClientRenewed: func() { renewed.Add(1) }}, c.clients())
		g.Expect(m.GetClientCertificate(nil)).To(Equal(&tls.Certificate{}), "anonymous until there is one")
		_, err := m.GetCertificate(nil)
		g.Expect(err).To(HaveOccurred())

		g.Expect(m.AwaitClient(t.Context())).To(Succeed())
		time.Sleep(5 * time.Second)
		g.Expect(c.asked()).To(Equal([]string{
			"bootstrap kubernetes.io/kube-apiserver-client", "own kubernetes.io/kubelet-serving",
		}))
		client, err := m.GetClientCertificate(nil)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(client.Leaf.Subject.String()).To(Equal("CN=edgehub:node:edge-1,O=edgehub:nodes"))
		serving, err := m.GetCertificate(nil)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(serving.Leaf.Subject.String()).To(Equal("CN=system:node:edge-1,O=system:nodes"))
		g.Expect(serving.Leaf.VerifyHostname("169.254.2.1")).To(Succeed())
		g.Expect(serving.Leaf.VerifyHostname("127.0.0.1")).To(Succeed())
		g.Expect(serving.Leaf.DNSNames).To(BeEmpty())
		g.Expect(serving.Leaf.PublicKey).NotTo(Equal(client.Leaf.PublicKey), "each has a key of its own")

		for _, request := range c.requests {
			g.Expect(*request.Spec.ExpirationSeconds).To(BeEquivalentTo(365 * 24 * 3600))
			g.Expect(string(request.Spec.Request)).NotTo(ContainSubstring("PRIVATE"))
			g.Expect(request.Spec.Usages).To(HaveLen(2))
		}
		for _, s := range m.Status() {
			g.Expect(s.Problem).NotTo(HaveOccurred())
			g.Expect(s.NotAfter).To(BeTemporally("~", time.Now().Add(100*time.Hour), time.Minute))
		}
		g.Expect(renewed.Load()).To(BeEquivalentTo(1))
		g.Expect(metric(t, registry, "edgehub_certificate_expiration_timestamp_seconds", "serving")).To(BeEquivalentTo(serving.Leaf.NotAfter.Unix()))
		g.Expect(metric(t, registry, "edgehub_certificate_renewals_total", "client", "issued")).To(BeEquivalentTo(1))

		for _, name := range []string{clientFile, servingFile} {
			info, err := root.Stat(name)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o600)))
		}
		info, err := root.Stat(path.Dir(clientFile))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o700)))

		// The next process has both without asking anybody.
		stop()
		c.set(func() { c.err = errors.New("no cloud") })
		again, stop := start(t, Options{State: root}, c.clients())
		defer stop()
		time.Sleep(time.Hour)
		g.Expect(again.GetCertificate(nil)).To(HaveField("Leaf.SerialNumber", serving.Leaf.SerialNumber))
		g.Expect(again.GetClientCertificate(nil)).To(HaveField("Leaf.SerialNumber", client.Leaf.SerialNumber))
		g.Expect(c.asked()).To(HaveLen(2))
	})
}

func TestRenewalAtFourFifthsOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		c := newCloud(t)
		m, stop := start(t, Options{State: openDir(t)}, c.clients())
		defer stop()
		time.Sleep(74 * time.Hour)
		g.Expect(c.asked()).To(HaveLen(2), "before three quarters")
		time.Sleep(12 * time.Hour)
		g.Expect(c.asked()[2:]).To(ConsistOf("own kubernetes.io/kube-apiserver-client", "own kubernetes.io/kubelet-serving"))
		client, serving := serials(m)
		g.Expect([]int64{client, serving}).To(ConsistOf(BeNumerically(">=", 3), BeNumerically(">=", 3)))
	})
}

func TestRefusedRequestKeepsTheOldCertificate(t *testing.T) {
	for name, test := range map[string]struct {
		decide func(*cloud, *certificatesv1.CertificateSigningRequest)
		want   string
	}{
		"denied": {func(_ *cloud, r *certificatesv1.CertificateSigningRequest) {
			r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{
				Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue, Reason: "WrongAddress", Message: "10.0.0.9 is not the Node's"}}
		}, "denied: WrongAddress: 10.0.0.9 is not the Node's"},
		"failed": {func(_ *cloud, r *certificatesv1.CertificateSigningRequest) {
			r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{
				{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue},
				{Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: "no"}}
		}, "not signed: SignerValidationFailure: no"},
		"somebody else's subject": {func(c *cloud, r *certificatesv1.CertificateSigningRequest) {
			c.sign(r, func(x *x509.Certificate) { x.Subject.CommonName = "edgehub:node:edge-2" })
		}, "the signer issued something else"},
		"expired": {func(c *cloud, r *certificatesv1.CertificateSigningRequest) {
			c.sign(r, func(x *x509.Certificate) { x.NotAfter = time.Now().Add(-time.Second) })
		}, "the certificate expired at"},
		"somebody else's key": {func(c *cloud, r *certificatesv1.CertificateSigningRequest) {
			r.Status.Certificate = c.requests[0].Status.Certificate
		}, "issued certificate"},
		"no certificate": {func(_ *cloud, r *certificatesv1.CertificateSigningRequest) {
			r.Status.Certificate = []byte("nonsense")
		}, "issued certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := NewWithT(t)
				c := newCloud(t)
				c.lifetime = 20 * time.Hour
				root := openDir(t)
				m, stop := start(t, Options{State: root}, c.clients())
				defer stop()
				time.Sleep(time.Minute)
				client, serving := serials(m)
				before, err := root.ReadFile(clientFile)
				g.Expect(err).NotTo(HaveOccurred())

				c.set(func() { c.decide = func(r *certificatesv1.CertificateSigningRequest) { test.decide(c, r) } })
				time.Sleep(17 * time.Hour)
				attempts := len(c.asked())
				time.Sleep(2 * time.Hour)
				g.Expect(len(c.asked())-attempts).To(BeNumerically("~", 2*12, 8), "attempts in two hours")
				for _, s := range m.Status() {
					g.Expect(s.Problem).To(MatchError(ContainSubstring(test.want)))
				}
				gotClient, gotServing := serials(m)
				g.Expect([]int64{gotClient, gotServing}).To(Equal([]int64{client, serving}))
				g.Expect(root.ReadFile(clientFile)).To(Equal(before))

				c.set(func() { c.decide = nil })
				time.Sleep(15 * time.Minute)
				for _, s := range m.Status() {
					g.Expect(s.Problem).NotTo(HaveOccurred())
				}
			})
		})
	}
}

// A request may wait for a person, and for the cloud, without being made anew.
func TestOneRequestWaitsUntilItIsDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		c := newCloud(t)
		c.lifetime = 10 * time.Hour
		c.decide = func(*certificatesv1.CertificateSigningRequest) {}
		m, stop := start(t, Options{State: openDir(t)}, c.clients())
		defer stop()
		time.Sleep(5 * time.Hour)
		g.Expect(m.Status()[0].Problem).To(MatchError("CertificateSigningRequest edge-hub-client-0 waits to be approved and signed"))
		c.set(func() { c.err = errors.New("no cloud") })
		time.Sleep(5 * time.Hour)
		c.set(func() { c.err, c.decide = nil, nil })
		time.Sleep(time.Minute)
		g.Expect(c.asked()).To(HaveLen(2))
		g.Expect(m.AwaitClient(t.Context())).To(Succeed())

		// One that was cleaned up meanwhile is made anew.
		c.set(func() {
			c.decide = func(*certificatesv1.CertificateSigningRequest) {}
		})
		time.Sleep(9 * time.Hour)
		g.Expect(c.asked()).To(HaveLen(4))
		c.set(func() { c.requests, c.decide = nil, nil })
		time.Sleep(time.Minute)
		g.Expect(c.asked()).To(HaveLen(6))
	})
}

func TestNamesThatAreWantedLaterLeadToANewCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		c := newCloud(t)
		var mu sync.Mutex
		ips := []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.7")}
		setIPs := func(to ...string) {
			mu.Lock()
			defer mu.Unlock()
			ips = nil
			for _, ip := range to {
				ips = append(ips, netip.MustParseAddr(ip))
			}
		}
		m, stop := start(t, Options{State: openDir(t), KubernetesService: true, NodeIPs: func() []netip.Addr {
			mu.Lock()
			defer mu.Unlock()
			return ips
		}}, c.clients())
		defer stop()
		time.Sleep(time.Minute)
		current := func() *x509.Certificate { return m.serving.current.Load().Leaf }
		for _, name := range []string{"169.254.2.1", "127.0.0.1", "10.0.0.7", "10.96.0.1", "fd00::1", "kubernetes", "kubernetes.default.svc.cluster.local"} {
			g.Expect(current().VerifyHostname(name)).To(Succeed())
		}
		setIPs() // as while the link is down
		time.Sleep(time.Hour)
		g.Expect(c.asked()).To(HaveLen(2))
		setIPs("10.0.0.8", "169.254.2.1")
		time.Sleep(2 * time.Minute)
		g.Expect(c.asked()).To(HaveLen(3))
		g.Expect(current().VerifyHostname("10.0.0.8")).To(Succeed())
		g.Expect(current().IPAddresses).To(HaveLen(5))

		// A request that is not decided yet gives way.
		c.set(func() { c.decide = func(*certificatesv1.CertificateSigningRequest) {} })
		setIPs("10.0.0.9")
		time.Sleep(2 * time.Minute)
		c.set(func() { c.decide = nil })
		setIPs("10.0.0.10")
		time.Sleep(2 * time.Minute)
		g.Expect(current().VerifyHostname("10.0.0.10")).To(Succeed())
		g.Expect(current().VerifyHostname("10.0.0.9")).NotTo(Succeed())
	})
}

func TestAnExpiredOrUnknownClientCertificateIsReplacedByBootstrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		c := newCloud(t)
		c.lifetime = 10 * time.Hour
		m, stop := start(t, Options{State: openDir(t)}, c.clients())
		defer stop()
		time.Sleep(time.Minute)

		c.set(func() { c.err = errors.New("no cloud") })
		time.Sleep(20 * time.Hour)
		g.Expect(m.client.valid(time.Now())).To(BeFalse())
		g.Expect(m.GetCertificate(nil)).NotTo(BeNil(), "nothing better is there")
		c.set(func() { c.err = nil })
		time.Sleep(2 * time.Minute) // one asks up to 36 seconds after the other
		g.Expect(c.asked()[2:]).To(Equal([]string{"bootstrap kubernetes.io/kube-apiserver-client", "own kubernetes.io/kubelet-serving"}))

		c.replaceAuthority()
		time.Sleep(9 * time.Hour)
		g.Expect(c.asked()[4:]).To(ConsistOf("bootstrap kubernetes.io/kube-apiserver-client", "own kubernetes.io/kubelet-serving"))

		// It knows none at all: nobody is flooded with requests.
		c.set(func() { c.status["own"], c.decide = http.StatusUnauthorized, nil })
		time.Sleep(9 * time.Hour)
		g.Expect(len(c.asked())).To(BeNumerically("<", 130))
	})
}

// TestACertificateThatKubeAPIServerDoesNotKnowIsNotKeptForLife: its authority may be
// replaced long before the certificate is to be renewed. The hub's own requests show it.
func TestACertificateThatKubeAPIServerDoesNotKnowIsNotKeptForLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		c := newCloud(t)
		m, stop := start(t, Options{State: openDir(t)}, c.clients())
		defer stop()
		time.Sleep(time.Minute)
		before, _ := serials(m)
		answers := func(user, auditID string) {
			rt := m.Watch(roundTripper(func(req *http.Request) (*http.Response, error) {
				resp, err := as{c, user}.RoundTrip(req)
				if err == nil && auditID != "" {
					resp.Header.Set("Audit-Id", auditID)
				}
				return resp, err
			}))
			req, err := http.NewRequest(http.MethodGet, "https://cloud/api/v1/namespaces/kube-system/configmaps/edge-hub-cfg", nil)
			g.Expect(err).NotTo(HaveOccurred())
			resp, err := rt.RoundTrip(req)
			g.Expect(err).NotTo(HaveOccurred())
			resp.Body.Close()
		}

		c.set(func() { c.status["own"], c.status["forbidden"] = http.StatusUnauthorized, http.StatusForbidden })
		answers("own", "")
		answers("forbidden", "1")
		time.Sleep(time.Hour)
		g.Expect(c.asked()).To(HaveLen(2), "a gateway's 401, and a 403")

		answers("own", "1")
		time.Sleep(90 * time.Second)
		g.Expect(c.asked()[2:]).To(And(Not(BeEmpty()), HaveEach("bootstrap kubernetes.io/kube-apiserver-client")))
		after, _ := serials(m)
		g.Expect(after).NotTo(Equal(before))

		// Nor does it know the new one: nobody is flooded with requests.
		for range 10 * 60 {
			answers("own", "1")
			time.Sleep(time.Minute)
		}
		g.Expect(len(c.asked())).To(BeNumerically("<", 80))
	})
}

// TestAServingCertificateOfAnAuthorityThatWasReplacedIsToo: who trusts the new one alone,
// such as the kubelet, refuses it.
func TestAServingCertificateOfAnAuthorityThatWasReplacedIsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		c := newCloud(t)
		m, stop := start(t, Options{State: openDir(t)}, c.clients())
		defer stop()
		time.Sleep(time.Minute)
		c.replaceAuthority()
		m.rejected.Store(true)
		time.Sleep(5 * time.Minute)
		g.Expect(c.asked()[2:]).To(Equal([]string{"bootstrap kubernetes.io/kube-apiserver-client", "own kubernetes.io/kubelet-serving"}))
		time.Sleep(time.Hour)
		g.Expect(c.asked()).To(HaveLen(4), "once is enough")
	})
}

// replaceAuthority has kube-apiserver verify by another one: it knows no certificate
// until it has signed the next.
func (c *cloud) replaceAuthority() {
	c.set(func() {
		c.status["own"] = http.StatusUnauthorized
		c.decide = func(r *certificatesv1.CertificateSigningRequest) {
			c.status["own"] = 0
			c.sign(r)
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestWithoutAnyCredentialThereIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		c := newCloud(t)
		m, stop := start(t, Options{State: openDir(t)}, Clients{Own: c.client("own")})
		defer stop()
		time.Sleep(time.Minute)
		g.Expect(m.Status()[0].Problem).To(MatchError(ContainSubstring("neither a valid client certificate nor a bootstrap credential")))
		g.Expect(c.asked()).To(BeEmpty())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		g.Expect(m.AwaitClient(ctx)).To(MatchError(context.DeadlineExceeded))
	})
}

func TestForbiddenIsNotAskedAgainAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		c := newCloud(t)
		c.status["bootstrap"] = http.StatusForbidden
		registry := prometheus.NewPedanticRegistry()
		m, stop := start(t, Options{State: openDir(t), Registry: registry}, c.clients())
		defer stop()
		time.Sleep(10 * time.Hour)
		g.Expect(metric(t, registry, "edgehub_certificate_renewals_total", "client", "error")).To(BeNumerically("~", 70, 10))
		g.Expect(m.Status()[0].Problem).To(HaveOccurred())
	})
}

// What a damaged disk holds is never served, and never stops the hub.
func TestDamagedFilesAreReplaced(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"empty": func([]byte) []byte { return nil },
		"cut":   func(b []byte) []byte { return b[:len(b)/2] },
		"another's": func(b []byte) []byte {
			return slices.Concat(b[:bytes.Index(b, []byte("-----BEGIN CERT"))], otherCertificate)
		},
		"no key":     func(b []byte) []byte { return b[bytes.Index(b, []byte("-----BEGIN CERT")):] },
		"not a file": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := NewWithT(t)
				c := newCloud(t)
				root := openDir(t)
				_, stop := start(t, Options{State: root}, c.clients())
				time.Sleep(time.Minute)
				stop()
				data, err := root.ReadFile(servingFile)
				g.Expect(err).NotTo(HaveOccurred())
				if damage != nil {
					g.Expect(root.WriteFile(servingFile, damage(data), 0o600)).To(Succeed())
				} else {
					g.Expect(root.Remove(servingFile)).To(Succeed())
					g.Expect(root.Symlink("/etc/passwd", servingFile)).To(Succeed())
				}
				opened, err := Open(Options{State: root, NodeName: "edge-1"})
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(opened.Status()[1].Problem).To(MatchError(ContainSubstring("read certificate")))
				_, err = opened.GetCertificate(nil)
				g.Expect(err).To(HaveOccurred())
				m, stop := start(t, Options{State: root}, c.clients())
				defer stop()
				time.Sleep(time.Minute)
				g.Expect(m.GetCertificate(nil)).NotTo(BeNil())
				g.Expect(m.Status()[1].Problem).NotTo(HaveOccurred())
			})
		})
	}
}

// A disk that takes nothing costs the next start its certificates, not this one.
func TestACertificateThatCannotBeKeptIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		c := newCloud(t)
		root := openDir(t)
		g.Expect(root.WriteFile(path.Dir(clientFile), nil, 0o600)).To(Succeed())
		m, stop := start(t, Options{State: root}, c.clients())
		defer stop()
		time.Sleep(time.Hour)
		g.Expect(c.asked()).To(HaveLen(2))
		g.Expect(m.GetCertificate(nil)).NotTo(BeNil())
		for _, s := range m.Status() {
			g.Expect(s.Problem).To(MatchError(ContainSubstring("in use but not on disk")))
		}

		// As soon as the disk takes it, it is there for the next start.
		g.Expect(root.Remove(path.Dir(clientFile))).To(Succeed())
		time.Sleep(2 * time.Minute)
		g.Expect(c.asked()).To(HaveLen(2))
		for _, s := range m.Status() {
			g.Expect(s.Problem).NotTo(HaveOccurred())
		}
		for _, i := range []*identity{m.client, m.serving} {
			kept, err := load(root, i.file)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(kept).NotTo(BeNil())
			g.Expect(kept.Certificate).To(Equal(i.current.Load().Certificate))
		}
	})
}

var otherCertificate = func() []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(9), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}()

func TestOpenNeedsNodeAndState(t *testing.T) {
	g := NewWithT(t)
	_, err := Open(Options{State: openDir(t)})
	g.Expect(err).To(HaveOccurred())
	_, err = Open(Options{NodeName: "edge-1"})
	g.Expect(err).To(HaveOccurred())
}
