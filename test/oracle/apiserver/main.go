// Command apiserver serves what another kube-apiserver has written into its
// etcd, read-only, by the same code: the endpoint handlers and the watch cache of
// k8s.io/apiserver. It has no defaults, no admission, no printers and no
// identities, and so it needs nothing of k8s.io/kubernetes.
//
// kube-apiserver's answers come from its watch cache as well as from etcd. Here
// the state of that cache is known: it begins with the objects that are there
// when the program starts, and goes on, without etcd too, for as long as nobody
// writes.
//
// It prints one line with its URL as soon as every watch cache is filled. Every
// caller may read everything, so it listens on loopback only.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	etcd := flag.String("etcd", "http://127.0.0.1:2379", "URL of the etcd of a kube-apiserver")
	prefix := flag.String("prefix", "/registry", "under which that kube-apiserver keeps everything")
	timeout := flag.Duration("request-timeout", time.Minute, "of requests other than watches")
	flag.Parse()
	if err := run(*etcd, *prefix, *timeout); err != nil {
		fmt.Fprintln(os.Stderr, "apiserver:", err)
		os.Exit(1)
	}
}

func run(etcd, prefix string, timeout time.Duration) error {
	s, err := newServer(etcd, prefix, timeout)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.awaitCaches(ctx); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s\n", listener.Addr())
	return (&http.Server{Handler: s.handler, ReadHeaderTimeout: 10 * time.Second}).Serve(listener)
}
