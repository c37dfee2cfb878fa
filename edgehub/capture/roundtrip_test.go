package capture

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
)

var encodings = []Encoding{JSON, Protobuf}

// readers are the ways a body may arrive.
var readers = map[string]func(io.Reader) io.Reader{
	"at once":       func(r io.Reader) io.Reader { return r },
	"byte by byte":  iotest.OneByteReader,
	"in halves":     iotest.HalfReader,
	"EOF with data": iotest.DataErrReader,
	"7 bytes":       func(r io.Reader) io.Reader { return &chunks{r: r, size: 7} },
	"4096 bytes":    func(r io.Reader) io.Reader { return &chunks{r: r, size: 4096} },
}

// chunks returns at most size bytes at a time.
type chunks struct {
	r    io.Reader
	size int
}

func (c *chunks) Read(p []byte) (int, error) {
	return c.r.Read(p[:min(len(p), c.size)])
}

// nasty is text that is hard to scan.
const nasty = "a\"b\\c\\\" </script>&\u2028\t\n{}[],: \"metadata\":{\"name\":\"no\"} \u00e9\u4e16\U0001F600"

func configMap(i int) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("cm-%d", i), Namespace: fmt.Sprintf("ns-%d", i/3), UID: types.UID(fmt.Sprintf("uid-%d", i)),
			ResourceVersion: fmt.Sprint(1000 + i),
			Labels:          map[string]string{"app": "edge-app", "n": fmt.Sprint(i)},
			Annotations:     map[string]string{"note": nasty, "metadata": "name"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v2", Kind: "Owner", Name: "other", UID: "other-uid"}},
		},
		Data: map[string]string{"metadata": `{"name":"wrong"}`, "kind": "wrong", "text": strings.Repeat(nasty, i)},
	}
}

func deployment() *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "prod", UID: "u-web", ResourceVersion: "77"},
		Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Name: "template", Namespace: "other", Labels: map[string]string{"a": "b"}},
		}},
	}
}

// seen is an Object that outlives the callback.
func seen(o Object) Object {
	o.Raw = bytes.Clone(o.Raw)
	return o
}

type listCase struct {
	name string
	list runtime.Object
	gv   schema.GroupVersion
	want []Object // without Encoding and Raw
}

func listCases() []listCase {
	remaining := int64(17)
	configMaps := &corev1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: "2000"}}
	var wantMaps []Object
	for i := range 20 {
		cm := configMap(i)
		configMaps.Items = append(configMaps.Items, *cm)
		wantMaps = append(wantMaps, Object{Namespace: cm.Namespace, Name: cm.Name, UID: string(cm.UID), ResourceVersion: cm.ResourceVersion})
	}
	large := &corev1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: "3"}, Items: []corev1.ConfigMap{
		{ObjectMeta: metav1.ObjectMeta{Name: "big"}, Data: map[string]string{"x": strings.Repeat("x", 700<<10)}},
		{ObjectMeta: metav1.ObjectMeta{Name: "small"}},
	}}
	core, apps := corev1.SchemeGroupVersion, appsv1.SchemeGroupVersion
	return []listCase{
		{"config maps", configMaps, core, wantMaps},
		{"large", large, core, []Object{{Name: "big"}, {Name: "small"}}},
		{"empty", &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "9"}, Items: []corev1.Pod{}}, core, nil},
		{"no metadata", &corev1.PodList{Items: []corev1.Pod{}}, core, nil},
		{"page", &appsv1.DeploymentList{
			ListMeta: metav1.ListMeta{ResourceVersion: "9", Continue: "eyJ2IjoibWV0YS5rOHMu", RemainingItemCount: &remaining},
			Items:    []appsv1.Deployment{*deployment()},
		}, apps, []Object{{Namespace: "prod", Name: "web", UID: "u-web", ResourceVersion: "77"}}},
	}
}

func TestListRoundTrip(t *testing.T) {
	for _, enc := range encodings {
		for _, c := range listCases() {
			body := encode(t, enc, c.list, c.gv)
			for name, reader := range readers {
				t.Run(fmt.Sprintf("%v/%s/%s", enc, c.name, name), func(t *testing.T) {
					meta, items := readList(t, reader(bytes.NewReader(body)), enc)
					if got := assemble(t, enc, meta, items); !bytes.Equal(got, body) {
						t.Errorf("put together again:\n%.500q\nwant\n%.500q", got, body)
					}
					checkMeta(t, meta, c.list)
					if len(items) != len(c.want) {
						t.Fatalf("%d items, want %d", len(items), len(c.want))
					}
					for i, got := range items {
						got.Encoding, got.Raw = 0, nil
						if !reflect.DeepEqual(got, c.want[i]) {
							t.Errorf("item %d is %+v, want %+v", i, got, c.want[i])
						}
					}
				})
			}
		}
	}
}

