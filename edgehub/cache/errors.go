package cache

import (
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/edgehub-io/edge-hub/edgehub/status"
)

// errNotCached is the answer for what was never read while kube-apiserver was
// reachable, or is no longer kept.
func errNotCached(q Query) error {
	what := "this"
	if q.Key.Resource != "" {
		what = fmt.Sprintf("%s %s", q.verb(), groupResource(q.Key))
	}
	return status.NotCached(fmt.Sprintf("%s has not cached what is asked for (%s), so it can be answered only once the cloud is back", q.Key.Agent, what))
}

func (q Query) verb() string {
	switch q.Verb {
	case Get:
		return "get"
	case List:
		return "list"
	case Watch:
		return "watch"
	}
	return "get"
}

func groupResource(k Key) schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Resource}
}

// errTooLarge is kube-apiserver's answer to a resourceVersion in the future.
func errTooLarge(asked, have uint64) *apierrors.StatusError {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", asked, have), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version",
	}}
	return err
}

// errExpired is kube-apiserver's answer to a watch from a resourceVersion that
// it no longer knows the changes of.
func errExpired(asked, oldest uint64) *apierrors.StatusError {
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", asked, oldest))
}

// errContinueExpired is kube-apiserver's answer to a continue token whose state
// is no longer there. It has a token that goes on with the present state.
func errContinueExpired(token continueToken) error {
	token.ResourceVersion = -1
	err := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. " +
		"You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. " +
		"Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between " +
		"the time the first chunk was returned and now may show up in the list.")
	err.ErrStatus.Continue = token.encode()
	return err
}

// isNotCached reports whether an error says that there is no data, rather than
// that the data gives this answer.
func isNotCached(err error) bool {
	var s *apierrors.StatusError
	return errors.As(err, &s) && s.ErrStatus.Reason == metav1.StatusReasonServiceUnavailable
}
