package middleware

import (
	"fmt"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/api/hubconfig"
	"github.com/edgehub-io/edge-hub/edgehub/capture"
	"github.com/edgehub-io/edge-hub/edgehub/rewrite"
	"github.com/edgehub-io/edge-hub/edgehub/status"
)

// WithRewrite shows this node's kubelet and kube-proxy the hub in the place of
// kube-apiserver, see package rewrite, in what next answers from wherever. What is
// asked for in another form than as the objects themselves is left alone. Of the media
// types that are accepted for the objects, those that can't be rewritten are not asked
// for: nobody is shown kube-apiserver by accident.
func WithRewrite(endpoint rewrite.Endpoint, isNode func(*http.Request) bool, next http.Handler) http.Handler {
	if !endpoint.IsValid() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rewriter := rewriterOf(endpoint, isNode, r); rewriter != nil {
			withRewriter(rewriter, next, w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// rewriterOf returns nil for what is left alone.
func rewriterOf(endpoint rewrite.Endpoint, isNode func(*http.Request) bool, r *http.Request) *rewrite.Rewriter {
	if r.Method != http.MethodGet || strings.Contains(accepted(r), "as=") {
		return nil
	}
	agent := hubconfig.AgentOf(r.UserAgent())
	return endpoint.For(rewrite.Caller{Agent: agent, Node: agent == "kubelet" && isNode(r)}, requestInfo(r))
}

func accepted(r *http.Request) string { return strings.Join(r.Header.Values("Accept"), ",") }

func withRewriter(rewriter *rewrite.Rewriter, next http.Handler, w http.ResponseWriter, r *http.Request) {
	agent, accept := hubconfig.AgentOf(r.UserAgent()), accepted(r)
	switch known := readable(accept); known {
	case accept:
	case "":
		status.Write(w, status.New(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, 0,
			fmt.Sprintf("edge-hub shows %s itself in the place of kube-apiserver, which it can do in JSON and protobuf only", printable(agent))))
		return
	default:
		r.Header.Set("Accept", known)
	}
	out := &rewritten{ResponseWriter: w, rewriter: rewriter, path: r.URL.Path}
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
}

// rewritten is an answer that is changed on its way.
type rewritten struct {
	http.ResponseWriter
	rewriter *rewrite.Rewriter
	path     string
	wrote    bool
	body     *rewrite.Writer // nil if the answer is passed on as it is
	refused  error           // why it is not passed on at all, which has been answered
}

// WriteHeader implements http.ResponseWriter.
func (w *rewritten) WriteHeader(code int) {
	if code >= http.StatusOK && !w.wrote {
		w.wrote = true
		if code == http.StatusOK {
			w.refused = w.begin()
		}
		if w.refused != nil {
			klog.ErrorS(w.refused, "An answer was not passed on", "path", printable(w.path))
			clear(w.Header())
			status.Write(w.ResponseWriter, w.refused)
			_ = http.NewResponseController(w.ResponseWriter).Flush() // before it is broken off
			return
		}
	}
	w.ResponseWriter.WriteHeader(code)
}

// begin looks at how the body is written.
func (w *rewritten) begin() error {
	h := w.Header()
	mediaType, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	var enc capture.Encoding
	switch strings.TrimSpace(mediaType) {
	case typeJSON:
		enc = capture.JSON
	case typeProtobuf:
		enc = capture.Protobuf
	default:
		return fmt.Errorf("kube-apiserver answered in %q, which can't be rewritten", mediaType)
	}
	encoding := h.Get("Content-Encoding")
	switch encoding {
	case "", "identity", "gzip":
	default:
		return fmt.Errorf("kube-apiserver answered in the encoding %q, which can't be rewritten", encoding)
	}
	h.Del("Content-Length")
	h.Del("Content-Encoding")
	w.body = w.rewriter.NewWriter(w.ResponseWriter, enc, encoding == "gzip")
	return nil
}

// Write implements io.Writer.
func (w *rewritten) Write(b []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	switch {
	case w.refused != nil:
		return 0, w.refused
	case w.body == nil:
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
