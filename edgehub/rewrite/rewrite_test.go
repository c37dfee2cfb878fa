package rewrite

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/edgehub-io/edge-hub/edgehub/capture"
)

var endpoint = Endpoint{netip.MustParseAddrPort("169.254.2.1:10268")}

var (
	kubelet   = Caller{Node: true, Agent: "kubelet"}
	kubeProxy = Caller{Agent: "kube-proxy"}
)

// resource is a resource of which something is rewritten.
type resource struct {
	caller Caller
	info   request.RequestInfo // without the verb
	gv     schema.GroupVersion
	list   runtime.Object // an empty one
	make   func(*rand.Rand) runtime.Object
	expect func(runtime.Object) // what is to become of an object
}

var resources = map[string]resource{
	"services":       {caller: kubelet, info: request.RequestInfo{Resource: "services"}, gv: corev1.SchemeGroupVersion, list: &corev1.ServiceList{}, make: func(rng *rand.Rand) runtime.Object { return makeService(rng) }, expect: expectService},
	"pods":           {caller: kubelet, info: request.RequestInfo{Resource: "pods"}, gv: corev1.SchemeGroupVersion, list: &corev1.PodList{}, make: makePod, expect: expectPod},
	"configmaps":     {caller: kubelet, info: request.RequestInfo{Resource: "configmaps", Namespace: "kube-system"}, gv: corev1.SchemeGroupVersion, list: &corev1.ConfigMapList{}, make: makeConfigMap, expect: expectConfigMap},
	"endpoints":      {caller: kubeProxy, info: request.RequestInfo{Resource: "endpoints"}, gv: corev1.SchemeGroupVersion, list: &corev1.EndpointsList{}, make: makeEndpoints, expect: expectEndpoints},
	"endpointslices": {caller: kubeProxy, info: request.RequestInfo{Resource: "endpointslices", APIGroup: "discovery.k8s.io"}, gv: discoveryv1.SchemeGroupVersion, list: &discoveryv1.EndpointSliceList{}, make: makeSlice, expect: expectSlice},
}

func (r resource) rewriter(tb testing.TB, verb string) *Rewriter {
	tb.Helper()
	info := r.info
	info.IsResourceRequest, info.APIVersion, info.Verb = true, "v1", verb
	rewriter := endpoint.For(r.caller, &info)
	if rewriter == nil {
		tb.Fatalf("%s of %s is not rewritten", verb, info.Resource)
	}
	return rewriter
}

// TestRewritingIsDecodingChangingAndEncoding of whatever comes, in whatever pieces.
func TestRewritingIsDecodingChangingAndEncoding(t *testing.T) {
	for name, r := range resources {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(40) {
				check(t, r, seed)
			}
		})
	}
}

func FuzzRewriting(f *testing.F) {
	for name := range resources {
		f.Add(name, uint64(1))
	}
	f.Fuzz(func(t *testing.T, name string, seed uint64) {
		if r, ok := resources[name]; ok {
			check(t, r, seed)
		}
	})
}

func check(t *testing.T, r resource, seed uint64) {
	for _, enc := range []capture.Encoding{capture.JSON, capture.Protobuf} {
		for _, compressed := range []bool{false, true} {
			rng := rand.New(rand.NewPCG(seed, 0))
			objects := make([]runtime.Object, rng.IntN(4))
			for i := range objects {
				objects[i] = r.make(rng)
			}
			checkList(t, r, enc, objects, rng, compressed)
			checkWatch(t, r, enc, objects, rng, compressed)
			for _, o := range objects {
				checkGet(t, r, enc, o, rng, compressed)
			}
		}
	}
}

func checkGet(t *testing.T, r resource, enc capture.Encoding, o runtime.Object, rng *rand.Rand, compressed bool) {
	t.Helper()
	want := o.DeepCopyObject()
	r.expect(want)
	got := decode(t, through(t, r.rewriter(t, "get"), enc, encode(t, enc, o, r.gv), rng, compressed))
	equal(t, want, got)
}

func checkList(t *testing.T, r resource, enc capture.Encoding, objects []runtime.Object, rng *rand.Rand, compressed bool) {
	t.Helper()
	list := r.list.DeepCopyObject()
	if err := meta.SetList(list, objects); err != nil {
		t.Fatal(err)
	}
	accessor, err := meta.ListAccessor(list)
	if err != nil {
		t.Fatal(err)
	}
	accessor.SetResourceVersion("812")
	body := encode(t, enc, list, r.gv)
	out := through(t, r.rewriter(t, "list"), enc, body, rng, compressed)
	if enc == capture.Protobuf && len(out) != len(body) {
		t.Errorf("a list of %d bytes has %d", len(body), len(out))
	}
	want, got := list.DeepCopyObject(), decode(t, out)
	for _, list := range []runtime.Object{want, got} {
		_ = meta.EachListItem(list, func(o runtime.Object) error {
			if list == want {
				r.expect(o)
			}
			o.(metav1.Object).SetManagedFields(nil) // they make room
			return nil
		})
	}
	equal(t, want, got)
}

