package integration

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/edgehub-io/edge-hub/test/hub"
	"github.com/edgehub-io/edge-hub/test/report"
)

// sizeOfCache is how many bytes an agent's files have.
func (w *world) sizeOfCache(agent string) (bytes int64) {
	w.Helper()
	err := filepath.WalkDir(filepath.Join(w.hub.CacheDir(), agent), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // staged a moment ago
		}
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	w.Expect(err).To(Or(Not(HaveOccurred()), MatchError(fs.ErrNotExist)))
	return bytes
}

// TestAnAgentStaysWithinItsQuota: its least recently used views leave, other
// agents' stay, and what does not fit alone passes all the same.
func TestAnAgentStaysWithinItsQuota(t *testing.T) {
	const quota = 200 << 10
	w := newWorld(t, "--cache-quota-per-agent=200Ki", "--cache-quota=1Mi")
	const second = "second-app"
	w.setAgents(app, second)
	w.awaitAgents(app, second)
	for i := range 4 {
		w.configMap(fmt.Sprintf("large-%d", i), map[string]string{"size": "large"}, strings.Repeat("x", 12<<10))
	}
	view := func(i int) string { return fmt.Sprintf("%s?labelSelector=size%%3Dlarge,no%%21%%3D%d", configMaps, i) }
	other := w.viaHub(hub.Request{Path: view(0), Token: w.token, UserAgent: second + "/1"})
	w.Expect(other.Code).To(Equal(http.StatusOK))
	const views = 10
	for i := range views {
		w.Expect(w.viaHub(hub.Request{Path: view(i), Token: w.token}).Code).To(Equal(http.StatusOK))
		time.Sleep(10 * time.Millisecond) // one after the other, for the order of use
	}
	w.Eventually(func() float64 { return w.metric(`edgehub_cache_evictions_total{reason="agent_quota"}`) }).
		WithTimeout(time.Minute).Should(BeNumerically(">=", 6))
	w.Eventually(func() int64 { return w.sizeOfCache(app) }).WithTimeout(time.Minute).Should(And(BeNumerically("<=", quota), BeNumerically(">", quota/2)))
	w.Expect(w.metric(`edgehub_cache_bytes{agent="` + second + `"}`)).To(BeNumerically(">", 40<<10))

	for i := range 20 {
		w.configMap(fmt.Sprintf("huge-%d", i), map[string]string{"size": "huge"}, strings.Repeat("x", 12<<10))
	}
	r := hub.Request{Path: configMaps + "?labelSelector=size%3Dhuge", Token: w.token}
	huge := w.viaHub(r)
	w.Expect(normalize(w, huge.Body)).To(Equal(normalize(w, w.direct(r).Body)))
	w.Eventually(w.ready).WithTimeout(time.Minute).Should(ContainSubstring("[!]cache 1 views not kept as they should be (quota: 1)"))

	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	for i := range views {
		want := http.StatusOK
		if i < views-3 {
			want = http.StatusServiceUnavailable
		}
		w.Expect(w.viaHub(hub.Request{Path: view(i), Token: w.token}).Code).To(Equal(want), "view %d", i)
	}
	w.Expect(w.viaHub(hub.Request{Path: view(0), Token: w.token, UserAgent: second + "/1"}).Body).To(Equal(other.Body))
}

// tinyDisk is a file system of a few megabytes.
func tinyDisk(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cache")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,mode=0700"); err != nil {
		report.Line(t, "SKIPPED: no file system of its own: %v", err)
		t.Skipf("a file system can be mounted by root only: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestAFullDiskDegradesCachingNeverProxying: it is seen, and ends with its cause.
func TestAFullDiskDegradesCachingNeverProxying(t *testing.T) {
	dir := tinyDisk(t)
	w := newWorld(t, "--cache-dir="+dir)
	lines := w.openWatch(w.hub.URL(), w.token, "resourceVersion="+w.list(""))
	w.Expect(w.ready()).To(ContainSubstring("[+]cache "))

	filler, err := os.Create(filepath.Join(dir, "filler"))
	w.Expect(err).NotTo(HaveOccurred())
	block := make([]byte, 4<<10)
	for err == nil {
		_, err = filler.Write(block)
	}
	w.Expect(err).To(MatchError(syscall.ENOSPC))
	filler.Close()

	read := func(i int) {
		name := fmt.Sprintf("full-%d", i)
		w.configMap(name, nil, strings.Repeat("x", 20<<10))
		w.Expect(w.take(lines, 1)[0]).To(ContainSubstring(name))
		r := hub.Request{Path: configMaps, Token: w.token}
		start := time.Now()
		through := w.viaHub(r)
		took := time.Since(start)
		w.Expect(through.Code).To(Equal(http.StatusOK))
		w.Expect(normalize(w, through.Body)).To(Equal(normalize(w, w.direct(r).Body)))
		w.Expect(took).To(BeNumerically("<", 10*time.Second)) // 0.1 s more than else where nothing else runs
	}
	for i := range 10 {
		read(i)
	}
	w.Eventually(w.ready).WithTimeout(time.Minute).Should(And(HavePrefix("HTTP/1.1 200"), MatchRegexp(`\[!\]cache no space left on device since \S+Z; 1 views not kept`)))
	w.Expect(w.metric("edgehub_cache_degraded")).To(BeEquivalentTo(1))
	w.Expect(w.metric(`edgehub_cache_disk_errors_total{op="write",reason="no_space"}`)).To(BeNumerically(">=", 1))

	w.Expect(os.Remove(filler.Name())).To(Succeed())
	w.Eventually(func() string {
		w.list("") // a client that lists again
		return w.ready()
	}).WithTimeout(90 * time.Second).WithPolling(500 * time.Millisecond).Should(ContainSubstring("[+]cache "))
	w.Expect(w.metric("edgehub_cache_degraded")).To(BeZero())
	read(10)
	time.Sleep(time.Second) // what was delivered longer ago is there
	want := w.viaHub(hub.Request{Path: configMaps, Token: w.token})
	time.Sleep(time.Second)
	w.Expect(w.hub.Kill()).To(Succeed())
	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	w.Expect(w.hub.Start(w.Context())).To(Succeed())
	w.Expect(normalize(w, w.viaHub(hub.Request{Path: configMaps, Token: w.token}).Body)).To(Equal(normalize(w, want.Body)))
}

// TestAReadOnlyDiskIsServedFrom: what it has, and online as if there were none.
func TestAReadOnlyDiskIsServedFrom(t *testing.T) {
	dir := tinyDisk(t)
	w := newWorld(t, "--cache-dir="+dir)
	r := hub.Request{Path: configMaps, Token: w.token}
	want := w.viaHub(r)
	w.Expect(w.hub.Stop()).To(Succeed())
	w.Expect(syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "")).To(Succeed())
	w.Expect(w.hub.Start(w.Context())).To(Succeed())
	w.awaitCloud(true)
	w.configMap("unseen", nil, "x")
	w.Expect(normalize(w, w.viaHub(r).Body)).To(Equal(normalize(w, w.direct(r).Body)))
	w.Eventually(w.ready).WithTimeout(time.Minute).Should(ContainSubstring("[!]cache read-only file system since "))
	w.Expect(w.cluster.KillAPIServer()).To(Succeed())
	w.Expect(w.viaHub(r).Body).To(Equal(want.Body))
}
