package report

import (
	"context"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Delete deletes the EdgeHubNode of a Node whose hub is taken away for good, lest it
// goes on to say what was cached there. hub sends requests as that hub. That there
// is none is no error.
func Delete(ctx context.Context, hub *http.Client, node string) error {
	c := client{hub, node}
	if err := c.do(ctx, http.MethodDelete, c.path(), "", nil, nil); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete EdgeHubNode %s: %w", node, err)
	}
	return nil
}
