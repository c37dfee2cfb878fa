// Command plainproxy is what a proxy in front of kube-apiserver costs at least
// in Go: httputil.ReverseProxy over TLS as the documentation shows it.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
)

func main() {
	server := flag.String("server", "", "URL of kube-apiserver")
	ca := flag.String("ca", "", "its certificate authority")
	listen := flag.String("listen", "", "HOST:PORT")
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
	log.Fatal(http.ListenAndServeTLS(*listen, *cert, *key, proxy))
}
