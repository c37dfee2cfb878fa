package capture

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// collect reads a list and returns what it delivered. How the body is cut into
// reads must make no difference.
func collect(t *testing.T, data []byte, enc Encoding) (ListMeta, []Object, error) {
	t.Helper()
	read := func(one bool) (meta ListMeta, items []Object, err error) {
		in := iotest.DataErrReader(bytes.NewReader(data))
		if one {
			in = iotest.OneByteReader(in)
		}
		meta, err = List(in, enc, ListHandler{Item: func(o Object) error {
			items = append(items, seen(o))
			return nil
		}})
		return meta, items, err
	}
	meta, items, err := read(false)
	meta1, items1, err1 := read(true)
	if !reflect.DeepEqual(meta, meta1) || !reflect.DeepEqual(items, items1) || fmt.Sprint(err) != fmt.Sprint(err1) {
		t.Errorf("at once: %+v, %+v, %v\nbyte by byte: %+v, %+v, %v", meta, items, err, meta1, items1, err1)
	}
	return meta, items, err
}

func collectEvents(t *testing.T, data []byte, enc Encoding) ([]Event, error) {
	t.Helper()
	read := func(one bool) (events []Event, err error) {
		in := iotest.DataErrReader(bytes.NewReader(data))
		if one {
			in = iotest.OneByteReader(in)
		}
		err = Watch(in, enc, func(e Event) error {
			e.Object = seen(e.Object)
			events = append(events, e)
			return nil
		})
		return events, err
	}
	events, err := read(false)
	events1, err1 := read(true)
	if !reflect.DeepEqual(events, events1) || fmt.Sprint(err) != fmt.Sprint(err1) {
		t.Errorf("at once: %+v, %v\nbyte by byte: %+v, %v", events, err, events1, err1)
	}
	return events, err
}

// sameObject checks an object in JSON against what encoding/json makes of its text.
func sameObject(t *testing.T, got Object, want json.RawMessage) {
	t.Helper()
	var compactGot, compactWant bytes.Buffer
	if err := json.Compact(&compactGot, got.Raw); err != nil {
		t.Fatalf("object %q: %v", got.Raw, err)
	}
	if err := json.Compact(&compactWant, want); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(compactGot.Bytes(), compactWant.Bytes()) {
		t.Errorf("object %q, encoding/json has %q", got.Raw, want)
	}
	if bytes.ContainsAny(got.Raw, "\r\n") {
		t.Errorf("line break in %q", got.Raw)
	}
	var fields, metadata map[string]any
	if err := json.Unmarshal(want, &fields); err != nil {
		t.Fatal(err)
	}
	metadata, _ = fields["metadata"].(map[string]any)
	str := func(m map[string]any, key string) string { s, _ := m[key].(string); return s }
	id := Object{Encoding: JSON, Raw: got.Raw, Kind: str(fields, "kind"), APIVersion: str(fields, "apiVersion"),
		Namespace: str(metadata, "namespace"), Name: str(metadata, "name"), UID: str(metadata, "uid"),
		ResourceVersion: str(metadata, "resourceVersion")}
	if !reflect.DeepEqual(got, id) {
		t.Errorf("object %+v, encoding/json has %+v", got, id)
	}
	typed, err := AppendTyped(nil, got.Raw, "v1", "Pod")
	if err != nil || !json.Valid(typed) {
		t.Errorf("%q typed is %q, error %v", got.Raw, typed, err)
	}
	untyped, err := AppendUntyped(nil, got.Raw)
	if err != nil || !json.Valid(untyped) {
		t.Errorf("%q untyped is %q, error %v", got.Raw, untyped, err)
	}
	labels, err := Labels(got.Raw, JSON)
	if wantLabels, ok := metadata["labels"].(map[string]any); ok && err == nil {
		for k, v := range wantLabels {
			if v != nil && labels[k] != v {
				t.Errorf("label %q is %q, encoding/json has %q", k, labels[k], v)
			}
		}
	}
}

// tight bounds what fuzzing spends on one input.
const tight = 64 << 10

