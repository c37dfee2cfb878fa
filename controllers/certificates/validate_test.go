package certificates

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"testing"

	. "github.com/onsi/gomega"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// asked is a request before it is encoded, for a test to change.
type asked struct {
	certificatesv1.CertificateSigningRequestSpec
	template x509.CertificateRequest
	key      crypto.Signer
	der      func([]byte) []byte // changes what was encoded
}

func (a *asked) spec(t testing.TB) *certificatesv1.CertificateSigningRequestSpec {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &a.template, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.der != nil {
		der = a.der(der)
	}
	spec := a.CertificateSigningRequestSpec
	spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	return &spec
}

var ecdsaKey = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// clientRequest is what the hub on edge-1 asks for to renew its client certificate.
func clientRequest() *asked {
	return &asked{
		CertificateSigningRequestSpec: certificatesv1.CertificateSigningRequestSpec{
			Username:          "edgehub:node:edge-1",
			Groups:            []string{"edgehub:nodes", "system:authenticated"},
			SignerName:        "kubernetes.io/kube-apiserver-client",
			Usages:            []certificatesv1.KeyUsage{"digital signature", "client auth"},
			ExpirationSeconds: ptr.To[int32](365 * 24 * 3600),
		},
		template: x509.CertificateRequest{Subject: pkix.Name{CommonName: "edgehub:node:edge-1", Organization: []string{"edgehub:nodes"}}},
		key:      ecdsaKey,
	}
}

// servingRequest is what it asks for to serve with.
func servingRequest() *asked {
	a := clientRequest()
	a.SignerName = "kubernetes.io/kubelet-serving"
	a.Usages = []certificatesv1.KeyUsage{"digital signature", "server auth"}
	a.template = x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:edge-1", Organization: []string{"system:nodes"}},
		IPAddresses: []net.IP{net.IPv4(169, 254, 2, 1), net.IPv4(127, 0, 0, 1), net.IPv4(10, 0, 0, 7),
			net.IPv4(10, 96, 0, 1), net.ParseIP("fd00::1")},
		DNSNames: []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
	}
	return a
}

func knownFacts() facts {
	return facts{
		node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "edge-1"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: "10.0.0.7"},
			{Type: corev1.NodeInternalIP, Address: "fd00::7"},
			{Type: corev1.NodeExternalIP, Address: "198.51.100.7"},
			{Type: corev1.NodeHostName, Address: "10.0.0.9"},
			{Type: corev1.NodeInternalDNS, Address: "api.example.com"},
			{Type: corev1.NodeInternalIP, Address: "0.0.0.0"},
			{Type: corev1.NodeInternalIP, Address: "not an address"},
		}}},
		service:       &corev1.Service{Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.1", "fd00::1"}}},
		clusterDomain: "cluster.local",
	}
}

func (r *request) judge(f facts) error {
	if err := r.precheck(); err != nil {
		return err
	}
	return r.validate(f)
}

func TestTheRequestsOfAHubAreApproved(t *testing.T) {
	for name, test := range map[string]struct {
		*asked
		change func(*asked)
	}{
		"renewal of the client certificate": {clientRequest(), func(*asked) {}},
		"first client certificate, by the kubelet": {clientRequest(), func(a *asked) {
			a.Username, a.Groups = "system:node:edge-1", []string{"system:nodes", "system:authenticated"}
		}},
		"first client certificate, by a bootstrap token": {clientRequest(), func(a *asked) {
			a.Username, a.Groups = "system:bootstrap:abcdef", []string{"system:bootstrappers", "system:bootstrappers:edge-hub", "system:authenticated"}
		}},
		"serving certificate": {servingRequest(), func(*asked) {}},
		"serving certificate without the Service": {servingRequest(), func(a *asked) {
			a.template.DNSNames, a.template.IPAddresses = nil, a.template.IPAddresses[:2]
		}},
		"every address of the Node": {servingRequest(), func(a *asked) {
			a.template.IPAddresses = append(a.template.IPAddresses, net.ParseIP("fd00::7"), net.IPv4(198, 51, 100, 7))
		}},
		"P-384":             {servingRequest(), func(a *asked) { a.key = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) }},
		"shortest lifetime": {servingRequest(), func(a *asked) { a.ExpirationSeconds = ptr.To[int32](600) }},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			test.change(test.asked)
			claim := recognize(test.spec(t))
			g.Expect(claim).NotTo(BeNil())
			g.Expect(claim.judge(knownFacts())).To(Succeed())
		})
	}
}

