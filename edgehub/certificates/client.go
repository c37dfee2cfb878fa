package certificates

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Client returns a client for what this package asks kube-apiserver, over
// connections that are made by client. It knows no other kinds, which keeps the
// program small.
func Client(config *rest.Config, client *http.Client) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	gv := certificatesv1.SchemeGroupVersion
	scheme.AddKnownTypes(gv, &certificatesv1.CertificateSigningRequest{})
	metav1.AddToGroupVersion(scheme, gv)
	c := rest.CopyConfig(config)
	c.APIPath, c.GroupVersion = "/apis", &gv
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	return rest.RESTClientForConfigAndClient(c, client)
}

// BootstrapConfig returns base with the credential in file instead of its own.
// The file is a key with its certificate as PEM, such as the kubelet's
// /var/lib/kubelet/pki/kubelet-client-current.pem, which may change later; or a
// kubeconfig, such as one with a bootstrap token. Of a kubeconfig the credential
// is taken and nothing else, so that it is sent to nobody but base's server.
func BootstrapConfig(base *rest.Config, file string) (*rest.Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read bootstrap credential: %w", err)
	}
	config := rest.AnonymousClientConfig(base)
	if bytes.Contains(data, []byte("-----BEGIN ")) && bytes.Contains(data, []byte("PRIVATE KEY-----")) {
		config.CertFile, config.KeyFile = file, file
		return config, nil
	}
	credential, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		return nil, fmt.Errorf("read bootstrap credential %s: %w", file, err)
	}
	config.BearerToken, config.BearerTokenFile = credential.BearerToken, credential.BearerTokenFile
	config.CertData, config.CertFile = credential.CertData, credential.CertFile
	config.KeyData, config.KeyFile = credential.KeyData, credential.KeyFile
	if config.BearerToken == "" && config.BearerTokenFile == "" && config.CertFile == "" && len(config.CertData) == 0 {
		return nil, fmt.Errorf("read bootstrap credential %s: it has neither a token nor a client certificate", file)
	}
	return config, nil
}

const resource = "certificatesigningrequests"

func create(ctx context.Context, client rest.Interface, request *certificatesv1.CertificateSigningRequest) (*certificatesv1.CertificateSigningRequest, error) {
	created := &certificatesv1.CertificateSigningRequest{}
	if err := client.Post().Resource(resource).Body(request).Do(ctx).Into(created); err != nil {
		return nil, fmt.Errorf("create CertificateSigningRequest: %w", err)
	}
	return created, nil
}

func get(ctx context.Context, client rest.Interface, name string) (*certificatesv1.CertificateSigningRequest, error) {
	request := &certificatesv1.CertificateSigningRequest{}
	if err := client.Get().Resource(resource).Name(name).Do(ctx).Into(request); err != nil {
		return nil, fmt.Errorf("get CertificateSigningRequest %s: %w", name, err)
	}
	return request, nil
}

// clusterIPs returns the addresses of the Service default/kubernetes.
func clusterIPs(ctx context.Context, client rest.Interface) ([]netip.Addr, error) {
	data, err := client.Get().AbsPath("/api/v1/namespaces/default/services/kubernetes").Do(ctx).Raw()
	if err != nil {
		return nil, fmt.Errorf("get Service default/kubernetes: %w", err)
	}
	var service struct {
		Spec struct {
			ClusterIPs []netip.Addr `json:"clusterIPs"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(data, &service); err != nil {
		return nil, fmt.Errorf("decode Service default/kubernetes: %w", err)
	}
	return service.Spec.ClusterIPs, nil
}
