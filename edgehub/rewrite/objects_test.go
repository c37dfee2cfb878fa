package rewrite

import (
	"fmt"
	"math/rand/v2"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// makeMeta returns metadata as kube-apiserver writes it: with managed fields.
func makeMeta(rng *rand.Rand, namespaces, names []string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: pick(rng, namespaces), Name: pick(rng, names),
		UID: types.UID(fmt.Sprintf("uid-%d", rng.Uint32())), ResourceVersion: fmt.Sprint(rng.Uint32()),
		Labels:      map[string]string{"tier": "front", "html": "<&>"},
		Annotations: map[string]string{"note": strings.Repeat("x", rng.IntN(300))},
		ManagedFields: []metav1.ManagedFieldsEntry{{
			Manager: "kube-apiserver", Operation: "Update", APIVersion: "v1", FieldsType: "FieldsV1",
			FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:spec":{"` + strings.Repeat("f:x", 1+rng.IntN(300)) + `":{}}}`)},
		}},
	}
}

func pick[T any](rng *rand.Rand, of []T) T { return of[rng.IntN(len(of))] }

var (
	namespaces = []string{"default", "default", "shop", "kube-system"}
	addresses  = []string{"10.96.0.1", "1.1.1.1", "192.168.100.100", "10.100.200.1", "fd00::1"}
)

func makeService(rng *rand.Rand) *corev1.Service {
	s := &corev1.Service{ObjectMeta: makeMeta(rng, namespaces, []string{"kubernetes", "kubernetes", "other"})}
	s.Spec = corev1.ServiceSpec{ClusterIP: pick(rng, addresses), Type: corev1.ServiceTypeClusterIP, SessionAffinity: "None"}
	s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	if rng.IntN(3) == 0 {
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, "fd00::2")
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, corev1.IPv6Protocol)
	}
	for i := range rng.IntN(3) {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("port-", i), Port: rng.Int32N(65535) + 1, Protocol: "TCP"})
	}
	return s
}

func expectService(o runtime.Object) {
	s := o.(*corev1.Service)
	if s.Namespace != "default" || s.Name != "kubernetes" {
		return
	}
	s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.IPFamilies = "169.254.2.1", []string{"169.254.2.1"}, []corev1.IPFamily{corev1.IPv4Protocol}
	if len(s.Spec.Ports) > 0 {
		s.Spec.Ports[0].Port = 10268
	}
}

func makeEnv(rng *rand.Rand) (env []corev1.EnvVar) {
	names := []string{"PATH", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "KUBERNETES_SERVICE_PORT_HTTPS", "KUBERNETES_SERVICE_HOSTS"}
	for range rng.IntN(4) {
		e := corev1.EnvVar{Name: pick(rng, names), Value: pick(rng, []string{"", "10.0.0.1", "apiserver.example.com", "443"})}
		if rng.IntN(4) == 0 {
			e.Value, e.ValueFrom = "", &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "status.hostIP"}}
		}
		env = append(env, e)
	}
	return env
}

func makePod(rng *rand.Rand) runtime.Object {
	p := &corev1.Pod{ObjectMeta: makeMeta(rng, namespaces, []string{"a", "b", "kubernetes"})}
	p.Spec.NodeName = "edge-1"
	for i := range 1 + rng.IntN(2) {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: fmt.Sprint("c-", i), Image: "app", Env: makeEnv(rng), Args: []string{"KUBERNETES_SERVICE_HOST"}})
	}
	for i := range rng.IntN(2) {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: fmt.Sprint("i-", i), Image: "app", Env: makeEnv(rng)})
	}
	for i := range rng.IntN(2) {
		p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: fmt.Sprint("e-", i), Image: "app", Env: makeEnv(rng)}, TargetContainerName: "c-0",
		})
	}
	p.Status.PodIP = "10.244.0.7"
	return p
}

func expectPod(o runtime.Object) {
	spec := &o.(*corev1.Pod).Spec
	expectEnv := func(env []corev1.EnvVar) {
		for i := range env {
			switch env[i].Name {
			case "KUBERNETES_SERVICE_HOST":
				env[i] = corev1.EnvVar{Name: env[i].Name, Value: "169.254.2.1"}
			case "KUBERNETES_SERVICE_PORT", "KUBERNETES_SERVICE_PORT_HTTPS":
				env[i] = corev1.EnvVar{Name: env[i].Name, Value: "10268"}
			}
		}
	}
	for i := range spec.Containers {
		expectEnv(spec.Containers[i].Env)
	}
	for i := range spec.InitContainers {
		expectEnv(spec.InitContainers[i].Env)
	}
	for i := range spec.EphemeralContainers {
		expectEnv(spec.EphemeralContainers[i].Env)
	}
}

