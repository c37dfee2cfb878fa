package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"testing"
	"time"
)

func TestClientCertificate(t *testing.T) {
	ca := certificate(nil, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	intermediate := certificate(ca, &x509.Certificate{Subject: pkix.Name{CommonName: "between"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	stranger := certificate(nil, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	kubelet := pkix.Name{CommonName: "system:node:node-1", Organization: []string{"system:nodes"}}
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	server := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate)

	// The system's roots, which Go reads once, must not count even if they contain
	// the authority.
	file := t.TempDir() + "/roots.pem"
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", file)
	systemLeaf := certificate(ca, &x509.Certificate{Subject: kubelet, ExtKeyUsage: client})
	r := &http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{systemLeaf.Certificate}}}
	if _, _, ok := ClientCertificate(r, nil, start); ok {
		t.Error("the system's roots vouch for a client")
	}

	for _, tc := range []struct {
		name  string
		chain []*authority
		roots *x509.CertPool
		now   time.Time
		ok    bool
	}{
		{"kubelet", []*authority{certificate(ca, &x509.Certificate{Subject: kubelet, ExtKeyUsage: client})}, roots, start, true},
		{"through an intermediate", []*authority{certificate(intermediate, &x509.Certificate{Subject: kubelet, ExtKeyUsage: client}), intermediate}, roots, start, true},
		{"none", nil, roots, start, false},
		{"no roots", []*authority{certificate(ca, &x509.Certificate{Subject: kubelet, ExtKeyUsage: client})}, nil, start, false},
		{"other CA of the same name", []*authority{certificate(stranger, &x509.Certificate{Subject: kubelet, ExtKeyUsage: client})}, roots, start, false},
		{"other CA sent along", []*authority{certificate(stranger, &x509.Certificate{Subject: kubelet, ExtKeyUsage: client}), stranger}, roots, start, false},
		{"serving certificate", []*authority{certificate(ca, &x509.Certificate{Subject: kubelet, ExtKeyUsage: server})}, roots, start, false},
		{"expired", []*authority{certificate(ca, &x509.Certificate{Subject: kubelet, ExtKeyUsage: client})}, roots, start.AddDate(2, 0, 0), false},
		{"not yet valid", []*authority{certificate(ca, &x509.Certificate{Subject: kubelet, ExtKeyUsage: client})}, roots, start.AddDate(-1, 0, 0), false},
		{"no name", []*authority{certificate(ca, &x509.Certificate{Subject: pkix.Name{Organization: []string{"system:nodes"}}, ExtKeyUsage: client})}, roots, start, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			state := &tls.ConnectionState{}
			for _, c := range tc.chain {
				state.PeerCertificates = append(state.PeerCertificates, c.Certificate)
			}
			r := &http.Request{TLS: state}
			user, groups, ok := ClientCertificate(r, tc.roots, tc.now)
			if ok != tc.ok {
				t.Fatalf("ok %v, want %v", ok, tc.ok)
			}
			if IsNode(user, groups, "node-1") != tc.ok {
				t.Errorf("%s in %v", user, groups)
			}
		})
	}
	if _, _, ok := ClientCertificate(&http.Request{}, roots, start); ok {
		t.Error("a request without TLS has a certificate")
	}
}

func TestIsNode(t *testing.T) {
	nodes := []string{"system:nodes"}
	for _, tc := range []struct {
		user   string
		groups []string
		node   string
		want   bool
	}{
		{"system:node:node-1", nodes, "node-1", true},
		{"system:node:node-1", []string{"x", "system:nodes"}, "node-1", true},
		{"system:node:node-2", nodes, "node-1", false},
		{"system:node:node-1", nil, "node-1", false},
		{"system:node:node-1", []string{"system:masters"}, "node-1", false},
		{"node-1", nodes, "node-1", false},
		{"system:node:", nodes, "", false},
		{"", nil, "", false},
	} {
		if got := IsNode(tc.user, tc.groups, tc.node); got != tc.want {
			t.Errorf("%s %v on %s: %v", tc.user, tc.groups, tc.node, got)
		}
	}
}

// certificate makes a certificate with a key of its own, signed by parent or, if
// that is nil, by itself.
func certificate(parent *authority, template *x509.Certificate) *authority {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template.SerialNumber = must(rand.Int(rand.Reader, big.NewInt(1<<60)))
	template.NotBefore, template.NotAfter = start.Add(-time.Hour), start.AddDate(1, 0, 0)
	signer, signerKey := template, key
	if parent != nil {
		signer, signerKey = parent.Certificate, parent.key
	}
	der := must(x509.CreateCertificate(rand.Reader, template, signer, key.Public(), signerKey))
	return &authority{must(x509.ParseCertificate(der)), key}
}

type authority struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}