func checkMeta(t *testing.T, got ListMeta, list runtime.Object) {
	t.Helper()
	l := list.(metav1.ListInterface)
	gvks, _, err := scheme.Scheme.ObjectKinds(list)
	if err != nil {
		t.Fatal(err)
	}
	apiVersion, kind := gvks[0].ToAPIVersionAndKind()
	want := ListMeta{Kind: kind, APIVersion: apiVersion, ResourceVersion: l.GetResourceVersion(),
		Continue: l.GetContinue(), RemainingItemCount: l.GetRemainingItemCount()}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("list meta %+v, want %+v", got, want)
	}
}

// readList reads a list and checks that Begin came when it should.
func readList(t testing.TB, r io.Reader, enc Encoding) (ListMeta, []Object) {
	t.Helper()
	var begun []ListMeta
	var items []Object
	meta, err := List(r, enc, ListHandler{
		Begin: func(m ListMeta) error {
			if !m.Sorted && len(items) > 0 {
				t.Error("Begin after the first item")
			}
			begun = append(begun, m)
			return nil
		},
		Item: func(o Object) error { items = append(items, seen(o)); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(begun) != 1 || !reflect.DeepEqual(begun[0], meta) {
		t.Errorf("Begin got %+v, List returned %+v", begun, meta)
	}
	return meta, items
}

func assemble(t testing.TB, enc Encoding, meta ListMeta, items []Object) []byte {
	t.Helper()
	var size int64
	for _, o := range items {
		size += ListItemSize(len(o.Raw))
	}
	got, err := AppendListHead(nil, enc, meta, size)
	for i, o := range items {
		if err == nil {
			got, err = AppendListItem(got, enc, o.Raw, i == 0)
		}
	}
	if err == nil {
		got, err = AppendListTail(got, enc, meta)
	}
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// customList is what kube-apiserver holds when it answers a LIST of custom resources.
func customList(n int) *unstructured.UnstructuredList {
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion("example.com/v1")
	list.SetKind("WidgetList")
	list.SetResourceVersion("500")
	list.SetContinue("")
	for i := range n {
		list.Items = append(list.Items, unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "example.com/v1", "kind": "Widget", "data": map[string]any{"kind": "x", "metadata": "y"},
			"metadata": map[string]any{"name": fmt.Sprint("w", i), "namespace": "default", "uid": fmt.Sprint("u", i),
				"resourceVersion": fmt.Sprint(i), "annotations": map[string]any{nasty: nasty}},
			"spec": map[string]any{"float": 1.5e-7, "neg": int64(-1), "null": nil, "bool": true, "list": []any{[]any{}, map[string]any{}}},
		}})
	}
	return list
}

func TestListOfCustomResources(t *testing.T) {
	for _, n := range []int{0, 1, 5} {
		list := customList(n)
		var body bytes.Buffer
		if err := serializers(t, JSON).Serializer.Encode(list, &body); err != nil {
			t.Fatal(err)
		}
		meta, items := readList(t, bytes.NewReader(body.Bytes()), JSON)
		if !meta.Sorted || meta.Kind != "WidgetList" || meta.APIVersion != "example.com/v1" || meta.ResourceVersion != "500" {
			t.Errorf("list meta %+v", meta)
		}
		if got := assemble(t, JSON, meta, items); !bytes.Equal(got, body.Bytes()) {
			t.Errorf("put together again:\n%s\nwant\n%s", got, body.Bytes())
		}
		for i, o := range items {
			want := Object{Encoding: JSON, Raw: o.Raw, Kind: "Widget", APIVersion: "example.com/v1", Namespace: "default",
				Name: fmt.Sprint("w", i), UID: fmt.Sprint("u", i), ResourceVersion: fmt.Sprint(i)}
			if !reflect.DeepEqual(o, want) {
				t.Errorf("item %d is %+v, want %+v", i, o, want)
			}
		}
	}
}

func TestPrettyListIsCompacted(t *testing.T) {
	for _, c := range listCases() {
		body := encode(t, JSON, c.list, c.gv)
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, body, "", "  "); err != nil {
			t.Fatal(err)
		}
		for name, reader := range readers {
			meta, items := readList(t, reader(bytes.NewReader(pretty.Bytes())), JSON)
			if got := assemble(t, JSON, meta, items); !bytes.Equal(got, body) {
				t.Errorf("%s, %s: put together again:\n%.500q\nwant\n%.500q", c.name, name, got, body)
			}
		}
	}
}

func TestSingleRoundTrip(t *testing.T) {
	for _, enc := range encodings {
		for name, reader := range readers {
			t.Run(fmt.Sprintf("%v/%s", enc, name), func(t *testing.T) {
				cm := configMap(50)
				body := encode(t, enc, cm, corev1.SchemeGroupVersion)
				got, err := Single(reader(bytes.NewReader(body)), enc)
				if err != nil {
					t.Fatal(err)
				}
				want := Object{Encoding: enc, Raw: got.Raw, Kind: "ConfigMap", APIVersion: "v1", Namespace: cm.Namespace,
					Name: cm.Name, UID: string(cm.UID), ResourceVersion: cm.ResourceVersion}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("got %+v, want %+v", got, want)
				}
				again := append(bytes.Clone(got.Raw), '\n')
				if enc == Protobuf {
					again = AppendEnvelope(nil, got.Raw, got.APIVersion, got.Kind)
				}
				if !bytes.Equal(again, body) {
					t.Errorf("written again %.300q\nwant %.300q", again, body)
				}
				meta, err := Meta(got.Raw, enc)
				if err != nil {
					t.Fatal(err)
				}
				if enc == Protobuf {
					want.Kind, want.APIVersion = "", ""
				}
				if !reflect.DeepEqual(meta, want) {
					t.Errorf("Meta gives %+v, want %+v", meta, want)
				}
			})
		}
	}
}

