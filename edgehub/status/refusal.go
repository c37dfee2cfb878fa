package status

import (
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TooMany is the answer to a request that is more than the limit set by a flag
// allows. It is worth asking again.
func TooMany(flag string) *apierrors.StatusError {
	return New(http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests, 1,
		fmt.Sprintf("edge-hub on this node already serves as many requests as --%s allows: end some, or ask again later", flag))
}

// TooLarge is the answer to a request whose body is larger than is passed on.
func TooLarge(limit int64) *apierrors.StatusError {
	return New(http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge, 0,
		fmt.Sprintf("the request's body is larger than the %d bytes that edge-hub passes on", limit))
}

// HeaderTooLarge is the answer to a request whose header is larger than may be kept
// for as long as it lasts.
func HeaderTooLarge(limit int) *apierrors.StatusError {
	return New(http.StatusRequestHeaderFieldsTooLarge, metav1.StatusReasonBadRequest, 0,
		fmt.Sprintf("the request's header and URL have more than the %d bytes that edge-hub keeps while a watch or the like lasts", limit))
}

// TooSlow is the answer to a request whose body did not come in time.
func TooSlow() *apierrors.StatusError {
	return New(http.StatusRequestTimeout, metav1.StatusReasonTimeout, 0, "the request's body did not come in time")
}
