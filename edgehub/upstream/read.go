package upstream

import (
	"io"
	"net/http"
	"strings"

	"k8s.io/klog/v2"
)

// reads proxies requests that have no body and whose responses end by
// themselves. It does for them what httputil.ReverseProxy does, without the
// copies and goroutines that others need.
type reads struct {
	transport http.RoundTripper
	failed    func(http.ResponseWriter, *http.Request, error)
}

func (p *reads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	removeHopHeaders(r.Header)
	for _, name := range forwardHeaders {
		delete(r.Header, name)
	}
	if _, ok := r.Header["User-Agent"]; !ok {
		r.Header["User-Agent"] = []string{""} // keeps Go's own from being sent
	}
	resp, err := p.transport.RoundTrip(r)
	if err != nil {
		p.failed(w, r, err)
		return
	}
	// A buffered reader knows whether more has come. Hooks may wrap it.
	incoming, _ := resp.Body.(interface{ waits() bool })
	if err := callHooks(resp); err != nil {
		_ = resp.Body.Close()
		p.failed(w, r, err)
		return
	}
	removeHopHeaders(resp.Header)
	header := w.Header()
	for name, values := range resp.Header {
		header[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	err = copyBody(w, resp.Body, incoming)
	_ = resp.Body.Close()
	if err != nil {
		if r.Context().Err() == nil {
			klog.V(2).InfoS("Response broke off", "path", r.URL.Path, "reason", err)
		}
		panic(http.ErrAbortHandler) // so that the client sees that it is not whole
	}
}

// copyBody passes on what has come before it waits for more. What comes at once
// goes out at once, in as few pieces as may be.
func copyBody(w http.ResponseWriter, body io.Reader, incoming interface{ waits() bool }) error {
	buffer := buffers.Get()
	defer buffers.Put(buffer)
	flusher := http.NewResponseController(w)
	for {
		n, err := body.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case incoming == nil || incoming.waits():
			if err := flusher.Flush(); err != nil {
				return err
			}
		}
	}
}

// hopHeaders concern one connection (RFC 9110, 7.6.1, and their forerunners).
var hopHeaders = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// forwardHeaders are for a proxy that its server trusts.
var forwardHeaders = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

func removeHopHeaders(h http.Header) {
	for _, value := range h["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopHeaders {
		delete(h, name)
	}
}
