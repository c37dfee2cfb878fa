package capture

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
)

func TestLabelsAnnotationsMetadata(t *testing.T) {
	for _, enc := range encodings {
		cm := configMap(1)
		obj, err := Single(bytes.NewReader(encode(t, enc, cm, corev1.SchemeGroupVersion)), enc)
		if err != nil {
			t.Fatal(err)
		}
		labels, err := Labels(obj.Raw, enc)
		if err != nil || !reflect.DeepEqual(labels, cm.Labels) {
			t.Errorf("%v: labels %q, want %q, error %v", enc, labels, cm.Labels, err)
		}
		annotations, err := Annotations(obj.Raw, enc)
		if err != nil || !reflect.DeepEqual(annotations, cm.Annotations) {
			t.Errorf("%v: annotations %q, want %q, error %v", enc, annotations, cm.Annotations, err)
		}
		metadata, err := Metadata(obj.Raw, enc)
		if err != nil {
			t.Fatal(err)
		}
		var got metav1.ObjectMeta
		if enc == JSON {
			err = json.Unmarshal(metadata, &got)
		} else {
			err = got.Unmarshal(metadata)
		}
		if err != nil || !reflect.DeepEqual(got, cm.ObjectMeta) {
			t.Errorf("%v: metadata %+v, want %+v, error %v", enc, got, cm.ObjectMeta, err)
		}
	}
	for _, raw := range []string{"\x0a\x05ab", protoMessage(1, protoMessage(11, "\x0a\x05a")), protoMessage(1, "\x5a\x05a"), protoMessage(1, "", 1, "")} {
		if labels, err := Labels([]byte(raw), Protobuf); err == nil {
			t.Errorf("labels of %q: %v without an error", raw, labels)
		}
	}
	for _, raw := range []string{`{}`, `{"metadata":null}`, `{"metadata":{}}`, `{"metadata":{"labels":null}}`, `{"metadata":{"labels":{}}}`} {
		if labels, err := Labels([]byte(raw), JSON); labels != nil || err != nil {
			t.Errorf("labels of %s: %v, error %v", raw, labels, err)
		}
	}
	for _, raw := range []string{``, `[]`, `{"metadata":{"labels":{"a":1}}}`, `{"metadata":{"labels":{"a":"b"`, `{"metadata":{"labels":[]}}`} {
		if labels, err := Labels([]byte(raw), JSON); err == nil {
			t.Errorf("labels of %s: %v without an error", raw, labels)
		}
	}
}

func TestAppendMetadata(t *testing.T) {
	cm := configMap(1)
	obj, err := Single(bytes.NewReader(encode(t, Protobuf, cm, corev1.SchemeGroupVersion)), Protobuf)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := Metadata(obj.Raw, Protobuf)
	if err != nil {
		t.Fatal(err)
	}
	var got metav1.PartialObjectMetadata
	if err := got.Unmarshal(AppendMetadata(nil, meta)); err != nil || !reflect.DeepEqual(got.ObjectMeta, cm.ObjectMeta) {
		t.Errorf("got %+v, want %+v, error %v", got.ObjectMeta, cm.ObjectMeta, err)
	}
}

func TestMetaRefuses(t *testing.T) {
	for _, raw := range []string{``, `[]`, `{}x`, `{"a":1`, `{"kind":1}`, "{\"a\":\"\xff\"}"} {
		if obj, err := Meta([]byte(raw), JSON); err == nil {
			t.Errorf("%q gives %+v", raw, obj)
		}
	}
	if obj, err := Meta([]byte("\x0a\x05ab"), Protobuf); err == nil {
		t.Errorf("torn message gives %+v", obj)
	}
}

// Meta may be given bytes that others read, too: it must not change them.
func TestMetaLeavesRawAlone(t *testing.T) {
	const raw = "{\n \"kind\": \"Pod\",\n \"metadata\": {\"name\": \"a\"}\n}\n"
	b := []byte(raw)
	obj, err := Meta(b, JSON)
	if err != nil || obj.Name != "a" || obj.Kind != "Pod" || string(obj.Raw) != raw || string(b) != raw {
		t.Errorf("got %+v from %q, error %v", obj, b, err)
	}
}

