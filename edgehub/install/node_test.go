package install

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestNoAddressIsAskedForThatTheNodeDoesNotHave: the operator would deny the hub its
// certificate, and install would find in five minutes that it does not answer.
func TestNoAddressIsAskedForThatTheNodeDoesNotHave(t *testing.T) {
	asRoot(t)
	source := netip.MustParseAddr("192.0.2.7")
	for name, tc := range map[string]struct {
		known     []netip.Addr
		unknown   error
		given     []string
		installed []string
		want      []string // nil if nothing is to be installed
		doubtful  bool
	}{
		"the source is the Node's":  {known: []netip.Addr{netip.MustParseAddr("192.0.2.8"), source}, want: []string{source.String()}},
		"a VPN":                     {known: []netip.Addr{netip.MustParseAddr("192.0.2.8")}, want: []string{"192.0.2.8"}},
		"no addresses yet":          {want: []string{}},
		"nobody knows":              {unknown: errors.New("503"), want: []string{source.String()}, doubtful: true},
		"one of the Node's":         {known: []netip.Addr{netip.MustParseAddr("192.0.2.8")}, given: []string{"192.0.2.8"}, want: []string{"192.0.2.8"}},
		"not the Node's":            {known: []netip.Addr{netip.MustParseAddr("192.0.2.8")}, given: []string{"192.0.2.9"}},
		"no address":                {known: []netip.Addr{netip.MustParseAddr("192.0.2.8")}, given: []string{"edge-1"}},
		"it was the Node's":         {known: []netip.Addr{netip.MustParseAddr("192.0.2.8")}, installed: []string{"192.0.2.9"}, want: []string{"192.0.2.9"}, doubtful: true},
		"it was, and is given anew": {known: []netip.Addr{netip.MustParseAddr("192.0.2.8")}, installed: []string{"192.0.2.9"}, given: []string{}, want: []string{"192.0.2.8"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := newRoot(t, "system:node:edge-1")
			o := optionsFor(root)
			o.source = func(host string) (netip.Addr, error) {
				if host != strings.TrimPrefix(server, "https://") {
					t.Errorf("%s is to be reached", host)
				}
				return source, nil
			}
			if tc.installed != nil {
				o.NodeIPs = tc.installed
				o.addresses = func(*Options, *kubelet, string) ([]netip.Addr, error) { return nil, errors.New("not now") }
				if err := Install(t.Context(), o); err != nil {
					t.Fatal(err)
				}
			}
			o.NodeIPs = tc.given
			o.addresses = func(_ *Options, k *kubelet, at string) ([]netip.Addr, error) {
				if k.node != "edge-1" || at != server {
					t.Errorf("%s is asked for Node %s", at, k.node)
				}
				return tc.known, tc.unknown
			}
			found := Preflight(o)
			if doubtful := slices.ContainsFunc(found, func(f Finding) bool { return f.What == "node-ip" && f.Doubtful }); doubtful != tc.doubtful {
				t.Errorf("found %v", found)
			}
			err := Install(t.Context(), o)
			if tc.want == nil {
				if err == nil || !strings.Contains(err.Error(), "node-ip: ") || o.exists(hubKubeconfig) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := []string{}
			for _, arg := range readPod(t, root).Spec.Containers[0].Args {
				if ip, ok := strings.CutPrefix(arg, "--node-ip="); ok {
					got = append(got, ip)
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("the hub asks for %v, want %v", got, tc.want)
			}
		})
	}
}

// TestTheKubeletAsksForItsOwnNode with its certificate, and hears of the addresses that
// the operator approves.
func TestTheKubeletAsksForItsOwnNode(t *testing.T) {
	answer := `{"status": {"addresses": [{"type": "Hostname", "address": "edge-1"}, {"type": "InternalIP", "address": "192.0.2.7"},
		{"type": "InternalIP", "address": "2001:db8::7"}, {"type": "ExternalIP", "address": "192.0.2.7"}, {"type": "InternalDNS", "address": "192.0.2.9"}]}}`
	code := http.StatusOK
	cloud := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asker := r.TLS.PeerCertificates[0].Subject.CommonName; asker != "system:node:edge-1" || r.URL.Path != "/api/v1/nodes/edge-1" {
			t.Errorf("%s asks for %s", asker, r.URL.Path)
		}
		w.WriteHeader(code)
		_, _ = w.Write([]byte(answer))
	}))
	cloud.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	cloud.StartTLS()
	defer cloud.Close()

	root := newRoot(t, "system:node:edge-1")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cloud.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(root, "/etc/kubernetes/pki/ca.crt"), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	o := optionsFor(root)
	o.defaults()
	k, err := o.kubelet()
	if err == nil {
		err = k.identify(&o)
	}
	if err != nil {
		t.Fatal(err)
	}
	got, err := addresses(&o, k, cloud.URL)
	if want := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}; err != nil || !slices.Equal(got, want) {
		t.Errorf("the Node has %v, %v, want %v", got, err, want)
	}
	code = http.StatusNotFound
	if _, err := addresses(&o, k, cloud.URL); err == nil {
		t.Error("a Node that is not there has addresses")
	}
}
