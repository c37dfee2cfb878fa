package certificates

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

const (
	// A request is looked at soon after it was made, since an approver and a
	// signer take a moment, and ever more seldom, since a person may take a day.
	firstLook = 200 * time.Millisecond
	lastLook  = 15 * time.Second
)

var errSuperseded = errors.New("other names are wanted by now")

// refused is the end of a request that was denied, or that the signer failed to
// sign.
type refused struct {
	certificatesv1.CertificateSigningRequestCondition
}

func (r *refused) Error() string {
	verb := "denied"
	if r.Type == certificatesv1.CertificateFailed {
		verb = "not signed"
	}
	return fmt.Sprintf("%s: %s: %s", verb, r.Reason, r.Message)
}

// wasted is why a request that was made came to nothing.
type wasted struct {
	request string
	error
}

func (w *wasted) Error() string {
	return "CertificateSigningRequest " + w.request + ": " + w.error.Error()
}
func (w *wasted) Unwrap() error { return w.error }

// ask makes a request for a certificate with a new key. prefix begins its name.
func (t template) ask(ctx context.Context, client rest.Interface, prefix string, lifetime time.Duration) (*ecdsa.PrivateKey, *certificatesv1.CertificateSigningRequest, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate key: %w", err)
	}
	encoded, err := t.request(key)
	if err != nil {
		return nil, nil, err
	}
	request, err := create(ctx, client, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: prefix},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:           encoded,
			SignerName:        t.signer,
			ExpirationSeconds: ptr.To(int32(lifetime / time.Second)),
			Usages:            []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, t.usage},
		},
	})
	return key, request, err
}

// await waits until the request is decided. While kube-apiserver is out of reach
// it goes on: the answer is there when it is back. stale tells that the
// certificate would no longer do.
func await(ctx context.Context, client rest.Interface, created *certificatesv1.CertificateSigningRequest, stale func() bool) ([]byte, error) {
	for look := firstLook; ; look = min(look*3/2, lastLook) {
		if err := sleep(ctx, wait.Jitter(look, 0.1)); err != nil {
			return nil, err
		}
		if stale() {
			return nil, errSuperseded
		}
		request, err := get(ctx, client, created.Name)
		switch {
		case err == nil && request.UID != created.UID:
			return nil, errors.New("it was replaced by another of the same name")
		case err == nil:
			if certificate, err := outcome(request); certificate != nil || err != nil {
				return certificate, err
			}
		case apierrors.IsNotFound(err), apierrors.IsUnauthorized(err), apierrors.IsForbidden(err):
			return nil, err
		}
	}
}

// outcome returns the certificate, or why there will be none, or neither.
func outcome(request *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	for _, condition := range request.Status.Conditions {
		switch condition.Type {
		case certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			return nil, &refused{condition}
		}
	}
	if len(request.Status.Certificate) == 0 {
		return nil, nil
	}
	return request.Status.Certificate, nil
}

// judge returns an issued certificate with its key, if it is what was asked for.
func (t template) judge(key *ecdsa.PrivateKey, certificate []byte, now time.Time) (*tls.Certificate, error) {
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certificate, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("issued certificate: %w", err)
	}
	if err := t.check(pair.Leaf, now); err != nil {
		return nil, fmt.Errorf("the signer issued something else than was asked for: %w", err)
	}
	return &pair, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
