// Package control lets programs on the node ask a running hub for what only the
// hub can do safely, over a Unix socket in its state directory. Nobody but the
// directory's owner reaches it: a port of the loopback address would be open to
// every Pod with the node's network.
package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/edgehub-io/edge-hub/edgehub/cache"
)

const (
	// directory has mode 0700 before there is a socket in it.
	directory = "control"
	socket    = "hub.sock"
	// timeout bounds a request.
	timeout     = time.Minute
	removePath  = "/cache/remove"
	maxResponse = 64 << 10
)

// Removed is the answer.
type Removed struct {
	Views int    `json:"views"`
	Error string `json:"error,omitempty"`
}

// Serve serves the socket in a hub's state directory until stop is called. remove
// removes views and returns how many.
func Serve(stateDir string, remove func(cache.Selection) (int, error)) (stop func(), err error) {
	dir := filepath.Join(stateDir, directory)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("serve the control socket: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("serve the control socket: %w", err)
	}
	at, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("serve the control socket: %w", err)
	}
	// What a crash left is nobody's: the caller has the directory to itself.
	if err := os.Remove(filepath.Join(dir, socket)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("serve the control socket: %w", err), at.Close())
	}
	listener, err := net.Listen("unix", address(at))
	if err == nil {
		err = os.Chmod(filepath.Join(dir, socket), 0o600)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("serve the control socket: %w", err), at.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+removePath, func(w http.ResponseWriter, r *http.Request) { answer(w, r, remove) })
	server := &http.Server{Handler: mux, ReadTimeout: timeout, WriteTimeout: timeout}
	go func() { _ = server.Serve(listener) }() // ends with stop
	return func() { _ = errors.Join(server.Close(), at.Close()) }, nil
}

func answer(w http.ResponseWriter, r *http.Request, remove func(cache.Selection) (int, error)) {
	var selection cache.Selection
	if err := json.NewDecoder(io.LimitReader(r.Body, maxResponse)).Decode(&selection); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var removed Removed
	var err error
	if removed.Views, err = remove(selection); err != nil {
		removed.Error = err.Error()
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(removed) // the caller has gone
}

// address of the socket in a directory, which may have a longer name than an
// address has room for.
func address(dir *os.File) string {
	return "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + socket
}

// Remove asks the hub over a state directory to remove views, and returns how
// many it has removed. The error is one of package net if no hub answers.
func Remove(ctx context.Context, stateDir string, selection cache.Selection) (int, error) {
	dir, err := os.Open(filepath.Join(stateDir, directory))
	if err != nil {
		return 0, fmt.Errorf("reach the hub: %w", err)
	}
	defer dir.Close()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", address(dir))
		},
	}
	body, err := json.Marshal(selection)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://hub"+removePath, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, fmt.Errorf("reach the hub: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxResponse))
	if err != nil {
		return 0, fmt.Errorf("reach the hub: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("the hub answers %s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	var removed Removed
	if err := json.Unmarshal(text, &removed); err != nil {
		return 0, fmt.Errorf("read the hub's answer: %w", err)
	}
	if removed.Error != "" {
		return removed.Views, errors.New(removed.Error)
	}
	return removed.Views, nil
}
