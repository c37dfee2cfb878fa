package main

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/storagebackend"
)

// store is the resource's registry: a watch cache in front of the part of etcd
// where kube-apiserver keeps it.
func (r *resource) store(scheme *runtime.Scheme, codecs serializer.CodecFactory, etcd, prefix string) (*registry.Store, error) {
	codec := kindless{runtime.NewCodec(codecs.LegacyCodec(r.GroupVersion()), codecs.UniversalDeserializer())}
	config := storagebackend.NewDefaultConfig(prefix, codec)
	config.Transport.ServerList = []string{etcd}
	config.CompactionInterval = 0 // compacting is writing
	s := &registry.Store{
		NewFunc:                   r.new(scheme, r.kind),
		NewListFunc:               r.new(scheme, r.kind+"List"),
		DefaultQualifiedResource:  r.GroupResource(),
		SingularQualifiedResource: r.GroupResource(), // for the names in discovery
		CreateStrategy:            strategy{namespaced: !r.clusterScope},
		DeleteStrategy:            strategy{},
		TableConvertor:            rest.NewDefaultTableConvertor(r.GroupResource()),
	}
	return s, s.CompleteWithOptions(&generic.StoreOptions{
		RESTOptions: generic.RESTOptions{
			StorageConfig:  config.ForResource(r.GroupResource()),
			Decorator:      registry.StorageWithCacher(),
			ResourcePrefix: r.prefix,
		},
		AttrFunc: r.attributes,
	})
}

func (r *resource) new(scheme *runtime.Scheme, kind string) func() runtime.Object {
	return func() runtime.Object {
		obj, err := scheme.New(r.GroupVersion().WithKind(kind))
		if err != nil {
			panic(err) // the scheme is made of the same table
		}
		return obj
	}
}

// attributes are what selectors select an object by.
func (r *resource) attributes(obj runtime.Object) (labels.Set, fields.Set, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, nil, err
	}
	set := fields.Set{"metadata.name": m.GetName()}
	if !r.clusterScope {
		set["metadata.namespace"] = m.GetNamespace()
	}
	if r.values != nil {
		r.values(obj, set)
	}
	return m.GetLabels(), set, nil
}

// registerFields makes the scheme refuse selectors by other fields in the words
// of kube-apiserver.
func (r *resource) registerFields(scheme *runtime.Scheme) error {
	if r.fields == nil {
		return nil // only by metadata, as the scheme has it
	}
	return scheme.AddFieldLabelConversionFunc(r.GroupVersion().WithKind(r.kind), func(label, value string) (string, string, error) {
		for _, known := range r.fields {
			if label == known {
				return label, value, nil
			}
		}
		if r.refusal != "" {
			return "", "", fmt.Errorf(r.refusal, label)
		}
		return "", "", fmt.Errorf("field label not supported: %s", label)
	})
}

// kindless decodes objects as kube-apiserver has them in memory, where the Go
// type is the kind: those in a list don't name theirs.
type kindless struct{ runtime.Codec }

func (c kindless) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, gvk, err := c.Codec.Decode(data, defaults, into)
	if err == nil {
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	return obj, gvk, err
}

// strategy says whether objects are in namespaces. Nothing else is asked of it,
// for nothing is written.
type strategy struct {
	rest.RESTCreateStrategy
	namespaced bool
}

func (s strategy) NamespaceScoped() bool { return s.namespaced }

// readOnly hides all that a store can do besides being read.
type readOnly struct{ reader }

type reader interface {
	rest.Storage
	rest.Scoper
	rest.SingularNameProvider
	rest.Getter
	rest.Lister
	rest.Watcher
}