// seeds are lists small enough to be changed in telling places.
func seeds(f *testing.F, enc Encoding) [][]byte {
	f.Helper()
	remaining := int64(300)
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a\"\\\u00e9", Namespace: "ns", UID: "u", ResourceVersion: "6",
		Labels: map[string]string{"k": "v"}}}
	var bodies [][]byte
	for _, list := range []*corev1.PodList{
		{Items: []corev1.Pod{}},
		{ListMeta: metav1.ListMeta{ResourceVersion: "9", Continue: "c", RemainingItemCount: &remaining}, Items: []corev1.Pod{pod, {}}},
	} {
		bodies = append(bodies, encode(f, enc, list, corev1.SchemeGroupVersion))
	}
	return bodies
}

func FuzzListJSON(f *testing.F) {
	for _, body := range seeds(f, JSON) {
		f.Add(body)
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, body, "", " "); err != nil {
			f.Fatal(err)
		}
		f.Add(pretty.Bytes())
	}
	f.Add([]byte(`{"apiVersion":"a/v1","items":[{"\u006betadata":{"name":"\ud83d\ude00","labels":{"a":"b"}},"x":[1,-0.5e+7,true,null,{}]}],"kind":"AList","metadata":{"continue":"","remainingItemCount":3,"resourceVersion":"1"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > tight {
			return
		}
		meta, items, err := collect(t, data, JSON)
		if err != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatalf("accepted what encoding/json does not: %q", data)
		}
		var list map[string]json.RawMessage
		if err := json.Unmarshal(data, &list); err != nil {
			t.Fatal(err)
		}
		var want []json.RawMessage
		if err := json.Unmarshal(list["items"], &want); err != nil {
			t.Fatal(err)
		}
		if len(items) != len(want) {
			t.Fatalf("%d items, encoding/json has %d", len(items), len(want))
		}
		for i, o := range items {
			sameObject(t, o, want[i])
		}
		again := assemble(t, JSON, meta, items)
		if _, items2, err := collect(t, again, JSON); err != nil || !reflect.DeepEqual(items2, items) {
			t.Errorf("put together again %q: %+v, %v, not %+v", again, items2, err, items)
		}
	})
}

func FuzzWatchJSON(f *testing.F) {
	frames, _ := watchEvents(f, JSON)
	for _, frame := range frames[3:] {
		f.Add(frame)
	}
	f.Add([]byte("{\"object\":{\n\"metadata\":{}},\"type\":\"ADDED\"}{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}}}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > tight {
			return
		}
		events, err := collectEvents(t, data, JSON)
		decoder := json.NewDecoder(bytes.NewReader(data))
		var stream []byte
		for _, e := range events {
			var want map[string]json.RawMessage
			if err := decoder.Decode(&want); err != nil {
				t.Fatalf("event %+v, encoding/json has %v", e, err)
			}
			var typ string
			if err := json.Unmarshal(want["type"], &typ); err != nil || typ != e.Type {
				t.Errorf("type %s, encoding/json has %s, %v", e.Type, typ, err)
			}
			sameObject(t, e.Object, want["object"])
			frame, err := AppendWatchFrame(nil, JSON, e.Type, e.Object.Raw, "v1", "Pod")
			if err != nil {
				t.Fatal(err)
			}
			stream = append(stream, frame...)
		}
		if err == nil && decoder.More() {
			t.Errorf("no error, but encoding/json sees more than %d events", len(events))
		}
		if strings.Count(string(stream), "\n") != len(events) {
			t.Errorf("stream of %d events is %q", len(events), stream)
		}
	})
}

// FuzzSkip holds the validating scanner against encoding/json, both ways.
func FuzzSkip(f *testing.F) {
	for _, s := range []string{`{"a":[1,-2.5e-3,true,false,null,"\u00e9\n"]}`, `"\ud800"`, `01`, `[]]`, "\"\x7f\xff\"", ` [ ] `, `{"a":1,"a":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		data = append(append([]byte{'['}, data...), ']')
		for _, one := range []bool{false, true} {
			in := iotest.DataErrReader(bytes.NewReader(data))
			if one {
				in = iotest.OneByteReader(in)
			}
			r := newReader(in)
			ok := r.skip(0) && r.end()
			if !ok && strings.Contains(fmt.Sprint(r.err), "nested") {
				continue
			}
			if ok != (r.err == nil) || ok != json.Valid(data) {
				t.Errorf("%q: accepted %v, error %v, encoding/json %v", data, ok, r.err, json.Valid(data))
			}
		}
	})
}

