package upstream

import (
	"io"
	"net/http"
	"strings"
	"sync"

	"k8s.io/klog/v2"
)

// reads proxies requests for something to read. It does for them what
// httputil.ReverseProxy does, without the copies and goroutines that others
// need, nor a large buffer for a watch in which nothing happens.
type reads struct {
	transport http.RoundTripper
	failed    func(http.ResponseWriter, *http.Request, error)
}

func (p *reads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, pass := p.begin(w, r)
	if pass == nil {
		return
	}
	err := pass(w, body)
	_ = body.Close()
	if err != nil {
		if r.Context().Err() == nil {
			klog.V(2).InfoS("Response broke off", "path", r.URL.Path, "reason", err)
		}
		panic(http.ErrAbortHandler) // so that the client sees that it is not whole
	}
}

// begin gets a response and writes its header. It returns the body and how to pass it
// on, or nil if it has answered.
func (p *reads) begin(w http.ResponseWriter, r *http.Request) (body io.ReadCloser, pass func(http.ResponseWriter, io.Reader) error) {
	removeHopHeaders(r.Header)
	for _, name := range forwardHeaders {
		delete(r.Header, name)
	}
	if _, ok := r.Header["User-Agent"]; !ok {
		r.Header["User-Agent"] = []string{""} // keeps Go's own from being sent
	}
	r.Close = false // that is about the client's connection, not those of the hub
	resp, err := p.transport.RoundTrip(r)
	if err != nil {
		p.failed(w, r, err)
		return nil, nil
	}
	// A buffered reader knows whether more has come. Hooks may wrap it.
	incoming, _ := resp.Body.(interface{ waits() bool })
	endWatch(resp)
	if err := callHooks(resp); err != nil {
		_ = resp.Body.Close()
		p.failed(w, r, err)
		return nil, nil
	}
	removeHopHeaders(resp.Header)
	header := w.Header()
	for name, values := range resp.Header {
		header[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	if incoming != nil {
		return resp.Body, func(w http.ResponseWriter, body io.Reader) error { return copyBody(w, body, incoming) }
	}
	awaitsNothing, narrow := resp.ProtoMajor == 2, HasNarrowBuffer(r.Context())
	return resp.Body, func(w http.ResponseWriter, body io.Reader) error { return copyStream(w, body, awaitsNothing, narrow) }
}

// copyBody passes on a body that ends soon, in as few pieces as may be without
// holding back anything while more is waited for.
func copyBody(w http.ResponseWriter, body io.Reader, incoming interface{ waits() bool }) error {
	buffer := buffers{}.Get()
	defer buffers{}.Put(buffer)
	flusher := http.NewResponseController(w)
	for {
		n, err := body.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if err == nil && incoming.waits() {
			err = flusher.Flush()
		}
		if err != nil {
			return end(err)
		}
	}
}

// copyStream passes on each piece of a body as it comes. It waits with a small
// buffer, or with none if the body waits in a Read of nothing until there is
// something, as those of Go's HTTP/2 client do: most streams do little else. One of
// many (narrow) has no larger buffer at any time.
func copyStream(w http.ResponseWriter, body io.Reader, awaitsNothing, narrow bool) error {
	var small []byte
	if !awaitsNothing {
		buffer := smallBuffers.Get().(*[smallBuffer]byte)
		defer smallBuffers.Put(buffer)
		small = buffer[:]
	}
	flusher := http.NewResponseController(w)
	if err := flusher.Flush(); err != nil { // the header, long before the first event
		return err
	}
	for {
		n, err := pass(w, body, small, flusher)
		if err == nil && n == len(small) {
			err = passMore(w, body, flusher, narrow)
		}
		if err != nil {
			return end(err)
		}
	}
}

// passMore takes a larger buffer for as long as it is filled.
func passMore(w io.Writer, body io.Reader, flusher *http.ResponseController, narrow bool) error {
	var buffer []byte
	if narrow {
		small := smallBuffers.Get().(*[smallBuffer]byte)
		defer smallBuffers.Put(small)
		buffer = small[:]
	} else {
		buffer = buffers{}.Get()
		defer buffers{}.Put(buffer)
	}
	for {
		if n, err := pass(w, body, buffer, flusher); err != nil || n < len(buffer) {
			return err
		}
	}
}

func pass(w io.Writer, body io.Reader, buffer []byte, flusher *http.ResponseController) (int, error) {
	n, err := body.Read(buffer)
	if n > 0 {
		if _, err := w.Write(buffer[:n]); err != nil {
			return n, err
		}
		if err := flusher.Flush(); err != nil {
			return n, err
		}
	}
	return n, err
}

// end is nil for the end of a body.
func end(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

const (
	bufferSize  = 16 << 10 // a TLS record of either side
	smallBuffer = 2 << 10
)

var (
	largeBuffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}
	smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
)

// buffers implements httputil.BufferPool.
type buffers struct{}

// Get implements httputil.BufferPool.
func (buffers) Get() []byte { return largeBuffers.Get().(*[bufferSize]byte)[:] }

// Put implements httputil.BufferPool.
func (buffers) Put(b []byte) { largeBuffers.Put((*[bufferSize]byte)(b)) }

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
