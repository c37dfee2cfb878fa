package cache

import (
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

// message is what the generated Go types of Kubernetes' own kinds implement.
type message interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// isBuiltIn reports whether a kind is one of Kubernetes' own, of which the Go
// type and so both encodings are known.
func isBuiltIn(apiVersion, kind string) bool {
	gv, err := schema.ParseGroupVersion(apiVersion)
	return err == nil && builtIn().Recognizes(gv.WithKind(kind))
}

// convert returns an object in another encoding. It decodes one object at a
// time, and only where a client wants what another client's answer was not
// encoded in.
func convert(raw []byte, from, to capture.Encoding, apiVersion, kind string) ([]byte, error) {
	if from == to {
		return raw, nil
	}
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, err
	}
	obj, err := builtIn().New(gv.WithKind(kind))
	if err != nil {
		return nil, err
	}
	m, ok := obj.(message)
	if !ok {
		return nil, fmt.Errorf("%s %s has no protobuf encoding", apiVersion, kind)
	}
	if to == capture.Protobuf {
		if err := json.Unmarshal(raw, obj); err != nil {
			return nil, fmt.Errorf("decode %s: %w", kind, err)
		}
		return m.Marshal()
	}
	if err := m.Unmarshal(raw); err != nil {
		return nil, fmt.Errorf("decode %s: %w", kind, err)
	}
	obj.GetObjectKind().SetGroupVersionKind(gv.WithKind(kind))
	return json.Marshal(obj)
}

// bookmark returns the object of a BOOKMARK event in the form of
// capture.Object.Raw. kube-apiserver writes one of its own kinds with all the
// members that are never left out.
func bookmark(enc capture.Encoding, apiVersion, kind, version string, initialEventsEnd bool) ([]byte, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, err
	}
	obj, err := builtIn().New(gv.WithKind(kind))
	if err != nil {
		return capture.Bookmark(enc, apiVersion, kind, version, initialEventsEnd), nil
	}
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	accessor.SetResourceVersion(version)
	// It is made of kube-apiserver's internal types, whose replicas are numbers.
	switch o := obj.(type) {
	case *appsv1.Deployment:
		o.Spec.Replicas = new(int32)
	case *appsv1.ReplicaSet:
		o.Spec.Replicas = new(int32)
	case *appsv1.StatefulSet:
		o.Spec.Replicas = new(int32)
	}
	if initialEventsEnd {
		accessor.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	if m, ok := obj.(message); ok && enc == capture.Protobuf {
		return m.Marshal()
	}
	obj.GetObjectKind().SetGroupVersionKind(gv.WithKind(kind))
	return json.Marshal(obj)
}
