package table

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

func network() map[string]*Printer {
	ingresses := of(columns(
		described("Class", "The IngressClass that says who implements the ingress."),
		described("Hosts", "The hosts that the rules are for."),
		described("Address", "Where the load balancer is reached."),
		described("Ports", "The ports that are open: 443 only with TLS."),
		ageColumn,
	), printIngress)
	slice := discoveryv1.EndpointSlice{}.SwaggerDoc()
	return map[string]*Printer{
		"Service": of(serviceColumns(), printService),
		"Endpoints": of(columns(text("Endpoints", corev1.Endpoints{}.SwaggerDoc(), "subsets"), ageColumn), func(o *corev1.Endpoints, now time.Time) []any { //nolint:staticcheck // deprecated, and still served
			return []any{endpoints(o.Subsets), age(o.CreationTimestamp, now)}
		}),
		"EndpointSlice.discovery.k8s.io": of(columns(
			text("AddressType", slice, "addressType"), text("Ports", slice, "ports"), text("Endpoints", slice, "endpoints"), ageColumn,
		), printEndpointSlice),
		"Ingress.networking.k8s.io": ingresses,
		"Ingress.extensions":        ingresses,
		"IngressClass.networking.k8s.io": of(columns(
			described("Controller", "Who implements ingresses of the class."),
			described("Parameters", "The object that configures the class."),
			ageColumn,
		), printIngressClass),
		"NetworkPolicy.networking.k8s.io": of(columns(text("Pod-Selector", networkingv1.NetworkPolicySpec{}.SwaggerDoc(), "podSelector"), ageColumn), func(o *networkingv1.NetworkPolicy, now time.Time) []any {
			return []any{metav1.FormatLabelSelector(&o.Spec.PodSelector), age(o.CreationTimestamp, now)}
		}),
		"ServiceCIDR.networking.k8s.io": of(columns(text("CIDRs", networkingv1.ServiceCIDRSpec{}.SwaggerDoc(), "cidrs"), ageColumn), func(o *networkingv1.ServiceCIDR, now time.Time) []any {
			return []any{strings.Join(o.Spec.CIDRs, ","), age(o.CreationTimestamp, now)}
		}),
	}
}

func serviceColumns() []metav1.TableColumnDefinition {
	spec := corev1.ServiceSpec{}.SwaggerDoc()
	return columns(
		text("Type", spec, "type"), text("Cluster-IP", spec, "clusterIP"), text("External-IP", spec, "externalIPs"),
		text("Port(s)", spec, "ports"), ageColumn, wide(text("Selector", spec, "selector")),
	)
}

func printService(o *corev1.Service, now time.Time) []any {
	ip := "<none>"
	if len(o.Spec.ClusterIPs) > 0 {
		ip = o.Spec.ClusterIPs[0]
	}
	var ports []string
	for _, p := range o.Spec.Ports {
		if p.NodePort > 0 {
			ports = append(ports, fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol))
		} else {
			ports = append(ports, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
		}
	}
	return []any{
		string(o.Spec.Type), ip, externalIP(o), or(strings.Join(ports, ","), "<none>"), age(o.CreationTimestamp, now),
		labels.FormatLabels(o.Spec.Selector),
	}
}

func externalIP(o *corev1.Service) string {
	switch o.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return o.Spec.ExternalName
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return or(strings.Join(o.Spec.ExternalIPs, ","), "<none>")
	case corev1.ServiceTypeLoadBalancer:
		var ips []string
		for _, in := range o.Status.LoadBalancer.Ingress {
			ips = append(ips, or(in.IP, in.Hostname))
		}
		return or(strings.Join(append(distinct(ips), o.Spec.ExternalIPs...), ","), "<pending>")
	}
	return "<unknown>"
}

// distinct are the texts that are not empty, each once, in order.
func distinct(texts []string) []string {
	slices.Sort(texts)
	return slices.DeleteFunc(slices.Compact(texts), func(s string) bool { return s == "" })
}

func endpoints(subsets []corev1.EndpointSubset) string { //nolint:staticcheck // deprecated, and still served
	if len(subsets) == 0 {
		return "<none>"
	}
	var all []string
	for _, s := range subsets {
		if len(s.Ports) == 0 { // a headless service may have none
			for _, a := range s.Addresses {
				all = append(all, a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				all = append(all, net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	return first(3, all, ",")
}

func printEndpointSlice(o *discoveryv1.EndpointSlice, now time.Time) []any {
	var ports, addresses []string
	for _, p := range o.Ports {
		switch {
		case p.Port != nil:
			ports = append(ports, strconv.Itoa(int(*p.Port)))
		case p.Name != nil:
			ports = append(ports, *p.Name)
		default:
			ports = append(ports, "*")
		}
	}
	for _, e := range o.Endpoints {
		addresses = append(addresses, e.Addresses...)
	}
	return []any{string(o.AddressType), or(first(3, ports, ","), "<unset>"), or(first(3, addresses, ","), "<unset>"), age(o.CreationTimestamp, now)}
}

func printIngress(o *networkingv1.Ingress, now time.Time) []any {
	ports := "80"
	if len(o.Spec.TLS) > 0 {
		ports = "80, 443"
	}
	var addresses []string
	for _, in := range o.Status.LoadBalancer.Ingress {
		addresses = append(addresses, or(in.IP, in.Hostname))
	}
	return []any{deref(o.Spec.IngressClassName, "<none>"), hosts(o.Spec.Rules), strings.Join(distinct(addresses), ","), ports, age(o.CreationTimestamp, now)}
}

// hosts names three hosts. What it says to be left are rules, with or without a
// host.
func hosts(rules []networkingv1.IngressRule) string {
	var named []string
	for _, r := range rules {
		if len(named) == 3 {
			return fmt.Sprintf("%s + %d more...", strings.Join(named, ","), len(rules)-3)
		}
		if r.Host != "" {
			named = append(named, r.Host)
		}
	}
	return or(strings.Join(named, ","), "*")
}

func printIngressClass(o *networkingv1.IngressClass, now time.Time) []any {
	parameters := "<none>"
	if p := o.Spec.Parameters; p != nil {
		parameters = p.Kind
		if p.APIGroup != nil {
			parameters += "." + *p.APIGroup
		}
		parameters += "/" + p.Name
	}
	return []any{o.Spec.Controller, parameters, age(o.CreationTimestamp, now)}
}
