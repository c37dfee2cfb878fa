package http2

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The benchmarks compare with net/http's own HTTP/2 server. Each server runs in a
// process of its own, so that the client's cost stays out: server-ns/op is the
// processor time that the server took for a request.

var benchServers = []struct {
	name  string
	start func(testing.TB, http.Handler) *httptest.Server
}{
	{"this", func(t testing.TB, h http.Handler) *httptest.Server { return newServer(t, Options{}, h) }},
	{"nethttp", newNetHTTP},
}

// benchServer is the variable that makes of the test program a server.
const benchServer = "HTTP2_BENCH_SERVER"

func TestMain(m *testing.M) {
	name := os.Getenv(benchServer)
	if name == "" {
		os.Exit(m.Run())
	}
	for _, impl := range benchServers {
		if impl.name == name {
			serveBench(impl.start)
		}
	}
}

func serveBench(start func(testing.TB, http.Handler) *httptest.Server) {
	mux := http.NewServeMux()
	mux.Handle("/small", payload(2<<10))
	mux.Handle("/large", payload(10<<20))
	mux.HandleFunc("/watch", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/cost", func(w http.ResponseWriter, _ *http.Request) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		_ = json.NewEncoder(w).Encode(cost{CPU: cpuTime(), Allocs: m.Mallocs})
	})
	mux.HandleFunc("/memory", func(w http.ResponseWriter, _ *http.Request) {
		for range 6 {
			runtime.GC() // also shrinks stacks, by half each time
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		_ = json.NewEncoder(w).Encode(cost{Memory: m.HeapInuse + m.StackInuse})
	})
	s := start(&testing.B{}, mux)
	fmt.Println(s.URL)
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent ends
}

// cost is what a server has used.
type cost struct {
	CPU            time.Duration
	Allocs, Memory uint64
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// startBench starts a server in its own process.
func startBench(b *testing.B, name string) (*http.Client, string) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), benchServer+"="+name)
	cmd.Stderr = os.Stderr
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	tr := &http.Transport{
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}},
		ForceAttemptHTTP2:  true,
		DisableCompression: true,
	}
	b.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}, strings.TrimSpace(line)
}

func costOf(b *testing.B, c *http.Client, url string) (used cost) {
	b.Helper()
	resp, err := c.Get(url)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&used); err != nil {
		b.Fatal(err)
	}
	return used
}

// payload answers with n bytes and the header fields of kube-apiserver.
func payload(n int) http.Handler {
	body := bytes.Repeat([]byte("0123456789abcdef"), n/16)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Audit-Id", "5f5bd06a-30ad-4b7f-8c5b-4a8f2b1c9f10")
		h.Set("Cache-Control", "no-cache, private")
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", strconv.Itoa(len(body)))
		h.Set("X-Kubernetes-Pf-Flowschema-Uid", "b9f2b9d4-2c9c-4d38-a4a0-8a7f0e0d3b55")
		h.Set("X-Kubernetes-Pf-Prioritylevel-Uid", "a4a08a7f-0e0d-4b55-b9f2-b9d42c9c4d38")
		for b := body; len(b) > 0; {
			n, _ := w.Write(b[:min(len(b), 32<<10)])
			b = b[n:]
		}
	})
}

func benchmark(b *testing.B, path string, size, clients int) {
	for _, impl := range benchServers {
		b.Run(impl.name, func(b *testing.B) {
			c, url := startBench(b, impl.name)
			fetch(b, c, url+path)
			b.SetBytes(int64(size))
			before := costOf(b, c, url+"/cost")
			b.ResetTimer()
			var wg sync.WaitGroup
			for i := range clients {
				wg.Add(1)
				go func() {
					defer wg.Done()
					for range (b.N + i) / clients {
						fetch(b, c, url+path)
					}
				}()
			}
			wg.Wait()
			b.StopTimer()
			after := costOf(b, c, url+"/cost")
			b.ReportMetric(float64(after.CPU-before.CPU)/float64(b.N), "server-ns/op")
			b.ReportMetric(float64(after.Allocs-before.Allocs)/float64(b.N), "server-allocs/op")
		})
	}
}

func fetch(t testing.TB, c *http.Client, url string) {
	req, _ := http.NewRequest(http.MethodGet, url, nil)
	req.Header.Set("Accept", "application/json, */*")
	req.Header.Set("Authorization", "Bearer 0123456789")
	req.Header.Set("User-Agent", "edge-app/v1.18.8 (linux/amd64) kubernetes/abc")
	resp, err := c.Do(req)
	if err != nil {
		t.Error(err)
		return
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if err != nil || resp.ProtoMajor != 2 {
		t.Error(resp.Proto, err)
	}
}

func BenchmarkSmall(b *testing.B)         { benchmark(b, "/small", 2<<10, 1) }
func BenchmarkSmallParallel(b *testing.B) { benchmark(b, "/small", 2<<10, 8) }
func BenchmarkLarge(b *testing.B)         { benchmark(b, "/large", 10<<20, 1) }

// BenchmarkIdle reports a server's memory for a watch that is open and silent,
// with the stack of its handler.
func BenchmarkIdle(b *testing.B) {
	const watches = 900
	for _, impl := range benchServers {
		b.Run(impl.name, func(b *testing.B) {
			c, url := startBench(b, impl.name)
			before := costOf(b, c, url+"/memory")
			for range watches {
				resp, err := c.Get(url + "/watch")
				if err != nil {
					b.Fatal(err)
				}
				defer resp.Body.Close()
			}
			after := costOf(b, c, url+"/memory")
			b.ReportMetric(float64(after.Memory-before.Memory)/watches, "server-B/watch")
			b.ReportMetric(0, "ns/op")
		})
	}
}
