package report

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// The EdgeHubNode goes with its Node, which may be made anew, and a person may delete
// it. The hub notices by one watch of this one object, which costs no request as long
// as it is open.

// watching is a watch of the EdgeHubNode. The zero value is closed.
type watching struct {
	cancel context.CancelFunc // nil if it is closed
	ended  chan end
	after  time.Time // when it may be opened again
}

// end is how a watch ended: at which resourceVersion, and why. It goes on from there
// if err is nil.
type end struct {
	version string
	err     error
}

var (
	errGone = errors.New("the EdgeHubNode was deleted")
	// errExpired asks for a look at what is there now.
	errExpired = errors.New("the watch can't go on from where it ended")
)

// follow keeps a watch open from where the EdgeHubNode is known, and learns that it is
// gone.
func (r *Reporter) follow(ctx context.Context, now time.Time) {
	w := &r.watch
	if w.cancel != nil {
		select {
		case e := <-w.ended:
			w.close()
			r.ended(now, e)
		default:
			return
		}
	}
	if r.version == "" || now.Before(w.after) {
		return
	}
	ctx, w.cancel = context.WithCancel(ctx)
	w.ended = make(chan end, 1)
	ended, version := w.ended, r.version
	go func() {
		version, err := r.client.watch(ctx, version, checkPeriod/2+rand.N(checkPeriod/2))
		ended <- end{version, err}
	}()
}

// ended draws the conclusions from the end of a watch.
func (r *Reporter) ended(now time.Time, e end) {
	r.version = e.version
	r.watch.after = now.Add(rand.N(2 * r.options.Period)) // not all hubs in one moment
	switch {
	case errors.Is(e.err, errGone), errors.Is(e.err, errExpired):
		r.last, r.version = nil, ""
		r.after = now.Add(rand.N(r.options.Period))
	case apierrors.IsForbidden(e.err), apierrors.IsNotFound(e.err):
		r.watch.after = now.Add(checkPeriod) // until then it is looked for now and then
	}
}

// close ends the watch.
func (w *watching) close() {
	if w.cancel != nil {
		w.cancel()
	}
	w.cancel, w.ended = nil, nil
}

// watch returns once the EdgeHubNode is deleted, or the watch has ended otherwise.
func (c *client) watch(ctx context.Context, version string, timeout time.Duration) (last string, err error) {
	query := url.Values{
		"watch": {"true"}, "allowWatchBookmarks": {"true"}, "fieldSelector": {"metadata.name=" + c.node},
		"resourceVersion": {version}, "timeoutSeconds": {strconv.Itoa(int(timeout.Seconds()))},
	}
	req, err := c.request(ctx, http.MethodGet, nodesPath[:len(nodesPath)-1]+"?"+query.Encode(), nil)
	if err != nil {
		return version, err
	}
	req.Header.Set("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
	resp, err := c.http.Do(req)
	if err != nil {
		return version, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		err := statusError(resp, answer)
		if resp.StatusCode == http.StatusGone {
			err = errExpired
		}
		return version, err
	}
	for events := json.NewDecoder(resp.Body); ; {
		var event struct {
			Type   watch.EventType              `json:"type"`
			Object metav1.PartialObjectMetadata `json:"object"`
		}
		if err := events.Decode(&event); err != nil {
			return version, nil //nolint:nilerr // it ended, as watches do
		}
		switch event.Type {
		case watch.Deleted:
			return version, errGone
		case watch.Error: // most often 410
			return version, errExpired
		}
		version = event.Object.ResourceVersion
	}
}