func FuzzListProtobuf(f *testing.F) {
	for _, body := range seeds(f, Protobuf) {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > tight {
			return
		}
		meta, items, err := collect(t, data, Protobuf)
		if err != nil {
			return
		}
		var unknown runtime.Unknown
		if err := unknown.Unmarshal(data[len(prefix):]); err != nil {
			t.Fatalf("accepted an envelope that gogo does not: %v", err)
		}
		if unknown.Kind != meta.Kind || unknown.APIVersion != meta.APIVersion {
			t.Errorf("%+v, gogo has %+v", meta, unknown.TypeMeta)
		}
		// Below ObjectMeta's own fields nothing is checked here, so that gogo may
		// refuse what is accepted. What both accept must be the same.
		var list metav1.PartialObjectMetadataList
		if list.Unmarshal(unknown.Raw) == nil {
			want := ListMeta{Kind: meta.Kind, APIVersion: meta.APIVersion, ResourceVersion: list.ResourceVersion,
				Continue: list.Continue, RemainingItemCount: list.RemainingItemCount}
			if !reflect.DeepEqual(meta, want) || len(items) != len(list.Items) {
				t.Fatalf("%+v, %d items, gogo has %+v, %d items", meta, len(items), want, len(list.Items))
			}
			for i, o := range items {
				sameProtobuf(t, o, &list.Items[i].ObjectMeta)
			}
		}
		again := assemble(t, Protobuf, meta, items)
		if meta2, items2, err := collect(t, again, Protobuf); err != nil || !reflect.DeepEqual(items2, items) || !reflect.DeepEqual(meta2, meta) {
			t.Errorf("put together again: %+v, %+v, %v, not %+v, %+v", meta2, items2, err, meta, items)
		}
	})
}

// sameProtobuf checks an object in protobuf against what gogo makes of it.
func sameProtobuf(t *testing.T, o Object, want *metav1.ObjectMeta) {
	t.Helper()
	got := Object{Namespace: o.Namespace, Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion}
	if got := fmt.Sprintf("%+v", got); got != fmt.Sprintf("%+v", Object{Namespace: want.Namespace, Name: want.Name,
		UID: string(want.UID), ResourceVersion: want.ResourceVersion}) {
		t.Errorf("object %s, gogo has %+v", got, want)
	}
	labels, err := Labels(o.Raw, Protobuf)
	if err == nil && len(labels)+len(want.Labels) > 0 && !reflect.DeepEqual(labels, want.Labels) {
		t.Errorf("labels %q, gogo has %q", labels, want.Labels)
	}
}

func FuzzWatchProtobuf(f *testing.F) {
	frames, _ := watchEvents(f, Protobuf)
	for _, frame := range frames[3:] {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > tight {
			return
		}
		events, err := collectEvents(t, data, Protobuf)
		reader := serializers(t, Protobuf).StreamSerializer.Framer.NewFrameReader(nopCloser{bytes.NewReader(data)})
		frame := make([]byte, len(data))
		for _, e := range events {
			n, err := reader.Read(frame)
			if err != nil {
				t.Fatalf("event %+v, framer has %v", e, err)
			}
			var event metav1.WatchEvent
			if err := event.Unmarshal(frame[:n]); err != nil {
				t.Fatal(err)
			}
			var unknown runtime.Unknown
			if err := unknown.Unmarshal(event.Object.Raw[len(prefix):]); err != nil {
				t.Fatal(err)
			}
			if e.Type != event.Type || !bytes.Equal(e.Object.Raw, unknown.Raw) || e.Object.Kind != unknown.Kind || e.Object.APIVersion != unknown.APIVersion {
				t.Errorf("event %+v, gogo has %+v with %+v", e, event, unknown)
			}
			var pod corev1.Pod
			if e.Object.Kind == "Pod" && pod.Unmarshal(unknown.Raw) == nil {
				sameProtobuf(t, e.Object, &pod.ObjectMeta)
			}
		}
		if err != nil && len(data) == 0 {
			t.Error(err)
		}
	})
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }
