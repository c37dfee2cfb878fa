package oracle

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// resource is a kind of object that the matrix is made of.
type resource struct {
	schema.GroupVersionResource
	kind         string
	clusterScope bool
	custom       bool // a CRD's: no protobuf, fields as its versions select

	// fieldSelectors are selectors by the fields that kube-apiserver knows for
	// this resource, each of which selects some objects and not others. The
	// first selects the object "stays".
	fieldSelectors []string

	// fill makes the i-th object what it is, status included.
	fill func(obj map[string]any, i int)
}

func (r *resource) String() string { return r.Resource }

func (r *resource) path(namespace string) string {
	p := "/apis/" + r.Group + "/" + r.Version
	if r.Group == "" {
		p = "/api/" + r.Version
	}
	if namespace != "" {
		p += "/namespaces/" + namespace
	}
	return p + "/" + r.Resource
}

func core(name string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: name}
}

// resources are those of the matrix. Oxen are the custom ones: their plural is
// irregular, and they are served in two versions.
var resources = []*resource{
	{GroupVersionResource: core("configmaps"), kind: "ConfigMap", fill: fillConfigMap},
	{GroupVersionResource: core("secrets"), kind: "Secret", fill: fillSecret,
		fieldSelectors: []string{"type=Opaque", "type=kubernetes.io/tls", "type!=Opaque"}},
	{GroupVersionResource: core("pods"), kind: "Pod", fill: fillPod, fieldSelectors: []string{
		"status.phase=Running", "spec.nodeName=stays", "spec.nodeName!=stays", "spec.nodeName=",
		"status.phase!=Running,spec.nodeName=stays", "spec.restartPolicy=Never", "spec.schedulerName=default-scheduler",
		"spec.serviceAccountName=default", "spec.hostNetwork=true", "spec.hostNetwork=false", "status.podIP=10.0.0.1",
		"status.nominatedNodeName=plain",
	}},
	{GroupVersionResource: core("services"), kind: "Service", fill: fillService,
		fieldSelectors: []string{"spec.type=ClusterIP", "spec.clusterIP=None", "spec.type=NodePort", "spec.type!=ClusterIP"}},
	{GroupVersionResource: core("serviceaccounts"), kind: "ServiceAccount", fill: fillServiceAccount},
	{GroupVersionResource: core("replicationcontrollers"), kind: "ReplicationController", fill: fillReplicationController,
		fieldSelectors: []string{"status.replicas=0", "status.replicas=2"}},
	{GroupVersionResource: core("nodes"), kind: "Node", clusterScope: true, fill: fillNode,
		fieldSelectors: []string{"spec.unschedulable=false", "spec.unschedulable=true", "spec.unschedulable!=true"}},
	{GroupVersionResource: core("namespaces"), kind: "Namespace", clusterScope: true, fill: fillNothing,
		fieldSelectors: []string{"status.phase=Active", "status.phase=Terminating", "name=stays"}},
	{GroupVersionResource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, kind: "Deployment", fill: fillWorkload},
	{GroupVersionResource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}, kind: "ReplicaSet", fill: fillReplicaSet},
	{GroupVersionResource: schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}, kind: "Job", fill: fillJob,
		fieldSelectors: []string{"status.successful=0", "status.successful=1"}},
	{GroupVersionResource: schema.GroupVersionResource{Group: "certificates.k8s.io", Version: "v1", Resource: "certificatesigningrequests"},
		kind: "CertificateSigningRequest", clusterScope: true, fill: fillCSR,
		fieldSelectors: []string{"spec.signerName=example.com/even", "spec.signerName!=example.com/even"}},
	{GroupVersionResource: schema.GroupVersionResource{Group: "farm.example.com", Version: "v1", Resource: "oxen"},
		kind: "Ox", custom: true, fill: fillOx,
		fieldSelectors: []string{"spec.colour=", "spec.colour=red", "spec.colour!=red", "spec.weight=500", "spec.stabled=true"}},
	{GroupVersionResource: schema.GroupVersionResource{Group: "farm.example.com", Version: "v1beta1", Resource: "oxen"},
		kind: "Ox", custom: true, fill: nil, // the objects of v1
		fieldSelectors: []string{"spec.colour=", "spec.colour=red"}},
}

