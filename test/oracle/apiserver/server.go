package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	genericserver "k8s.io/apiserver/pkg/server"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
)

// server is the API of all resources.
type server struct {
	stores  []*registry.Store
	handler http.Handler
}

func newServer(etcd, prefix string, timeout time.Duration) (*server, error) {
	// As the kube-apiserver that it is compared with.
	if err := utilfeature.DefaultMutableFeatureGate.Set("CBORServingAndStorage=true"); err != nil {
		return nil, err
	}
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	codecs := serializer.NewCodecFactory(scheme,
		serializer.WithStreamingCollectionEncodingToJSON(),
		serializer.WithStreamingCollectionEncodingToProtobuf(),
		serializer.WithSerializer(cbor.NewSerializerInfo))
	s := &server{}
	groups := map[schema.GroupVersion]map[string]rest.Storage{}
	for _, r := range resources {
		store, err := r.store(scheme, codecs, etcd, prefix)
		if err != nil {
			return nil, fmt.Errorf("set up %s: %w", r.Resource, err)
		}
		s.stores = append(s.stores, store)
		gv := r.GroupVersion()
		if groups[gv] == nil {
			groups[gv] = map[string]rest.Storage{}
		}
		groups[gv][r.Resource] = readOnly{store}
	}
	api := genericserver.NewAPIServerHandler("oracle", codecs, func(api http.Handler) http.Handler {
		return withFilters(api, codecs, timeout)
	}, nil)
	for gv, storage := range groups {
		if _, _, err := apiGroup(scheme, codecs, gv, storage).InstallREST(api.GoRestfulContainer); err != nil {
			return nil, fmt.Errorf("install %s: %w", gv, err)
		}
	}
	s.handler = api
	return s, nil
}

func apiGroup(scheme *runtime.Scheme, codecs serializer.CodecFactory, gv schema.GroupVersion, storage map[string]rest.Storage) *endpoints.APIGroupVersion {
	root := "/apis"
	if gv.Group == "" {
		root = "/api"
	}
	return &endpoints.APIGroupVersion{
		Storage:                    storage,
		Root:                       root,
		GroupVersion:               gv,
		OptionsExternalVersion:     &schema.GroupVersion{Version: "v1"},
		MetaGroupVersion:           &metav1.SchemeGroupVersion,
		Serializer:                 codecs,
		ParameterCodec:             runtime.NewParameterCodec(scheme),
		Typer:                      scheme,
		Creater:                    scheme, //nolint:misspell // its name
		Convertor:                  scheme,
		ConvertabilityChecker:      scheme,
		UnsafeConvertor:            runtime.UnsafeObjectConvertor(scheme),
		Defaulter:                  scheme,
		TypeConverter:              managedfields.NewDeducedTypeConverter(),
		Namer:                      runtime.Namer(meta.NewAccessor()),
		EquivalentResourceRegistry: runtime.NewEquivalentResourceRegistry(),
		MinRequestTimeout:          30 * time.Minute,
	}
}

// withFilters are those of kube-apiserver's filters that an answer to a read
// shows, in its order.
func withFilters(h http.Handler, codecs serializer.CodecFactory, timeout time.Duration) http.Handler {
	watches := genericfilters.BasicLongRunningRequestCheck(sets.NewString("watch"), sets.NewString())
	h = filters.WithWarningRecorder(h)
	h = filters.WithRequestDeadline(h, nil, nil, watches, codecs, timeout)
	h = filters.WithCacheControl(h)
	h = filters.WithRequestInfo(h, &request.RequestInfoFactory{
		APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api"),
	})
	return filters.WithRequestReceivedTimestamp(h)
}

// awaitCaches waits until every resource is in its watch cache.
func (s *server) awaitCaches(ctx context.Context) error {
	for _, store := range s.stores {
		var last error
		if err := wait.PollUntilContextCancel(ctx, 10*time.Millisecond, true, func(context.Context) (bool, error) {
			last = store.ReadinessCheck()
			return last == nil, nil
		}); err != nil {
			return fmt.Errorf("fill the watch cache of %s: %w: %w", store.DefaultQualifiedResource, err, last)
		}
	}
	return nil
}