// No certificate has a name that ends with a dot, so hubs ask for the name without it.
func TestAClusterDomainMayEndWithADot(t *testing.T) {
	g := NewWithT(t)
	known := knownFacts()
	known.clusterDomain = "cluster.local."
	g.Expect(recognize(servingRequest().spec(t)).judge(known)).To(Succeed())
}

// Each imitation differs from a hub's request in one thing.
func TestImitationsAreDenied(t *testing.T) {
	names := func(names ...string) func(*asked) {
		return func(a *asked) { a.template.DNSNames = append(a.template.DNSNames, names...) }
	}
	ips := func(ips ...net.IP) func(*asked) {
		return func(a *asked) { a.template.IPAddresses = append(a.template.IPAddresses, ips...) }
	}
	requester := func(name string, groups ...string) func(*asked) {
		return func(a *asked) { a.Username, a.Groups = name, append(groups, "system:authenticated") }
	}
	subject := func(commonName string, organizations ...string) func(*asked) {
		return func(a *asked) {
			a.template.Subject = pkix.Name{CommonName: commonName, Organization: organizations}
		}
	}
	more := func(oid asn1.ObjectIdentifier, value string) func(*asked) {
		return func(a *asked) {
			a.template.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: oid, Value: value}}
		}
	}
	usages := func(usages ...certificatesv1.KeyUsage) func(*asked) {
		return func(a *asked) { a.Usages = usages }
	}
	lifetime := func(seconds *int32) func(*asked) { return func(a *asked) { a.ExpirationSeconds = seconds } }
	key := func(key crypto.Signer) func(*asked) { return func(a *asked) { a.key = key } }
	commonName, uid := asn1.ObjectIdentifier{2, 5, 4, 3}, asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57683, 2}
	extension := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}} // CA: true

	for name, test := range map[string]struct {
		*asked
		change func(*asked)
		reason string
	}{
		// Who asks.
		"client: another hub":                      {clientRequest(), requester("edgehub:node:edge-2", "edgehub:nodes"), reasonWrongRequester},
		"client: another kubelet":                  {clientRequest(), requester("system:node:edge-2", "system:nodes"), reasonWrongRequester},
		"client: named as the kubelet":             {clientRequest(), requester("system:node:edge-1"), reasonWrongRequester},
		"client: named as the hub":                 {clientRequest(), requester("edgehub:node:edge-1"), reasonWrongRequester},
		"client: bootstrap token of kubelets":      {clientRequest(), requester("system:bootstrap:abcdef", "system:bootstrappers"), reasonWrongRequester},
		"client: ServiceAccount in the group":      {clientRequest(), requester("system:serviceaccount:a:b", "system:bootstrappers:edge-hub"), reasonWrongRequester},
		"client: a person":                         {clientRequest(), requester("alice"), reasonWrongRequester},
		"client: a cluster admin":                  {clientRequest(), requester("admin", "system:masters"), reasonWrongRequester},
		"serving: another hub":                     {servingRequest(), requester("edgehub:node:edge-2", "edgehub:nodes"), reasonWrongRequester},
		"serving: the kubelet":                     {servingRequest(), requester("system:node:edge-1", "system:nodes"), reasonWrongRequester},
		"serving: bootstrap token":                 {servingRequest(), requester("system:bootstrap:abcdef", "system:bootstrappers:edge-hub"), reasonWrongRequester},
		"serving: a person":                        {servingRequest(), requester("alice"), reasonWrongRequester},
		"serving: a hub's name without its group":  {servingRequest(), requester("edgehub:node:edge-1"), reasonWrongRequester},
		"serving: a hub's group without its name":  {servingRequest(), requester("alice", "edgehub:nodes"), reasonWrongRequester},
		"client: a hub's group without a hub name": {clientRequest(), requester("alice", "edgehub:nodes"), reasonWrongRequester},

		// For whom.
		"client: another organization":     {clientRequest(), subject("edgehub:node:edge-1", "system:masters"), reasonWrongSubject},
		"client: one organization more":    {clientRequest(), subject("edgehub:node:edge-1", "edgehub:nodes", "system:masters"), reasonWrongSubject},
		"client: no organization":          {clientRequest(), subject("edgehub:node:edge-1"), reasonWrongSubject},
		"client: group, other name":        {clientRequest(), subject("admin", "edgehub:nodes"), reasonWrongSubject},
		"client: the kubelet's name":       {clientRequest(), subject("system:node:edge-1", "edgehub:nodes"), reasonWrongSubject},
		"client: a hub wants to be admin":  {clientRequest(), subject("admin", "cluster-admins"), reasonWrongSubject},
		"client: no Node":                  {clientRequest(), subject("edgehub:node:", "edgehub:nodes"), reasonWrongSubject},
		"client: path as Node":             {clientRequest(), subject("edgehub:node:../x", "edgehub:nodes"), reasonWrongSubject},
		"client: two common names":         {clientRequest(), more(commonName, "admin"), reasonWrongSubject},
		"client: user id":                  {clientRequest(), more(uid, "1"), reasonWrongSubject},
		"serving: another organization":    {servingRequest(), subject("system:node:edge-1", "edgehub:nodes"), reasonWrongSubject},
		"serving: one organization more":   {servingRequest(), subject("system:node:edge-1", "system:nodes", "x"), reasonWrongSubject},
		"serving: the hub's name":          {servingRequest(), subject("edgehub:node:edge-1", "system:nodes"), reasonWrongSubject},
		"serving: another Node":            {servingRequest(), subject("system:node:edge-2", "system:nodes"), reasonWrongRequester},
		"serving: no Node":                 {servingRequest(), subject("system:node:", "system:nodes"), reasonWrongSubject},
		"client: Node that does not exist": {clientRequest(), func(a *asked) { subject("edgehub:node:edge-9", "edgehub:nodes")(a); a.Username = "edgehub:node:edge-9" }, reasonNodeNotFound},

		// Names.
		"client: with an address":         {clientRequest(), ips(net.IPv4(169, 254, 2, 1)), reasonWrongNames},
		"client: with a name":             {clientRequest(), names("edge-1"), reasonWrongNames},
		"serving: another node's address": {servingRequest(), ips(net.IPv4(10, 0, 0, 8)), reasonWrongNames},
		"serving: address as hostname":    {servingRequest(), ips(net.IPv4(10, 0, 0, 9)), reasonWrongNames},
		"serving: public address":         {servingRequest(), ips(net.IPv4(203, 0, 113, 1)), reasonWrongNames},
		"serving: any address":            {servingRequest(), ips(net.IPv4zero), reasonWrongNames},
		"serving: loopback of IPv6":       {servingRequest(), ips(net.IPv6loopback), reasonWrongNames},
		"serving: a name the kubelet reports": {servingRequest(), names("api.example.com"),
			reasonWrongNames},
		"serving: the host's name":   {servingRequest(), names("edge-1"), reasonWrongNames},
		"serving: another Service":   {servingRequest(), names("vault.default.svc"), reasonWrongNames},
		"serving: another domain":    {servingRequest(), names("kubernetes.default.svc.example.com"), reasonWrongNames},
		"serving: wildcard":          {servingRequest(), names("*.default.svc"), reasonWrongNames},
		"serving: address as a name": {servingRequest(), names("169.254.2.1"), reasonWrongNames},
		"serving: upper case":        {servingRequest(), names("KUBERNETES"), reasonWrongNames},
		"serving: email":             {servingRequest(), func(a *asked) { a.template.EmailAddresses = []string{"a@example.com"} }, reasonWrongNames},
		"serving: URI": {servingRequest(), func(a *asked) {
			a.template.URIs = []*url.URL{{Scheme: "spiffe", Host: "cluster.local"}}
		}, reasonWrongNames},
		"serving: without 127.0.0.1": {servingRequest(), func(a *asked) { a.template.IPAddresses = a.template.IPAddresses[:1] }, reasonWrongNames},
		"serving: without 169.254.2.1": {servingRequest(), func(a *asked) { a.template.IPAddresses = a.template.IPAddresses[1:] },
			reasonWrongNames},
		"serving: IPv4 written as IPv6": {servingRequest(), func(a *asked) {
			san := must(asn1.Marshal([]asn1.RawValue{
				{Class: 2, Tag: 7, Bytes: []byte{169, 254, 2, 1}}, {Class: 2, Tag: 7, Bytes: []byte{127, 0, 0, 1}},
				{Class: 2, Tag: 7, Bytes: net.IPv4(10, 0, 0, 7).To16()},
			}))
			a.template.IPAddresses, a.template.DNSNames = nil, nil
			a.template.ExtraExtensions = []pkix.Extension{{Id: oidSubjectAltName, Value: san}}
		}, reasonWrongNames},
		"serving: extension": {servingRequest(), func(a *asked) { a.template.ExtraExtensions = []pkix.Extension{extension} }, reasonWrongNames},
		"client: extension":  {clientRequest(), func(a *asked) { a.template.ExtraExtensions = []pkix.Extension{extension} }, reasonWrongNames},
		"serving: only a foreign extension": {servingRequest(), func(a *asked) {
			a.template.ExtraExtensions, a.template.IPAddresses, a.template.DNSNames = []pkix.Extension{extension}, nil, nil
		}, reasonWrongNames},

		// What for.
		"client: server auth":           {clientRequest(), usages("digital signature", "server auth"), reasonWrongUsages},
		"client: both":                  {clientRequest(), usages("digital signature", "client auth", "server auth"), reasonWrongUsages},
		"client: no digital signature":  {clientRequest(), usages("client auth"), reasonWrongUsages},
		"client: twice the same":        {clientRequest(), usages("client auth", "client auth"), reasonWrongUsages},
		"serving: client auth":          {servingRequest(), usages("digital signature", "client auth"), reasonWrongUsages},
		"serving: cert sign":            {servingRequest(), usages("digital signature", "server auth", "cert sign"), reasonWrongUsages},
		"serving: any":                  {servingRequest(), usages("digital signature", "any"), reasonWrongUsages},
		"client: no expirationSeconds":  {clientRequest(), lifetime(nil), reasonWrongLifetime},
		"client: too long":              {clientRequest(), lifetime(ptr.To[int32](400 * 24 * 3600)), reasonWrongLifetime},
		"client: too short":             {clientRequest(), lifetime(ptr.To[int32](599)), reasonWrongLifetime},
		"client: negative":              {clientRequest(), lifetime(ptr.To[int32](-1)), reasonWrongLifetime},
		"serving: too long":             {servingRequest(), lifetime(ptr.To[int32](1 << 30)), reasonWrongLifetime},
		"client: RSA":                   {clientRequest(), key(must(rsa.GenerateKey(rand.Reader, 2048))), reasonWrongKey},
		"client: P-224":                 {clientRequest(), key(must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))), reasonWrongKey},
		"serving: Ed25519":              {servingRequest(), key(ed25519.NewKeyFromSeed(make([]byte, 32))), reasonWrongKey},
		"client: somebody else's key":   {clientRequest(), func(a *asked) { a.der = spoilSignature }, reasonWrongKey},
		"serving: somebody else's key":  {servingRequest(), func(a *asked) { a.der = spoilSignature }, reasonWrongKey},
		"serving: a kubelet's, with it": {servingRequest(), func(a *asked) { requester("system:node:edge-1", "system:nodes")(a); a.template.DNSNames = nil }, reasonWrongRequester},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			test.change(test.asked)
			claim := recognize(test.spec(t))
			g.Expect(claim).NotTo(BeNil(), "not recognized")
			err := claim.judge(knownFacts())
			var denied *denial
			g.Expect(errors.As(err, &denied)).To(BeTrue(), "%v", err)
			g.Expect(denied.reason).To(Equal(test.reason), denied.message)
			g.Expect(denied.message).NotTo(BeEmpty())
		})
	}
}