func checkWatch(t *testing.T, r resource, enc capture.Encoding, objects []runtime.Object, rng *rand.Rand, compressed bool) {
	t.Helper()
	var body bytes.Buffer
	var want []runtime.Object
	types := []string{capture.Added, capture.Modified, capture.Deleted}
	for i, o := range objects {
		body.Write(frame(t, enc, types[i%3], o, r.gv))
		o = o.DeepCopyObject()
		r.expect(o)
		want = append(want, o)
	}
	status := &metav1.Status{Status: metav1.StatusFailure, Code: 410, Reason: metav1.StatusReasonExpired}
	body.Write(frame(t, enc, capture.Error, status, schema.GroupVersion{Version: "v1"}))
	out := through(t, r.rewriter(t, "watch"), enc, body.Bytes(), rng, compressed)
	i := 0
	err := capture.Watch(bytes.NewReader(out), enc, func(e capture.Event) error {
		if e.Type == capture.Error {
			return nil
		}
		if e.Type != types[i%3] {
			t.Errorf("event %d is %s", i, e.Type)
		}
		raw := e.Object.Raw
		if enc == capture.Protobuf {
			raw = capture.AppendEnvelope(nil, raw, e.Object.APIVersion, e.Object.Kind)
		}
		equal(t, want[i], decode(t, raw))
		i++
		return nil
	})
	if err != nil || i != len(want) {
		t.Errorf("%d of %d events, %v", i, len(want), err)
	}
}

