package attack

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

// TestARequestEndsWithItsCaller: a caller that goes away, in the middle of a body
// or while upstream is silent, leaves nothing under way that would count against
// others.
func TestARequestEndsWithItsCaller(t *testing.T) {
	answers := map[string]http.HandlerFunc{
		"upstream refuses, takes body": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "{}")
			_ = http.NewResponseController(w).Flush()
			_, _ = io.Copy(io.Discard, r.Body)
		},
		"upstream says nothing": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"upstream begins and waits": func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"upstream answers at once":   answerConfigMap,
		"upstream takes body, waits": func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body); <-r.Context().Done() },
		"upstream begins, takes body": func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			w, _ := fakeCloud(t, func(rw http.ResponseWriter, r *http.Request) {
				if !strings.HasPrefix(r.URL.Path, "/api/v1/namespaces/a/") {
					answerConfigMap(rw, r)
					return
				}
				answer(rw, r)
			}, "--client-timeout=2s")
			for _, request := range []string{
				"POST /api/v1/namespaces/a/configmaps HTTP/1.1\r\nHost: kubernetes\r\nContent-Length: 1000000\r\n\r\n{",
				"POST /api/v1/namespaces/a/configmaps HTTP/1.1\r\nHost: kubernetes\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
				"POST /api/v1/namespaces/a/configmaps HTTP/1.1\r\nHost: kubernetes\r\nContent-Length: 2\r\n\r\n{}",
				"GET /api/v1/namespaces/a/configmaps/x HTTP/1.1\r\nHost: kubernetes\r\n\r\n",
				"GET /api/v1/namespaces/a/configmaps?watch=1 HTTP/1.1\r\nHost: kubernetes\r\n\r\n",
			} {
				conn, err := tls.Dial("tcp", w.hub.Listen, w.clientTLS())
				w.Expect(err).NotTo(HaveOccurred())
				_, err = io.WriteString(conn, request)
				w.Expect(err).NotTo(HaveOccurred())
				time.Sleep(200 * time.Millisecond) // it is on its way
				if strings.HasSuffix(request, "{") {
					_, _ = io.WriteString(conn, " ") // and its body goes on
				}
				w.Expect(conn.Close()).To(Succeed())
				w.Eventually(func() int { return inFlight(w.admin("/metrics")) }).WithTimeout(time.Minute).Should(BeZero(), "still under way: %q", request)
			}
		})
	}
}