// spoilSignature changes the last byte, which is in the signature.
func spoilSignature(der []byte) []byte {
	der[len(der)-1] ^= 1
	return der
}

func TestWithoutServiceItsAddressesAreDenied(t *testing.T) {
	g := NewWithT(t)
	f := knownFacts()
	f.service = nil
	g.Expect(recognize(servingRequest().spec(t)).judge(f)).To(MatchError(ContainSubstring("10.96.0.1")))
}

func TestOtherRequestsAreLeftAlone(t *testing.T) {
	for name, test := range map[string]struct {
		*asked
		change func(*asked)
	}{
		"kubelet's serving certificate": {servingRequest(), func(a *asked) {
			a.Username, a.Groups = "system:node:edge-1", []string{"system:nodes"}
			a.template.DNSNames, a.template.IPAddresses = []string{"edge-1"}, []net.IP{net.IPv4(10, 0, 0, 7)}
		}},
		"of a Node named kubernetes": {servingRequest(), func(a *asked) {
			a.Username, a.Groups = "system:node:kubernetes", []string{"system:nodes"}
			a.template.Subject.CommonName = "system:node:kubernetes"
			a.template.DNSNames, a.template.IPAddresses = []string{"kubernetes"}, nil
		}},
		"a person's client certificate": {clientRequest(), func(a *asked) {
			a.Username, a.Groups = "alice", []string{"devs"}
			a.template.Subject = pkix.Name{CommonName: "alice", Organization: []string{"devs"}}
		}},
		"kubelet's client certificate": {clientRequest(), func(a *asked) {
			a.SignerName = "kubernetes.io/kube-apiserver-client-kubelet"
		}},
		"another signer": {clientRequest(), func(a *asked) { a.SignerName = "example.com/edge" }},
		"no certificate request": {clientRequest(), func(a *asked) {
			a.der = func([]byte) []byte { return []byte("nonsense") }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			test.change(test.asked)
			NewWithT(t).Expect(recognize(test.spec(t))).To(BeNil())
		})
	}
	spec := clientRequest().spec(t)
	for _, request := range []string{"no PEM", string(spec.Request) + string(spec.Request)} {
		spec.Request = []byte(request)
		if recognize(spec) != nil {
			t.Errorf("recognized %q", request)
		}
	}
}