func resourceNamed(name string) *resource {
	for _, r := range resources {
		if r.Resource == name {
			return r
		}
	}
	panic("no resource " + name)
}

// object makes the i-th object of a resource.
func (r *resource) object(namespace, name string, labels map[string]string, i int) *unstructured.Unstructured {
	meta := map[string]any{"name": name}
	if namespace != "" {
		meta["namespace"] = namespace
	}
	if labels != nil {
		l := map[string]any{}
		for k, v := range labels {
			l[k] = v
		}
		meta["labels"] = l
	}
	obj := map[string]any{
		"apiVersion": r.GroupVersion().String(),
		"kind":       r.kind,
		"metadata":   meta,
	}
	r.fill(obj, i)
	return &unstructured.Unstructured{Object: obj}
}

func fillNothing(map[string]any, int) {}

func fillConfigMap(obj map[string]any, i int) {
	obj["data"] = map[string]any{"key": fmt.Sprint(i), "html": "<a href=\"x\">&amp;</a>\u2028 üñï\t"}
	obj["binaryData"] = map[string]any{"bytes": "AP/+"}
}

func fillSecret(obj map[string]any, i int) {
	obj["type"] = []any{"Opaque", "kubernetes.io/tls", "kubernetes.io/basic-auth", "kubernetes.io/dockerconfigjson", "example.com/own"}[i%5]
	obj["data"] = map[string]any{"tls.crt": "AA==", "tls.key": "AA==", "username": "AA==", ".dockerconfigjson": "e30="}
}

func podSpec(i int) map[string]any {
	spec := map[string]any{
		"containers":                   []any{map[string]any{"name": "c", "image": "example.com/image:1", "env": []any{map[string]any{"name": "I", "value": fmt.Sprint(i)}}}},
		"automountServiceAccountToken": false,
	}
	return spec
}

func fillPod(obj map[string]any, i int) {
	spec := podSpec(i)
	if i%3 > 0 {
		spec["nodeName"] = []any{"", "stays", "modified"}[i%3]
	}
	spec["restartPolicy"] = []any{"Always", "Never"}[i%2]
	if i%4 == 1 {
		spec["hostNetwork"] = true
	}
	obj["spec"] = spec
	status := map[string]any{"phase": []any{"Running", "Pending", "Running", "Succeeded", "Failed"}[i%5]}
	if i%3 > 0 {
		status["podIP"] = fmt.Sprintf("10.0.0.%d", i)
		status["podIPs"] = []any{map[string]any{"ip": fmt.Sprintf("10.0.0.%d", i)}}
	} else {
		status["nominatedNodeName"] = "plain"
	}
	obj["status"] = status
}

func fillService(obj map[string]any, i int) {
	spec := map[string]any{
		"ports":    []any{map[string]any{"port": int64(80), "name": "http"}},
		"selector": map[string]any{"app": "web"},
	}
	switch i % 4 {
	case 1:
		spec["type"] = "NodePort"
	case 2:
		spec["clusterIP"] = "None"
	case 3:
		spec = map[string]any{"type": "ExternalName", "externalName": "example.com"}
	}
	obj["spec"] = spec
}

func fillServiceAccount(obj map[string]any, i int) {
	if i%2 == 0 {
		obj["automountServiceAccountToken"] = false
	}
}

func fillNode(obj map[string]any, i int) {
	obj["spec"] = map[string]any{"podCIDR": fmt.Sprintf("10.1.%d.0/24", i)}
	if i%3 == 1 {
		obj["spec"] = map[string]any{"unschedulable": true}
	}
	obj["status"] = map[string]any{
		"conditions": []any{map[string]any{"type": "Ready", "status": "True", "reason": "KubeletReady",
			"lastHeartbeatTime": "2020-01-01T00:00:00Z", "lastTransitionTime": "2020-01-01T00:00:00Z"}},
		"addresses": []any{map[string]any{"type": "InternalIP", "address": fmt.Sprintf("10.2.0.%d", i)}},
		"capacity":  map[string]any{"cpu": "2", "memory": "1Gi"},
	}
}

