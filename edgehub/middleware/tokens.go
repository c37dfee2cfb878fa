package middleware

import (
	"bytes"
	"io"
	"net/http"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/klog/v2"

	"github.com/edgehub-io/edge-hub/edgehub/tokens"
)

// WithTokens keeps what kube-apiserver answers to the TokenRequests of this node's
// kubelet, and answers the same request with it while kube-apiserver can't be
// asked. Nobody else's requests are looked at.
func WithTokens(kept *tokens.Tokens, isNode func(*http.Request) bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isTokenRequest(requestInfo(r)) && isNode(r) {
			withToken(kept, next, w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func withToken(kept *tokens.Tokens, next http.Handler, w http.ResponseWriter, r *http.Request) {
	info := requestInfo(r)
	body, err := io.ReadAll(io.LimitReader(r.Body, tokens.MaxBody+1))
	rest := r.Body
	if err != nil {
		rest = io.NopCloser(failing{err})
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), rest), r.Body}
	if err != nil || len(body) > tokens.MaxBody {
		next.ServeHTTP(w, r)
		return
	}
	q := tokens.NewRequest(r, info.Namespace, info.Name, body)
	out := &tokenAnswer{ResponseWriter: w, find: func() (tokens.Answer, bool) { return kept.Find(q) }}
	next.ServeHTTP(out, r)
	switch {
	case out.replay:
		exchangeOf(r.Context()).Source = sourceCache
		klog.V(2).InfoS("The kubelet got a token again", "namespace", printable(info.Namespace), "serviceAccount", printable(info.Name))
		out.write()
	case out.keep && out.answer.Body != nil:
		out.answer.ContentType = w.Header().Get("Content-Type")
		kept.Keep(q, out.answer)
	}
}

func isTokenRequest(info *request.RequestInfo) bool {
	return info.IsResourceRequest && info.Verb == "create" && info.APIGroup == "" && info.APIVersion == "v1" &&
		info.Resource == "serviceaccounts" && info.Subresource == "token"
}

// failing is a body that could not be read.
type failing struct{ err error }

// Read implements io.Reader.
func (f failing) Read([]byte) (int, error) { return 0, f.err }

// tokenAnswer is the answer to a TokenRequest. One that says that kube-apiserver
// could not be asked is held back if there is another.
type tokenAnswer struct {
	http.ResponseWriter
	find   func() (tokens.Answer, bool)
	wrote  bool
	keep   bool
	replay bool
	answer tokens.Answer // to keep, or to replay
}

// WriteHeader implements http.ResponseWriter.
func (w *tokenAnswer) WriteHeader(code int) {
	if code >= http.StatusOK && !w.wrote {
		w.wrote = true
		switch {
		case code == http.StatusCreated:
			w.keep = w.Header().Get("Content-Encoding") == ""
		case wasNotAsked(code, w.Header()):
			w.answer, w.replay = w.find()
		}
	}
	if !w.replay {
		w.ResponseWriter.WriteHeader(code)
	}
}

// Write implements io.Writer.
func (w *tokenAnswer) Write(b []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	if w.replay {
		return len(b), nil
	}
	if w.keep {
		if len(w.answer.Body)+len(b) > tokens.MaxBody {
			w.keep = false
		} else {
			w.answer.Body = append(w.answer.Body, b...)
		}
	}
	return w.ResponseWriter.Write(b)
}

// FlushError is for http.ResponseController.
func (w *tokenAnswer) FlushError() error {
	if w.replay {
		return nil
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// write sends what was kept.
func (w *tokenAnswer) write() {
	h := w.Header()
	clear(h)
	h.Set("Content-Type", w.answer.ContentType)
	h.Set("Cache-Control", "no-cache, private")
	h.Set("Cache-Status", "edge-hub; hit; detail=cloud-unreachable")
	w.ResponseWriter.WriteHeader(http.StatusCreated)
	_, _ = w.ResponseWriter.Write(w.answer.Body) // the kubelet may be gone
}

// wasNotAsked reports whether an answer says that kube-apiserver could not be
// reached, be it the hub's own or that of a gateway: kube-apiserver gives each of
// its own an Audit-Id.
func wasNotAsked(code int, header http.Header) bool {
	switch code {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return header.Get("Audit-Id") == ""
	}
	return false
}
