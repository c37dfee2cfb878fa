package install

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// nodePatience is how long kube-apiserver may take to tell of the Node.
const nodePatience = 5 * time.Second

// nodeIPs are the addresses that the hub is to serve on beside those that every hub has.
// The operator approves none that the Node does not have.
func (o *Options) nodeIPs(k *kubelet, server string) ([]string, error) {
	if len(o.NodeIPs) > 0 {
		return o.NodeIPs, nil
	}
	host, err := hostOf(server)
	if err != nil {
		return nil, err
	}
	source, unknown := o.source(host)
	// A balancer on the node itself is reached from where nobody else reaches the
	// node, and no certificate is approved for ::1.
	if unknown == nil && source.IsLoopback() {
		return nil, nil
	}
	known, err := o.addresses(o, k, server)
	switch {
	case err == nil && (unknown != nil || !slices.Contains(known, source)):
		// It goes there through a VPN, or from a temporary address.
		ips := []string{}
		for _, address := range known {
			ips = append(ips, address.String())
		}
		return ips, nil
	case unknown != nil:
		return nil, fmt.Errorf("the node's address is not known, name it with --node-ip: %w", unknown)
	}
	return []string{source.String()}, nil
}

// lookAtAddresses looks whether the operator will approve the addresses that the hub is
// to serve on. given are those that are not only as the hub is installed.
func (o *Options) lookAtAddresses(f *findings, k *kubelet, server string, given []string) {
	known, unknown := o.addresses(o, k, server)
	if unknown != nil {
		f.doubt("node-ip", "the addresses of Node %s can't be read, no certificate is approved for others: %v", k.node, unknown)
	}
	for _, text := range o.NodeIPs {
		address, err := netip.ParseAddr(text)
		if err == nil && (unknown != nil || slices.Contains(known, address)) {
			continue
		}
		if err == nil {
			err = fmt.Errorf("%s is none of the addresses of Node %s, which are %v: no certificate is approved for it", text, k.node, known)
		}
		if slices.Contains(given, text) {
			f.add("node-ip", err, "")
		} else { // it may have its certificate
			f.doubt("node-ip", "%v; --node-ip= drops what is installed", err)
		}
	}
}

// addresses asks a kube-apiserver, as the kubelet, for the addresses of its Node that the
// operator approves.
func addresses(o *Options, k *kubelet, server string) ([]netip.Addr, error) {
	authority, err := k.authority(o)
	if err != nil {
		return nil, err
	}
	client, err := k.client(server, authority, k.pair)
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	client.Timeout = nodePatience
	resp, err := client.Get("https://kube-apiserver/api/v1/nodes/" + url.PathEscape(k.node))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("kube-apiserver answers %s", resp.Status)
	}
	var node struct {
		Status struct {
			Addresses []corev1.NodeAddress `json:"addresses"`
		} `json:"status"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&node); err != nil {
		return nil, err
	}
	var known []netip.Addr
	for _, a := range node.Status.Addresses {
		address, err := netip.ParseAddr(a.Address)
		if err == nil && (a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP) && !slices.Contains(known, address) {
			known = append(known, address)
		}
	}
	return known, nil
}

// client speaks to a kube-apiserver.
func (k *kubelet) client(server string, authority []byte, certificate tls.Certificate) (*http.Client, error) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	u, err := url.Parse(server)
	if err != nil {
		return nil, fmt.Errorf("kube-apiserver's URL: %w", err)
	}
	return &http.Client{Transport: toServer{u, &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: pool, ServerName: k.origin.tlsServerName, Certificates: []tls.Certificate{certificate},
		},
	}}}, nil
}

// toServer sends requests to a server, whatever host they name.
type toServer struct {
	server *url.URL
	http   http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t toServer) RoundTrip(req *http.Request) (*http.Response, error) {
	out := req.Clone(req.Context())
	out.Host, out.URL.Scheme, out.URL.Host = "", t.server.Scheme, t.server.Host
	out.URL.Path = strings.TrimSuffix(t.server.Path, "/") + req.URL.Path
	return t.http.RoundTrip(out)
}
