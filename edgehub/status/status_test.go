package status

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"reflect"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"sigs.k8s.io/yaml"
)

// Every media type tells the same.
func TestIn(t *testing.T) {
	decoders := map[string]func([]byte, *metav1.Status) error{
		"application/json": func(b []byte, s *metav1.Status) error { return json.Unmarshal(b, s) },
		"application/yaml": func(b []byte, s *metav1.Status) error { return yaml.Unmarshal(b, s) },
		"application/cbor": func(b []byte, s *metav1.Status) error { return cbor.Unmarshal(b, s) },
		"application/vnd.kubernetes.protobuf": func(b []byte, s *metav1.Status) error {
			raw, ok := bytes.CutPrefix(b, []byte("k8s\x00"))
			var u runtime.Unknown
			if err := u.Unmarshal(raw); err != nil || !ok || u.Kind != "Status" {
				return errors.New("no envelope of a Status")
			}
			s.Kind, s.APIVersion = u.Kind, u.APIVersion
			return s.Unmarshal(u.Raw)
		},
	}
	want := NotCached("x").ErrStatus
	want.Kind, want.APIVersion = "Status", "v1"
	for mediaType, decode := range decoders {
		err := In(mediaType, NotCached("x"))
		if !apierrors.IsServiceUnavailable(err) {
			t.Errorf("%v is not what it was", err)
		}
		w := httptest.NewRecorder()
		Write(w, err)
		var got metav1.Status
		if err := decode(w.Body.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v", mediaType, err)
		}
		if w.Header().Get("Content-Type") != mediaType || w.Header().Get("Retry-After") != "1" || w.Code != 503 || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %d %v %+v", mediaType, w.Code, w.Header(), got)
		}
	}
}

func TestWriteOfWhatIsNoStatus(t *testing.T) {
	w := httptest.NewRecorder()
	Write(w, errors.New("oops"))
	if w.Code != 500 || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
