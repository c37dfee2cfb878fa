package capture

import (
	"bytes"
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FuzzSingle reads any body as one object, and what is asked of an object on its
// own. In JSON it must be what encoding/json says.
func FuzzSingle(f *testing.F) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a\"\\\u00e9", Namespace: "ns", UID: "u", ResourceVersion: "6", Labels: map[string]string{"k": "v"}},
		Spec: corev1.PodSpec{NodeName: "n", HostNetwork: true}}
	for _, enc := range []Encoding{JSON, Protobuf} {
		f.Add(encode(f, enc, pod, corev1.SchemeGroupVersion), enc == Protobuf)
	}
	f.Add([]byte(`{"metadata":{"name":"a","name":"b"},"spec":{"nodeName":null}} `), false)
	f.Add([]byte(`{"metadata":null}x`), false)
	f.Fuzz(func(t *testing.T, body []byte, protobuf bool) {
		if len(body) > tight {
			return
		}
		enc := JSON
		if protobuf {
			enc = Protobuf
		}
		o, err := Single(bytes.NewReader(body), enc)
		if err != nil {
			return
		}
		meta, err := Metadata(o.Raw, enc)
		labels, labelsErr := Labels(o.Raw, enc)
		_, _ = Annotations(o.Raw, enc)
		if protobuf {
			var m metav1.ObjectMeta
			if err == nil && m.Unmarshal(meta) == nil && (m.Name != o.Name || m.Namespace != o.Namespace || string(m.UID) != o.UID) {
				t.Fatalf("%x names %q, its metadata %q", body, o.Name, m.Name)
			}
			return
		}
		sameObject(t, o, body)
		if err == nil && meta != nil && !json.Valid(meta) {
			t.Fatalf("metadata %q of %q", meta, body)
		}
		if labelsErr == nil && len(labels) > 0 && meta == nil {
			t.Fatalf("labels %v without metadata: %q", labels, body)
		}
		for _, path := range [][]string{{"spec", "nodeName"}, {"spec", "hostNetwork"}, {"metadata", "name"}, {"status"}} {
			_, _, _ = Field(o.Raw, path...)
		}
	})
}
