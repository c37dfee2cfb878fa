package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/http"
	"time"
)

// Node says who may act as the node that the hub runs on: its kubelet, proven by
// a client certificate. The zero Node is nobody.
type Node struct {
	Name string
	// Roots returns the authorities that vouch for client certificates, the
	// cluster's; nil for none.
	Roots func() *x509.CertPool
}

// nodeMemo is how long the verdict on a certificate counts, so that a request costs
// no signature. An authority that is no longer trusted counts for that long.
const nodeMemo = time.Minute

// notNodeMemo is how many certificates are remembered that pass themselves off as the
// node's: one for each connection that there may be, and a few more.
const notNodeMemo = 1024

// verifiedNode is the certificate that was verified last. A kubelet has one.
type verifiedNode struct {
	leaf  [sha256.Size]byte
	until time.Time
}

// IsNode tells whether a request is this node's kubelet's: it has a verified client
// certificate of system:node:<name> in the group system:nodes, and no other
// credential. It alone may be forwarded with the node's credential, and is named
// by the node both online and offline.
//
// A request with an Authorization header is what that header says, as it would
// be without a hub in between.
func (a *Authenticator) IsNode(r *http.Request) bool {
	if a.node.Name == "" || a.node.Roots == nil || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return false
	}
	if len(r.Header["Authorization"]) > 0 || impersonates(r.Header) || len(r.Header["Sec-Websocket-Protocol"]) > 0 {
		return false
	}
	// What a certificate says costs nothing to read, and anybody may send one.
	if subject := r.TLS.PeerCertificates[0].Subject; !IsNode(subject.CommonName, subject.Organization, a.node.Name) {
		return false
	}
	leaf, now := sha256.Sum256(r.TLS.PeerCertificates[0].Raw), a.clock.now()
	if last := a.nodeSeen.Load(); last != nil && last.leaf == leaf && counts(last.until, now) {
		return true
	}
	if until, ok := a.notNode.Get(leaf); ok && counts(until.(time.Time), now) {
		return false
	}
	user, groups, ok := ClientCertificate(r, a.node.Roots(), now)
	if !ok || !IsNode(user, groups, a.node.Name) {
		a.notNode.Add(leaf, now.Add(nodeMemo))
		return false
	}
	until := now.Add(nodeMemo)
	if end := r.TLS.PeerCertificates[0].NotAfter; end.Before(until) {
		until = end
	}
	a.nodeSeen.Store(&verifiedNode{leaf, until})
	return true
}

// counts reports whether a verdict that counts until some time does now. One from a time
// that the cloud has put back since (see steadyClock) does not.
func counts(until, now time.Time) bool {
	left := until.Sub(now)
	return left > 0 && left <= 2*nodeMemo
}

func (a *Authenticator) nodeIdentity() Identity {
	return NodeIdentity(a.node.Name)
}

// NodeIdentity is the identity of a node's kubelet.
func NodeIdentity(name string) Identity {
	return Identity{Key: nodeUserPrefix + name, User: nodeUserPrefix + name}
}

// Existence is what is known of an object on this node.
type Existence int

// What may be known.
const (
	Unknown Existence = iota
	Exists
	Gone // it was there, or should be, and is not
)

// Pods tells whether a Pod of this node exists, as far as is known, and how long
// ago that was so for certain. Gone says nothing of a Pod that was made since.
type Pods func(namespace, name, uid string) (e Existence, age time.Duration)

// bound is what a token is bound to (KEP-1205, KEP-4193): it is void when that is
// gone.
type bound struct {
	namespace, podName, podUID string // of the Pod, "" if there is none
	node                       string // that the Pod runs on, "" if it is not said
}

// check tells why a token that is bound like this is void at now, nil if it is not.
// Only kube-apiserver knows for certain; what is known here is what the kubelet
// was told last. It can't have been told of a Pod that came later, and only a Pod
// that exists gets a token: one that was issued since shows that its Pod did.
func (b bound) check(node string, issued validity, now time.Time, pods Pods) error {
	if b.node != "" && node != "" && b.node != node {
		return fmt.Errorf("the token is bound to a Pod on node %s", b.node)
	}
	if b.podName == "" || pods == nil {
		return nil
	}
	existence, age := pods(b.namespace, b.podName, b.podUID)
	if existence != Gone || time.Unix(min(issued.issued, issued.notBefore), 0).After(now.Add(-age)) {
		return nil
	}
	return fmt.Errorf("the token is bound to Pod %s/%s, which was deleted", b.namespace, b.podName)
}
