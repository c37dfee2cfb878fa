package certificates

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// cloud is a kube-apiserver, an approver and a signer without sockets, so that
// tests can be run in a synctest bubble. It is an http.RoundTripper for the user
// it is asked as.
type cloud struct {
	t   *testing.T
	key *ecdsa.PrivateKey
	ca  *x509.Certificate

	mu       sync.Mutex
	requests []*certificatesv1.CertificateSigningRequest
	askedBy  []string
	lifetime time.Duration
	// err, if not nil, is what each request ends in.
	err error
	// status answers requests of a user without looking at them, if not zero.
	status map[string]int
	// decide is what becomes of a request; nil issues what was asked for.
	decide func(*certificatesv1.CertificateSigningRequest)
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &cloud{t: t, key: key, lifetime: 100 * time.Hour, status: map[string]int{}}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10000 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}

// set changes the cloud.
func (c *cloud) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// asked returns who asked for what, in order.
func (c *cloud) asked() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.askedBy)
}

func (c *cloud) client(user string) rest.Interface {
	client, err := Client(&rest.Config{Host: "https://cloud"}, &http.Client{Transport: as{c, user}})
	if err != nil {
		c.t.Fatal(err)
	}
	return client
}

func (c *cloud) clients() Clients {
	return Clients{
		Own:       c.client("own"),
		Bootstrap: func() (rest.Interface, error) { return c.client("bootstrap"), nil },
	}
}

type as struct {
	*cloud
	user string
}

func (a as) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return nil, a.err
	}
	if code := a.status[a.user]; code != 0 {
		return answer(r, code, metav1.Status{Status: metav1.StatusFailure, Code: int32(code), Reason: metav1.StatusReason(map[int]string{401: "Unauthorized", 403: "Forbidden"}[code])}), nil
	}
	if strings.HasSuffix(r.URL.Path, "/services/kubernetes") {
		return answer(r, http.StatusOK, corev1.Service{Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.1", "fd00::1"}}}), nil
	}
	if r.Method == http.MethodPost {
		request := &certificatesv1.CertificateSigningRequest{}
		if err := json.NewDecoder(r.Body).Decode(request); err != nil {
			return nil, err
		}
		request.Name = fmt.Sprint(request.GenerateName, len(a.requests))
		request.UID = types.UID(request.Name)
		a.requests = append(a.requests, request)
		a.askedBy = append(a.askedBy, a.user+" "+request.Spec.SignerName)
		return answer(r, http.StatusCreated, request), nil
	}
	for _, request := range a.requests {
		if request.Name != path.Base(r.URL.Path) {
			continue
		}
		if a.decide != nil {
			a.decide(request)
		} else {
			a.sign(request)
		}
		return answer(r, http.StatusOK, request), nil
	}
	return answer(r, http.StatusNotFound, metav1.Status{Status: metav1.StatusFailure, Code: 404, Reason: metav1.StatusReasonNotFound}), nil
}

func answer(r *http.Request, code int, object any) *http.Response {
	data, err := json.Marshal(object)
	if err != nil {
		panic(err)
	}
	return &http.Response{
		StatusCode: code, Request: r, Body: io.NopCloser(bytes.NewReader(data)),
		Header: http.Header{"Content-Type": {"application/json"}},
	}
}

// sign issues what was asked for.
func (c *cloud) sign(request *certificatesv1.CertificateSigningRequest, change ...func(*x509.Certificate)) {
	if request.Status.Certificate != nil {
		return
	}
	block, _ := pem.Decode(request.Spec.Request)
	asked, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		c.t.Error(err)
		return
	}
	usage := map[string]x509.ExtKeyUsage{
		certificatesv1.KubeAPIServerClientSignerName: x509.ExtKeyUsageClientAuth,
		certificatesv1.KubeletServingSignerName:      x509.ExtKeyUsageServerAuth,
	}[request.Spec.SignerName]
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(c.requests) + 1)), Subject: asked.Subject,
		DNSNames: asked.DNSNames, IPAddresses: asked.IPAddresses, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		NotBefore: time.Now(), NotAfter: time.Now().Add(c.lifetime),
	}
	for _, f := range change {
		f(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.ca, asked.PublicKey, c.key)
	if err != nil {
		c.t.Error(err)
		return
	}
	request.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
