package main

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// resource is a built-in kind of object: where kube-apiserver keeps it and what
// of it can be selected by.
type resource struct {
	schema.GroupVersionResource
	kind         string
	prefix       string // in etcd
	clusterScope bool

	fields  []string // by which kube-apiserver lets select; none: only by metadata
	values  func(obj runtime.Object, set fields.Set)
	refusal string // of another field, if it isn't worded as usual
}

var resources = []*resource{
	{GroupVersionResource: corev1.SchemeGroupVersion.WithResource("configmaps"), kind: "ConfigMap", prefix: "configmaps"},
	{GroupVersionResource: corev1.SchemeGroupVersion.WithResource("secrets"), kind: "Secret", prefix: "secrets",
		fields: []string{"metadata.name", "metadata.namespace", "type"},
		values: of(func(o *corev1.Secret, set fields.Set) { set["type"] = string(o.Type) })},
	{GroupVersionResource: corev1.SchemeGroupVersion.WithResource("pods"), kind: "Pod", prefix: "pods",
		fields: []string{"metadata.name", "metadata.namespace", "spec.nodeName", "spec.restartPolicy", "spec.schedulerName",
			"spec.serviceAccountName", "spec.hostNetwork", "status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName"},
		values: of(podValues)},
	{GroupVersionResource: corev1.SchemeGroupVersion.WithResource("services"), kind: "Service", prefix: "services/specs",
		fields: []string{"metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"},
		values: of(func(o *corev1.Service, set fields.Set) {
			set["spec.clusterIP"], set["spec.type"] = o.Spec.ClusterIP, string(o.Spec.Type)
		})},
	{GroupVersionResource: corev1.SchemeGroupVersion.WithResource("serviceaccounts"), kind: "ServiceAccount", prefix: "serviceaccounts"},
	{GroupVersionResource: corev1.SchemeGroupVersion.WithResource("replicationcontrollers"), kind: "ReplicationController", prefix: "controllers",
		fields: []string{"metadata.name", "metadata.namespace", "status.replicas"},
		values: of(func(o *corev1.ReplicationController, set fields.Set) {
			set["status.replicas"] = strconv.Itoa(int(o.Status.Replicas))
		})},
	{GroupVersionResource: corev1.SchemeGroupVersion.WithResource("nodes"), kind: "Node", prefix: "minions", clusterScope: true,
		fields: []string{"metadata.name", "spec.unschedulable"},
		values: of(func(o *corev1.Node, set fields.Set) {
			set["spec.unschedulable"] = strconv.FormatBool(o.Spec.Unschedulable)
		})},
	{GroupVersionResource: corev1.SchemeGroupVersion.WithResource("namespaces"), kind: "Namespace", prefix: "namespaces", clusterScope: true,
		fields: []string{"metadata.name", "status.phase"},
		values: of(func(o *corev1.Namespace, set fields.Set) { set["status.phase"] = string(o.Status.Phase) })},
	{GroupVersionResource: appsv1.SchemeGroupVersion.WithResource("deployments"), kind: "Deployment", prefix: "deployments"},
	{GroupVersionResource: appsv1.SchemeGroupVersion.WithResource("replicasets"), kind: "ReplicaSet", prefix: "replicasets"},
	{GroupVersionResource: batchv1.SchemeGroupVersion.WithResource("jobs"), kind: "Job", prefix: "jobs",
		fields:  []string{"metadata.name", "metadata.namespace", "status.successful"},
		refusal: "field label %q not supported for Job",
		values: of(func(o *batchv1.Job, set fields.Set) {
			set["status.successful"] = strconv.Itoa(int(o.Status.Succeeded))
		})},
	{GroupVersionResource: certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests"), kind: "CertificateSigningRequest",
		prefix: "certificatesigningrequests", clusterScope: true,
		fields: []string{"metadata.name", "spec.signerName"},
		values: of(func(o *certificatesv1.CertificateSigningRequest, set fields.Set) {
			set["spec.signerName"] = o.Spec.SignerName
		})},
}

// of is for the objects of one type. Others don't come.
func of[T runtime.Object](values func(T, fields.Set)) func(runtime.Object, fields.Set) {
	return func(obj runtime.Object, set fields.Set) { values(obj.(T), set) }
}

// podValues leaves out status.podIPs, by which kube-apiserver finds nothing.
func podValues(o *corev1.Pod, set fields.Set) {
	set["spec.nodeName"] = o.Spec.NodeName
	set["spec.restartPolicy"] = string(o.Spec.RestartPolicy)
	set["spec.schedulerName"] = o.Spec.SchedulerName
	set["spec.serviceAccountName"] = o.Spec.ServiceAccountName
	set["spec.hostNetwork"] = strconv.FormatBool(o.Spec.HostNetwork)
	set["status.phase"] = string(o.Status.Phase)
	set["status.podIP"] = ""
	if len(o.Status.PodIPs) > 0 {
		set["status.podIP"] = o.Status.PodIPs[0].IP
	}
	set["status.nominatedNodeName"] = o.Status.NominatedNodeName
}

// newScheme knows the versions that are stored, which are those served, so that
// nothing is ever converted.
func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, certificatesv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	for _, r := range resources {
		if err := r.registerFields(scheme); err != nil {
			return nil, err
		}
	}
	return scheme, nil
}