func workloadSpec(i int) map[string]any {
	template := podSpec(i)
	delete(template, "automountServiceAccountToken")
	return map[string]any{
		"replicas": int64(i),
		"selector": map[string]any{"matchLabels": map[string]any{"app": "own"}},
		"template": map[string]any{
			"metadata": map[string]any{"labels": map[string]any{"app": "own"}},
			"spec":     template,
		},
	}
}

func fillWorkload(obj map[string]any, i int) {
	obj["spec"] = workloadSpec(i)
	obj["status"] = map[string]any{"replicas": int64(i), "readyReplicas": int64(i)}
}

func fillReplicaSet(obj map[string]any, i int) {
	obj["spec"] = workloadSpec(i)
	obj["status"] = map[string]any{"replicas": int64(i % 3)}
}

func fillReplicationController(obj map[string]any, i int) {
	spec := workloadSpec(i)
	spec["selector"] = map[string]any{"app": "own"}
	obj["spec"] = spec
	obj["status"] = map[string]any{"replicas": int64(i % 3)}
}

func fillJob(obj map[string]any, i int) {
	template := podSpec(i)
	delete(template, "automountServiceAccountToken")
	template["restartPolicy"] = "Never"
	obj["spec"] = map[string]any{"completions": int64(3), "template": map[string]any{"spec": template}}
	if i%2 == 1 {
		obj["status"] = map[string]any{"succeeded": int64(1), "startTime": "2020-01-01T00:00:00Z"}
	}
}

func fillCSR(obj map[string]any, i int) {
	obj["spec"] = map[string]any{
		"request":    certificateRequest,
		"signerName": []any{"example.com/even", "example.com/odd"}[i%2],
		"usages":     []any{"client auth"},
	}
}

func fillOx(obj map[string]any, i int) {
	spec := map[string]any{"weight": int64(500 + 100*(i%3)), "note": "a < b & c\u2028"}
	if i%3 > 0 {
		spec["colour"] = []any{"", "red", "black"}[i%3]
	}
	if i%2 == 0 {
		spec["stabled"] = i%4 == 0
	}
	obj["spec"] = spec
}

// oxen is the definition of the custom resource.
func oxen() *unstructured.Unstructured {
	version := func(name string, storage bool, fields ...string) map[string]any {
		selectable := []any{}
		for _, f := range fields {
			selectable = append(selectable, map[string]any{"jsonPath": f})
		}
		return map[string]any{
			"name": name, "served": true, "storage": storage,
			"selectableFields": selectable,
			"additionalPrinterColumns": []any{
				map[string]any{"name": "Colour", "type": "string", "jsonPath": ".spec.colour"},
				map[string]any{"name": "Weight", "type": "integer", "jsonPath": ".spec.weight", "priority": int64(1)},
				map[string]any{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
			},
			"schema": map[string]any{"openAPIV3Schema": map[string]any{
				"type": "object",
				// Were the schemas equal, kube-apiserver would take them for
				// one of all versions, with which no field can be selected.
				"description": name,
				"properties": map[string]any{"spec": map[string]any{
					"type": "object",
					"properties": map[string]any{
						"colour":  map[string]any{"type": "string"},
						"weight":  map[string]any{"type": "integer"},
						"stabled": map[string]any{"type": "boolean"},
						"note":    map[string]any{"type": "string"},
					},
				}},
			}},
		}
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "oxen.farm.example.com"},
		"spec": map[string]any{
			"group": "farm.example.com", "scope": "Namespaced",
			"names": map[string]any{"plural": "oxen", "singular": "ox", "kind": "Ox", "listKind": "OxList",
				"shortNames": []any{"bos"}, "categories": []any{"animals"}},
			"versions": []any{
				version("v1", true, ".spec.colour", ".spec.weight", ".spec.stabled"),
				version("v1beta1", false, ".spec.colour"),
			},
		},
	}}
}

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// definition is what defines a custom resource, as a resource.
var definition = &resource{GroupVersionResource: definitions, kind: "CustomResourceDefinition", clusterScope: true, custom: true}
