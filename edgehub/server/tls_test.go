package server

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestClientCertificatesAreFewAndSmall, for they are kept as long as their connection.
func TestClientCertificatesAreFewAndSmall(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.StartTLS()
	defer s.Close()
	der, key := s.TLS.Certificates[0].Certificate[0], s.TLS.Certificates[0].PrivateKey.(crypto.Signer)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, 8<<10)}}}
	large, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	hub := httptest.NewUnstartedServer(s.Config.Handler)
	hub.TLS = tlsConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &s.TLS.Certificates[0], nil }, x509.NewCertPool())
	hub.StartTLS()
	defer hub.Close()
	for _, tc := range []struct {
		chain [][]byte
		taken bool
	}{
		{[][]byte{der, der, der, der}, true},
		{[][]byte{der, der, der, der, der}, false},
		{[][]byte{der, large}, false},
	} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return &tls.Certificate{Certificate: tc.chain, PrivateKey: key}, nil
			},
		}}}
		resp, err := client.Get(hub.URL)
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil) != tc.taken {
			t.Errorf("%d certificates: %v", len(tc.chain), err)
		}
		client.CloseIdleConnections()
	}
}