func TestField(t *testing.T) {
	raw := `{"metadata":{"name":"a"},"spec":{"nodeName":"n\u002d1","replicas":3,"ratio":-1.5e3,"paused":true,"off":false,"none":null,"list":[1],"map":{"":"empty"}},"type":"Opaque"}`
	for _, c := range []struct {
		path string
		want string
		ok   bool
	}{
		{"metadata.name", "a", true},
		{"spec.nodeName", "n-1", true},
		{"spec.replicas", "3", true},
		{"spec.ratio", "-1.5e3", true},
		{"spec.paused", "true", true},
		{"spec.off", "false", true},
		{"spec.map.", "empty", true},
		{"type", "Opaque", true},
		{"spec.none", "", false},
		{"spec.list", "", false},
		{"spec.map", "", false},
		{"spec.absent", "", false},
		{"nodeName", "", false},
		{"type.name", "", false},
		{"spec.none.name", "", false},
	} {
		got, ok, err := Field([]byte(raw), strings.Split(c.path, ".")...)
		if got != c.want || ok != c.ok || err != nil {
			t.Errorf("%s is %q %v, want %q %v, error %v", c.path, got, ok, c.want, c.ok, err)
		}
	}
	if _, _, err := Field([]byte(`{"a":tru}`), "a"); err == nil {
		t.Error("malformed object gives no error")
	}
}

func TestAppendTypedAndUntyped(t *testing.T) {
	for _, c := range []struct{ raw, typed, untyped string }{
		{`{}`, `{"kind":"Pod","apiVersion":"v1"}`, `{}`},
		{` { } `, `{"kind":"Pod","apiVersion":"v1"} `, `{ } `},
		{`{"metadata":{}}`, `{"kind":"Pod","apiVersion":"v1","metadata":{}}`, `{"metadata":{}}`},
		{`{"kind":"Pod","apiVersion":"v1","metadata":{}}`, `{"kind":"Pod","apiVersion":"v1","metadata":{}}`, `{"metadata":{}}`},
		{`{"apiVersion":"v1","kind":"Pod","metadata":{}}`, `{"apiVersion":"v1","kind":"Pod","metadata":{}}`, `{"metadata":{}}`},
		{`{"apiVersion":"v1","data":{},"kind":"Pod"}`, `{"apiVersion":"v1","data":{},"kind":"Pod"}`, `{"data":{},"kind":"Pod"}`},
		{`{"kind":"Pod","apiVersion":"v1"}`, `{"kind":"Pod","apiVersion":"v1"}`, `{}`},
		{`{"kind":"Pod"}`, `{"apiVersion":"v1","kind":"Pod"}`, `{}`},
		{`{"metadata":{"kind":"x","apiVersion":"y"}}`, `{"kind":"Pod","apiVersion":"v1","metadata":{"kind":"x","apiVersion":"y"}}`, `{"metadata":{"kind":"x","apiVersion":"y"}}`},
		{`{ "kind" : "Pod" , "a" : 1 }`, `{"apiVersion":"v1","kind" : "Pod" , "a" : 1 }`, `{ "a" : 1 }`},
	} {
		typed, err := AppendTyped([]byte("x"), []byte(c.raw), "v1", "Pod")
		if err != nil || string(typed) != "x"+c.typed {
			t.Errorf("%s typed is %s, want %s, error %v", c.raw, typed, c.typed, err)
		}
		untyped, err := AppendUntyped([]byte("x"), []byte(c.raw))
		if err != nil || string(untyped) != "x"+c.untyped {
			t.Errorf("%s untyped is %s, want %s, error %v", c.raw, untyped, c.untyped, err)
		}
		if !json.Valid(typed[1:]) || !json.Valid(untyped[1:]) {
			t.Errorf("%s becomes invalid JSON: %s %s", c.raw, typed, untyped)
		}
	}
	for _, raw := range []string{``, `[]`, `{`, `{"kind":}`, `{"a":1`} {
		if got, err := AppendTyped([]byte("x"), []byte(raw), "v1", "Pod"); err == nil || string(got) != "x" {
			t.Errorf("%s typed is %s without an error", raw, got)
		}
	}
}

// The form of list items and of single objects is that of the real serializer.
func TestTypedIsWhatTheServerWrites(t *testing.T) {
	single := bytes.TrimSuffix(encode(t, JSON, configMap(3), corev1.SchemeGroupVersion), []byte("\n"))
	list := encode(t, JSON, &corev1.ConfigMapList{Items: []corev1.ConfigMap{*configMap(3)}}, corev1.SchemeGroupVersion)
	_, items := readList(t, bytes.NewReader(list), JSON)
	typed, err := AppendTyped(nil, items[0].Raw, "v1", "ConfigMap")
	if err != nil || !bytes.Equal(typed, single) {
		t.Errorf("typed %s\nwant %s, error %v", typed, single, err)
	}
	untyped, err := AppendUntyped(nil, single)
	if err != nil || !bytes.Equal(untyped, items[0].Raw) {
		t.Errorf("untyped %s\nwant %s, error %v", untyped, items[0].Raw, err)
	}
}

