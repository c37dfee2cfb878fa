package middleware

import (
	"net/http"
	"strings"

	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/edgehub/capture"
	"github.com/edgehub-io/edge-hub/edgehub/rewrite"
)

// WithRewrite shows this node's kubelet and kube-proxy the hub in the place of
// kube-apiserver, see package rewrite, in what next answers from wherever. What is
// asked for in another form than as the objects themselves is left alone.
func WithRewrite(endpoint rewrite.Endpoint, isNode func(*http.Request) bool, next http.Handler) http.Handler {
	if !endpoint.IsValid() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agent := hubconfig.AgentOf(r.UserAgent())
		var rewriter *rewrite.Rewriter
		if r.Method == http.MethodGet && !strings.Contains(r.Header.Get("Accept"), "as=") {
			caller := rewrite.Caller{Agent: agent, Node: agent == "kubelet" && isNode(r)}
			rewriter = endpoint.For(caller, requestInfo(r))
		}
		if rewriter == nil {
			next.ServeHTTP(w, r)
			return
		}
		out := &rewritten{ResponseWriter: w, rewriter: rewriter}
		defer out.stop()
		next.ServeHTTP(out, r)
		// A watch that breaks off in an event ends as if before it: its client
		// goes on from the last one that it has.
		if err := out.close(); err != nil && requestInfo(r).Verb != "watch" {
			if r.Context().Err() == nil {
				klog.ErrorS(err, "Answer could not be rewritten", "agent", printable(agent), "path", printable(r.URL.Path))
			}
			panic(http.ErrAbortHandler) // so that the client sees that it is not whole
		}
	})
}

// rewritten is an answer that is changed on its way.
type rewritten struct {
	http.ResponseWriter
	rewriter *rewrite.Rewriter
	wrote    bool
	body     *rewrite.Writer // nil if the answer is passed on as it is
}

// WriteHeader implements http.ResponseWriter.
func (w *rewritten) WriteHeader(code int) {
	if code >= http.StatusOK && !w.wrote {
		w.wrote = true
		if code == http.StatusOK {
			w.begin()
		}
	}
	w.ResponseWriter.WriteHeader(code)
}

// begin looks at how the body is written.
func (w *rewritten) begin() {
	h := w.Header()
	mediaType, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	var enc capture.Encoding
	switch strings.TrimSpace(mediaType) {
	case "application/json":
		enc = capture.JSON
	case "application/vnd.kubernetes.protobuf":
		enc = capture.Protobuf
	default:
		return
	}
	encoding := h.Get("Content-Encoding")
	switch encoding {
	case "", "identity", "gzip":
	default:
		return
	}
	h.Del("Content-Length")
	h.Del("Content-Encoding")
	w.body = w.rewriter.NewWriter(w.ResponseWriter, enc, encoding == "gzip")
}

// Write implements io.Writer.
func (w *rewritten) Write(b []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	if w.body == nil {
		return w.ResponseWriter.Write(b)
	}
	return w.body.Write(b)
}

// Unwrap is for http.ResponseController. What was written and could be passed on
// has been.
func (w *rewritten) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// close ends an answer that next has written to its end.
func (w *rewritten) close() error {
	if w.body == nil {
		return nil
	}
	return w.body.Close()
}

// stop gives an answer up that was not closed, as after a panic.
func (w *rewritten) stop() {
	if w.body != nil {
		w.body.Stop()
	}
}
