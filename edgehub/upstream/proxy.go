package upstream

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"strings"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/klog/v2"
)

// ErrGateway is the error of a request that something in front of
// kube-apiserver answered in its place.
var ErrGateway = errors.New("a gateway answered for kube-apiserver")

// Hooks take part in how one request is proxied.
type Hooks struct {
	// Response is called with kube-apiserver's response before any of it is
	// passed on. It may replace the body. An error sends the request to
	// Failed.
	Response func(*http.Response) error
	// Failed answers a request that got no response.
	Failed func(http.ResponseWriter, *http.Request, error)
}

type hooksKey struct{}

// WithHooks returns a context for a request that is proxied with hooks.
func WithHooks(ctx context.Context, hooks *Hooks) context.Context {
	return context.WithValue(ctx, hooksKey{}, hooks)
}

// Proxy returns the handler that passes requests to kube-apiserver through rt
// as they came, less what only concerns the connection (RFC 9110, 7.6.1) or
// claims to come from a proxy. failed answers those without hooks that got no
// response.
func Proxy(rt http.RoundTripper, failed func(http.ResponseWriter, *http.Request, error)) http.Handler {
	fail := func(w http.ResponseWriter, r *http.Request, err error) {
		if hooks, ok := r.Context().Value(hooksKey{}).(*Hooks); ok {
			hooks.Failed(w, r, err)
			return
		}
		failed(w, r, err)
	}
	reverse := &httputil.ReverseProxy{
		Transport:  rt,
		BufferPool: buffers{},
		ErrorLog:   log.New(klogWriter{}, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) {
			// Where it goes is the transport's to say.
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "https", "kube-apiserver", ""
			// What Go's own parser does not read of it may mean something to a Pod
			// that kube-apiserver is a proxy for.
			r.Out.URL.RawQuery = r.In.URL.RawQuery
			if _, ok := r.Out.Header["User-Agent"]; !ok {
				r.Out.Header.Set("User-Agent", "") // keeps Go's own from being sent
			}
			// The hub's own server asks for a body when it is read, and then it is
			// sent at once. With the header kube-apiserver would ask, too, and its
			// 100 be passed on as a second one (RFC 9110, 10.1.1).
			r.Out.Header.Del("Expect")
		},
		ModifyResponse: callHooks,
		ErrorHandler:   fail,
	}
	reads := &reads{transport: rt, failed: fail}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isRead(r) {
			reads.ServeHTTP(w, r)
			return
		}
		reverse.ServeHTTP(w, r)
	})
}

func callHooks(resp *http.Response) error {
	if hooks, ok := resp.Request.Context().Value(hooksKey{}).(*Hooks); ok {
		return hooks.Response(resp)
	}
	return nil
}

// FromGateway reports whether a response says that kube-apiserver could not be
// reached, rather than coming from it: kube-apiserver gives each of its own an
// Audit-Id.
func FromGateway(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return resp.Header.Get("Audit-Id") == ""
	}
	return false
}

// MayRefuse reports whether a refusal may be kube-apiserver's own. What stands in front
// of it refuses requests too, such as all of them while its routes are changed, with a
// page or a line of text. An object without an Audit-Id counts, for a gateway may
// have taken that away: what is withdrawn for nothing comes back, what is not leaks.
func MayRefuse(resp *http.Response) bool {
	return resp.Header.Get("Audit-Id") != "" || strings.HasPrefix(resp.Header.Get("Content-Type"), "application/")
}

// endWatch lets a watch end as if by its timeout when its connection to
// kube-apiserver is lost: the client continues it where it was, from the cache
// or elsewhere. Any other body that breaks off must look broken.
func endWatch(resp *http.Response) {
	if b, ok := resp.Body.(*body); ok && resp.StatusCode == http.StatusOK && isWatch(resp.Request) {
		resp.Body = watchBody{b}
	}
}

func isWatch(r *http.Request) bool {
	info, ok := request.RequestInfoFrom(r.Context())
	return ok && info.IsResourceRequest && info.Verb == "watch"
}

type watchBody struct{ *body }

// Read implements io.Reader.
func (b watchBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err != nil && b.request.Err() == nil {
		err = io.EOF
	}
	return n, err
}

// klogWriter passes on what the reverse proxy has to say.
type klogWriter struct{}

// Write implements io.Writer.
func (klogWriter) Write(b []byte) (int, error) {
	klog.V(2).InfoS("Proxy", "message", strings.TrimSpace(string(b)))
	return len(b), nil
}
