package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/edgehub-io/edge-hub/api/v1alpha1"
)

const (
	// fieldManager owns what the hub writes by server-side apply.
	fieldManager = "edge-hub"
	// maxAnswer is how much of an answer is read.
	maxAnswer = 4 << 20
	nodesPath = "/apis/" + v1alpha1.GroupName + "/v1alpha1/edgehubnodes/"
)

// client writes one EdgeHubNode. A client of a library for all kinds of objects
// would make the program larger than the rest of this package several times over.
type client struct {
	http *http.Client
	node string
}

// applied is an EdgeHubNode as the hub applies it.
type applied struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        appliedMeta                 `json:"metadata"`
	Status          *v1alpha1.EdgeHubNodeStatus `json:"status,omitempty"`
}

type appliedMeta struct {
	Name            string                  `json:"name"`
	OwnerReferences []metav1.OwnerReference `json:"ownerReferences,omitempty"`
}

// path is that of the EdgeHubNode.
func (c *client) path() string { return nodesPath + url.PathEscape(c.node) }

var errNoNode = errors.New("the Node does not exist yet")

// get returns the EdgeHubNode, an empty one if there is none.
func (c *client) get(ctx context.Context) (*v1alpha1.EdgeHubNode, error) {
	var node v1alpha1.EdgeHubNode
	err := c.do(ctx, http.MethodGet, c.path(), "", nil, &node)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("read EdgeHubNode: %w", err)
	}
	return &node, nil
}

// apply reports a status. The EdgeHubNode is made if there is none. It returns the
// resourceVersion.
func (c *client) apply(ctx context.Context, status *v1alpha1.EdgeHubNodeStatus) (string, error) {
	version, err := c.applyStatus(ctx, status)
	if !apierrors.IsNotFound(err) {
		return version, err
	}
	if err := c.create(ctx); err != nil {
		return "", err
	}
	return c.applyStatus(ctx, status)
}

func (c *client) applyStatus(ctx context.Context, status *v1alpha1.EdgeHubNodeStatus) (string, error) {
	var node metav1.PartialObjectMetadata
	if err := c.patch(ctx, "/status", &applied{Metadata: appliedMeta{Name: c.node}, Status: status}, &node); err != nil {
		return "", fmt.Errorf("apply status of EdgeHubNode: %w", err)
	}
	return node.ResourceVersion, nil
}

// create makes the EdgeHubNode, owned by its Node.
func (c *client) create(ctx context.Context) error {
	var node metav1.PartialObjectMetadata
	err := c.do(ctx, http.MethodGet, "/api/v1/nodes/"+url.PathEscape(c.node), "", nil, &node)
	switch {
	case apierrors.IsNotFound(err):
		return errNoNode
	case err != nil:
		return fmt.Errorf("read Node: %w", err)
	}
	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: c.node, UID: node.UID}
	if err := c.patch(ctx, "", &applied{Metadata: appliedMeta{c.node, []metav1.OwnerReference{owner}}}, nil); err != nil {
		return fmt.Errorf("create EdgeHubNode: %w", err)
	}
	return nil
}

func (c *client) patch(ctx context.Context, subresource string, object *applied, into any) error {
	object.Kind, object.APIVersion = "EdgeHubNode", v1alpha1.GroupVersion.String()
	body, err := json.Marshal(object)
	if err != nil {
		return err
	}
	path := c.path() + subresource + "?fieldManager=" + fieldManager + "&force=true"
	return c.do(ctx, http.MethodPatch, path, string(types.ApplyPatchType), body, into)
}

// request is a request. Where it goes is the http.Client's to say.
func (c *client) request(ctx context.Context, method, path string, body []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://kube-apiserver"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "edge-hub")
	return req, nil
}

// do sends a request.
func (c *client) do(ctx context.Context, method, path, contentType string, body []byte, into any) error {
	req, err := c.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil:
		return err
	case resp.StatusCode >= http.StatusBadRequest:
		return statusError(resp, answer)
	case into == nil:
		return nil
	}
	return json.Unmarshal(answer, into)
}

func statusError(resp *http.Response, answer []byte) error {
	var status metav1.Status
	if json.Unmarshal(answer, &status) != nil || status.Kind != "Status" {
		status = metav1.Status{Status: metav1.StatusFailure, Code: int32(resp.StatusCode), Message: resp.Status}
		if resp.StatusCode == http.StatusNotFound {
			status.Reason = metav1.StatusReasonNotFound
		}
	}
	return &apierrors.StatusError{ErrStatus: status}
}
