package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	asJSON     = "application/json"
	asProtobuf = "application/vnd.kubernetes.protobuf"
)

// newClient is a client with connections of its own, as every Pod has.
func (b *bench) newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: b.pool}, ForceAttemptHTTP2: true, DisableCompression: true,
	}}
}

// open sends a GET through a target. The caller closes the body of the
// response, which is 200.
func (b *bench) open(ctx context.Context, c *http.Client, t target, path, accept string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", t.agent+"/1.0")
	req.Header.Set("Authorization", "Bearer "+b.token)
	req.Header.Set("Accept", accept)
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		message, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		resp.Body.Close()
		return nil, fmt.Errorf("%s through %s: %s: %s", path, columnNames[t.column], resp.Status, message)
	}
	return resp, nil
}

// get reads a path through a target.
func (b *bench) get(ctx context.Context, c *http.Client, t target, path, accept string) (a answer, err error) {
	resp, err := b.open(ctx, c, t, path, accept)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	a.fromCache = resp.Header.Get("Cache-Status") != ""
	a.bytes, err = io.Copy(io.Discard, resp.Body)
	return a, err
}

// answer is what came back.
type answer struct {
	bytes     int64
	fromCache bool // the hub's own
}

// listVersion lists as JSON and returns the list's resourceVersion.
func (b *bench) listVersion(ctx context.Context, c *http.Client, t target, path string) (string, error) {
	resp, err := b.open(ctx, c, t, path, asJSON)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	// A list's own metadata comes before its items.
	version, ok := versionIn(body)
	if !ok {
		return "", fmt.Errorf("%s: no resourceVersion in %.100s", path, body)
	}
	return strconv.FormatUint(version, 10), nil
}

// versionIn is the first resourceVersion in JSON text.
func versionIn(b []byte) (uint64, bool) {
	_, rest, ok := bytes.Cut(b, []byte(`"resourceVersion":"`))
	if !ok {
		return 0, false
	}
	digits, _, _ := bytes.Cut(rest, []byte(`"`))
	v, err := strconv.ParseUint(string(digits), 10, 64)
	return v, err == nil
}

// arrivals are when the events of a watch came, by resourceVersion.
type arrivals struct {
	at    map[uint64]time.Time
	bytes int64
}

// follow reads a JSON watch until an event comes that is after the version that
// last returns, once that is not zero. That event is not one of the arrivals.
func follow(body io.Reader, last func() uint64) (a arrivals, err error) {
	a.at = map[uint64]time.Time{}
	lines := bufio.NewReaderSize(body, 64<<10)
	for {
		line, err := lines.ReadSlice('\n')
		now := time.Now()
		if err != nil {
			return a, fmt.Errorf("read a watch: %w", err)
		}
		version, ok := versionIn(line)
		if !ok {
			return a, fmt.Errorf("an event without resourceVersion: %.100s", line)
		}
		if end := last(); end != 0 && version > end {
			return a, nil
		}
		a.at[version] = now
		a.bytes += int64(len(line))
	}
}
