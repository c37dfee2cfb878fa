// Command plainproxy is what a proxy in front of kube-apiserver costs at least
// in Go: httputil.ReverseProxy over TLS as the documentation shows it.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
)

func main() {
	server := flag.String("server", "", "URL of kube-apiserver")
	ca := flag.String("ca", "", "its certificate authority")
	listen := flag.String("listen", "", "HOST:PORT")
	metrics := flag.String("metrics", "", "HOST:PORT of /metrics, plain HTTP")
	cert := flag.String("cert", "", "serving certificate")
	key := flag.String("key", "", "its key")
	flag.Parse()
	target, err := url.Parse(*server)
	if err != nil {
		log.Fatal(err)
	}
	pem, err := os.ReadFile(*ca)
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	transport.DisableCompression = true
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
	}
	go func() { log.Fatal(http.ListenAndServe(*metrics, http.HandlerFunc(memory))) }()
	log.Fatal(http.ListenAndServeTLS(*listen, *cert, *key, proxy))
}

// memory prints what the bench reads of a Go program, under the names that
// Prometheus' client gives it. The library itself would be a part of what is
// measured.
func memory(w http.ResponseWriter, _ *http.Request) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Fprintf(w, "go_memstats_alloc_bytes_total %d\ngo_memstats_mallocs_total %d\ngo_memstats_heap_alloc_bytes %d\n", m.TotalAlloc, m.Mallocs, m.HeapAlloc)
}
