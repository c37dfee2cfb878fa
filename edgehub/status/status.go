// Package status makes and writes the answers that the hub gives by itself: a
// Kubernetes Status that says what is wrong and what to do.
package status

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"sigs.k8s.io/yaml"
)

// RetryAfter is how many seconds a client should wait before it asks again for
// something that only kube-apiserver has.
const RetryAfter = 5

// New makes a Status of the kind that kube-apiserver answers with. retryAfter,
// in seconds, is left out if it is zero.
func New(code int, reason metav1.StatusReason, retryAfter int32, message string) *apierrors.StatusError {
	s := metav1.Status{Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message}
	if retryAfter > 0 {
		s.Details = &metav1.StatusDetails{RetryAfterSeconds: retryAfter}
	}
	return &apierrors.StatusError{ErrStatus: s}
}

// Unreachable is the answer to a request that only kube-apiserver can answer.
func Unreachable(message string) *apierrors.StatusError {
	return New(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, RetryAfter,
		"kube-apiserver is unreachable from this node: "+message)
}

// NotCached is the answer to a read that only kube-apiserver can answer. It is
// retried soon, since client-go repeats a request ten times before it gives up,
// and people wait for it.
func NotCached(message string) *apierrors.StatusError {
	s := Unreachable(message)
	s.ErrStatus.Details.RetryAfterSeconds = 1
	return s
}

// NeverCached is the answer to a read of what the cache never has. It asks for no
// retry: client-go would repeat the request ten times.
func NeverCached() *apierrors.StatusError {
	s := Unreachable("this kind of request is never answered from the cache")
	s.ErrStatus.Details = nil
	return s
}

// OutcomeUnknown is the answer to a write that was sent and never answered. It
// asks for no retry: the write may have been done.
func OutcomeUnknown() *apierrors.StatusError {
	return New(http.StatusGatewayTimeout, metav1.StatusReasonTimeout, 0,
		"kube-apiserver stopped answering before it confirmed this request, which may or may not have been carried out: read the object before trying again")
}

// BadRequest is the answer to a request that can't be understood.
func BadRequest(message string) *apierrors.StatusError { return apierrors.NewBadRequest(message) }

// Forbidden is the answer to a caller that is known but may not have what it
// asks for.
func Forbidden(message string) *apierrors.StatusError {
	return New(http.StatusForbidden, metav1.StatusReasonForbidden, 0, message)
}

// written is an error that is answered in a media type of its own.
type written struct {
	error
	mediaType string
}

// Unwrap makes the error itself known to errors.As.
func (w written) Unwrap() error { return w.error }

// In returns an error that Write answers in a media type: application/json,
// application/yaml, application/cbor or application/vnd.kubernetes.protobuf.
func In(mediaType string, err error) error { return written{err, mediaType} }

// Write answers a request with an error, as JSON, which every client of
// Kubernetes understands, unless In says otherwise. An error that is no Status is
// an internal one.
func Write(w http.ResponseWriter, err error) {
	mediaType := "application/json"
	if in, ok := errors.AsType[written](err); ok {
		mediaType = in.mediaType
	}
	var apiStatus apierrors.APIStatus
	if !errors.As(err, &apiStatus) {
		apiStatus = apierrors.NewInternalError(err)
	}
	s := apiStatus.Status()
	s.Kind, s.APIVersion = "Status", "v1"
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Cache-Control", "no-cache, private")
	h.Set("X-Content-Type-Options", "nosniff")
	if s.Details != nil && s.Details.RetryAfterSeconds > 0 {
		h.Set("Retry-After", strconv.Itoa(int(s.Details.RetryAfterSeconds)))
	}
	if s.Code == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer") // RFC 9110, 11.6.1
	}
	body, err := Encode(mediaType, &s)
	if err != nil { // cannot be: a Status has only plain fields
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.WriteHeader(int(s.Code))
	_, _ = w.Write(body) // the client may be gone
}

// Encode writes a Status in one of the media types of In.
func Encode(mediaType string, s *metav1.Status) ([]byte, error) {
	switch mediaType {
	case "application/yaml":
		return yaml.Marshal(s)
	case "application/cbor":
		body, err := cbor.Marshal(s)
		return append([]byte{0xd9, 0xd9, 0xf7}, body...), err // RFC 8949, 3.4.6: it is CBOR
	case "application/vnd.kubernetes.protobuf":
		raw, err := s.Marshal()
		if err != nil {
			return nil, err
		}
		envelope := runtime.Unknown{TypeMeta: runtime.TypeMeta{Kind: s.Kind, APIVersion: s.APIVersion}, Raw: raw}
		body, err := envelope.Marshal()
		return append([]byte("k8s\x00"), body...), err
	}
	body, err := json.Marshal(s)
	return append(body, '\n'), err
}