// through writes a body in pieces to a Writer and returns what comes out.
func through(t *testing.T, r *Rewriter, enc capture.Encoding, body []byte, rng *rand.Rand, compressed bool) []byte {
	t.Helper()
	if compressed {
		body = inMembers(body, rng)
	}
	var out bytes.Buffer
	w := r.NewWriter(&out, enc, compressed)
	defer w.Stop()
	for len(body) > 0 {
		n := min(len(body), 1+rng.IntN(200))
		if _, err := w.Write(body[:n]); err != nil {
			t.Fatal(err)
		}
		body = body[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// inMembers compresses as kube-apiserver does a watch.
func inMembers(body []byte, rng *rand.Rand) []byte {
	var out bytes.Buffer
	for {
		n := min(len(body), rng.IntN(2000))
		z := gzip.NewWriter(&out)
		_, _ = z.Write(body[:n])
		_ = z.Close()
		if body = body[n:]; len(body) == 0 {
			return out.Bytes()
		}
	}
}

// TestAnEventGoesOutWithItsLastByte: nothing of a watch is held back.
func TestAnEventGoesOutWithItsLastByte(t *testing.T) {
	r := resources["services"]
	for _, enc := range []capture.Encoding{capture.JSON, capture.Protobuf} {
		event := frame(t, enc, capture.Added, makeService(rand.New(rand.NewPCG(1, 1))), r.gv)
		var out bytes.Buffer
		w := r.rewriter(t, "watch").NewWriter(&out, enc, false)
		defer w.Stop()
		last := len(event) - 1
		if enc == capture.JSON {
			last-- // the line break behind an event says nothing
		}
		for i := range 3 {
			before := out.Len()
			if _, err := w.Write(event[:last]); err != nil {
				t.Fatal(err)
			}
			if out.Len() != before {
				t.Errorf("%v: event %d went out before it was there", enc, i)
			}
			if _, err := w.Write(event[last:]); err != nil {
				t.Fatal(err)
			}
			if out.Len() == before {
				t.Errorf("%v: event %d was held back", enc, i)
			}
		}
	}
}

// TestWhatIsCutOrMalformedIsNotWhole: nobody takes it for complete.
func TestWhatIsCutOrMalformedIsNotWhole(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for name, r := range resources {
		list := r.list.DeepCopyObject()
		_ = meta.SetList(list, []runtime.Object{r.make(rng), r.make(rng)})
		for _, enc := range []capture.Encoding{capture.JSON, capture.Protobuf} {
			body := encode(t, enc, list, r.gv)
			for _, bad := range [][]byte{body[:len(body)/2], []byte("nonsense"), {}} {
				w := r.rewriter(t, "list").NewWriter(io.Discard, enc, false)
				_, err := w.Write(bad)
				if closed := w.Close(); err == nil && closed == nil {
					t.Errorf("%s in %v: %d of %d bytes are taken for whole", name, enc, len(bad), len(body))
				}
				w.Stop()
			}
		}
	}
}

// TestAWriterCanBeGivenUpAtAnyTime: nothing of it stays.
func TestAWriterCanBeGivenUpAtAnyTime(t *testing.T) {
	r := resources["pods"].rewriter(t, "watch")
	for _, some := range []string{"", `{"type":"ADDED","obj`} {
		w := r.NewWriter(io.Discard, capture.JSON, false)
		if some != "" {
			if _, err := w.Write([]byte(some)); err != nil {
				t.Fatal(err)
			}
		}
		w.Stop()
		w.Stop()
		if _, err := w.Write([]byte("more")); err == nil {
			t.Error("written to after it was given up")
		}
	}
}

// TestAnErrorBelowIsTold to who writes.
func TestAnErrorBelowIsTold(t *testing.T) {
	r := resources["services"]
	w := r.rewriter(t, "watch").NewWriter(brokenWriter{}, capture.JSON, false)
	defer w.Stop()
	event := frame(t, capture.JSON, capture.Added, makeService(rand.New(rand.NewPCG(1, 1))), r.gv)
	if _, err := w.Write(event); err != io.ErrClosedPipe {
		t.Errorf("error %v", err)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestOnlyTheCallersConcernedSeeIt.
func TestOnlyTheCallersConcernedSeeIt(t *testing.T) {
	info := func(verb, path string) *request.RequestInfo {
		i := &request.RequestInfo{IsResourceRequest: true, APIVersion: "v1", Verb: verb}
		if group, rest, ok := strings.Cut(path, ":"); ok {
			i.APIGroup, path = group, rest
		}
		parts := append(strings.Split(path, "/"), "", "", "")
		i.Resource, i.Namespace, i.Name, i.Subresource = parts[0], parts[1], parts[2], parts[3]
		return i
	}
	const slices = "discovery.k8s.io:endpointslices"
	for _, tc := range []struct {
		caller Caller
		verb   string
		path   string // RESOURCE/NAMESPACE/NAME/SUBRESOURCE
		want   bool
	}{
		{kubelet, "list", "services", true},
		{kubelet, "watch", "services", true},
		{kubelet, "get", "services/default/kubernetes", true},
		{kubelet, "get", "services/default/other", false},
		{kubelet, "list", "services/shop", false},
		{kubelet, "get", "services/default/kubernetes/status", false},
		{kubelet, "update", "services/default/kubernetes", false},
		{kubelet, "watch", "pods", true},
		{kubelet, "get", "pods/shop/p", true},
		{kubelet, "patch", "pods/shop/p/status", false},
		{kubelet, "create", "pods/shop", false},
		{kubelet, "watch", "configmaps/kube-system/kube-proxy", true},
		{kubelet, "watch", "configmaps/kube-system/coredns", true},
		{kubelet, "watch", "configmaps/kube-system/other", false},
		{kubelet, "watch", "configmaps/shop/kube-proxy", false},
		{kubelet, "watch", "secrets/kube-system/kube-proxy", false},
		{kubelet, "list", "example.com:services", false},
		{kubelet, "list", slices, false},
		{kubelet, "list", "endpoints", false},
		{kubeProxy, "list", slices, true},
		{kubeProxy, "watch", "endpoints", true},
		{kubeProxy, "watch", "services", false},
		{kubeProxy, "watch", "pods", false},
		{Caller{Agent: "kubelet"}, "list", "services", false},
		{Caller{Node: true, Agent: "kubectl"}, "list", "services", false},
		{Caller{Agent: "edge-app"}, "list", slices, false},
		{Caller{Agent: "coredns"}, "list", "services", false},
	} {
		if got := endpoint.For(tc.caller, info(tc.verb, tc.path)) != nil; got != tc.want {
			t.Errorf("%+v %s %s: rewritten %v", tc.caller, tc.verb, tc.path, got)
		}
		if (Endpoint{}).For(tc.caller, info(tc.verb, tc.path)) != nil {
			t.Errorf("%s is rewritten to nowhere", tc.path)
		}
	}
}

// TestFieldsOfANewerClusterStay: what this program's types don't know of.
func TestFieldsOfANewerClusterStay(t *testing.T) {
	r := resources["services"].rewriter(t, "get")
	body := `{"kind":"Service","apiVersion":"v1","metadata":{"name":"kubernetes","namespace":"default","new":1.50},"spec":{"clusterIP":"10.0.0.1","ports":[{"port":443,"new":[true]}],"new":{"a":"<b>"}},"new":12345678901234567890}`
	out := string(through(t, r, capture.JSON, []byte(body), rand.New(rand.NewPCG(1, 1)), false))
	for _, part := range []string{`"new":1.50`, `"new":[true]`, `"new":12345678901234567890`, `"clusterIP":"169.254.2.1"`, `"port":10268`} {
		if !strings.Contains(out, part) {
			t.Errorf("%s is missing in %s", part, out)
		}
	}
	o := makeService(rand.New(rand.NewPCG(3, 3)))
	o.Namespace, o.Name = "default", "kubernetes"
	raw, err := o.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	raw = appendText(raw, 77, "of a newer cluster")
	out = string(through(t, r, capture.Protobuf, capture.AppendEnvelope(nil, raw, "v1", "Service"), rand.New(rand.NewPCG(1, 1)), false))
	if !strings.Contains(out, "of a newer cluster") {
		t.Error("a field that is not known was lost")
	}
}

// TestEverySizeCanBeHad at which nothing has to leave.
func TestEverySizeCanBeHad(t *testing.T) {
	o := makeService(rand.New(rand.NewPCG(4, 4)))
	raw, err := o.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for more := range 400 {
		fitted, ok := fit(bytes.Clone(raw), len(raw)+more)
		if !ok || len(fitted) != len(raw)+more {
			t.Fatalf("%d bytes more: %v, has %d", more, ok, len(fitted)-len(raw))
		}
		var got corev1.Service
		if err := got.Unmarshal(fitted); err != nil {
			t.Fatalf("%d bytes more: %v", more, err)
		}
		equal(t, o, &got)
	}
	if _, ok := fit(raw, 10); ok {
		t.Error("an object of 10 bytes")
	}
}

func equal(t *testing.T, want, got runtime.Object) {
	t.Helper()
	for _, o := range []runtime.Object{want, got} {
		o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		_ = meta.EachListItem(o, func(o runtime.Object) error {
			o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
			return nil
		})
	}
	if !apiequality.Semantic.DeepEqual(want, got) {
		w, _ := json.Marshal(want)
		g, _ := json.Marshal(got)
		t.Errorf("is\n%s\nwant\n%s", g, w)
	}
}

func decode(t *testing.T, body []byte) runtime.Object {
	t.Helper()
	o, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		t.Fatalf("decode: %v\n%.500q", err, body)
	}
	return o
}

func serializer(t *testing.T, enc capture.Encoding) runtime.SerializerInfo {
	t.Helper()
	mediaType := runtime.ContentTypeJSON
	if enc == capture.Protobuf {
		mediaType = runtime.ContentTypeProtobuf
	}
	info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), mediaType)
	if !ok {
		t.Fatal("no serializer for " + mediaType)
	}
	return info
}

func encode(t *testing.T, enc capture.Encoding, o runtime.Object, gv schema.GroupVersion) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := scheme.Codecs.EncoderForVersion(serializer(t, enc).Serializer, gv).Encode(o, &buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func frame(t *testing.T, enc capture.Encoding, typ string, o runtime.Object, gv schema.GroupVersion) []byte {
	t.Helper()
	event := &metav1.WatchEvent{Type: typ, Object: runtime.RawExtension{Raw: encode(t, enc, o, gv)}}
	stream := serializer(t, enc).StreamSerializer
	var message, out bytes.Buffer
	if err := scheme.Codecs.EncoderForVersion(stream.Serializer, gv).Encode(event, &message); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Framer.NewFrameWriter(&out).Write(message.Bytes()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// FuzzBody: whatever comes, a Writer ends, and what it takes for whole is whole.
func FuzzBody(f *testing.F) {
	rng := rand.New(rand.NewPCG(5, 5))
	for name, r := range resources {
		list := r.list.DeepCopyObject()
		_ = meta.SetList(list, []runtime.Object{r.make(rng), r.make(rng)})
		for _, protobuf := range []bool{false, true} {
			enc := capture.JSON
			if protobuf {
				enc = capture.Protobuf
			}
			t := &testing.T{}
			f.Add(name, "list", protobuf, false, encode(t, enc, list, r.gv))
			f.Add(name, "get", protobuf, false, encode(t, enc, r.make(rng), r.gv))
			f.Add(name, "watch", protobuf, true, inMembers(frame(t, enc, capture.Added, r.make(rng), r.gv), rng))
		}
	}
	f.Fuzz(func(t *testing.T, name, verb string, protobuf, compressed bool, body []byte) {
		r, ok := resources[name]
		if !ok || verb != "get" && verb != "list" && verb != "watch" {
			return
		}
		enc := capture.JSON
		if protobuf {
			enc = capture.Protobuf
		}
		var out bytes.Buffer
		w := r.rewriter(t, verb).NewWriter(&out, enc, compressed)
		defer w.Stop()
		_, err := w.Write(body)
		if closed := w.Close(); err != nil || closed != nil || verb == "watch" || protobuf {
			return
		}
		if _, err := capture.List(bytes.NewReader(out.Bytes()), enc, capture.ListHandler{}); verb == "list" && err != nil {
			t.Errorf("%q became %q, which is no list: %v", body, out.Bytes(), err)
		}
	})
}