func TestBookmark(t *testing.T) {
	for _, enc := range encodings {
		for _, last := range []bool{false, true} {
			raw := Bookmark(enc, "v1", "Pod", `1"2`, last)
			frame, err := AppendWatchFrame(nil, enc, BookmarkType, raw, "v1", "Pod")
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			err = Watch(bytes.NewReader(frame), enc, func(e Event) error {
				n++
				o := e.Object
				if e.InitialEventsEnd != last || o.Kind != "Pod" || o.APIVersion != "v1" || o.ResourceVersion != `1"2` || o.Name != "" {
					t.Errorf("%v: got %+v", enc, e)
				}
				return nil
			})
			if err != nil || n != 1 {
				t.Errorf("%v: %d events, error %v", enc, n, err)
			}
			if enc == Protobuf {
				raw = AppendEnvelope(nil, raw, "v1", "Pod")
			}
			obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, nil)
			if err != nil {
				t.Fatalf("%v: %v", enc, err)
			}
			meta := obj.(*corev1.Pod).ObjectMeta
			if meta.ResourceVersion != `1"2` || meta.Annotations[metav1.InitialEventsAnnotationKey] != strings.TrimPrefix(strconv.FormatBool(last), "false") {
				t.Errorf("%v: client-go sees %+v", enc, meta)
			}
		}
	}
	if Bookmark(0, "v1", "Pod", "1", false) != nil {
		t.Error("unknown encoding")
	}
}

func TestAppendQuoted(t *testing.T) {
	for _, s := range []string{"", "abc", nasty, "a\x7fb", "<", "\xff", "k8s.io/x_y-z"} {
		want, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := appendQuoted(nil, s); !bytes.Equal(got, want) {
			t.Errorf("%q is quoted as %s, want %s", s, got, want)
		}
	}
}

// Field numbers are those of the real types, for every kind client-go knows.
func TestFieldNumbers(t *testing.T) {
	number := func(typ reflect.Type, name string) string {
		f, ok := typ.FieldByName(name)
		if !ok {
			t.Fatalf("%v has no field %s", typ, name)
		}
		return strings.Split(f.Tag.Get("protobuf"), ",")[1]
	}
	objectMeta, listMeta := reflect.TypeFor[metav1.ObjectMeta](), reflect.TypeFor[metav1.ListMeta]()
	lists, objects := 0, 0
	for gvk, typ := range scheme.Scheme.AllKnownTypes() {
		if _, ok := reflect.New(typ).Interface().(interface{ Marshal() ([]byte, error) }); !ok {
			continue
		}
		if f, ok := typ.FieldByName("ObjectMeta"); ok && f.Type == objectMeta {
			objects++
			if n := number(typ, "ObjectMeta"); n != strconv.Itoa(fieldMetadata) {
				t.Errorf("metadata of %v is field %s", gvk, n)
			}
			if gvk.Kind == "Status" || strings.HasSuffix(gvk.Kind, "List") {
				t.Errorf("%v has ObjectMeta", gvk)
			}
		}
		if f, ok := typ.FieldByName("ListMeta"); ok && f.Type == listMeta && gvk.Kind != "Status" {
			lists++
			if n := number(typ, "Items"); n != strconv.Itoa(fieldItems) || number(typ, "ListMeta") != strconv.Itoa(fieldMetadata) {
				t.Errorf("items of %v are field %s", gvk, n)
			}
			if !strings.HasSuffix(gvk.Kind, "List") {
				t.Errorf("list %v has a kind that doesn't say so", gvk)
			}
		}
	}
	if lists < 50 || objects < 50 {
		t.Errorf("only %d lists and %d objects were looked at", lists, objects)
	}
	for _, c := range []struct {
		typ  reflect.Type
		name string
		want int
	}{
		{objectMeta, "Name", fieldName}, {objectMeta, "Namespace", fieldNamespace}, {objectMeta, "UID", fieldUID},
		{objectMeta, "ResourceVersion", fieldResourceVersion}, {objectMeta, "Labels", fieldLabels},
		{objectMeta, "Annotations", fieldAnnotations},
		{listMeta, "SelfLink", fieldListSelfLink}, {listMeta, "ResourceVersion", fieldListResourceVersion},
		{listMeta, "Continue", fieldListContinue}, {listMeta, "RemainingItemCount", fieldListRemaining},
		{listMeta, "ShardInfo", fieldListShardInfo},
	} {
		if got := number(c.typ, c.name); got != strconv.Itoa(c.want) {
			t.Errorf("%v.%s is field %s, not %d", c.typ, c.name, got, c.want)
		}
	}
}
