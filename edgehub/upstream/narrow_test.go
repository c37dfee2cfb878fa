package upstream

import (
	"bytes"
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"
)

// TestLittleIsSentAheadOfANarrowBuffer, and more of others, while nobody reads.
func TestLittleIsSentAheadOfANarrowBuffer(t *testing.T) {
	var sent atomic.Int64
	s := newServer(t)
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		piece := bytes.Repeat([]byte("x"), 1024)
		for r.Context().Err() == nil {
			if _, err := w.Write(piece); err != nil {
				return
			}
			sent.Add(int64(len(piece)))
		}
	})
	_, rt := newUpstream(t, s)
	watch := request.WithRequestInfo(t.Context(), &request.RequestInfo{IsResourceRequest: true, Verb: "watch"})
	for _, c := range []struct {
		ctx      context.Context
		min, max int64
	}{
		{WithNarrowBuffer(watch), narrowBuffer, 4 * narrowBuffer}, // and what the server itself buffers
		{watch, streamBuffer, 2 * streamBuffer},
	} {
		before := sent.Load()
		req, err := http.NewRequestWithContext(c.ctx, http.MethodGet, "https://kube-apiserver/api/v1/pods?watch=1", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "as much as may be", func() bool { return sent.Load()-before >= c.min })
		time.Sleep(100 * time.Millisecond) // for more, which must not come
		if n := sent.Load() - before; n > c.max {
			t.Errorf("%d bytes were sent ahead, of at most %d", n, c.max)
		}
		resp.Body.Close()
	}
}
