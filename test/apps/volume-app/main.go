// Command volume-app stands for a program that never talks to kube-apiserver: what it
// needs to know is in files that the kubelet mounts. It prints the files of the
// folders named as its arguments, again when they change, and is ready when each
// folder has at least one.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	readyz := flag.String("readyz", ":8080", "address to answer /readyz on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *readyz, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "volume-app:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, readyz string, folders []string) error {
	last, err := read(folders)
	if err != nil {
		return err
	}
	fmt.Println("volumes:", last)
	server := &http.Server{Addr: readyz, ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return server.Close()
		case err := <-failed:
			return err
		case <-tick.C:
			now, err := read(folders)
			if err != nil {
				return err
			}
			if now != last {
				fmt.Println("volumes:", now)
			}
			last = now
		}
	}
}

// read returns path=content of each file, without the content of tokens and
// certificates.
func read(folders []string) (string, error) {
	var words []string
	for _, folder := range folders {
		entries, err := os.ReadDir(folder)
		if err != nil {
			return "", err
		}
		found := false
		for _, entry := range entries {
			if strings.HasPrefix(entry.Name(), "..") {
				continue // the kubelet's own
			}
			path := filepath.Join(folder, entry.Name())
			content, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			found = true
			if len(content) > 64 {
				words = append(words, path)
				continue
			}
			words = append(words, path+"="+strings.TrimSpace(string(content)))
		}
		if !found {
			return "", fmt.Errorf("%s is empty", folder)
		}
	}
	return strings.Join(words, " "), nil
}