// What looks like an edge-hub's is recognized however it is disguised.
func TestDisguises(t *testing.T) {
	nobody := func(a *asked) *asked {
		a.Username, a.Groups = "alice", nil
		a.template.DNSNames, a.template.IPAddresses = nil, nil
		return a
	}
	hidden := nobody(clientRequest())
	hidden.template.Subject = pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
		{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "edgehub:node:edge-1"},
		{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "alice"},
	}}
	asName := nobody(servingRequest())
	asName.template.DNSNames = []string{"169.254.2.1"}
	upper := nobody(servingRequest())
	upper.template.DNSNames = []string{"Kubernetes.Default.Svc."}
	for name, a := range map[string]*asked{"first of two common names": hidden, "address as a name": asName, "upper case": upper} {
		if claim := recognize(a.spec(t)); claim == nil {
			t.Errorf("%s: not recognized", name)
		} else if claim.judge(knownFacts()) == nil {
			t.Errorf("%s: approved", name)
		}
	}
}

// FuzzRequest: no bytes make the rule panic, and nothing is approved that is not
// wholly a hub's.
func FuzzRequest(f *testing.F) {
	for _, a := range []*asked{clientRequest(), servingRequest()} {
		f.Add(a.spec(f).Request, a.SignerName == certificatesv1.KubeletServingSignerName)
	}
	f.Fuzz(func(t *testing.T, encoded []byte, serving bool) {
		a := clientRequest()
		if serving {
			a = servingRequest()
		}
		spec := a.CertificateSigningRequestSpec
		spec.Request = encoded
		claim := recognize(&spec)
		if claim == nil || claim.judge(knownFacts()) != nil {
			return
		}
		if claim.node != "edge-1" || len(claim.x509.Subject.Names) != 2 || claim.x509.CheckSignature() != nil {
			t.Fatalf("approved %+v", claim.x509)
		}
	})
}
