package upstream

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"
)

// aheadServer answers each request without end, and says how much of all it has sent.
func aheadServer(t *testing.T) (*Transport, *atomic.Int64) {
	t.Helper()
	sent := new(atomic.Int64)
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
	return rt, sent
}

// openUnread opens watches that nobody reads, of a client if there is one.
func openUnread(t *testing.T, rt http.RoundTripper, n int, of *Client) (bodies []io.ReadCloser) {
	t.Helper()
	ctx := request.WithRequestInfo(t.Context(), &request.RequestInfo{IsResourceRequest: true, Verb: "watch"})
	if of != nil {
		ctx = WithNarrowBuffer(ctx, *of)
	}
	for range n {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://kube-apiserver/api/v1/pods?watch=1", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		bodies = append(bodies, resp.Body)
	}
	return bodies
}

// TestLittleIsSentAheadOfANarrowBuffer, and more of others, while nobody reads. A client's
// many streams together have little, and no other client has less for that.
func TestLittleIsSentAheadOfANarrowBuffer(t *testing.T) {
	rt, sent := aheadServer(t)
	expect := func(what string, least, most int64, open func()) {
		t.Helper()
		before := int64(-1)
		eventually(t, "nothing more of those before", func() bool {
			is := sent.Load() == before
			before = sent.Load()
			time.Sleep(100 * time.Millisecond)
			return is && sent.Load() == before
		})
		open()
		eventually(t, "as much as may be", func() bool { return sent.Load()-before >= least })
		time.Sleep(100 * time.Millisecond) // for more, which must not come
		if n := sent.Load() - before; n > most {
			t.Errorf("%s: %d bytes were sent ahead, of at most %d", what, n, most)
		}
	}
	const itself = 4 * narrowBuffer // what the server itself buffers of each
	expect("a stream like others", streamBuffer, 2*streamBuffer, func() { openUnread(t, rt, 1, nil) })
	first := Client{Name: "app", Tenant: "shop", Address: "10.0.0.1"}
	expect("many of one client", laneBuffer, 2*laneBuffer+40*itself, func() { openUnread(t, rt, 40, &first) })
	second := first
	second.Address = "10.0.0.2"
	expect("one of another Pod", laneStream, 2*laneStream, func() { openUnread(t, rt, 1, &second) })
	for i := range maxLanes {
		openUnread(t, rt, 1, &Client{Name: fmt.Sprint(i)})
	}
	expect("one of a client too many", narrowBuffer, itself, func() { openUnread(t, rt, 1, &Client{Name: "late"}) })
}

// TestLanesAreForAllTenants, and are given to others once they are not used.
func TestLanesAreForAllTenants(t *testing.T) {
	opened := 0
	l := lanes{open: func() *http.Transport { opened++; return &http.Transport{} }}
	take := func(c Client) (done func()) {
		rt, done := l.take(c)
		if rt == nil {
			return nil
		}
		return done
	}
	var ends []func()
	for i := range maxTenantLanes {
		ends = append(ends, take(Client{"app", "shop", fmt.Sprint(i)}), take(Client{"app", "shop", fmt.Sprint(i)}))
	}
	if opened != maxTenantLanes {
		t.Errorf("%d lanes for %d clients", opened, maxTenantLanes)
	}
	if take(Client{"app", "shop", "more"}) != nil {
		t.Error("a tenant has more than its part")
	}
	for i := maxTenantLanes; i < maxLanes; i++ {
		if take(Client{Name: fmt.Sprint(i)}) == nil {
			t.Errorf("no lane for client %d", i)
		}
	}
	if take(Client{Name: "late"}) != nil {
		t.Error("there are more lanes than may be")
	}
	ends[0]()
	if take(Client{Name: "late"}) != nil {
		t.Error("a lane is taken from a client that has a stream in it")
	}
	ends[1]()
	ends[1]() // closing twice counts once
	if take(Client{Name: "late"}) == nil || len(l.byClient) != maxLanes {
		t.Errorf("a lane that is not used is not given to others: there are %d", len(l.byClient))
	}
}