func TestStatus(t *testing.T) {
	status := &metav1.Status{Status: "Failure", Code: 404, Reason: "NotFound", Message: `pods "x" not found`,
		ListMeta: metav1.ListMeta{SelfLink: "not-a-name", ResourceVersion: "5", Continue: "not-a-namespace"}}
	for _, enc := range encodings {
		body := encode(t, enc, status, corev1.SchemeGroupVersion)
		got, err := Single(bytes.NewReader(body), enc)
		if err != nil {
			t.Fatal(err)
		}
		want := Object{Encoding: enc, Raw: got.Raw, Kind: "Status", APIVersion: "v1", ResourceVersion: "5"}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%v: got %+v, want %+v", enc, got, want)
		}
	}
}

func watchEvents(tb testing.TB, enc Encoding) (frames [][]byte, want []Event) {
	tb.Helper()
	add := func(typ string, obj runtime.Object, gv schema.GroupVersion, end bool, o Object) {
		o.Encoding = enc
		frames = append(frames, encodeEvent(tb, enc, typ, obj, gv))
		want = append(want, Event{Type: typ, Object: o, InitialEventsEnd: end})
	}
	core := corev1.SchemeGroupVersion
	for i, typ := range []string{"ADDED", "MODIFIED", "DELETED"} {
		cm := configMap(i * 40)
		add(typ, cm, core, false, Object{Kind: "ConfigMap", APIVersion: "v1", Namespace: cm.Namespace, Name: cm.Name,
			UID: string(cm.UID), ResourceVersion: cm.ResourceVersion})
	}
	add("ADDED", deployment(), appsv1.SchemeGroupVersion, false, Object{Kind: "Deployment", APIVersion: "apps/v1",
		Namespace: "prod", Name: "web", UID: "u-web", ResourceVersion: "77"})
	bookmark := func(annotations map[string]string) runtime.Object {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "99", Annotations: annotations}}
	}
	mark := Object{Kind: "Pod", APIVersion: "v1", ResourceVersion: "99"}
	add("BOOKMARK", bookmark(nil), core, false, mark)
	add("BOOKMARK", bookmark(map[string]string{"k8s.io/initial-events-end": "false"}), core, false, mark)
	add("BOOKMARK", bookmark(map[string]string{"a": "b", "k8s.io/initial-events-end": "true"}), core, true, mark)
	add("ERROR", &metav1.Status{Status: "Failure", Code: 410, Reason: "Expired", Message: "too old"}, core, false,
		Object{Kind: "Status", APIVersion: "v1"})
	return frames, want
}

func TestWatchRoundTrip(t *testing.T) {
	for _, enc := range encodings {
		frames, want := watchEvents(t, enc)
		for name, reader := range readers {
			t.Run(fmt.Sprintf("%v/%s", enc, name), func(t *testing.T) {
				n := 0
				err := Watch(reader(bytes.NewReader(bytes.Join(frames, nil))), enc, func(e Event) error {
					frame, err := AppendWatchFrame([]byte("x"), enc, e.Type, e.Object.Raw, e.Object.APIVersion, e.Object.Kind)
					if err != nil {
						t.Error(err)
					} else if !bytes.Equal(frame[1:], frames[n]) {
						t.Errorf("event %d is written again as\n%.300q\nwant\n%.300q", n, frame[1:], frames[n])
					}
					e.Object.Raw = nil
					if !reflect.DeepEqual(e, want[n]) {
						t.Errorf("event %d is %+v, want %+v", n, e, want[n])
					}
					n++
					return nil
				})
				if err != nil || n != len(want) {
					t.Errorf("%d events, want %d, error %v", n, len(want), err)
				}
			})
		}
	}
}
