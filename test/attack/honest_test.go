package attack

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgehub-io/edge-hub/test/hub"
)

// patience is how long a program may have to wait for an answer or an event. A hub
// on a machine that is busy with other things may take its cloud for gone, for
// some seconds.
const patience = 15 * time.Second

// honest is a program that reads and watches all the time. It comes back when it
// is told to, as every client of Kubernetes does.
type honest struct {
	w      *world
	token  string
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	times    []time.Duration // of GETs
	asked    time.Time       // the latest of them
	fresh    int             // on a new connection
	returns  int             // after a 429 or a 503
	events   int
	watches  int           // that ended
	late     time.Duration // the latest event
	sent     map[int]time.Time
	failures []string
}

// startHonest starts a program that goes on until the test ends.
func startHonest(w *world, token string) *honest {
	ctx, cancel := context.WithCancel(w.Context())
	h := &honest{w: w, token: token, cancel: cancel, sent: map[int]time.Time{}}
	h.wg.Go(func() { h.get(ctx) })
	watching := make(chan struct{})
	h.wg.Go(func() { h.watch(ctx, watching) })
	<-watching
	h.wg.Go(func() { h.change(ctx) })
	w.Cleanup(h.stop)
	return h
}

func (h *honest) stop() {
	h.cancel()
	h.wg.Wait()
}

func (h *honest) fail(ctx context.Context, format string, args ...any) {
	if ctx.Err() == nil {
		h.mu.Lock()
		h.failures = append(h.failures, fmt.Sprintf(format, args...))
		h.mu.Unlock()
	}
}

func (h *honest) get(ctx context.Context) {
	kept, fresh := h.w.dial(), h.w.dial()
	fresh.Transport.(*http.Transport).DisableKeepAlives = true
	for n := 0; ctx.Err() == nil; n++ {
		client := kept
		if n%10 == 9 {
			client = fresh
		}
		start := time.Now()
		h.mu.Lock()
		h.asked = start
		h.mu.Unlock()
		resp, err := hub.Do(ctx, client, h.w.hub.URL(), hub.Request{Path: "/api/v1/namespaces/calm/configmaps/c", Token: h.token, UserAgent: "edge-app/1"})
		for err == nil && h.comesBack(ctx, resp.Code, resp.Header) {
			resp, err = hub.Do(ctx, client, h.w.hub.URL(), hub.Request{Path: "/api/v1/namespaces/calm/configmaps/c", Token: h.token, UserAgent: "edge-app/1"})
		}
		switch {
		case err != nil:
			h.fail(ctx, "GET %d: %v", n, err)
		case resp.Code != http.StatusOK:
			h.fail(ctx, "GET %d: %d %s", n, resp.Code, resp.Body)
		}
		h.mu.Lock()
		h.times = append(h.times, time.Since(start))
		if client == fresh {
			h.fresh++
		}
		h.mu.Unlock()
		time.Sleep(10 * time.Millisecond) // a program has other things to do, too
	}
}

// comesBack waits if an answer says when to come back, and reports whether to.
func (h *honest) comesBack(ctx context.Context, code int, header http.Header) bool {
	seconds, err := strconv.Atoi(header.Get("Retry-After"))
	if err != nil || code != http.StatusTooManyRequests && code != http.StatusServiceUnavailable {
		return false
	}
	h.mu.Lock()
	h.returns++
	h.mu.Unlock()
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Duration(seconds) * time.Second):
		return true
	}
}

// change changes an object, at kube-apiserver itself.
func (h *honest) change(ctx context.Context) {
	for n := 1; ctx.Err() == nil; n++ {
		h.mu.Lock()
		h.sent[n] = time.Now()
		h.mu.Unlock()
		patch := fmt.Appendf(nil, `{"data":{"n":"%d"}}`, n)
		if _, err := h.w.client.CoreV1().ConfigMaps("calm").Patch(ctx, "watched", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			h.fail(ctx, "change %d: %v", n, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// watch expects to hear of every change. It watches again when its watch ends, as
// every client does.
func (h *honest) watch(ctx context.Context, watching chan struct{}) {
	client := h.w.dial()
	client.Timeout = 0
	for ; ctx.Err() == nil; watching = nil {
		resp, err := hub.Open(ctx, client, h.w.hub.URL(), hub.Request{
			Path: "/api/v1/namespaces/calm/configmaps?watch=1&fieldSelector=metadata.name%3Dwatched&timeoutSeconds=600", Token: h.token, UserAgent: "edge-app/1",
		})
		if watching != nil {
			close(watching)
		}
		if err == nil && h.comesBack(ctx, resp.StatusCode, resp.Header) {
			_ = resp.Body.Close()
			continue
		}
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %d", resp.StatusCode)
		}
		if err == nil {
			err = h.listen(resp.Body)
			_ = resp.Body.Close()
		}
		if err != nil {
			h.fail(ctx, "watch: %v", err)
		}
		h.mu.Lock()
		h.watches++
		h.mu.Unlock()
	}
}

// listen reads events until a watch ends.
func (h *honest) listen(body io.Reader) error {
	lines := bufio.NewReader(body)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			if err == io.EOF && len(line) == 0 {
				return nil
			}
			return err
		}
		var event struct {
			Object struct{ Data map[string]string }
		}
		if err := json.Unmarshal(line, &event); err != nil {
			return fmt.Errorf("%w in %s", err, line)
		}
		n, _ := strconv.Atoi(event.Object.Data["n"])
		h.mu.Lock()
		h.events++
		maps.DeleteFunc(h.sent, func(m int, sent time.Time) bool {
			if m <= n { // a later state tells of those before it
				h.late = max(h.late, time.Since(sent))
			}
			return m <= n
		})
		h.mu.Unlock()
	}
}

// account tells how the program was served since the last time, and starts anew.
func (h *honest) account(t *testing.T, g *WithT) string {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	slices.Sort(h.times)
	g.Expect(h.times).NotTo(BeEmpty(), "not one answer")
	half, longest := h.times[len(h.times)/2], h.times[len(h.times)-1]
	text := fmt.Sprintf("%d GETs (%d on new connections), half within %v, all within %v; %d events, the latest after %v, the watch ended %d times; told to come back %d times; %d failures",
		len(h.times), h.fresh, half.Round(time.Millisecond), longest.Round(time.Millisecond), h.events, h.late.Round(time.Millisecond), h.watches, h.returns, len(h.failures))
	for _, failure := range h.failures[:min(3, len(h.failures))] {
		t.Error(failure)
	}
	g.Expect(h.failures).To(BeEmpty())
	g.Expect(half).To(BeNumerically("<", 2*time.Second))
	g.Expect(max(longest, time.Since(h.asked))).To(BeNumerically("<", patience))
	for n, sent := range h.sent {
		g.Expect(time.Since(sent)).To(BeNumerically("<", patience), "change %d was not heard of", n)
	}
	g.Expect(h.late).To(BeNumerically("<", patience))
	h.returns = 0
	h.times, h.fresh, h.events, h.watches, h.late, h.failures = nil, 0, 0, 0, 0, nil
	return text
}
