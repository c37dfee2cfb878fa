package capture

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAppendWithVersion(t *testing.T) {
	for _, version := range []string{"1", "123456789012345678", "99"} {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "resourceVersion", Namespace: "a", ResourceVersion: "42", Labels: map[string]string{"resourceVersion": "42"}},
			Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "resourceVersion"}}},
		}
		raw, err := pod.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := AppendWithVersion([]byte("head"), raw, Protobuf, version)
		if err != nil || !strings.HasPrefix(string(got), "head") {
			t.Fatal(err)
		}
		pod.ResourceVersion = version
		want, err := pod.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if string(got[4:]) != string(want) {
			t.Errorf("%s: the message is not what is written for the object", version)
		}
		text := `{"data":{"resourceVersion":"1"},"metadata":{"name":"x","labels":{"resourceVersion":"1"},"resourceVersion":"42","uid":"u"}}`
		got, err = AppendWithVersion(nil, []byte(text), JSON, version)
		if want := strings.Replace(text, `"42"`, `"`+version+`"`, 1); err != nil || string(got) != want {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
	for _, text := range []string{`{}`, `{"metadata":{}}`, `{"metadata":{"resourceVersion":null}}`, `{"metadata":{"resourceVersion":1}}`, `{"metadata":`} {
		if got, err := AppendWithVersion(nil, []byte(text), JSON, "1"); err == nil {
			t.Errorf("%s became %s", text, got)
		}
	}
}
