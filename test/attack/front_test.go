package attack

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	. "github.com/onsi/gomega"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// megabyte is what bombs and large lists are made of.
const megabyte = 1 << 20

// startFront serves kube-apiserver, and in some namespaces what no kube-apiserver
// would: answers that are meant to do harm, or more of them than a test's
// kube-apiserver could make.
func (w *world) startFront() (address string) {
	w.Helper()
	target, err := url.Parse(w.cluster.URL())
	w.Expect(err).NotTo(HaveOccurred())
	roots, err := rest.TLSConfigFor(rest.AnonymousClientConfig(w.cluster.RESTConfig()))
	w.Expect(err).NotTo(HaveOccurred())
	quiet := log.New(io.Discard, "", 0)
	proxy := &httputil.ReverseProxy{
		Transport: &http.Transport{TLSClientConfig: roots, ForceAttemptHTTP2: true}, FlushInterval: -1, ErrorLog: quiet,
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		// kube-apiserver refuses without a look at the body. Go's HTTP/2 client
		// would wait for more of it before it ends the answer, while the hub
		// sees no need to send any.
		ModifyResponse: func(resp *http.Response) error {
			if body, ok := resp.Request.Context().Value(bodyKey{}).(io.Closer); ok && resp.StatusCode >= http.StatusBadRequest {
				_ = body.Close()
			}
			return nil
		},
	}
	object := `{"metadata":{"name":"x","namespace":"big","resourceVersion":"4"},"data":{"a":"` + strings.Repeat("a", 4000) + `"}}`
	piece := []byte(strings.Repeat(object+",", megabyte/len(object)))
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		proxy.ServeHTTP(rw, r.WithContext(context.WithValue(r.Context(), bodyKey{}, r.Body)))
	})
	mux.HandleFunc("/api/v1/namespaces/quiet/configmaps", func(rw http.ResponseWriter, r *http.Request) {
		answerHead(rw, "application/json", "")
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/api/v1/namespaces/big/configmaps", func(rw http.ResponseWriter, r *http.Request) {
		answerHead(rw, "application/json", "")
		if r.URL.Query().Get("watch") != "" {
			event := []byte(`{"type":"ADDED","object":` + object + "}\n")
			for n := 0; n < 20*megabyte; n += len(event) {
				if _, err := rw.Write(event); err != nil {
					return
				}
			}
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(rw, listHead)
		for range 20 {
			if _, err := rw.Write(piece); err != nil {
				return
			}
		}
		_, _ = io.WriteString(rw, object+"]}")
	})
	all := bombs()
	mux.HandleFunc("/api/v1/namespaces/bomb/{kind}", bombHandler(all))
	mux.HandleFunc("/api/v1/namespaces/bomb/{kind}/{name}", bombHandler(all))
	mux.HandleFunc("/apis/bomb.example/v1", bombHandler(all))
	certFile, keyFile, err := w.cluster.IssueServingCert(w.TempDir(), "127.0.0.1")
	w.Expect(err).NotTo(HaveOccurred())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	w.Expect(err).NotTo(HaveOccurred())
	server := &http.Server{Handler: mux, ErrorLog: quiet, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 2000}}
	go func() { _ = server.ServeTLS(listener, certFile, keyFile) }()
	w.Cleanup(func() { _ = server.Close() })
	return "https://" + listener.Addr().String()
}

type bodyKey struct{} // of a request's body as it came

func answerHead(rw http.ResponseWriter, mediaType, encoding string) {
	rw.Header().Set("Audit-Id", "1")
	rw.Header().Set("Content-Type", mediaType)
	if encoding != "" {
		rw.Header().Set("Content-Encoding", encoding)
	}
}

const listHead = `{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"5"},"items":[`

// bomb is an answer that grows a thousandfold.
type bomb struct {
	path      string
	mediaType string
	body      []byte
}

// bombs are a gigabyte each, of one megabyte's repetition: gzip members may be
// put behind each other (RFC 1952, 2.2).
func bombs() []bomb {
	const meta = `"metadata":{"name":"x","namespace":"bomb","resourceVersion":"4"}`
	item := `{` + meta + `,"data":{"a":"` + strings.Repeat("0", megabyte) + `"}},`
	explode := func(head, repeated, tail string) []byte {
		return slices.Concat(member(head), bytes.Repeat(member(repeated), 1000), member(tail))
	}
	zeros, spaces := strings.Repeat("0", megabyte), strings.Repeat(" ", megabyte)
	all := []bomb{
		{path: "/api/v1/namespaces/bomb/configmaps", body: explode(listHead, item, strings.TrimSuffix(item, ",")+"]}")},
		{path: "/api/v1/namespaces/bomb/secrets", body: explode(listHead+`{`+meta+`,"data":{"a":"`, zeros, `"}}]}`)},
		{path: "/api/v1/namespaces/bomb/services", body: explode(listHead, spaces, `]}`)},
		{path: "/api/v1/namespaces/bomb/pods", body: explode(listHead, strings.Repeat("[", megabyte), `]}`)},
		{path: "/api/v1/namespaces/bomb/endpoints", body: explode(`{"kind":"List","x":"`, zeros, `"}`)},
		{path: "/api/v1/namespaces/bomb/limitranges", body: explode(`{"kind":"List","metadata":{"resourceVersion":"`, zeros, `"}}`)},
		{path: "/api/v1/namespaces/bomb/configmaps/x", body: explode(`{"kind":"ConfigMap","apiVersion":"v1",`+meta+`,"data":{"a":"`, zeros, `"}}`)},
		{path: "/apis/bomb.example/v1", body: explode("{", spaces, "}")},
		{path: "/api/v1/namespaces/bomb/replicationcontrollers?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan",
			body: explode(`{"type":"ADDED","object":{`+meta+`,"data":{"a":"`, zeros, "\"}}}\n")},
		// An envelope whose content has a length of a gigabyte.
		{path: "/api/v1/namespaces/bomb/serviceaccounts", mediaType: protobuf, body: explode("k8s\x00\x0a\x00\x12\x80\x80\x80\xf4\x03", strings.Repeat("\x00", megabyte), "")},
		{path: "/api/v1/namespaces/bomb/podtemplates", mediaType: protobuf, body: explode("k8s\x00", strings.Repeat("\x0a\x01", megabyte/2), "")},
	}
	for i := range all {
		if all[i].mediaType == "" {
			all[i].mediaType = "application/json"
		}
	}
	return all
}

func member(text string) []byte {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // the level is legal
	_, _ = io.WriteString(z, text)
	_ = z.Close()
	return b.Bytes()
}

func bombHandler(all []bomb) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		for _, b := range all {
			if path, _, _ := strings.Cut(b.path, "?"); path == r.URL.Path {
				answerHead(rw, b.mediaType, "gzip")
				_, _ = rw.Write(b.body)
				return
			}
		}
		http.NotFound(rw, r)
	}
}

// tokenKubeconfig writes a kubeconfig with a token: something in front of
// kube-apiserver ends TLS, so that a certificate would prove nothing.
func (w *world) tokenKubeconfig(token string) string {
	w.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["cluster"] = &clientcmdapi.Cluster{Server: w.cluster.URL(), CertificateAuthority: w.cluster.CAFile()}
	config.AuthInfos["hub"] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["context"] = &clientcmdapi.Context{Cluster: "cluster", AuthInfo: "hub"}
	config.CurrentContext = "context"
	path := filepath.Join(w.TempDir(), fmt.Sprintf("%s.kubeconfig", "hub"))
	w.Expect(clientcmd.WriteToFile(*config, path)).To(Succeed())
	return path
}
