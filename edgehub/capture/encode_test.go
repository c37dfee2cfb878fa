package capture

import (
	"bytes"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
)

// serializers returns the serializer for bodies, and the one for watch events, of
// the real libraries.
func serializers(tb testing.TB, enc Encoding) runtime.SerializerInfo {
	tb.Helper()
	mediaType := runtime.ContentTypeJSON
	if enc == Protobuf {
		mediaType = runtime.ContentTypeProtobuf
	}
	info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), mediaType)
	if !ok {
		tb.Fatalf("no serializer for %s", mediaType)
	}
	return info
}

// encode writes an object as kube-apiserver writes the body of a response.
func encode(tb testing.TB, enc Encoding, obj runtime.Object, gv schema.GroupVersion) []byte {
	tb.Helper()
	var buf bytes.Buffer
	if err := scheme.Codecs.EncoderForVersion(serializers(tb, enc).Serializer, gv).Encode(obj, &buf); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// encodeEvent writes a watch event as kube-apiserver streams it.
func encodeEvent(tb testing.TB, enc Encoding, eventType string, obj runtime.Object, gv schema.GroupVersion) []byte {
	tb.Helper()
	info := serializers(tb, enc)
	event := &metav1.WatchEvent{Type: eventType, Object: runtime.RawExtension{Raw: encode(tb, enc, obj, gv)}}
	var message, frame bytes.Buffer
	if err := scheme.Codecs.EncoderForVersion(info.StreamSerializer.Serializer, gv).Encode(event, &message); err != nil {
		tb.Fatal(err)
	}
	if _, err := info.StreamSerializer.Framer.NewFrameWriter(&frame).Write(message.Bytes()); err != nil {
		tb.Fatal(err)
	}
	return frame.Bytes()
}
