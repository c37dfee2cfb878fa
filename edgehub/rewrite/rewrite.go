// Package rewrite shows this node's kubelet and kube-proxy the hub in the place of
// kube-apiserver, so that programs that are led to the Service default/kubernetes
// come to the hub:
//
//   - The kubelet's Service default/kubernetes has the hub's address and port.
//     From it the kubelet makes KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT
//     of every container, with enableServiceLinks or without
//     (kubelet: getServiceEnvVarMap).
//   - Where the kubelet's Pods set KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT
//     or KUBERNETES_SERVICE_PORT_HTTPS themselves, the values are the hub's.
//   - The kubelet's ConfigMaps of kube-proxy and CoreDNS, in namespace kube-system,
//     name the hub where a kubeconfig in them names a server, unless it has a client
//     certificate: the hub can't pass that on.
//   - kube-proxy's Endpoints and EndpointSlice of default/kubernetes are the hub, so
//     that the Service's own address leads there. kube-proxy keeps that address, and
//     so do CoreDNS and everybody else.
//
// Objects are changed on their way out, whether they come from kube-apiserver or
// from the cache, which holds them as they were received. One is in memory at a
// time. Only the bytes in question are changed: members and fields that this
// program has never heard of stay, and so does the resourceVersion. None of this
// finds its way back to kube-apiserver: of Services, ConfigMaps and Endpoints
// neither program writes any, and of Pods the kubelet patches nothing but the
// status.
package rewrite

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"

	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

// The Service that leads to kube-apiserver.
const (
	serviceNamespace = "default"
	serviceName      = "kubernetes"
	// serviceNameLabel tells which Service an EndpointSlice is of
	// (discovery.k8s.io/v1, LabelServiceName).
	serviceNameLabel = "kubernetes.io/service-name"
)

// configNamespace is where kube-proxy and CoreDNS have their ConfigMaps.
const configNamespace = "kube-system"

// Endpoint is where the node's Pods reach the hub. The zero Endpoint changes
// nothing.
type Endpoint struct{ netip.AddrPort }

// Caller is what is known of who asks.
type Caller struct {
	// Node says that it has proven to be this node.
	Node bool
	// Agent is its User-Agent up to the first slash.
	Agent string
}

// Rewriter changes the objects of one answer. It keeps no state.
type Rewriter struct {
	verb   string // get, list or watch
	host   string
	port   uint16
	url    string
	family string // IPv4 or IPv6
	kind   kind
}

// kind is how objects of one kind are changed.
type kind struct {
	// concerns reports whether there may be something to change.
	concerns func(capture.Object) bool
	json     func(*Rewriter, []byte) ([]byte, error)
	protobuf func(*Rewriter, []byte) ([]byte, error)
}

// For returns what is to be done with the answer to a read, nil if it is to be
// passed on as it is.
func (e Endpoint) For(caller Caller, info *request.RequestInfo) *Rewriter {
	if !e.IsValid() || !info.IsResourceRequest || info.APIVersion != "v1" || info.Subresource != "" {
		return nil
	}
	switch info.Verb {
	case "get", "list", "watch":
	default:
		return nil
	}
	k, ok := kind{}, false
	switch {
	case caller.Node && caller.Agent == "kubelet":
		k, ok = ofKubelet(info)
	case caller.Agent == "kube-proxy":
		k, ok = ofKubeProxy(info)
	}
	if !ok {
		return nil
	}
	r := &Rewriter{verb: info.Verb, host: e.Addr().String(), port: e.Port(), url: "https://" + e.String(), family: "IPv6", kind: k}
	if e.Addr().Is4() {
		r.family = "IPv4"
	}
	return r
}

func ofKubelet(info *request.RequestInfo) (kind, bool) {
	switch {
	case info.APIGroup != "":
		return kind{}, false
	case info.Resource == "services":
		return kind{isService, (*Rewriter).serviceJSON, (*Rewriter).serviceProtobuf}, mayHold(info, serviceNamespace, serviceName)
	case info.Resource == "pods":
		return kind{setsService, (*Rewriter).podJSON, (*Rewriter).podProtobuf}, true
	case info.Resource == "configmaps":
		// The kubelet reads each by its name.
		return kind{isConfig, (*Rewriter).configMapJSON, (*Rewriter).configMapProtobuf},
			info.Namespace == configNamespace && (info.Name == "" || isConfigName(info.Name))
	}
	return kind{}, false
}

func ofKubeProxy(info *request.RequestInfo) (kind, bool) {
	switch {
	case info.APIGroup == "" && info.Resource == "endpoints":
		return kind{isService, (*Rewriter).endpointsJSON, (*Rewriter).endpointsProtobuf}, mayHold(info, serviceNamespace, serviceName)
	case info.APIGroup == "discovery.k8s.io" && info.Resource == "endpointslices":
		return kind{isSlice, (*Rewriter).sliceJSON, (*Rewriter).sliceProtobuf}, mayHold(info, serviceNamespace, "")
	}
	return kind{}, false
}

// mayHold reports whether an answer may hold an object. The request info has a
// name also where a field selector demands one.
func mayHold(info *request.RequestInfo, namespace, name string) bool {
	return (info.Namespace == "" || info.Namespace == namespace) && (info.Name == "" || name == "" || info.Name == name)
}

func isService(o capture.Object) bool {
	return o.Namespace == serviceNamespace && o.Name == serviceName
}

func isSlice(o capture.Object) bool {
	if o.Namespace != serviceNamespace {
		return false
	}
	labels, err := capture.Labels(o.Raw, o.Encoding)
	return err == nil && labels[serviceNameLabel] == serviceName
}

// setsService is true for nearly no Pod, which is then left alone. The text may
// stand in an annotation.
func setsService(o capture.Object) bool { return bytes.Contains(o.Raw, []byte("KUBERNETES_SERVICE_")) }

func isConfig(o capture.Object) bool { return o.Namespace == configNamespace && isConfigName(o.Name) }

// isConfigName also takes kube-proxy-worker and the like.
func isConfigName(name string) bool {
	return strings.HasPrefix(name, "kube-proxy") || strings.HasPrefix(name, "coredns")
}

// object returns the changed object, nil if it is to stay as it is.
func (r *Rewriter) object(o capture.Object) ([]byte, error) {
	if !r.kind.concerns(o) {
		return nil, nil
	}
	if o.Encoding == capture.Protobuf {
		return r.kind.protobuf(r, o.Raw)
	}
	return r.kind.json(r, o.Raw)
}

// variable is the value that a container's environment variable is to have; ok
// is false for one that has nothing to do with the Service.
func (r *Rewriter) variable(name string) (value string, ok bool) {
	switch name {
	case "KUBERNETES_SERVICE_HOST":
		return r.host, true
	case "KUBERNETES_SERVICE_PORT", "KUBERNETES_SERVICE_PORT_HTTPS":
		return strconv.Itoa(int(r.port)), true
	}
	return "", false
}
