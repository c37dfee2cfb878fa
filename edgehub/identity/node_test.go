package identity

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"maps"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// TestOnlyThisNodesKubeletIsTheNode shows who is forwarded with the node's
// credential, and who is not.
func TestOnlyThisNodesKubeletIsTheNode(t *testing.T) {
	ca := certificate(nil, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	stranger := certificate(nil, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate)
	leaf := func(by *authority, name string, groups ...string) *http.Request {
		c := certificate(by, &x509.Certificate{Subject: pkix.Name{CommonName: name, Organization: groups}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		r := request()
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.Certificate}}
		return r
	}
	kubelet := func() *http.Request { return leaf(ca, "system:node:node-1", "system:nodes") }
	with := func(name, value string) *http.Request {
		r := kubelet()
		r.Header.Set(name, value)
		return r
	}
	later := kubelet()
	for _, tc := range []struct {
		name string
		r    *http.Request
		ok   bool
	}{
		{"the kubelet", kubelet(), true},
		{"no certificate", request(), false},
		{"another node", leaf(ca, "system:node:node-2", "system:nodes"), false},
		{"not in the group", leaf(ca, "system:node:node-1", "system:masters"), false},
		{"a user of the group", leaf(ca, "admin", "system:nodes"), false},
		{"another authority", leaf(stranger, "system:node:node-1", "system:nodes"), false},
		{"with a token besides", with("Authorization", "Bearer "+podToken(nil)), false},
		{"with an empty Authorization", with("Authorization", ""), false},
		{"that impersonates", with("Impersonate-User", "admin"), false},
		{"with a WebSocket token", with("Sec-Websocket-Protocol", webSocketBearer+"dG9rZW4"), false},
		{"User-Agent kubelet", with2(request(), "User-Agent", "kubelet/v1.37.2"), false},
		{"X-Remote-User", with2(request(), "X-Remote-User", "system:node:node-1"), false},
	} {
		n := newNode(t)
		n.options.Node = Node{Name: "node-1", Roots: func() *x509.CertPool { return roots }}
		a := n.openWith(newCluster())
		for range 2 { // what is remembered must not differ
			id, _, _ := a.Caller(tc.r)
			offline, err := a.Authenticate(tc.r)
			if a.IsNode(tc.r) != tc.ok || (id == NodeIdentity("node-1")) != tc.ok || (offline == NodeIdentity("node-1")) != tc.ok || tc.ok && err != nil {
				t.Errorf("%s: %v online, %v, %v offline", tc.name, id, offline, err)
			}
		}
		if !tc.ok {
			continue
		}
		n.clock.SetTime(later.TLS.PeerCertificates[0].NotAfter.Add(time.Second))
		if a.IsNode(tc.r) {
			t.Errorf("%s: its certificate has expired", tc.name)
		}
		n.clock.SetTime(start) // set back, it revives nothing
		if a.IsNode(tc.r) {
			t.Errorf("%s: its certificate has come back to life", tc.name)
		}
	}
	without := newNode(t).openWith(newCluster())
	if without.IsNode(kubelet()) {
		t.Error("without authorities anybody is the node")
	}
}

// TestACertificateIsVerifiedOnce, or whoever sends one chooses what each request costs.
func TestACertificateIsVerifiedOnce(t *testing.T) {
	ca := certificate(nil, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate)
	for _, tc := range []struct {
		name     string
		by       *authority
		user     string
		verified int
	}{
		{"the kubelet", ca, "system:node:node-1", 1},
		{"one that says that it is", nil, "system:node:node-1", 1},
		{"another node", nil, "system:node:node-2", 0},
	} {
		n, verified := newNode(t), 0
		n.options.Node = Node{Name: "node-1", Roots: func() *x509.CertPool {
			verified++
			return roots
		}}
		a := n.openWith(newCluster())
		c := certificate(tc.by, &x509.Certificate{Subject: pkix.Name{CommonName: tc.user, Organization: []string{"system:nodes"}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		r := request()
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.Certificate}}
		for minute := 1; minute <= 2; minute++ {
			verified = 0
			for range 10 {
				if a.IsNode(r) != (tc.by != nil) {
					t.Errorf("%s is taken for something else", tc.name)
				}
			}
			if verified != tc.verified {
				t.Errorf("%s: verified %d times in minute %d", tc.name, verified, minute)
			}
			n.clock.SetTime(start.Add(nodeMemo))
		}
	}
}

// TestWhatWasSaidOfACertificateEndsWithATimeThatWasWrong: once the cloud has put the time
// right the kubelet is itself again.
func TestWhatWasSaidOfACertificateEndsWithATimeThatWasWrong(t *testing.T) {
	ca := certificate(nil, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate)
	c := certificate(ca, &x509.Certificate{Subject: pkix.Name{CommonName: "system:node:node-1", Organization: []string{"system:nodes"}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	r := request()
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.Certificate}}
	far := c.NotAfter.Add(24 * time.Hour)

	n, trusted := newNode(t), roots
	n.options.Node = Node{Name: "node-1", Roots: func() *x509.CertPool { return trusted }}
	a := n.openWith(newCluster())
	set := func(to time.Time) {
		n.clock.SetTime(to)
		a.ObserveTime(to)
	}
	set(far)
	if a.IsNode(r) {
		t.Fatal("the certificate has not expired")
	}
	set(start)
	if !a.IsNode(r) {
		t.Error("it is still taken for one that has expired")
	}

	set(c.NotAfter.Add(-time.Hour))
	if !a.IsNode(r) {
		t.Fatal("the certificate has expired")
	}
	set(start)
	trusted = x509.NewCertPool()
	if a.IsNode(r) {
		t.Error("an authority that is not trusted any more counts")
	}
}

func with2(r *http.Request, name, value string) *http.Request {
	r.Header.Set(name, value)
	return r
}

func TestTokensDieWithThePodThatTheyAreBoundTo(t *testing.T) {
	boundTo := func(to map[string]any) string {
		claims := serviceAccount("shop", "edge-app", "uid-1")
		maps.Copy(claims["kubernetes.io"].(map[string]any), to)
		return podToken(claims)
	}
	earlier := func(to map[string]any) string {
		claims := serviceAccount("shop", "edge-app", "uid-1")
		maps.Copy(claims["kubernetes.io"].(map[string]any), to)
		claims["nbf"] = start.Add(-time.Hour).Unix()
		return podToken(claims)
	}
	pod := map[string]any{"pod": map[string]any{"name": "edge-app-0", "uid": "pod-uid"}}
	for _, tc := range []struct {
		name, token, refused string
		known                Existence
		age                  time.Duration // of what is known
	}{
		{"existing Pod", boundTo(pod), "", Exists, 0},
		{"deleted Pod", boundTo(pod), "Pod shop/edge-app-0, which was deleted", Gone, 0},
		{"Pod that was deleted when the token was issued", boundTo(pod), "which was deleted", Gone, time.Hour},
		{"Pod that was made since", boundTo(pod), "", Gone, time.Hour + time.Second},
		{"Pod of which nothing was known for long", boundTo(pod), "", Gone, math.MaxInt64},
		{"Pod that was made since, says a part of the token", earlier(pod), "which was deleted", Gone, time.Hour + time.Second},
		{"Pod of which nothing is known", boundTo(pod), "", Unknown, 0},
		{"no Pod", boundTo(nil), "", Gone, 0},
		{"Pod on this node", boundTo(map[string]any{"node": map[string]any{"name": "node-1", "uid": "x"}}), "", Exists, 0},
		{"Pod on another node", boundTo(map[string]any{"node": map[string]any{"name": "node-2", "uid": "x"}}), "a Pod on node node-2", Exists, 0},
	} {
		n := newNode(t)
		n.options.Node = Node{Name: "node-1"}
		asked := ""
		n.options.Pods = func(namespace, name, uid string) (Existence, time.Duration) {
			asked = namespace + "/" + name + "/" + uid
			return tc.known, tc.age
		}
		a := n.openWith(newCluster())
		n.clock.SetTime(start.Add(time.Hour)) // an hour after the tokens were issued
		observe(t, a, tc.token, 200)
		_, err := a.Authenticate(bearer(tc.token))
		if tc.refused == "" && err != nil || tc.refused != "" && (!apierrors.IsUnauthorized(err) || !strings.Contains(err.Error(), tc.refused)) {
			t.Errorf("%s: %v", tc.name, err)
		}
		if asked != "" && asked != "shop/edge-app-0/pod-uid" {
			t.Errorf("%s: asked for %s", tc.name, asked)
		}
	}
}
