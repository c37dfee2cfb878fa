package http2

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"
)

// newServer serves h over TLS on loopback, with more settings by set.
func newServer(t testing.TB, o Options, h http.Handler, set ...func(*http.Server)) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	for _, f := range set {
		f(s.Config)
	}
	if err := Configure(s.Config, o); err != nil {
		t.Fatal(err)
	}
	s.TLS = &tls.Config{NextProtos: []string{"h2", "http/1.1"}, DynamicRecordSizingDisabled: true}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// newNetHTTP is the same with net/http's own HTTP/2.
func newNetHTTP(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1000} // as here
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// newClient returns a client with a connection of its own.
func newClient(t testing.TB, s *httptest.Server) *http.Client {
	t.Helper()
	config := s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos = []string{"h2"}
	tr := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}