const kubeconfig = `apiVersion: v1
kind: Config
clusters:
- cluster:
    certificate-authority: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
    server: %s
  name: default
- name: second
  cluster:
    server: https://second:6443 # a comment
contexts:
- context: {cluster: default, user: default}
  name: default
users:
- name: default
  user: {tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token}
`

const otherConfig = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nserver: https://stays:1\n"

func makeConfigMap(rng *rand.Rand) runtime.Object {
	c := &corev1.ConfigMap{ObjectMeta: makeMeta(rng, namespaces, []string{"kube-proxy", "coredns", "other"})}
	servers := []string{"https://10.0.0.1:6443", "\"https://quoted.example.com\"", "https://a-name-that-is-long.example.com:6443"}
	c.Data = map[string]string{"kubeconfig.conf": fmt.Sprintf(kubeconfig, pick(rng, servers)), "config.conf": otherConfig, "empty": ""}
	c.BinaryData = map[string][]byte{"b": []byte("\x00kind: Config clusters: server: x")}
	return c
}

func expectConfigMap(o runtime.Object) {
	c := o.(*corev1.ConfigMap)
	if c.Namespace == "kube-system" && c.Name != "other" {
		text := fmt.Sprintf(kubeconfig, "https://169.254.2.1:10268")
		c.Data["kubeconfig.conf"] = strings.Replace(text, "https://second:6443 # a comment", "https://169.254.2.1:10268", 1)
	}
}

func makeEndpoints(rng *rand.Rand) runtime.Object {
	e := &corev1.Endpoints{ObjectMeta: makeMeta(rng, namespaces, []string{"kubernetes", "kubernetes", "other"})}
	for range rng.IntN(3) {
		subset := corev1.EndpointSubset{Addresses: []corev1.EndpointAddress{{IP: pick(rng, addresses)}, {IP: "10.9.9.9"}}}
		for i := range rng.IntN(2) {
			subset.Ports = append(subset.Ports, corev1.EndpointPort{Name: fmt.Sprint("https", i), Port: 6443, Protocol: "TCP"})
		}
		subset.NotReadyAddresses = []corev1.EndpointAddress{{IP: "10.9.9.8"}}
		e.Subsets = append(e.Subsets, subset)
	}
	return e
}

func expectEndpoints(o runtime.Object) {
	e := o.(*corev1.Endpoints)
	if e.Namespace != "default" || e.Name != "kubernetes" {
		return
	}
	subset := corev1.EndpointSubset{}
	if len(e.Subsets) > 0 {
		subset.Ports = e.Subsets[0].Ports
	}
	for i := range subset.Ports {
		subset.Ports[i].Port = 10268
	}
	if len(subset.Ports) == 0 {
		subset.Ports = []corev1.EndpointPort{{Name: "https", Port: 10268, Protocol: "TCP"}}
	}
	subset.Addresses = []corev1.EndpointAddress{{IP: "169.254.2.1"}}
	e.Subsets = []corev1.EndpointSubset{subset}
}

func makeSlice(rng *rand.Rand) runtime.Object {
	s := &discoveryv1.EndpointSlice{ObjectMeta: makeMeta(rng, namespaces, []string{"kubernetes", "kubernetes-x", "other"})}
	s.Labels["kubernetes.io/service-name"] = pick(rng, []string{"kubernetes", "kubernetes", "other"})
	s.AddressType = pick(rng, []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6})
	yes, node := true, "cloud-1"
	for range rng.IntN(3) {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{pick(rng, addresses)}, Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes}, NodeName: &node})
	}
	for i := range rng.IntN(2) {
		name, port, protocol := fmt.Sprint("https", i), int32(6443), corev1.ProtocolTCP
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &name, Port: &port, Protocol: &protocol})
	}
	return s
}

func expectSlice(o runtime.Object) {
	s := o.(*discoveryv1.EndpointSlice)
	if s.Namespace != "default" || s.Labels["kubernetes.io/service-name"] != "kubernetes" || s.AddressType != discoveryv1.AddressTypeIPv4 {
		return
	}
	yes, name, port, protocol := true, "https", int32(10268), corev1.ProtocolTCP
	s.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"169.254.2.1"}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}}}
	for i := range s.Ports {
		s.Ports[i].Port = &port
	}
	if len(s.Ports) == 0 {
		s.Ports = []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}}
	}
}
